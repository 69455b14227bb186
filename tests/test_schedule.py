"""Schedules against formulas, against what every schedule must obey, and against each other."""

from __future__ import annotations

import random

import pytest

from sedona_nb import schedule
from sedona_nb.errors import SedonaError
from sedona_nb.schedule import BlockTimes, Span, seconds_per_step


def random_times(seed: int, blocks: int, transfer: float = 0.2) -> list[BlockTimes]:
    draw = random.Random(seed)
    return [
        BlockTimes(
            draw.uniform(1, 3),
            draw.uniform(2, 6),
            draw.uniform(0.1, 1),
            draw.uniform(0.01, 0.2),
            draw.uniform(0, transfer) if k < blocks - 1 else 0.0,
            draw.uniform(0, 1) if k else 0.0,
        )
        for k in range(blocks)
    ]


@pytest.mark.parametrize("blocks", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(3))
class TestFormulas:
    def test_one_device(self, blocks: int, seed: int) -> None:
        times = random_times(seed, blocks)
        work = sum(one.forward + one.backward + one.through + one.update for one in times)
        assert seconds_per_step(schedule.backprop(times, 9)) == pytest.approx(work + times[-1].head)
        assert seconds_per_step(schedule.greedy(times, 9)) == pytest.approx(sum(one.training for one in times))

    def test_in_turns(self, blocks: int, seed: int) -> None:
        """Whoever is first goes on with the next step while nobody else can: only its update is not waited for."""
        times = random_times(seed, blocks)
        work = sum(one.forward + one.backward + one.through + 2 * one.transfer for one in times) + times[-1].head
        found = seconds_per_step(schedule.backprop(times, 9, devices=True))
        assert found == pytest.approx(work + times[0].update)

    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_asynchronous_is_as_fast_as_its_slowest_block(self, blocks: int, seed: int, depth: int) -> None:
        times = random_times(seed, blocks)
        found = seconds_per_step(schedule.asynchronous(times, 60, depth))
        slowest = max(one.training for one in times)
        if depth > 1:
            assert found == pytest.approx(slowest)
        else:  # the only slot is free again when the block above is through, and then the transfer begins
            pairs = [(above, below) for below, above in zip(times, times[1:], strict=False)]
            assert found == pytest.approx(
                max([slowest, *(above.training + below.transfer for above, below in pairs)])
            )

    @pytest.mark.parametrize("microbatches", [1, 3, 8])
    def test_pipelines_of_equal_blocks(self, blocks: int, seed: int, microbatches: int) -> None:
        one = BlockTimes(1.0 + seed, 2.0, 0.0, 0.25)
        wanted = (microbatches + blocks - 1) * (one.forward + one.backward) / microbatches + one.update
        for method in (schedule.gpipe, schedule.one_forward_one_backward):
            assert seconds_per_step(method([one] * blocks, 8, microbatches)) == pytest.approx(wanted)


METHODS = {
    "backprop": lambda times: schedule.backprop(times, 6, devices=True),
    "gpipe": lambda times: schedule.gpipe(times, 6, 4),
    "1f1b": lambda times: schedule.one_forward_one_backward(times, 6, 4),
    "asynchronous": lambda times: schedule.asynchronous(times, 6, 2),
}


def by_task(spans: list[Span]) -> dict[tuple, Span]:
    found = {(span.worker, span.what, span.step, span.part): span for span in spans}
    assert len(found) == len(spans)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_nobody_does_two_things_at_a_time_or_before_what_they_need(method: str, blocks: int) -> None:
    times = random_times(11, blocks, transfer=4.0)
    spans = METHODS[method](times)
    for worker in range(blocks):
        own = sorted(span for span in spans if span.worker == worker and span.what != "send")
        own.sort(key=lambda span: (span.start, span.end))
        for one, other in zip(own, own[1:], strict=False):
            assert other.start >= one.end - 1e-9
    found = by_task(spans)
    for (worker, what, step, part), span in found.items():
        if what == "forward" and worker:
            below = found[worker - 1, "forward", step, part]
            assert span.start >= below.end + times[worker - 1].transfer - 1e-9
        if what == "backward":
            assert span.start >= found[worker, "forward", step, part].end - 1e-9
            if method != "asynchronous" and worker < blocks - 1:
                above = found[worker + 1, "backward", step, part]
                assert span.start >= above.end + times[worker].transfer - 1e-9


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_queues_hold_no_more_than_their_slots(depth: int) -> None:
    """A fast block under a slow one: what was sent and is not through above never exceeds the slots."""
    times = [BlockTimes(0.1, 0.1, transfer=0.01), BlockTimes(2.0, 3.0)]
    found = by_task(schedule.asynchronous(times, 20, depth))
    for step in range(20):
        began = found[0, "send", step, 0].start
        waiting = sum(found[1, "backward", before, 0].end > began + 1e-9 for before in range(step))
        assert waiting < depth or began == pytest.approx(found[0, "forward", step, 0].end)
        assert (
            sum(found[1, "backward", s, 0].end > found[0, "send", step, 0].end + 1e-9 for s in range(step)) < depth
        )


def test_one_f_one_b_keeps_fewer_activations_than_gpipe() -> None:
    times = [BlockTimes(1.0, 2.0)] * 4

    def most_waiting(spans: list[Span]) -> int:
        found = by_task(spans)
        first = [span for span in spans if (span.worker, span.what, span.step) == (0, "forward", 0)]
        return max(
            sum(one.end <= moment.end < found[0, "backward", 0, one.part].end for one in first) for moment in first
        )

    assert most_waiting(schedule.gpipe(times, 1, 8)) == 8
    assert most_waiting(schedule.one_forward_one_backward(times, 1, 8)) == 4


def test_prediction_and_limit() -> None:
    times = [BlockTimes(1, 2, 0.5, 0.1, 0.1), BlockTimes(1.2, 2.4, 0.1, 0.1)]
    found = schedule.predict(times)
    assert list(found) == [
        "backprop, one device",
        "greedy, one device",
        "backprop in turns",
        "GPipe",
        "1F1B",
        "asynchronous greedy",
    ]
    assert found["asynchronous greedy"] == pytest.approx(3.8)
    assert schedule.speedup(times) == pytest.approx(schedule.limit(times)) == pytest.approx(6.9 / 3.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule.asynchronous([], 3), "0 blocks, 3 steps"),
        (
            lambda: schedule.asynchronous([BlockTimes(1, 1)], 3, 0),
            "0 slots or micro-batches: allowed is 1 or more",
        ),
        (lambda: schedule.gpipe([BlockTimes(1, 1)], 0, 1), "0 steps"),
        (lambda: seconds_per_step(schedule.greedy([BlockTimes(1, 1)], 3)), "3 steps: at least 4 are needed"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(SedonaError, match=message):
        call()
