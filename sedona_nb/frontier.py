"""A choice that knows about speed: how much of what alpha wants must be given up for how much parallel speed.

    points = frontier.pareto(alpha, beta, times, num_blocks=4)   # LayerTimes from `layer_times`
    frontier.point(published, alpha, times)                      # where the paper's choice lies; `viz.front` draws

The paper cuts where abar_1 is largest, however unequal the blocks become; DGL cuts evenly, whatever alpha says.
Both are points of a plane: the sum of abar_1 over the layers behind which is cut, and the speed-up that the
slowest block allows. `pareto` finds all decouplings that no other one beats in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sedona_nb.decoupling import Decoupling
from sedona_nb.discretization import check_blocks
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HEADS
from sedona_nb.layer_times import BANDWIDTH, LayerTimes


@dataclass(frozen=True)
class Point:
    """A decoupling in the plane.

    Attributes:
        decoupling: blocks and heads.
        confidence: sum of abar_1 over its splits, 0 .. K-1.
        speedup: of one device a block over backprop on one, as the slowest block allows it (`schedule.limit`).
    """

    decoupling: Decoupling
    confidence: float
    speedup: float


def point(decoupling: Decoupling, alpha: Tensor, times: LayerTimes, bandwidth: float = BANDWIDTH) -> Point:
    """Where a decoupling lies.

    Args:
        decoupling: of L layers.
        alpha: (L-1, 2).
        times: of L layers.
        bandwidth: bytes a second between devices.

    Raises:
        SedonaError: they are not of the same L.
    """
    _check(alpha, times, decoupling.num_layers)
    shares = alpha.double().softmax(1)[:, 0].tolist()
    confidence = sum(shares[split - 1] for split in decoupling.splits)
    slowest = max(block.training for block in times.of(decoupling, bandwidth))
    return Point(decoupling, confidence, times.backprop() / slowest)


def pareto(
    alpha: Tensor, beta: Tensor, times: LayerTimes, num_blocks: int, bandwidth: float = BANDWIDTH
) -> list[Point]:
    """All decouplings into K blocks that no other one beats in both, from the surest to the fastest.

    Each split has the head that beta prefers there. The surest decoupling whose blocks all take less than so many
    seconds is a longest path; asking again with the seconds of the slowest block just found as the next limit
    walks along the whole front, one path a point.

    Args:
        alpha, beta: (L-1, 2), (L-1, 4).
        times: of L layers.
        num_blocks: K, 1..L.
        bandwidth: bytes a second between devices.

    Raises:
        SedonaError: K out of range, or alpha, beta and times are not of the same L.
    """
    layers = len(times.forward)
    _check(alpha, times, layers)
    if beta.shape != (layers - 1, len(HEADS)):
        raise SedonaError(
            f"beta is {tuple(beta.shape)}; allowed for {layers} layers: ({layers - 1}, {len(HEADS)})"
        )
    check_blocks(layers, num_blocks)
    heads = [HEADS[column] for column in beta.argmax(1).tolist()]
    shares = np.append(alpha.double().softmax(1)[:, 0].numpy(), 0.0)
    costs = np.full((layers + 1, layers + 1), np.inf)  # [before, last]: of the block of layers before+1 .. last
    for before in range(layers):
        for last in range(before + 1, layers + 1):
            head = heads[last - 1] if last < layers else None
            costs[before, last] = times.block(before + 1, last, head, bandwidth).training
    found: list[Point] = []
    limit = np.inf
    while (splits := _surest(costs < limit, shares, num_blocks)) is not None:
        decoupling = Decoupling(layers, splits, tuple(heads[split - 1] for split in splits), "Pareto front")
        limit = max(costs[first - 1, last] for first, last in decoupling.blocks)
        one = point(decoupling, alpha, times, bandwidth)
        if found and one.confidence >= found[-1].confidence - 1e-12:
            found.pop()  # as sure, and faster
        found.append(one)
    return found


def _surest(allowed: np.ndarray, shares: np.ndarray, num_blocks: int) -> tuple[int, ...] | None:
    """The splits with the largest sum of shares among those with allowed blocks only; None: there are none.

    Args:
        allowed: [before, last], (L+1, L+1).
        shares: gain of ending a block at layer 1 .. L, (L,).
        num_blocks: K.
    """
    size = len(allowed)
    best = np.where(np.arange(size) == 0, 0.0, -np.inf)  # of what ends at each layer, so many blocks in
    ways = []
    for _ in range(num_blocks):
        sums = np.where(allowed, best[:, None], -np.inf)
        ways.append(sums.argmax(0))
        best = sums.max(0) + np.append(0.0, shares)
    if best[-1] == -np.inf:
        return None
    end, splits = size - 1, []
    for way in reversed(ways):
        end = int(way[end])
        splits.append(end)
    return tuple(reversed(splits[:-1]))


def _check(alpha: Tensor, times: LayerTimes, layers: int) -> None:
    if alpha.shape != (layers - 1, 2) or len(times.forward) != layers:
        raise SedonaError(
            f"alpha is {tuple(alpha.shape)} and there are times of {len(times.forward)} layers; "
            f"allowed for {layers} layers: ({layers - 1}, 2) and {layers}"
        )
