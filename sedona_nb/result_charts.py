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
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sedona_nb.drawing import (
    BLUE,
    CYCLE,
    DASHES,
    INK,
    MARKERS,
    QUIET,
    VERMILLION,
    drawing,
    from_zero,
    label,
    looks,
    need,
)
from sedona_nb.errors import SedonaError


def seed_curves(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Validation error over steps: a thin line a run, a thick one for the mean of a variant; a panel a network.

    `table`: columns network, variant, run, step, error, as `record_frames.curves` gives them.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    need(table, ("network", "variant", "run", "step", "error"))
    networks = list(dict.fromkeys(table["network"]))
    variants = list(dict.fromkeys(table["variant"]))
    with drawing(1.4 + 4.6 * len(networks), 3.5, note=protocol) as figure:
        grid = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
        lines: dict[str, Line2D] = {}
        counts: dict[str, list[int]] = {}
        for axes, network in zip(grid, networks, strict=True):
            for variant, colour, _, dash in looks(variants):
                part = table[(table["network"] == network) & (table["variant"] == variant)]
                if part.empty:
                    continue
                for _, run in part.groupby("run"):
                    axes.plot(run["step"], run["error"], color=colour, linewidth=0.6, alpha=0.6)
                mean = part.groupby("step")["error"].mean()
                (lines[variant],) = axes.plot(mean.index, mean, color=colour, linestyle=dash)
                counts.setdefault(variant, []).append(part["run"].nunique())
            axes.set(xlabel="step", title=label(network))
        from_zero(*grid)
        grid[0].set_ylabel("validation error (%)")
        for variant, line in lines.items():
            fewest, most = min(counts[variant]), max(counts[variant])
            line.set_label(f"{label(variant)} (n = {most if fewest == most else f'{fewest} to {most}'})")
        grid[-1].legend(handles=list(lines.values()), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def errors_by_blocks(table: pd.DataFrame, protocol: str = "") -> Figure:
    """Error against K, a line a variant; backprop, which has one block, is a line across; a panel a network.

    `table`: columns network, variant, K, paper, ours, spread, as `verdicts.side_by_side` gives them. Bars are
    standard deviations over seeds; the paper's numbers, where it prints any, are open markers. A K without any
    number has its place on the axis, too.

    Raises:
        SedonaError: a column is missing, or there is no number at all.
    """
    need(table, ("network", "variant", "K", "paper", "ours", "spread"))
    asked, table = table, table[table[["paper", "ours"]].notna().any(axis=1)]
    if table.empty:
        raise SedonaError("no record and no printed number: nothing to draw")
    networks = list(dict.fromkeys(table["network"]))
    lines = [look for look in looks(["backprop", *table["variant"]]) if look[0] != "backprop"]
    with drawing(1.6 + 4.2 * len(networks), 3.5, note=protocol) as figure:
        grid = figure.subplots(1, len(networks), squeeze=False)[0]
        for axes, network in zip(grid, networks, strict=True):
            part = table[table["network"] == network]
            blocks = sorted(set(asked.loc[asked["network"] == network, "K"]) - {1}) or [1]
            for row in part[part["variant"] == "backprop"].itertuples():
                _line_across(axes, row)
            for shift, (variant, colour, marker, dash) in enumerate(lines):
                line = part[part["variant"] == variant].sort_values("K")
                places = np.array([blocks.index(k) for k in line["K"]]) + 0.05 * (shift - len(lines) / 2 + 0.5)
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
            axes.set_xlim(-0.5, len(blocks) - 0.5)  # a single K stays one place
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
        columns = zip(groups.items(), CYCLE * 9, MARKERS * 9, strict=False)
        for place, ((_, values), colour, marker) in enumerate(columns):
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
    need(table, ("variant", "layer", "interval", "cosine"))
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

    More than three panels stand two in a row.

    `table`: columns source (a panel each), row, train, other. All panels span equally many points, each around
    its own errors, so that a gap of one point has one length.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    need(table, ("source", "row", "train", "other"))
    sources = list(dict.fromkeys(table["source"]))
    tallest = max(int((table["source"] == source).sum()) for source in sources)
    ends = table.melt("source", ["train", "other"]).groupby("source")["value"].agg(["min", "max"])
    span = 1.24 * max((ends["max"] - ends["min"]).max(), 1e-9)
    columns = len(sources) if len(sources) <= 3 else 2
    rows = -(-len(sources) // columns)
    with drawing(1.2 + 3.9 * columns, 0.3 + rows * (0.8 + 0.34 * tallest), note=protocol) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in grid[len(sources) :]:
            spare.remove()
        for axes, source in zip(grid, sources, strict=False):
            part = table[table["source"] == source].reset_index(drop=True)
            places = -np.arange(len(part))
            axes.hlines(places, part["train"], part["other"], color=QUIET, linewidth=1.2)
            axes.plot(part["train"], places, "o", color="white", markeredgecolor=BLUE, label="training pictures")
            axes.plot(part["other"], places, "o", color=BLUE, label="others")
            axes.set_yticks(places, [label(row) for row in part["row"]])
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False)
            axes.margins(y=0.2)
            # Around the middle of its errors, but with little room below zero, where no error is.
            left = max(ends.loc[source].mean() - span / 2, -0.1 * span)
            axes.set(xlabel="error (%)", title=source, xlim=(left, left + span))
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def _line_across(axes: Axes, row: object) -> None:
    if not np.isnan(row.ours):
        axes.axhline(row.ours, color=BLUE, linewidth=1.2, label=label("backprop"))
        if not np.isnan(row.spread):
            axes.axhspan(row.ours - row.spread, row.ours + row.spread, color=BLUE, alpha=0.12, linewidth=0)
    if not np.isnan(row.paper):
        axes.axhline(row.paper, color=BLUE, linewidth=0.7, linestyle="--", label=f"{label('backprop')}, paper")
