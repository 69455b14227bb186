"""Searches that one gets for little: the best of a few random decouplings, and blocks of even cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import comb

import numpy as np

from sedona_nb.costs import build_on_meta, multiply_accumulates
from sedona_nb.decoupling import Decoupling
from sedona_nb.discretization import check_blocks
from sedona_nb.errors import SedonaError
from sedona_nb.layered import LayeredNetwork
from sedona_nb.networks import NetworkConfig


def even_cost(
    network: NetworkConfig, num_blocks: int, head: str = "aux1", image_size: int = 32, in_channels: int = 3
) -> Decoupling:
    """The cut whose dearest block has the fewest multiply-accumulates; heads are all alike and not counted.

    Args:
        network: what to cut.
        num_blocks: K, 1..L.
        head: of every block but the last.
        image_size, in_channels: of the pictures.

    Raises:
        SedonaError: K out of range, or an unknown head.
    """
    operations = _operations(network, image_size, in_channels)
    splits = evenly(operations, num_blocks)
    return Decoupling(len(operations), splits, (head,) * len(splits), "even cost")


@functools.lru_cache(maxsize=16)  # counted once, cut for many K
def _operations(network: NetworkConfig, image_size: int, in_channels: int) -> tuple[int, ...]:
    base = build_on_meta(lambda: network.build(10, image_size, in_channels))
    return tuple(layer_operations(base, (in_channels, image_size, image_size)))


def layer_operations(network: LayeredNetwork, input_shape: tuple[int, int, int]) -> list[int]:
    """Multiply-accumulates of each layer for one picture, the classifier's with the last."""
    shapes = [input_shape, *network.cut_shapes]
    known: dict[tuple, int] = {}  # ResNet-152 has 50 layers of 13 kinds
    counts = []
    for layer, shape in zip(network.layers, shapes, strict=False):
        key = repr(layer), shape
        if key not in known:
            known[key] = multiply_accumulates(layer, shape)
        counts.append(known[key])
    counts[-1] += multiply_accumulates(network.classifier, shapes[-1])
    return counts


def evenly(costs: Sequence[float], num_blocks: int) -> tuple[int, ...]:
    """Last layers (1-based) of the first K-1 of K blocks, the dearest of which costs the least.

    By dynamic programming over (blocks, last layer). Among equals, the earliest splits of those that also cut the
    layers below their last split evenly.

    Raises:
        SedonaError: K outside 1..L.
    """
    check_blocks(len(costs), num_blocks)
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    best = [(sums[last], (last,)) for last in range(1, len(costs) + 1)]  # one block; [last - 1]
    for blocks in range(2, num_blocks + 1):
        best = [
            min(
                (max(best[before - 1][0], sums[last] - sums[before]), (*best[before - 1][1], last))
                for before in range(blocks - 1, last)
            )
            if last >= blocks
            else (np.inf, ())
            for last in range(1, len(costs) + 1)
        ]
    return best[-1][1][:-1]


def best_of(validation: Sequence[float], test: Sequence[float], budget: int) -> float:
    """Expected test error of a random search: of `budget` runs, the one with the lowest validation error is taken.

    Exact, over all ways to draw `budget` of the N runs at hand: the run at rank r (from 0) by validation is the
    best of those drawn in C(N-1-r, budget-1) of C(N, budget) ways. The earlier of two equals ranks first.

    Args:
        validation, test: errors of N runs.
        budget: 1..N.

    Raises:
        SedonaError: a budget out of range, or lists of different length.
    """
    count = len(validation)
    if len(test) != count or not 1 <= budget <= count:
        raise SedonaError(f"budget {budget} of {count} and {len(test)} runs; allowed: 1..N of as many of both")
    order = sorted(range(count), key=lambda run: validation[run])
    ways = [comb(count - 1 - rank, budget - 1) for rank in range(count)]
    return sum(way * test[run] for way, run in zip(ways, order, strict=True)) / comb(count, budget)
