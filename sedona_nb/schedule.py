"""Which block works on which batch when: schedules from the blocks' times, and the seconds a step they come to.

    times = [BlockTimes(1.0, 2.0, head=0.3), BlockTimes(1.2, 2.1, head=0.1)]
    spans = schedule.asynchronous(times, steps=8, depth=4)   # who does what when, one device a block
    schedule.seconds_per_step(spans)                         # once it is running
    schedule.predict(times)                                  # all methods, side by side

Nothing is measured or run here. A schedule is the order of tasks of each device and what each task waits for;
`_play` finds the earliest time of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sedona_nb.errors import SedonaError

STEPS = 24  # simulated for a prediction; the second half is looked at, long after the start has worn off


@dataclass(frozen=True)
class BlockTimes:
    """Seconds that one batch takes in one block.

    Attributes:
        forward, backward: of its layers; backward without the gradient of the block's input.
        head: forward and backward of its head, or of the classifier, and of the loss.
        update: of the optimiser.
        transfer: from the moment its activations are there until the next block has them; 0 for the last block.
        through: of the gradient of the block's input, which backpropagation needs besides; 0 for the first block.
    """

    forward: float
    backward: float
    head: float = 0.0
    update: float = 0.0
    transfer: float = 0.0
    through: float = 0.0

    @property
    def training(self) -> float:
        """One greedy step of this block."""
        return self.forward + self.head + self.backward + self.update


class Span(NamedTuple):
    """What a device did from `start` to `end` (seconds): "forward", "backward", "update", "send", "wait", ...

    `part` counts the micro-batches of a step where a schedule has them.
    """

    worker: int
    what: str
    step: int
    start: float
    end: float
    part: int = 0


class _Task(NamedTuple):
    what: str
    step: int
    seconds: float
    needs: tuple[tuple[tuple, float], ...] = ()  # (worker, what, step, part) of a task, and the delay after it
    part: int = 0


def backprop(times: Sequence[BlockTimes], steps: int, devices: bool = False) -> list[Span]:
    """End-to-end backpropagation: the network on one device, or with `devices` a device a block, in turns."""
    times = _check(times, steps, 1)
    if devices:
        return gpipe(times, steps, 1)
    order = []
    for step in range(steps):
        order += [_Task("forward", step, one.forward) for one in times]
        for one in reversed(_without_heads(times)):
            order.append(_Task("backward", step, one.backward + one.through + one.head))
        order += [_Task("update", step, sum(one.update for one in times))]
    return _play([order])


def greedy(times: Sequence[BlockTimes], steps: int) -> list[Span]:
    """Greedy block-wise training on one device, block after block."""
    times = _check(times, steps, 1)
    order = []
    for step in range(steps):
        for one in times:
            order += [_Task("forward", step, one.forward), _Task("backward", step, one.training - one.forward)]
    return _play([order])


def asynchronous(times: Sequence[BlockTimes], steps: int, depth: int = 4) -> list[Span]:
    """Greedy training with a device a block and queues of `depth` slots between them, as `pipeline` does it.

    A block hands on its activations before its backward pass; a slot is free again when the block above is through
    with it; a block has one message under way at a time.
    """
    times = _check(times, steps, depth)
    blocks = range(len(times))
    orders: list[list[_Task]] = [[] for _ in (*blocks, *blocks)]  # devices, then the ways out of them
    for step in range(steps):
        for k, one in enumerate(times):
            way, way_in = len(times) + k, len(times) + k - 1
            arrived = (((way_in, "send", step, 0), 0.0),) if k else ()
            orders[k].append(_Task("forward", step, one.forward, arrived))
            left = (((way, "send", step - 1, 0), 0.0),) if step and one is not times[-1] else ()
            orders[k].append(_Task("backward", step, one.training - one.forward, left))
            if k < len(times) - 1:
                needs = [((k, "forward", step, 0), 0.0)]
                if step >= depth:
                    needs.append(((k + 1, "backward", step - depth, 0), 0.0))
                orders[way].append(_Task("send", step, one.transfer, tuple(needs)))
    spans = _play(orders)
    return sorted(span._replace(worker=span.worker % len(times)) for span in spans)


def gpipe(times: Sequence[BlockTimes], steps: int, microbatches: int) -> list[Span]:
    """GPipe: a device a block, all forward passes of a step's micro-batches, then all backward passes."""
    return _pipelined(times, steps, microbatches, [microbatches] * len(times))


def one_forward_one_backward(times: Sequence[BlockTimes], steps: int, microbatches: int) -> list[Span]:
    """1F1B: as GPipe, but backward passes begin as soon as they can, so that fewer activations wait."""
    blocks = len(times)
    return _pipelined(times, steps, microbatches, [min(microbatches, blocks - k) for k in range(blocks)])


def _pipelined(times: Sequence[BlockTimes], steps: int, microbatches: int, ahead: list[int]) -> list[Span]:
    """`ahead[k]`: forward passes of block k before its first backward pass."""
    times = _without_heads(_check(times, steps, microbatches))
    last = len(times) - 1
    orders = []
    for k, one in enumerate(times):
        order = []

        def task(what: str, step: int, part: int, k: int = k, one: BlockTimes = one) -> _Task:
            if what == "forward":
                seconds = one.forward
                needs = [((k - 1, "forward", step, part), times[k - 1].transfer)] if k else []
            else:
                seconds = one.backward + one.through + one.head
                needs = [((k + 1, "backward", step, part), one.transfer)] if k < last else []
            return _Task(what, step, seconds / microbatches, tuple(needs), part)

        for step in range(steps):
            order += [task("forward", step, part) for part in range(ahead[k])]
            for part in range(microbatches):
                order.append(task("backward", step, part))
                if part + ahead[k] < microbatches:
                    order.append(task("forward", step, part + ahead[k]))
            order.append(_Task("update", step, one.update))
        orders.append(order)
    return _play(orders)


def seconds_per_step(spans: Sequence[Span]) -> float:
    """Between the ends of steps, over the second half of the schedule.

    Raises:
        SedonaError: fewer than four steps.
    """
    ends: dict[int, float] = {}
    for span in spans:
        ends[span.step] = max(ends.get(span.step, 0.0), span.end)
    steps = sorted(ends)
    if len(steps) < 4:
        raise SedonaError(f"{len(steps)} steps: at least 4 are needed to see how long one takes")
    middle = steps[len(steps) // 2]
    return (ends[steps[-1]] - ends[middle]) / (steps[-1] - middle)


def predict(times: Sequence[BlockTimes], depth: int = 4, microbatches: int = 8) -> dict[str, float]:
    """Seconds a step of every method; K = len(times) devices where the name does not say "one device".

    Pipelining is given the benefit of the doubt: a micro-batch is taken to cost its share of the batch.
    """
    spans = {
        "backprop, one device": backprop(times, STEPS),
        "greedy, one device": greedy(times, STEPS),
        "backprop in turns": backprop(times, STEPS, devices=True),
        "GPipe": gpipe(times, STEPS, microbatches),
        "1F1B": one_forward_one_backward(times, STEPS, microbatches),
        "asynchronous greedy": asynchronous(times, STEPS, depth),
    }
    return {name: seconds_per_step(one) for name, one in spans.items()}


def speedup(times: Sequence[BlockTimes], depth: int = 4) -> float:
    """Of asynchronous greedy training over backprop on one device, as Table 3 has it."""
    return seconds_per_step(backprop(times, STEPS)) / seconds_per_step(asynchronous(times, STEPS, depth))


def limit(times: Sequence[BlockTimes]) -> float:
    """The most that any queue can give: backprop's step over that of the slowest block."""
    return seconds_per_step(backprop(times, STEPS)) / max(one.training for one in times)


def _play(orders: Sequence[Sequence[_Task]]) -> list[Span]:
    """Every task as early as its device and what it waits for allow."""
    ended: dict[tuple, float] = {}
    clocks, following = [0.0] * len(orders), [0] * len(orders)
    spans = []
    moved = True
    while moved:
        moved = False
        for worker, order in enumerate(orders):
            while following[worker] < len(order):
                task = order[following[worker]]
                if any(need not in ended for need, _ in task.needs):
                    break
                start = max([clocks[worker], *(ended[need] + delay for need, delay in task.needs)])
                clocks[worker] = ended[worker, task.what, task.step, task.part] = start + task.seconds
                spans.append(Span(worker, task.what, task.step, start, clocks[worker], task.part))
                following[worker] += 1
                moved = True
    assert following == [len(order) for order in orders], "tasks that wait for each other"
    return sorted(spans)


def _without_heads(times: Sequence[BlockTimes]) -> list[BlockTimes]:
    """Backpropagation has the classifier and no head."""
    return [*(replace(one, head=0.0) for one in times[:-1]), times[-1]]


def _check(times: Sequence[BlockTimes], steps: int, queue: int) -> Sequence[BlockTimes]:
    if not times or min(steps, queue) < 1:
        raise SedonaError(
            f"{len(times)} blocks, {steps} steps, {queue} slots or micro-batches: allowed is 1 or more"
        )
    return times
