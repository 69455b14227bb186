"""Who did what when: the spans of a recorded run, read, cut out and summed up; `viz.gantt` draws them.

spans = timelines.read("build/async")         # of `pipeline.train(..., timeline=True)`
spans = schedule.asynchronous(times, 12)      # or of the model: the same kind of thing
timelines.shares(timelines.cut(spans, 4, 11))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sedona_nb.errors import SedonaError
from sedona_nb.schedule import Span

KINDS = ("batch", "forward", "backward", "update", "send", "wait", "evaluate", "checkpoint")


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


def shares(spans: Sequence[Span]) -> dict[int, dict[str, float]]:
    """Percent of its time, from its first to its last span, that each worker spends on what; the rest is "idle".

    Sending goes on beside the rest and counts for neither.

    Returns:
        by number of the worker, from 1, then by kind of work.
    """
    found = {}
    for worker in sorted({span.worker for span in spans}):
        own = [span for span in spans if span.worker == worker]
        whole = max(span.end for span in own) - min(span.start for span in own)
        kinds = [kind for kind in KINDS if kind != "send" and any(span.what == kind for span in spans)]
        row = {kind: 100 * sum(s.end - s.start for s in own if s.what == kind) / whole for kind in kinds}
        found[worker + 1] = {**row, "idle": 100 - sum(row.values())}
    return found
