"""Charts behind the explorers: blocks drawn to scale, a search at one of its steps, a picture made of words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sedona_nb.block_costs import BlockCost, LayerCosts, blocks, layer_sizes
from sedona_nb.decoupling import Decoupling
from sedona_nb.diagrams import BLOCK_TINTS, CLASSIFIER, decoupling_row
from sedona_nb.drawing import BLUE, FAINT, HEAD_COLOURS, INK, QUIET, VERMILLION, drawing, label
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HEADS
from sedona_nb.search_config import SearchResult

TITLES = {
    "layers": "layers",
    "parameters": "parameters",
    "operations": "multiply-accumulates of a picture",
    "time": "time of a step",
}
NARROW = 0.045  # of the whole width: a block that is narrower has no number in it


def words(lines: Sequence[str], title: str = "", width: float = 7.6) -> Figure:
    """A figure that says something, where there is nothing to draw."""
    text = "\n".join(textwrap.fill(line, int(13 * width)) for line in lines)
    with drawing(width, 0.7 + 0.17 * text.count("\n") + 0.3 * bool(title), title) as figure:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.0, 0.5, text, transform=axes.transAxes, va="center", fontsize=9)
    return figure


def cut_to_scale(costs: LayerCosts, cut: Decoupling, quantity: str = "operations") -> Figure:
    """A decoupling with blocks and heads as wide as what they cost; the wider the slowest block, the less is won.

    Args:
        costs: of the network's layers.
        cut: of as many layers.
        quantity: one of `block_costs.QUANTITIES`. Layers count 1 each, and their heads are drawn half as wide.

    Raises:
        SedonaError: another number of layers, an unknown quantity, or a head whose times are not known.
    """
    sizes, found = layer_sizes(costs, quantity), blocks(costs, cut)
    whole = sum(one.own[quantity] for one in found)
    gap = 0.006 * whole
    used = [head for head in HEAD_COLOURS if head in cut.heads]
    with drawing(7.6, 2.15) as figure:
        axes = figure.subplots()
        axes.axis("off")
        left = 0.0
        for number, one in enumerate(found):
            right = left + one.own[quantity]
            _block(axes, one, number, left, sizes, quantity, whole)
            left = right + gap
        axes.set(xlim=(-0.005 * whole, max(left, axes.dataLim.x1) + 0.005 * whole), ylim=(-0.55, 1.65))
        axes.set_title(f"{label(costs.form.network.name)} in blocks; width: {TITLES[quantity]}")
        swatches = [
            Patch(facecolor=HEAD_COLOURS[head], edgecolor=INK, linewidth=0.5, label=label(head)) for head in used
        ]
        swatches.append(Patch(facecolor=CLASSIFIER, edgecolor=INK, linewidth=0.5, label="classifier"))
        figure.legend(handles=swatches, loc="outside upper right", ncols=len(swatches), handlelength=1.2)
    return figure


def _block(
    axes: Axes, one: BlockCost, number: int, left: float, sizes: Sequence[float], quantity: str, whole: float
) -> None:
    """Its layers side by side, its head above the last of them, its number inside."""
    widths = np.array(sizes[one.first - 1 : one.last], float)
    # Backward passes of a block's first layer are shorter: its layers share what the block takes.
    widths *= one.own[quantity] / max(widths.sum(), 1e-300)
    starts = left + np.concatenate([[0.0], np.cumsum(widths)[:-1]])
    tint = BLOCK_TINTS[number % 2]
    axes.barh(0.4, widths, 0.8, starts, color=tint, edgecolor=QUIET, linewidth=0.4)
    right = left + widths.sum()
    width = {"layers": 0.5}.get(quantity, one.of_head[quantity])
    fill = CLASSIFIER if one.head == "classifier" else HEAD_COLOURS[one.head]
    if width:
        axes.barh(
            1.15, width, 0.5, right - width if width < right else 0.0, color=fill, edgecolor=INK, linewidth=0.5
        )
    if right - left >= NARROW * whole:
        middle = (left + right) / 2
        paper = {"facecolor": tint, "edgecolor": "none", "pad": 1.5}  # edges of layers do not cross the number
        axes.text(
            middle, 0.4, f"{100 * (right - left) / whole:.0f} %", ha="center", va="center", fontsize=8, bbox=paper
        )
        layers = str(one.last) if one.first == one.last else f"{one.first}-{one.last}"
        axes.text(middle, -0.28, layers, ha="center", va="center", fontsize=8, color=QUIET)


def search_at_step(result: SearchResult, step: int, cut: Decoupling) -> Figure:
    """A search at one of its outer steps: alpha_1-bar up to there and now, shares of heads, the decoupling.

    Args:
        result: of S outer steps and L layers.
        step: 0..S; 0 is the start, where nothing is decided.
        cut: what alpha and beta of that step give; its splits are in colour.

    Raises:
        SedonaError: no such step, or a decoupling of another number of layers.
    """
    last = len(result.alpha_history) - 1
    layers = result.alpha_history.shape[1]
    if type(step) is not int or not 0 <= step <= last:
        raise SedonaError(f"step is {step!r}; allowed for {last} outer steps: 0..{last}")
    if cut.num_layers != layers + 1:
        raise SedonaError(f"a decoupling of {cut.num_layers} layers; allowed: of {layers + 1}, as the search")
    local = result.alpha_history.double().softmax(2)[..., 0].numpy()  # (S+1, L-1)
    heads = result.beta_history[step].double().softmax(1).numpy()  # (L-1, M)
    edges = 0.5 + max(0.01, 1.1 * np.abs(local - 0.5).max())  # the same axis at every step
    with drawing(7.6, 4.4) as figure:
        grid = figure.add_gridspec(2, 3, height_ratios=(2.4, 1.2))
        lines, now, mix = (figure.add_subplot(grid[0, column]) for column in range(3))
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, layers))
        steps = np.arange(last + 1)
        whole = [np.column_stack([steps, local[:, layer]]) for layer in range(layers)]
        widths = [1.8 if layer in cut.splits else 0.9 for layer in range(1, layers + 1)]
        lines.add_collection(LineCollection(whole, colors=FAINT, linewidths=0.6))
        lines.add_collection(
            LineCollection([line[: step + 1] for line in whole], colors=colours, linewidths=widths)
        )
        lines.axvline(step, color=INK, linewidth=0.8, linestyle=":")
        lines.set(
            xlabel="outer step",
            ylabel=r"share of own loss $\bar{\alpha}_1$",
            title="So far, a line a layer",
            xlim=(0, max(last, 1)),
        )
        places = np.arange(1, layers + 1)
        chosen = [VERMILLION if layer in cut.splits else FAINT for layer in places]
        now.bar(places, local[step] - 0.5, bottom=0.5, color=chosen)
        now.axhline(0.5, color=QUIET, linewidth=0.9)
        now.set(xlabel="layer", ylabel=r"$\bar{\alpha}_1$", title="Now; cuts in orange")
        for axes in (lines, now):
            axes.set_ylim(1 - edges, edges)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        foot = np.zeros(layers)
        for column, head in enumerate(HEADS):
            mix.bar(places, heads[:, column], bottom=foot, color=HEAD_COLOURS[head], label=label(head), width=0.9)
            foot += heads[:, column]
        mix.set(xlabel="layer", ylabel=r"share $\bar{\beta}$", title="Shares of the heads", ylim=(0, 1))
        mix.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        mix.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.0, reverse=True)
        row = figure.add_subplot(grid[1, :])
        row.set(xlim=(0.2, cut.num_layers + 0.8), ylim=(-0.75, 2.25))
        row.set_title("The decoupling that this gives", fontsize=9)
        row.axis("off")
        decoupling_row(row, cut)
    return figure


def search_progress(
    losses: Sequence[float],
    outer_steps: int,
    errors: Sequence[tuple[int, float]],
    pretrain_steps: int,
    shares: Sequence[float],
    title: str = "",
) -> Figure:
    """A search under way: validation error while pretraining, validation loss while searching, alpha_1-bar now.

    Args:
        losses: at each outer step so far, (S,).
        outer_steps: how many there will be.
        errors: (pretraining step, validation error in percent) so far.
        pretrain_steps: how many there will be.
        shares: alpha_1-bar by layer, (L-1,); empty: not known yet.
        title: above all.
    """
    with drawing(7.6, 2.75, title) as figure:
        left, middle, right = figure.subplots(1, 3)
        left.plot(*zip(*errors, strict=True) if errors else ((), ()), color=BLUE, marker="o", markersize=3)
        left.set(xlabel="step of pretraining", title="Validation error (%)", ylim=(0, 100))
        left.set_xlim(0, 1.03 * max(pretrain_steps, 1))
        middle.plot(range(1, len(losses) + 1), losses, color=VERMILLION, marker="." if len(losses) < 60 else None)
        middle.set(xlabel="outer step", title="Validation loss", xlim=(0, 1.03 * max(outer_steps, 1)))
        places = np.arange(1, len(shares) + 1)
        right.bar(places, np.array(shares) - 0.5, bottom=0.5, color=BLUE)
        right.axhline(0.5, color=QUIET, linewidth=0.9)
        reach = 0.5 + max([0.02, *(1.1 * abs(share - 0.5) for share in shares)])
        right.set(xlabel="layer", title=r"$\bar{\alpha}_1$ now", ylim=(1 - reach, reach))
        for axes, there in ((left, errors), (middle, losses), (right, shares)):
            if not there:
                axes.set_yticks([])
            if not there and axes is right:
                axes.set_xticks([])
                continue
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    return figure
