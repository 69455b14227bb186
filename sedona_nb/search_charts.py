"""Charts of a search: what it learned (Figure 4), how it went, and what a hypergradient costs; from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log10

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sedona_nb.decoupling import rank_layers
from sedona_nb.drawing import (
    CYCLE,
    DASHES,
    FAINT,
    GREEN,
    HEAD_COLOURS,
    QUIET,
    VERMILLION,
    drawing,
    from_zero,
    label,
    need,
)
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HEADS

PANEL_COLOURS = (VERMILLION, GREEN, *CYCLE[3:])  # Figure 4: red splits first, green ones later


def alpha_bars(
    alpha: Tensor | Mapping[str, Tensor], num_blocks: Sequence[int] = (4, 8), protocol: str = ""
) -> Figure:
    """Figure 4: learned alpha_1-bar by layer; splits of the first K in red, those that a larger K adds in green.

    `alpha`: (L-1, 2), or several by name, one panel each. A K beyond a network's length is left out.
    Triangles mark splits whose bars are too low to be seen. `protocol`: what was searched, for the small print.
    """
    panels = alpha if isinstance(alpha, Mapping) else {"": alpha}
    if not panels:
        raise SedonaError("no alpha to draw; allowed: one (L-1, 2) tensor, or more by name")
    columns = min(len(panels), 2)
    rows = ceil(len(panels) / columns)
    note = f"Bar: softmax(alpha) of the local gradient, Eq. 4. Dotted: 0.5, where the search starts.\n{protocol}"
    with drawing(5.2 * columns if columns == 1 else 9.0, 0.5 + 2.15 * rows, note=note) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
            ranking = rank_layers(values)
            taken = 0
            axes.bar(ranking.order, ranking.confidence, width=0.8, color=FAINT)
            for k, colour in zip(sorted(num_blocks), PANEL_COLOURS, strict=False):
                if k > len(ranking.order) + 1:
                    continue
                added = slice(taken, k - 1)
                hatch = "////" if taken else None  # a second sign beside the colour
                layers, heights = ranking.order[added], ranking.confidence[added]
                legend = f"K = {k}{' adds' if taken else ''}: {', '.join(map(str, sorted(layers)))}"
                axes.bar(layers, heights, width=0.8, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
                axes.plot([], [], marker="s", linestyle="none", color=colour, label=legend)
                low = [layer for layer, height in zip(layers, heights, strict=True) if height < 0.03]
                axes.plot(low, [0.04] * len(low), "v", color=colour, markersize=5)  # bars too low to be seen
                taken = k - 1
            axes.axhline(0.5, color=QUIET, linewidth=0.9, linestyle=":")
            axes.set(xlabel="layer", ylim=(0, 1), xlim=(0.2, len(ranking.order) + 0.8))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=4))
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, handletextpad=0.1, fontsize=7.5
            )
            axes.set_title(label(name), pad=6 + 12 * sum(k <= len(ranking.order) + 1 for k in num_blocks))
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(r"$\bar{\alpha}_1$")
    return figure


def depth_profile(gradients: Mapping[str, Tensor], halving: bool = True, protocol: str = "") -> Figure:
    """Size of the hypergradient by layer: log10 |dL/d alpha_1| of (L-1,) tensors by name.

    `halving` adds the line that loses a factor of 2 at each layer, from the first value of the first curve: what
    the released objective does, and a sound one does not. Exact zeros have no logarithm: crosses at the foot.
    `protocol`: what was computed, for the small print.
    """
    if not gradients:
        raise SedonaError("no gradients to draw; allowed: one (L-1,) tensor a name, or more")
    note = "Dotted: a factor of 1/2 lost at each layer.\n" if halving else ""
    with drawing(6.0, 3.2, note=note + protocol) as figure:
        axes = figure.subplots()
        sizes = {
            name: np.abs(np.asarray(torch.as_tensor(g).detach().cpu().double())) for name, g in gradients.items()
        }
        nonzero = np.concatenate([size[size > 0] for size in sizes.values()])
        foot = log10(nonzero.min()) - 0.5 if nonzero.size else 0.0
        for (name, size), colour, marker in zip(sizes.items(), CYCLE * 9, "osD^vPX" * 9, strict=False):
            layers = np.arange(1, len(size) + 1)
            logs = np.log10(np.where(size > 0, size, np.nan))
            axes.plot(layers, logs, color=colour, marker=marker, markersize=3.5, label=name)
            if (size == 0).any():
                zeros = layers[size == 0]
                axes.plot(zeros, [foot] * len(zeros), "x", color=colour, markersize=5, label=f"{name}: exactly 0")
        first = next(iter(sizes.values()))
        if halving and len(first) and first[0] > 0:
            layers = np.arange(1, len(first) + 1)
            axes.plot(layers, log10(first[0]) - (layers - 1) * log10(2), ":", color=QUIET, linewidth=1.2)
        axes.set(xlabel="layer", ylabel=r"$\log_{10}\,|\partial \mathcal{L} / \partial \alpha_1|$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.legend()
    return figure


def search_history(alpha_history: Tensor, beta_history: Tensor | None = None, protocol: str = "") -> Figure:
    """How a search went: alpha_1-bar over the outer steps, one line a layer; and, with beta, the leading head.

    alpha_history: (S+1, L-1, 2), beta_history: (S+1, L-1, 4): before each of S outer steps, and at the end.
    protocol: what was searched, for the small print.

    Raises:
        SedonaError: other shapes.
    """
    shapes = [tuple(h.shape) for h in (alpha_history, beta_history) if h is not None]
    if any(
        len(s) != 3 or s[:2] != shapes[0][:2] or s[2] != m for s, m in zip(shapes, (2, len(HEADS)), strict=False)
    ):
        raise SedonaError(f"histories have shapes {shapes}; allowed: (S+1, L-1, 2) and (S+1, L-1, {len(HEADS)})")
    share = torch.softmax(alpha_history.detach().cpu().double(), dim=-1)[..., 0].numpy()  # (S+1, L-1)
    steps, layers = share.shape
    panels = 1 if beta_history is None else 2
    with drawing(4.6 * panels, 3.0 + 0.2 * bool(protocol), note=protocol) as figure:
        left, *right = np.atleast_1d(figure.subplots(1, panels))
        colours = matplotlib.colormaps["viridis"]
        scale = Normalize(1, max(layers, 2))
        for layer in range(layers):
            left.plot(share[:, layer], color=colours(0.95 * scale(layer + 1)), linewidth=1.3)
        left.set(xlabel="outer step", ylabel=r"$\bar{\alpha}_1$", title="Local gradient's share, a line a layer")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        shown = ListedColormap(colours(np.linspace(0, 0.95, 256)))
        bar = figure.colorbar(ScalarMappable(scale, shown), ax=left, pad=0.02, aspect=30)
        bar.set_label("layer")
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        for axes in right:
            values = beta_history.detach().cpu().double()
            tied = values.amax(-1) == values.amin(-1)  # as at the start: no head leads, and none is shown
            lead = np.ma.array(values.argmax(-1).T.numpy(), mask=tied.T.numpy())  # (L-1, S+1)
            heads = ListedColormap([HEAD_COLOURS[head] for head in HEADS])
            extent = (-0.5, steps - 0.5, 0.5, layers + 0.5)
            norm = BoundaryNorm(np.arange(-0.5, len(HEADS)), len(HEADS))
            axes.imshow(
                lead, cmap=heads, norm=norm, extent=extent, aspect="auto", origin="lower", interpolation="none"
            )
            axes.grid(visible=False)
            axes.set(xlabel="outer step", ylabel="layer", title="Head of largest beta")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            swatches = [Patch(facecolor=HEAD_COLOURS[head], label=label(head)) for head in HEADS]
            axes.legend(handles=swatches, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.0)
    return figure


def unroll_costs(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Memory and time of one hypergradient against the number of inner steps T, a line a backend.

    `table`: columns backend, steps, megabytes, seconds. `protocol`: what was measured, for the small print.

    Raises:
        SedonaError: a column is missing.
    """
    need(table, ("backend", "steps", "megabytes", "seconds"), or_empty=True)
    panels = {"megabytes": "memory at its peak (MB)", "seconds": "time (s)"}
    with drawing(7.6, 2.9 + 0.2 * bool(protocol), note=protocol) as figure:
        grid = figure.subplots(1, len(panels))
        for axes, (column, name_of_column) in zip(grid, panels.items(), strict=True):
            looks = zip(table.groupby("backend", sort=False), CYCLE * 9, "osD^vPX" * 9, DASHES * 9, strict=False)
            for (name, part), colour, marker, dash in looks:
                axes.plot(
                    part["steps"],
                    part[column],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linestyle=dash,
                    label=name,
                )
            axes.set(xlabel="inner steps T", ylabel=name_of_column)
            from_zero(axes)
            axes.set_xticks(sorted(set(table["steps"])))
        grid[0].legend()
    return figure
