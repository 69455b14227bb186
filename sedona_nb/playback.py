"""A schedule at one moment: what each block is at, how full the queues are; and how busy everybody is on average.

    spans = schedule.asynchronous(playback.blocks_of(times, (0.1, 0.2)), playback.STEPS, depth=4)
    now = playback.moment(spans, 0.35)

Nothing is simulated here: `schedule` made the spans, and this reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sedona_nb import timelines
from sedona_nb.errors import SedonaError
from sedona_nb.schedule import BlockTimes, Span

STEPS = 12  # of a schedule that is played
# A block of 100 ms a step: a third forward, the rest backward, the head and the update as in notebook 06.
BLOCK = BlockTimes(forward=0.030, backward=0.060, head=0.009, update=0.001, transfer=0.002)


@dataclass(frozen=True)
class Moment:
    """A schedule of K blocks at one time.

    Attributes:
        time: seconds.
        work: of each block: (what, step), or None while it waits, (K,).
        queued: steps whose activations are on their way to the block above or not yet worked off there, (K-1,).
    """

    time: float
    work: tuple[tuple[str, int] | None, ...]
    queued: tuple[tuple[int, ...], ...]


def blocks_of(times: Sequence[BlockTimes], seconds: Sequence[float]) -> list[BlockTimes]:
    """Blocks like `times`, stretched so that a step takes `seconds`; the last of `times` serves all further ones.

    Raises:
        SedonaError: no times, or seconds that are not positive.
    """
    if not times or not all(value > 0 for value in seconds):
        raise SedonaError(f"{len(times)} blocks, seconds {tuple(seconds)}; allowed: 1 or more, all above 0")
    found = []
    for k, value in enumerate(seconds):
        one = times[min(k, len(times) - 1)]
        parts = ("forward", "backward", "head", "update")
        factor = value / one.training
        found.append(replace(one, **{part: factor * getattr(one, part) for part in parts}))
    return found


def moment(spans: Sequence[Span], time: float) -> Moment:
    """What is going on at `time` (seconds); a span has begun at its start and is over at its end.

    Raises:
        SedonaError: a schedule without spans.
    """
    if not spans:
        raise SedonaError("a schedule without spans; allowed: one or more")
    blocks = 1 + max(span.worker for span in spans)
    work: list[tuple[str, int] | None] = [None] * blocks
    sent: list[set[int]] = [set() for _ in range(blocks)]
    done: list[set[int]] = [set() for _ in range(blocks)]
    for span in spans:
        if span.what == "send":
            if span.start <= time:
                sent[span.worker].add(span.step)
        elif span.start <= time < span.end:
            work[span.worker] = span.what, span.step
        elif span.what == "backward" and span.end <= time:
            done[span.worker].add(span.step)
    queued = (tuple(sorted(sent[k] - done[k + 1])) for k in range(blocks - 1))
    return Moment(time, tuple(work), tuple(queued))


def utilisation(spans: Sequence[Span]) -> tuple[float, ...]:
    """Percent of its time that each block works, (K,); over the second half of the steps, when all are running."""
    last = max(span.step for span in spans)
    steady = timelines.cut([span for span in spans if span.what != "send"], (last + 1) // 2, last)
    return tuple(100 - row["idle"] for row in timelines.shares(steady).values())
