"""Charts of what results can carry: intervals, a random search, errors by feature or choice, descent with a delay.

Each takes a tidy frame and draws nothing but what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sedona_nb.drawing import BLUE, CYCLE, DASHES, INK, MARKERS, QUIET, drawing, from_zero, label, looks, need
from sedona_nb.errors import SedonaError


def intervals(table: pd.DataFrame, measure: str, protocol: str = "") -> Figure:
    """Estimates with their intervals, one below the other, beside a line at zero; a colour a group.

    Args:
        table: columns row, estimate, low, high, and optionally group; rows without an estimate are left out.
        measure: what is estimated, in which units; the axis.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no estimate.
    """
    need(table, ("row", "estimate", "low", "high"))
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
    need(table, ("budget", "error"))
    with drawing(6.6, 3.4, note=protocol) as figure:
        axes = figure.subplots()
        axes.plot(table["budget"], table["error"], color=INK, marker="o", markersize=3, label="best of n random")
        for (name, colour, *_), dash in zip(looks(list(lines)), DASHES[1:] * 9, strict=False):
            mean, low, high = lines[name]
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
    need(table, ("test", *features))
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


def error_by_choice(
    table: pd.DataFrame, choices: Sequence[str], axis: str, joined: bool = True, protocol: str = ""
) -> Figure:
    """Test error for a few choices in their order: a column a choice, a dot a run, a colour a group.

    Args:
        table: columns group, choice, test (in percent).
        choices: in the order of the axis; every one has a place, runs of other choices are refused.
        axis: what the choices are.
        joined: a line through the means of each group.
        protocol: for the small print.

    Raises:
        SedonaError: a column is missing, there is no row, or a choice that has no place.
    """
    need(table, ("group", "choice", "test"))
    lost = sorted(set(table["choice"]) - set(choices))
    if lost:
        raise SedonaError(f"no place for {', '.join(map(str, lost))}; allowed: {', '.join(choices)}")
    groups = list(dict.fromkeys(table["group"]))
    with drawing(2.6 + 1.1 * len(choices), 3.5, note=protocol) as figure:
        axes = figure.subplots()
        for at, (group, colour, marker, dash) in enumerate(
            zip(groups, CYCLE * 9, MARKERS * 9, DASHES * 9, strict=False)
        ):
            part = table[table["group"] == group]
            shift = 0.6 * ((at + 0.5) / len(groups) - 0.5)
            places = part["choice"].map(list(choices).index) + shift
            axes.plot(places, part["test"], marker, color=colour, markersize=4.5, alpha=0.8, linestyle="none")
            means = part.groupby("choice")["test"].mean().reindex(list(choices)).dropna()
            at_means = [list(choices).index(choice) + shift for choice in means.index]
            if joined:
                axes.plot(at_means, means, color=colour, linestyle=dash, linewidth=1.2)
            handle = {"color": colour, "marker": marker, "linestyle": dash if joined else "none"}
            axes.plot([], [], **handle, label=f"{label(group)} (n = {len(part)})")
        axes.set_xticks(range(len(choices)), [label(choice) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set(xlabel=axis, ylabel="test error (%)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
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
    need(table, ("delay", "step", "distance"))
    need(limits, ("delay", "rate"))
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
        from_zero(right)
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
