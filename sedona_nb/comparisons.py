"""Charts that put measured numbers beside others: costs of heads and searches, sizes of alphas, two searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from sedona_nb.drawing import BLUE, CYCLE, FAINT, INK, ORANGE, QUIET, drawing, label, need
from sedona_nb.errors import SedonaError

SOURCE_COLOURS = (QUIET, FAINT, ORANGE, BLUE)  # of `search_costs`: the paper's grey, ours not
COST_PANELS = {"parameters": "parameters", "flops": "multiply-accumulates"}


def cost_bars(table: pd.DataFrame) -> Figure:
    """Table 1 as bars: each head's cost in percent of the base network's, on logarithmic axes.

    `table`: columns head, quantity ("parameters" or "flops"), paper, ours, in percent.

    Raises:
        SedonaError: a column is missing, a quantity unknown, or a cost not positive.
    """
    need(table, ("head", "quantity", "paper", "ours"), or_empty=True)
    if not set(table["quantity"]) <= set(COST_PANELS) or not (table[["paper", "ours"]] > 0).all(axis=None):
        raise SedonaError(f"quantities are {', '.join(COST_PANELS)}, and every cost is above 0")
    panels = [name for name in COST_PANELS if name in set(table["quantity"])]
    note = "Counted, in percent of the base network; logarithmic axes: equal steps are equal factors."
    with drawing(4.4 * len(panels), 3.0, note=note) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, quantity in zip(grid, panels, strict=True):
            part = table[table["quantity"] == quantity]
            places = np.arange(len(part))
            looks = {
                "paper": {"color": "white", "edgecolor": QUIET, "hatch": "////"},
                "ours": {"color": BLUE, "edgecolor": BLUE},
            }
            for shift, (source, look) in zip((-0.2, 0.2), looks.items(), strict=True):
                axes.bar(places + shift, part[source], width=0.38, linewidth=0.8, label=source, **look)
            for place, (_, row) in zip(places, part.iterrows(), strict=True):
                place_of = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "fontsize": 7}
                axes.annotate(f"{row['ours']:.2f}", (place, max(row["paper"], row["ours"])), **place_of)
            axes.set_yscale("log")
            axes.set_ylim(
                0.5 * part[["paper", "ours"]].min(axis=None), 2.5 * part[["paper", "ours"]].max(axis=None)
            )
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
            axes.set_xticks(places, [label(head) for head in part["head"]])
            axes.tick_params(axis="x", length=0)
            axes.set(title=COST_PANELS[quantity], ylabel="share of the base network")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def search_costs(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Table 8's costs as stacked bars: each variant of a search in percent of the whole one, by source.

    `table`: columns variant, source, pretraining and outer, both parts in percent of the source's whole search.
    Neighbours share a scale and nothing else; `protocol`, for the small print, has to say what ours are.

    Raises:
        SedonaError: a column is missing, or more than four sources.
    """
    need(table, ("variant", "source", "pretraining", "outer"), or_empty=True)
    sources, variants = (list(dict.fromkeys(table[column])) for column in ("source", "variant"))
    if len(sources) > len(SOURCE_COLOURS):
        raise SedonaError(f"{len(sources)} sources; allowed: 1 to {len(SOURCE_COLOURS)}")
    width = 0.84 / len(sources)
    with drawing(8.8, 3.6 + 0.2 * bool(protocol), note=protocol) as figure:
        axes = figure.subplots()
        for index, (source, colour) in enumerate(zip(sources, SOURCE_COLOURS, strict=False)):
            part = table[table["source"] == source].set_index("variant").reindex(variants)
            places = np.arange(len(variants)) + (index - (len(sources) - 1) / 2) * width
            look = {"width": 0.9 * width, "edgecolor": colour, "linewidth": 0.8}
            axes.bar(places, part["pretraining"], color=colour, label=source, **look)
            axes.bar(places, part["outer"], bottom=part["pretraining"], color="white", hatch="////", **look)
            for place, whole in zip(places, part["pretraining"] + part["outer"], strict=True):
                above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "fontsize": 7}
                axes.annotate(f"{whole:.0f}", (place, whole), **above)
        axes.set_xticks(np.arange(len(variants)), variants)
        axes.tick_params(axis="x", length=0)
        axes.set(ylabel="cost, whole search = 100 %")
        axes.margins(y=0.1)
        parts = [
            Patch(facecolor=INK, edgecolor=INK, label="pretraining"),
            Patch(facecolor="white", edgecolor=INK, hatch="////", label="outer steps"),
        ]
        figure.legend(handles=[*axes.get_legend_handles_labels()[0], *parts], loc="outside upper left", ncols=6)
    return figure


def cost_ratios(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Costs by network as multiples of the first network's, on a logarithmic axis, a line a quantity.

    `table`: columns network, quantity, ratio; optional low and high, between which rounding leaves a ratio.
    `protocol`: what was measured, for the small print.

    Raises:
        SedonaError: a column is missing, or a ratio is not positive.
    """
    need(table, ("network", "quantity", "ratio"), or_empty=True)
    if not (table["ratio"] > 0).all():
        raise SedonaError("ratios must be above 0 for a logarithmic axis")
    networks = list(dict.fromkeys(table["network"]))
    with drawing(7.4, 3.6 + 0.2 * bool(protocol), note=protocol) as figure:
        axes = figure.subplots()
        looks = zip(table.groupby("quantity", sort=False), CYCLE * 9, "osD^vPX" * 9, strict=False)
        for index, ((name, part), colour, marker) in enumerate(looks):
            part = part.set_index("network").reindex(networks)
            places = np.arange(len(networks)) + 0.03 * (index - table["quantity"].nunique() / 2)
            dash = "--" if str(name).startswith("paper") else "-"
            axes.plot(
                places, part["ratio"], color=colour, marker=marker, markersize=4.5, linestyle=dash, label=name
            )
            if {"low", "high"} <= set(part):
                axes.vlines(places, part["low"], part["high"], color=colour, linewidth=1)
        axes.set_yscale("log")
        _plain_ticks(axes, (0.5, 1, 2, 5, 10, 20, 50))
        axes.set_xticks(np.arange(len(networks)), [label(name) for name in networks])
        axes.tick_params(axis="x", length=0)
        axes.margins(x=0.08)
        axes.set_ylabel(f"times {label(networks[0])}")
        axes.legend(loc="upper left")
    return figure


def _plain_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Those of `values` that the logarithmic axis shows, written out."""
    low, high = axes.get_ylim()
    axes.set_yticks([value for value in values if low <= value <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def learned_sizes(
    alphas: Mapping[str, Tensor],
    lines: Mapping[str, tuple[int, float, float]] | None = None,
    protocol: str = "",
) -> Figure:
    """log10 of the size of the learned alpha_1, layer by layer, of (L-1, 2) tensors by name.

    `lines`: (first layer, slope a layer, intercept at layer 0) of a straight line fitted to the values from that
    layer on, by the same names. Exact zeros have no logarithm and are left out. `protocol`: where the values are
    from, for the small print.

    Raises:
        SedonaError: no alpha, an alpha of another shape, or a line without its alpha.
    """
    lines = lines or {}
    if not alphas or any(alpha.ndim != 2 or alpha.shape[1] != 2 for alpha in alphas.values()):
        raise SedonaError("no alpha to draw; allowed: one (L-1, 2) tensor a name, or more")
    if not set(lines) <= set(alphas):
        raise SedonaError(f"a line for {', '.join(set(lines) - set(alphas))}, which has no alpha here")
    with drawing(6.4, 3.3, note=protocol) as figure:
        axes = figure.subplots()
        for (name, alpha), colour, marker in zip(alphas.items(), CYCLE * 9, "osD^vPX" * 9, strict=False):
            size = alpha.detach().cpu().double()[:, 0].abs().numpy()
            layers = np.arange(1, len(size) + 1)
            logs = np.log10(np.where(size > 0, size, np.nan))
            axes.plot(layers, logs, marker, color=colour, markersize=3.5, label=label(name))
            if name in lines:
                first, slope, intercept = lines[name]
                ends = np.array([first, len(size)])
                text = f"{label(name)}, layers {first}-{len(size)}: {slope:.2f} a layer"
                axes.plot(ends, intercept + slope * ends, color=colour, linewidth=1.2, label=text)
        axes.set(xlabel="layer", ylabel=r"$\log_{10}\,|\alpha_1|$")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.legend()
    return figure


def searches_compared(searches: Mapping[str, tuple[Tensor, Tensor]], protocol: str = "") -> Figure:
    """Searches side by side, a column each: alpha_1-bar over the outer steps, and what moved it.

    searches: by name, alpha_history (S+1, L-1, 2) and alpha_gradients (S, L-1, 2) as a `SearchResult` has them.
    Above: the local gradient's share, a line a layer. Below: log10 |dL/d alpha_1| by step and layer; exact zeros
    have no logarithm and are left white. Axes and colours are the same in all columns.
    protocol: what was searched, for the small print.

    Raises:
        SedonaError: no search, or other shapes.
    """
    shapes = [(tuple(history.shape), tuple(gradients.shape)) for history, gradients in searches.values()]
    if not shapes or any(
        len(h) != 3 or h[2] != 2 or h[0] < 2 or g != (h[0] - 1, *h[1:]) or h[1] != shapes[0][0][1]
        for h, g in shapes
    ):
        raise SedonaError(
            f"searches have shapes {shapes}; allowed: (S+1, L-1, 2) and (S, L-1, 2), one L, S at least 1"
        )
    layers = shapes[0][0][1]
    sizes = {n: g.detach().cpu().double()[..., 0].abs().numpy() for n, (_, g) in searches.items()}  # (S, L-1)
    logs = {n: np.ma.masked_invalid(np.log10(np.where(s > 0, s, np.nan))) for n, s in sizes.items()}
    present = np.concatenate([values.compressed() for values in logs.values()])
    low, high = (present.min(), present.max()) if present.size else (-1.0, 0.0)
    strength = Normalize(low, high if high > low else low + 1)
    with drawing(4.3 * len(searches) + 0.7, 4.6 + 0.2 * bool(protocol), note=protocol) as figure:
        upper, lower = figure.subplots(2, len(searches), squeeze=False, sharey="row", sharex="col")
        colours, scale = matplotlib.colormaps["viridis"], Normalize(1, max(layers, 2))
        for above, below, (name, (history, _)) in zip(upper, lower, searches.items(), strict=True):
            share = history.detach().cpu().double().softmax(-1)[..., 0].numpy()  # (S+1, L-1)
            for layer in range(layers):
                above.plot(share[:, layer], color=colours(0.95 * scale(layer + 1)), linewidth=1.3)
            above.set_title(label(name))
            extent = (0, len(sizes[name]), 0.5, layers + 0.5)  # the gradient of step s moves alpha from s to s+1
            look = {"cmap": "cividis", "norm": strength, "aspect": "auto", "origin": "lower"}
            below.imshow(logs[name].T, extent=extent, interpolation="none", **look)
            below.grid(visible=False)
            below.set_xlabel("outer step")
            for axis in (below.xaxis, below.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        upper[0].set_ylabel(r"$\bar{\alpha}_1$")
        lower[0].set_ylabel("layer")
        shown = ListedColormap(colours(np.linspace(0, 0.95, 256)))
        lines = figure.colorbar(ScalarMappable(scale, shown), ax=list(upper), pad=0.02, aspect=20)
        lines.set_label("layer")
        lines.locator = MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        strengths = figure.colorbar(ScalarMappable(strength, "cividis"), ax=list(lower), pad=0.02, aspect=20)
        strengths.set_label(r"$\log_{10}\,|\partial \mathcal{L} / \partial \alpha_1|$")
        for bar in (lines, strengths):
            bar.outline.set_visible(False)
    return figure
