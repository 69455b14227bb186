"""Charts of what training did, how methods compare, and how many configurations there are; from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log10

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sedona_nb.decoupling import count_configurations
from sedona_nb.drawing import BLUE, CYCLE, DASHES, INK, QUIET, drawing, from_zero, label, looks, need

DIGITS = 2  # of an error in percent, as the paper prints it


def training_curves(curves: Mapping[str, pd.DataFrame], protocol: str = "") -> Figure:
    """Error in percent over training steps, a curve a name; frames have the columns step and error.

    `protocol`: what was trained, for the small print.
    """
    for name, frame in curves.items():
        need(frame, ("step", "error"), f"curve {name!r}", or_empty=True)
    with drawing(6.0, 3.2 + 0.3 * bool(protocol), note=protocol) as figure:
        axes = figure.subplots()
        for name, colour, _, dash in looks(list(curves)):
            frame = curves[name]
            last = f"{frame['error'].iloc[-1]:.{DIGITS}f}" if len(frame) else "no data"
            axes.plot(frame["step"], frame["error"], color=colour, linestyle=dash, label=f"{label(name)}: {last}")
        axes.set(xlabel="step", ylabel="error (%)")
        from_zero(axes)
        axes.legend(title="at the last step, in %", alignment="left", title_fontsize=8)
    return figure


def method_bars(table: pd.DataFrame, note: str = "", source: str = "paper") -> Figure:
    """Errors by method, those that the `source` prints beside ours.

    `table`: columns method, paper, ours (percent; NaN where there is none), optional spread (of ours) and network
    (a panel each). `note`, below the bars, has to say both protocols: neighbours need not be
    comparable.
    """
    need(table, ("method", "paper", "ours"), or_empty=True)
    names = list(dict.fromkeys(table["network"])) if "network" in table else [""]
    columns = min(len(names), 2)
    rows = ceil(len(names) / columns)
    widest = max(int((table["network"] == name).sum()) if name else len(table) for name in names)
    width = columns * max(3.4, 0.95 * widest + 0.8)
    with drawing(width, 0.35 + 2.4 * rows, note=note) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            part = table[table["network"] == name] if name else table
            places = np.arange(len(part))
            spread = part["spread"].to_numpy(float) if "spread" in part else None
            paper, ours = part["paper"].to_numpy(float), part["ours"].to_numpy(float)
            bars = {"width": 0.38, "linewidth": 0.8}
            axes.bar(places - 0.2, paper, color="white", edgecolor=QUIET, hatch="////", label=source, **bars)
            axes.bar(places + 0.2, ours, color=BLUE, edgecolor=BLUE, label="ours", **bars)
            if spread is not None:
                axes.errorbar(places + 0.2, ours, yerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
            for shift, values, margin in ((-0.2, paper, None), (0.2, ours, spread)):
                for place, value, extra in zip(
                    places, values, margin if margin is not None else 0 * values, strict=True
                ):
                    if not np.isnan(value):
                        top = value + np.nan_to_num(extra)
                        _number_above(axes, place + shift, top, value)
            axes.set_xticks(places, [label(method) for method in part["method"]])
            axes.tick_params(axis="x", length=0)
            axes.margins(y=0.12)
            axes.set(title=label(name), ylabel="error (%)", xlim=(-0.6, len(part) - 0.4))
        for axes in list(grid.flat)[len(names) :]:
            axes.remove()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def configuration_counts(
    num_layers: int | Sequence[int] = (16, 33, 50), num_heads: int = 4, num_blocks: int | None = None
) -> Figure:
    """Number of configurations by K for each L, on a logarithmic axis; `num_blocks` marks one K (Section 1)."""
    lengths = [num_layers] if isinstance(num_layers, int) else list(num_layers)
    note = f"C(L-1, K-1) * M^(K-1) configurations, M = {num_heads} heads to choose from."
    with drawing(6.0, 3.2, note=note) as figure:
        axes = figure.subplots()
        for length, colour, dash in zip(lengths, CYCLE * 9, DASHES * 9, strict=False):
            blocks = range(1, length + 1)
            powers = [log10(count_configurations(length, k, num_heads)) for k in blocks]
            text = f"L = {length}"
            if num_blocks is not None and num_blocks <= length:
                count = count_configurations(length, num_blocks, num_heads)
                text += f": {count:,}" if count < 10**12 else f": {count:.1e}"
                axes.plot(num_blocks, powers[num_blocks - 1], "o", color=colour, markersize=6)
            axes.plot(blocks, powers, color=colour, linestyle=dash, label=text)
        axes.set(xlabel="blocks K", ylabel="configurations")
        from_zero(axes)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda power, _: f"$10^{{{power:g}}}$"))
        title = None if num_blocks is None else f"configurations at K = {num_blocks}"
        axes.legend(loc="upper left", title=title, alignment="left", title_fontsize=8)
    return figure


def _number_above(axes: Axes, x: float, top: float, value: float) -> None:
    place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
    axes.annotate(f"{value:.{DIGITS}f}", (x, top), fontsize=7, **place)
