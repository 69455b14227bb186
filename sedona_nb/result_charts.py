"""Charts of what training runs left: curves by seed, errors by K, many configurations, cosines, estimates.

Each takes a tidy frame of `record_frames` or `verdicts`, and draws nothing but what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sedona_nb.charts import DASHES
from sedona_nb.drawing import BLUE, CYCLE, INK, QUIET, VERMILLION, drawing, label
from sedona_nb.errors import SedonaError

MARKERS = "osD^vPX"


def seed_curves(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Validation error over steps: a thin line a run, a thick one for the mean of a variant; a panel a network.

    `table`: columns network, variant, run, step, error, as `record_frames.curves` gives them.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    _need(table, ("network", "variant", "run", "step", "error"))
    networks = list(dict.fromkeys(table["network"]))
    variants = list(dict.fromkeys(table["variant"]))
    with drawing(1.4 + 4.6 * len(networks), 3.5, note=protocol) as figure:
        grid = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
        for axes, network in zip(grid, networks, strict=True):
            for variant, colour, dash in zip(variants, CYCLE * 9, DASHES * 9, strict=False):
                part = table[(table["network"] == network) & (table["variant"] == variant)]
                if part.empty:
                    continue
                for _, run in part.groupby("run"):
                    axes.plot(run["step"], run["error"], color=colour, linewidth=0.6, alpha=0.6)
                mean = part.groupby("step")["error"].mean()
                count = part["run"].nunique()
                axes.plot(mean.index, mean, color=colour, linestyle=dash, label=f"{label(variant)} (n = {count})")
            axes.set(xlabel="step", title=label(network))
            axes.set_ylim(bottom=0)
        grid[0].set_ylabel("validation error (%)")
        grid[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def errors_by_blocks(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Error against K, a line a variant; backprop, which has one block, is a line across; a panel a network.

    `table`: columns network, variant, K, paper, ours, spread, as `verdicts.side_by_side` gives them. Bars are
    standard deviations over seeds; the paper's numbers, where it prints any, are open markers.

    Raises:
        SedonaError: a column is missing, or there is no number at all.
    """
    _need(table, ("network", "variant", "K", "paper", "ours", "spread"))
    table = table[table[["paper", "ours"]].notna().any(axis=1)]
    if table.empty:
        raise SedonaError("no record and no printed number: nothing to draw")
    networks = list(dict.fromkeys(table["network"]))
    variants = [v for v in dict.fromkeys(table["variant"]) if v != "backprop"]
    with drawing(1.6 + 4.2 * len(networks), 3.5, note=protocol) as figure:
        grid = figure.subplots(1, len(networks), squeeze=False)[0]
        for axes, network in zip(grid, networks, strict=True):
            part = table[table["network"] == network]
            blocks = sorted(set(part["K"]) - {1}) or [1]
            for row in part[part["variant"] == "backprop"].itertuples():
                _line_across(axes, row)
            looks = list(zip(variants, CYCLE[1:] * 9, MARKERS * 9, DASHES * 9, strict=False))
            for shift, (variant, colour, marker, dash) in enumerate(looks):
                line = part[part["variant"] == variant].sort_values("K")
                places = np.array([blocks.index(k) for k in line["K"]]) + 0.05 * (shift - len(looks) / 2 + 0.5)
                axes.errorbar(
                    places,
                    line["ours"],
                    yerr=line["spread"].fillna(0.0),
                    color=colour,
                    marker=marker,
                    markersize=4.5,
                    linestyle=dash,
                    capsize=2,
                    elinewidth=0.9,
                    label=label(variant),
                )
                axes.plot(
                    places, line["paper"], color=colour, marker=marker, markerfacecolor="white", linewidth=0.7
                )
            axes.set_xticks(range(len(blocks)), [str(k) for k in blocks])
            axes.set(xlabel="blocks K", title=label(network))
        grid[0].set_ylabel("test error (%)")
        grid[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def configurations(
    groups: Mapping[str, Sequence[float]], lines: Mapping[str, float] | None = None, protocol: str = ""
) -> Figure:
    """Figure 6: every run a dot, a column a group, its mean a bar; `lines` are printed errors, across all columns.

    Raises:
        SedonaError: no group has a run.
    """
    groups = {name: list(values) for name, values in groups.items() if len(values)}
    if not groups:
        raise SedonaError("no record: nothing to draw")
    with drawing(1.8 + 1.7 * len(groups), 3.6, note=protocol) as figure:
        axes = figure.subplots()
        looks = zip(groups.items(), CYCLE * 9, MARKERS * 9, strict=False)
        for place, ((_, values), colour, marker) in enumerate(looks):
            order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
            spread = 0.5 * (
                (order * 0.381966) % 1.0 - 0.5
            )  # side by side without chance: golden section of the rank
            axes.plot(place + spread, values, marker, color=colour, markersize=4.5, alpha=0.8)
            axes.hlines(np.mean(values), place - 0.33, place + 0.33, color=INK, linewidth=1.4)
            text = f"{np.mean(values):.1f}"
            axes.annotate(text, (place + 0.34, np.mean(values)), va="center", fontsize=7.5)
        for (name, value), dash in zip((lines or {}).items(), DASHES[1:] * 9, strict=False):
            axes.axhline(value, color=QUIET, linestyle=dash, linewidth=0.9, label=name)
        names = [f"{label(name)}\nn = {len(values)}" for name, values in groups.items()]
        axes.set_xticks(range(len(groups)), names)
        axes.set_xlim(-0.6, len(groups) - 0.3)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("test error (%)")
        if lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def alignment_by_layer(table: pd.DataFrame, ends: Mapping[str, Sequence[int]], protocol: str = "") -> Figure:
    """Figure 8: cosine of greedy and backprop gradient by layer, a panel a variant; early intervals are dark.

    Args:
        table: columns variant, layer, interval, cosine, as `record_frames.alignments`; seeds are averaged, and
            "all" is the thick line.
        ends: last layers of all blocks but the last, by variant; marked.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    _need(table, ("variant", "layer", "interval", "cosine"))
    variants = list(dict.fromkeys(table["variant"]))
    intervals = [name for name in dict.fromkeys(table["interval"]) if name != "all"]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, max(len(intervals), 1)))
    with drawing(1.6 + 3.6 * len(variants), 3.4, note=protocol) as figure:
        grid = figure.subplots(1, len(variants), squeeze=False, sharey=True)[0]
        for axes, variant in zip(grid, variants, strict=True):
            part = table[table["variant"] == variant]
            for split in ends.get(variant, ()):
                axes.axvline(split + 0.5, color=VERMILLION, linewidth=0.9, linestyle=(0, (2, 2)))
            for interval, shade in zip(intervals, shades, strict=True):
                mean = part[part["interval"] == interval].groupby("layer")["cosine"].mean()
                axes.plot(mean.index, mean, color=shade, linewidth=1.0, label=f"steps {interval}")
            mean = part[part["interval"] == "all"].groupby("layer")["cosine"].mean()
            axes.plot(mean.index, mean, color=INK, marker="o", markersize=3, linewidth=2, label="all steps")
            axes.axhline(0, color=QUIET, linewidth=0.8)
            axes.set(xlabel="layer", title=label(variant))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        grid[0].set_ylabel("cosine with backprop's gradient")
        grid[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def generalization(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Table 7: from the error on training pictures to that on others, a line a row; its length is the gap.

    `table`: columns source (a panel each), row, train, other.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    _need(table, ("source", "row", "train", "other"))
    sources = list(dict.fromkeys(table["source"]))
    tallest = max(int((table["source"] == source).sum()) for source in sources)
    with drawing(1.2 + 3.9 * len(sources), 1.1 + 0.34 * tallest, note=protocol) as figure:
        grid = figure.subplots(1, len(sources), squeeze=False)[0]
        for axes, source in zip(grid, sources, strict=True):
            part = table[table["source"] == source].reset_index(drop=True)
            places = -np.arange(len(part))
            axes.hlines(places, part["train"], part["other"], color=QUIET, linewidth=1.2)
            axes.plot(part["train"], places, "o", color="white", markeredgecolor=BLUE, label="training pictures")
            axes.plot(part["other"], places, "o", color=BLUE, label="others")
            axes.set_yticks(places, [label(row) for row in part["row"]])
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False)
            axes.margins(x=0.12, y=0.2)
            axes.set(xlabel="error (%)", title=source)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def intervals(table: pd.DataFrame, measure: str, protocol: str = "") -> Figure:
    """Estimates with their intervals, one below the other, beside a line at zero; a colour a group.

    Args:
        table: columns row, estimate, low, high, and optionally group; rows without an estimate are left out.
        measure: what is estimated, in which units; the axis.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no estimate.
    """
    _need(table, ("row", "estimate", "low", "high"))
    table = table[table["estimate"].notna()].reset_index(drop=True)
    if table.empty:
        raise SedonaError("no estimate: nothing to draw")
    groups = list(dict.fromkeys(table["group"])) if "group" in table else [None]
    with drawing(6.4, 1.0 + 0.27 * len(table), note=protocol) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=QUIET, linewidth=0.8)
        for group, colour, marker in zip(groups, CYCLE * 9, MARKERS * 9, strict=False):
            part = table if group is None else table[table["group"] == group]
            axes.hlines(-part.index, part["low"], part["high"], color=colour, linewidth=1.4)
            name = None if group is None else label(group)
            axes.plot(part["estimate"], -part.index, marker, color=colour, markersize=4.5, label=name)
        axes.set_yticks(-table.index, [label(row) for row in table["row"]])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.margins(y=0.6 / max(len(table), 2))
        axes.set_xlabel(measure)
        if len(groups) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def random_search(
    table: pd.DataFrame,
    lines: Mapping[str, tuple[float, float, float]],
    marks: Mapping[str, float] | None = None,
    protocol: str = "",
) -> Figure:
    """What the best of so many random configurations costs in test error, beside what others reach.

    Args:
        table: columns budget (runs) and error (test error in percent, expected), as `baselines.best_of` gives it.
        lines: mean, low and high of others in percent, drawn across; low and high may be NaN.
        marks: budgets to point out.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    _need(table, ("budget", "error"))
    with drawing(6.6, 3.4, note=protocol) as figure:
        axes = figure.subplots()
        axes.plot(table["budget"], table["error"], color=INK, marker="o", markersize=3, label="best of n random")
        for (name, (mean, low, high)), colour, dash in zip(lines.items(), CYCLE * 9, DASHES[1:] * 9, strict=False):
            axes.axhline(mean, color=colour, linestyle=dash, linewidth=1.3, label=label(name))
            if not np.isnan(low):
                axes.axhspan(low, high, color=colour, alpha=0.13, linewidth=0)
        for (name, budget), dash in zip((marks or {}).items(), DASHES[1:] * 9, strict=False):
            axes.axvline(budget, color=QUIET, linestyle=dash, linewidth=0.9, label=name)
        axes.set(xlabel="random configurations tried, n", ylabel="test error (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def error_by_feature(table: pd.DataFrame, features: Mapping[str, str], protocol: str = "") -> Figure:
    """Test error against features of a configuration: a panel a feature, a dot a run.

    Args:
        table: columns test and every feature, as `record_frames.configurations`; a feature without values is
            left out.
        features: column and what the axis calls it.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row, or no feature with a value.
    """
    _need(table, ("test", *features))
    features = {column: name for column, name in features.items() if table[column].notna().any()}
    if not features:
        raise SedonaError("no feature with a value: nothing to draw")
    columns = min(3, len(features))
    rows = -(-len(features) // columns)
    with drawing(0.8 + 2.5 * columns, 0.6 + 2.2 * rows, note=protocol) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (column, name) in zip(grid.flat, features.items(), strict=False):
            axes.plot(table[column], table["test"], "o", color=BLUE, markersize=4, alpha=0.8)
            axes.set_xlabel(name)
            if pd.api.types.is_integer_dtype(table[column]):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for axes in grid.flat[len(features) :]:
            axes.axis("off")
        for axes in grid[:, 0]:
            axes.set_ylabel("test error (%)")
    return figure


def delayed_descent(table: pd.DataFrame, limits: pd.DataFrame, protocol: str = "") -> Figure:
    """What a delay does to gradient descent: distance over steps by delay, and the largest stable rate by delay.

    Args:
        table: columns delay, step, distance.
        limits: columns delay, rate (times the curvature).
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    _need(table, ("delay", "step", "distance"))
    _need(limits, ("delay", "rate"))
    delays = list(dict.fromkeys(table["delay"]))
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(delays)))
    with drawing(7.6, 3.1, note=protocol) as figure:
        left, right = figure.subplots(1, 2)
        for delay, shade, dash in zip(delays, shades, DASHES * 9, strict=False):
            part = table[table["delay"] == delay]
            left.plot(part["step"], part["distance"], color=shade, linestyle=dash, label=f"delay {delay}")
        left.set(xlabel="step", ylabel="distance from the minimum", yscale="log")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 7))
        right.plot(limits["delay"], limits["rate"], "o-", color=INK, markersize=4)
        right.set(xlabel="delay (steps)", ylabel="largest stable rate x curvature")
        right.set_ylim(bottom=0)
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _line_across(axes: Axes, row: object) -> None:
    if not np.isnan(row.ours):
        axes.axhline(row.ours, color=BLUE, linewidth=1.2, label=label("backprop"))
        if not np.isnan(row.spread):
            axes.axhspan(row.ours - row.spread, row.ours + row.spread, color=BLUE, alpha=0.12, linewidth=0)
    if not np.isnan(row.paper):
        axes.axhline(row.paper, color=BLUE, linewidth=0.7, linestyle="--", label=f"{label('backprop')}, paper")


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise SedonaError(f"table has no column {', '.join(missing)}; it needs {', '.join(columns)}")
    if table.empty:
        raise SedonaError("no record: nothing to draw")
