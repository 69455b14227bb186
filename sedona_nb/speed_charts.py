"""Charts of speed: who does what when, and what a decoupling gives up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sedona_nb.drawing import BLUE, CYCLE, FAINT, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, drawing
from sedona_nb.errors import SedonaError
from sedona_nb.frontier import Point
from sedona_nb.schedule import Span

# Colour and hatch of each kind of work; hatches tell them apart in grey.
LOOKS = {
    "batch": ("#d5e8c8", "//"),
    "forward": (SKY, ""),
    "backward": (BLUE, ""),
    "update": (GREEN, "//"),
    "send": (ORANGE, ""),
    "wait": ("#f2f2f2", "...."),
    "evaluate": (PURPLE, "\\\\"),
    "checkpoint": (QUIET, "xx"),
}
NUMBERED = 0.045  # a span as long as this share of the picture has its step's number in it


def gantt(timelines: Mapping[str, Sequence[Span]], names: Sequence[str] | None = None, note: str = "") -> Figure:
    """A panel a timeline, a row a worker, a box a span with its step's number; the same time axis for all.

    Sending goes on beside the work of a process and is drawn as a thin line under it.

    Args:
        timelines: spans by title.
        names: of the workers; None: "block 1", "block 2", ...
        note: small print.

    Raises:
        SedonaError: a timeline without spans.
    """
    for title, spans in timelines.items():
        if not spans:
            raise SedonaError(f"timeline {title!r} has no spans")
    workers = {title: 1 + max(span.worker for span in spans) for title, spans in timelines.items()}
    length = max(span.end for spans in timelines.values() for span in spans)
    unit, scale = ("s", 1) if length >= 10 else ("ms", 1000)
    with drawing(7.6, 0.75 + sum(0.42 + 0.3 * count for count in workers.values()), note=note) as figure:
        grid = figure.subplots(
            len(timelines), 1, sharex=True, squeeze=False, height_ratios=list(workers.values())
        )[:, 0]
        for axes, (title, spans) in zip(grid, timelines.items(), strict=True):
            for span in spans:
                _box(axes, span, scale, NUMBERED * length)
            count = workers[title]
            labels = [names[k] if names and count > 1 else f"block {k + 1}" for k in range(count)]
            axes.set_yticks(range(count), labels if count > 1 else ["all blocks"])
            axes.set(title=title, ylim=(count - 0.45, -0.55), xlim=(0, 1.005 * length * scale))
            axes.grid(visible=False)
        grid[-1].set_xlabel(f"time ({unit})")
        present = [kind for kind in LOOKS if any(s.what == kind for spans in timelines.values() for s in spans)]
        patches = [
            Patch(facecolor=LOOKS[kind][0], hatch=LOOKS[kind][1], edgecolor=QUIET, linewidth=0.5, label=kind)
            for kind in present
        ]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(patches))
    return figure


def _box(axes: Axes, span: Span, scale: float, long: float) -> None:
    """One span; light and dark steps alternate in strength."""
    colour, hatch = LOOKS[span.what]
    start, width = span.start * scale, (span.end - span.start) * scale
    if span.what == "send":
        axes.barh(span.worker + 0.41, width, 0.1, start, color=colour)
        return
    axes.barh(
        span.worker,
        width,
        0.68,
        start,
        color=colour,
        hatch=hatch,
        edgecolor=FAINT if span.what == "wait" else "white",
        linewidth=0.6,
    )
    if span.end - span.start >= long and span.what in ("forward", "backward"):
        ink = "white" if span.what == "backward" else INK
        axes.text(start + width / 2, span.worker, span.step, ha="center", va="center", fontsize=7, color=ink)


def front(points: Sequence[Point], marked: Mapping[str, Point], note: str = "") -> Figure:
    """The front as a stair, and marked decouplings beside it.

    Raises:
        SedonaError: no points.
    """
    if not points:
        raise SedonaError("a front without points")
    with drawing(6.2, 3.8, note=note) as figure:
        axes = figure.subplots()
        x, y = [one.speedup for one in points], [one.confidence for one in points]
        axes.step(x, y, where="pre", color=FAINT, linewidth=1.2, zorder=1)
        axes.plot(x, y, "o", color=BLUE, markersize=4, label="Pareto front")
        for (name, one), colour, marker in zip(marked.items(), CYCLE[1:] * 9, "s^Dv*" * 9, strict=False):
            axes.plot(
                one.speedup, one.confidence, marker, color=colour, markeredgecolor=INK, markersize=7, label=name
            )
        blocks = points[0].decoupling.num_blocks
        axes.set(
            xlabel=f"speed-up over backprop with {blocks} devices (model)",
            ylabel=r"sum of $\bar\alpha_1$ over the splits",
        )
        axes.legend(loc="best")
    return figure
