"""Who did what when: spans of a schedule or of a recorded run, cut out, summed up and drawn.

spans = timelines.read("build/async")         # of `pipeline.train(..., timeline=True)`
spans = schedule.asynchronous(times, 12)      # or of the model: the same kind of thing
timelines.gantt({"measured": spans})
timelines.shares(spans)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sedona_nb.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, drawing
from sedona_nb.errors import SedonaError
from sedona_nb.schedule import Span

# Colour and hatch of each kind of work; hatches tell them apart in grey.
LOOKS = {
    "forward": (SKY, ""),
    "backward": (BLUE, ""),
    "update": (GREEN, "//"),
    "send": (ORANGE, ""),
    "wait": ("#f2f2f2", "...."),
    "evaluate": (PURPLE, "\\\\"),
    "checkpoint": (QUIET, "xx"),
}
NUMBERED = 0.045  # a span as long as this share of the picture has its step's number in it


def read(folder: Path | str) -> list[Span]:
    """What the processes of a run on this machine noted; seconds from the first thing on.

    Raises:
        SedonaError: no timeline there.
    """
    paths = sorted(Path(folder).glob("timeline-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    if not paths:
        raise SedonaError(f"no timeline in {folder}; pipeline.train(..., timeline=True) leaves one")
    rows = [(worker, *row) for worker, path in enumerate(paths) for row in json.loads(path.read_text())]
    start = min(row[3] for row in rows)
    return sorted(Span(worker, what, step, begin - start, end - start) for worker, what, step, begin, end in rows)


def cut(spans: Sequence[Span], first: int, last: int) -> list[Span]:
    """Steps `first` to `last`, in seconds from the first thing of these steps on.

    Raises:
        SedonaError: nothing of these steps is there.
    """
    found = [span for span in spans if first <= span.step <= last]
    if not found:
        raise SedonaError(f"no spans of steps {first} to {last}")
    start = min(span.start for span in found)
    return [span._replace(start=span.start - start, end=span.end - start) for span in found]


def shares(spans: Sequence[Span]) -> pd.DataFrame:
    """Percent of its time, from its first to its last span, that each worker spends on what; the rest is "idle".

    Returns:
        one row a worker, one column a kind of work, and "idle".
    """
    rows = []
    for worker in sorted({span.worker for span in spans}):
        own = [span for span in spans if span.worker == worker]
        whole = max(span.end for span in own) - min(span.start for span in own)
        row = {"worker": worker + 1}
        kinds = [kind for kind in LOOKS if any(span.what == kind for span in spans)]
        for kind in kinds:
            row[kind] = 100 * sum(span.end - span.start for span in own if span.what == kind) / whole
        row["idle"] = 100 - sum(row[kind] for kind in kinds if kind != "send")
        rows.append(row)
    return pd.DataFrame(rows).set_index("worker")


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
