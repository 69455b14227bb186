"""Drawings of structure: what is connected to what, which way gradients flow, where they stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from sedona_nb.decoupling import Decoupling, count_configurations
from sedona_nb.drawing import FAINT, GRADIENT, HEAD_COLOURS, INK, QUIET, drawing, label
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import HEADS

BLOCK_TINTS = ("#e4ecf4", "#f5ead9")  # neighbouring blocks differ
CLASSIFIER = "#d9d9d9"
GAP = 0.1  # half the space between two blocks, in layers
STEP = 2.4  # from layer to layer, in the units in which a layer is 0.7 high


def backward_graphs() -> Figure:
    """Figure 1 in our own drawing: the backward graph of (a) backpropagation and (b) greedy blocks with K = 2."""
    note = (
        "Drawing. Grey: forward pass. Orange: error gradient. In (b) the activation passes to block 2, "
        "its gradient does not come back: "
        "block 1 updates as soon as its own head has spoken, while block 2 is still at work."
    )
    with drawing(7.6, 3.55, note=note) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=(1.1, 3.0))
        for axes, title in ((upper, "(a)  End-to-end backpropagation"), (lower, "(b)  Greedy blocks, K = 2")):
            axes.set(title=title, xlim=(-0.7, 5 * STEP + 0.7), aspect="equal")
            axes.axis("off")
        upper.set_ylim(-0.5, 0.6)
        lower.set_ylim(-1.0, 2.0)
        _chain(upper, cut_after=None)
        for left, right, tint, name in ((1.5, 5.7, 0, "block 1"), (6.3, 10.6, 1, "block 2")):
            lower.add_patch(_box(left, -0.6, right - left, 1.2, BLOCK_TINTS[tint], edge="none"))
            lower.text((left + right) / 2, -0.82, name, ha="center", va="center", fontsize=8, color=QUIET)
        _chain(lower, cut_after=2)
        x, y, right, left = 2 * STEP, 1.5, 2 * STEP + 0.85, 3 * STEP - 0.5
        _labelled(lower, x, y, 1.7, 0.7, "auxiliary head", HEAD_COLOURS["aux1"])
        _labelled(lower, 3 * STEP, y, 1.0, 0.7, "loss 1", "white")
        _arrow(lower, (x - 0.15, 0.4), (x - 0.15, y - 0.35), QUIET)
        _arrow(lower, (x + 0.15, y - 0.35), (x + 0.15, 0.4), GRADIENT)
        _arrow(lower, (right, y + 0.14), (left, y + 0.14), QUIET)
        _arrow(lower, (left, y - 0.14), (right, y - 0.14), GRADIENT)
    return figure


def _chain(axes: Axes, cut_after: int | None) -> None:
    """input, layers 1-4, classifier, loss from left to right, with both directions between neighbours."""
    centres = [STEP * i for i in range(6)]
    names = [
        "input",
        "layer 1",
        "layer 2",
        "layer 3",
        "layer 4\nclassifier",
        "loss" if cut_after is None else "loss 2",
    ]
    widths = [1.0, 1.3, 1.3, 1.3, 1.5, 1.0]
    for x, name, width in zip(centres, names, widths, strict=True):
        _labelled(axes, x, 0.0, width, 0.8, name, "white")
    for i in range(5):
        start, end = centres[i] + widths[i] / 2, centres[i + 1] - widths[i + 1] / 2
        _arrow(axes, (start, 0.16), (end, 0.16), QUIET)
        if i == 0:
            continue  # the input has no gradient to receive
        if i == cut_after:
            middle = (start + end) / 2
            _arrow(axes, (end, -0.16), (middle + 0.06, -0.16), GRADIENT, head=False)
            for x in (middle - 0.06, middle + 0.06):
                axes.plot([x, x], [-0.34, 0.02], color=GRADIENT, linewidth=2, solid_capstyle="butt")
        else:
            _arrow(axes, (end, -0.16), (start, -0.16), GRADIENT)


def search_space(
    num_layers: int = 4, num_blocks: int = 3, num_heads: int = 3, decoupling: Decoupling | None = None
) -> Figure:
    """Figure 2 in our own drawing: what alpha and beta choose between at each layer, one choice highlighted.

    `decoupling`, if given, is the choice and sets L and K; else blocks are even and heads get shallower upwards.
    For networks of more than 10 layers use `decoupling_diagram`, which does not draw what was not chosen.

    Raises:
        SedonaError: K outside 1..L, M outside 1..4 (the size of the pool), L over 10, or a head beyond the M.
    """
    if not 1 <= num_heads <= len(HEADS):
        raise SedonaError(f"num_heads is {num_heads}; allowed: 1..{len(HEADS)}")
    if decoupling is None:
        even = Decoupling.uniform(num_layers, num_blocks)
        decoupling = even.with_heads([HEADS[max(num_heads - 1 - i, 0)] for i in range(num_blocks - 1)])
    num_layers, num_blocks = decoupling.num_layers, decoupling.num_blocks
    if num_layers > 10:
        raise SedonaError(f"search_space is readable for 1..10 layers, not {num_layers}; see decoupling_diagram")
    for head in decoupling.heads:
        choose(head, HEADS[:num_heads], "head in this search space")
    chosen = dict(zip(decoupling.splits, decoupling.heads, strict=True))
    count = count_configurations(num_layers, num_blocks, num_heads)
    title = f"One of {count:,} configurations: L = {num_layers}, K = {num_blocks}, M = {num_heads}"
    note = (
        "Drawing. Orange: the error gradient. alpha decides at every layer but the last whether it comes "
        "from the layer above or from a head; beta decides from which head. Dashed grey: choices not taken."
    )
    step, rise, lowest = STEP, 0.62, 1.5
    top = lowest + rise * (num_heads - 1) + 0.45
    with drawing(max(5.6, 0.62 * step * num_layers + 0.1), 0.62 * (top + 1.15) + 0.85, title, note) as figure:
        axes = figure.subplots()
        axes.set(xlim=(-0.95, step * (num_layers - 1) + 1.35), ylim=(-1.15, top), aspect="equal")
        axes.axis("off")
        for number, (first, last) in enumerate(decoupling.blocks):
            left, right = step * (first - 1) - 0.8, step * (last - 1) + 0.8
            axes.add_patch(_box(left, -0.6, right - left, 1.2, BLOCK_TINTS[number % 2], edge="none"))
            name = f"block {number + 1}"
            axes.text((left + right) / 2, -0.85, name, ha="center", va="center", fontsize=8, color=QUIET)
        for layer in range(1, num_layers + 1):
            x = step * (layer - 1)
            _labelled(axes, x, 0.0, 1.2, 0.7, f"layer {layer}", "white")
            if layer == num_layers:
                _labelled(axes, x, lowest, 1.2, 0.5, "classifier", CLASSIFIER)
                _arrow(axes, (x, lowest - 0.25), (x, 0.35), GRADIENT)
                continue
            for m, head in enumerate(HEADS[:num_heads]):
                taken = chosen.get(layer) == head
                y = lowest + rise * m
                fill = HEAD_COLOURS[head] if taken else "white"
                _labelled(axes, x + 0.12, y, 1.0, 0.46, label(head), fill, quiet=not taken)
                _elbow(axes, x - 0.5, y, x - 0.38, taken)
            cut = layer in chosen
            _arrow(axes, (x + step - 0.6, 0.0), (x + 0.6, 0.0), FAINT if cut else GRADIENT, dashed=cut)
    return figure


def _elbow(axes: Axes, trunk: float, y: float, end: float, taken: bool) -> None:
    """From a head at height y to the left, down a trunk that all heads of a layer share, into the layer."""
    colour, style, above = (GRADIENT, "-", 3) if taken else (FAINT, (0, (3, 2)), 1)
    axes.plot([end, trunk, trunk], [y, y, 0.5], color=colour, linestyle=style, linewidth=1.4, zorder=above)
    _arrow(axes, (trunk, 0.56), (trunk, 0.35), colour, dashed=False, zorder=above)


def decoupling_diagram(decouplings: Decoupling | Sequence[Decoupling] | Mapping[str, Decoupling]) -> Figure:
    """Figure 5's idea: one row a decoupling, layers as boxes grouped in blocks, heads on top of the split layers.

    A head of the pool is as many slabs high as it is deep (Aux 1-4) and darker the deeper. Rows of a mapping carry
    its keys, others K and the decoupling's source.
    """
    if isinstance(decouplings, Decoupling):
        decouplings = [decouplings]
    if not isinstance(decouplings, Mapping):
        named = [(f"K = {d.num_blocks}    ({d.source})", d) for d in decouplings]
    else:
        named = list(decouplings.items())
    if not named:
        raise SedonaError("no decoupling to draw; allowed: one or more")
    longest = max(d.num_layers for _, d in named)
    used = [head for head in HEAD_COLOURS if any(head in d.heads for _, d in named)]
    width = min(10.0, max(5.0, 0.24 * longest + 0.6))
    legend = "Drawing: on each split layer (bold) the head of its block, the deeper, the higher and darker."
    with drawing(width, 0.6 + 1.15 * len(named)) as figure:
        rows = figure.subplots(len(named), 1, squeeze=False)[:, 0]
        for axes, (name, decoupling) in zip(rows, named, strict=True):
            axes.set(xlim=(0.2, longest + 0.8), ylim=(-0.75, 2.25))
            axes.set_title(name, fontsize=9)
            axes.axis("off")
            decoupling_row(axes, decoupling)
        swatches = [Patch(facecolor=HEAD_COLOURS[h], edgecolor=INK, linewidth=0.5, label=label(h)) for h in used]
        swatches.append(Patch(facecolor=CLASSIFIER, edgecolor=INK, linewidth=0.5, label="classifier"))
        figure.legend(
            handles=swatches,
            loc="outside lower left",
            ncols=len(swatches),
            handlelength=1.2,
            title=legend,
            alignment="left",
            title_fontproperties={"size": 7.5},
        )
    return figure


def decoupling_row(axes: Axes, decoupling: Decoupling) -> None:
    """Boxes for layers and slabs for heads: a row of `decoupling_diagram`, in axes whose x counts layers.

    One collection for all of them: hundreds of single rectangles would take as long as all the rest.
    """
    boxes: list[tuple[float, float, float, float]] = []  # left, foot, width, height
    looks: list[tuple[str, str, float]] = []  # fill, edge, width of the edge
    for number, (first, last) in enumerate(decoupling.blocks):
        for layer in range(
            first, last + 1
        ):  # a layer has the same place in every row; only the edges of blocks give
            left, right = layer - 0.5 + GAP * (layer == first), layer + 0.5 - GAP * (layer == last)
            tint = BLOCK_TINTS[number % 2]
            boxes.append((left, 0.0, right - left, 0.8))
            looks.append((tint, QUIET, 0.6))
        final = last == decoupling.num_layers
        head = "classifier" if final else decoupling.heads[number]
        slabs = int(head[-1]) if head in HEADS else 1
        for slab in range(slabs):
            fill = CLASSIFIER if final else HEAD_COLOURS[head]
            boxes.append((last - 0.36, 0.92 + 0.3 * slab, 0.72, 0.26))
            looks.append((fill, INK, 0.4))
        size = 7 if decoupling.num_layers > 20 else 8
        labels = {first, last} if last - first > 1 else {last}
        for layer in labels:
            weight = "bold" if layer == last and not final else "normal"
            axes.text(layer, -0.18, str(layer), ha="center", va="top", fontsize=size, weight=weight)
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes]
    fills, edges, lines = zip(*looks, strict=True)
    axes.add_collection(PolyCollection(corners, facecolors=fills, edgecolors=edges, linewidths=lines))


def _box(left: float, bottom: float, width: float, height: float, fill: str, edge: str = INK) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.12"
    return FancyBboxPatch((left, bottom), width, height, style, facecolor=fill, edgecolor=edge, linewidth=0.9)


def _labelled(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str, quiet: bool = False
) -> None:
    box = _box(x - width / 2, y - height / 2, width, height, fill, FAINT if quiet else INK)
    box.set(zorder=4, linestyle="--" if quiet else "-")
    axes.add_patch(box)
    dark = fill in (HEAD_COLOURS["aux3"], HEAD_COLOURS["aux4"])
    colour = "white" if dark else "#9a9a9a" if quiet else INK
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour, zorder=5)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    dashed: bool = False,
    head: bool = True,
    zorder: int = 2,
) -> None:
    style = {
        "arrowstyle": "-|>,head_length=0.5,head_width=0.22" if head else "-",
        "color": colour,
        "linewidth": 1.4,
        "linestyle": (0, (3, 2)) if dashed else "-",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=zorder)
