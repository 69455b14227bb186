"""Seconds and bytes of the pieces of a search, at their full size: with the numbers of steps, of any search.

    times = search_times.measure(NetworkConfig("vgg19"), 10, 32, batch_size=64, outer_batch_size=256)
    times.step, times.hypergradients                # seconds; the latter through 1 and 5 inner steps
    times.whole(5, pretrain_steps=40_000, outer_steps=2_000, evaluated=10_000_000)

Making batches is left out, a few percent of a search; of its files, those of the weight memory are in.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sedona_nb import bilevel
from sedona_nb.bilevel import InnerConfig
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HeadConfig
from sedona_nb.networks import NetworkConfig
from sedona_nb.pace import Seconds
from sedona_nb.peaks import PeakMemory
from sedona_nb.search_config import SearchConfig
from sedona_nb.search_pieces import Pieces, fastest


@dataclass(frozen=True)
class SearchTimes:
    """Of one network, batch size and backend.

    Attributes:
        inner_steps: the numbers T of inner steps that hypergradients were taken through.
        step: seconds of a pretraining step, which is also the step that is stored.
        hypergradients: seconds, for each T.
        evaluation: seconds a picture by the network alone.
        memory: seconds to read a weight set and write one, in files.
        peaks: bytes of all tensors alive at once during a hypergradient, for each T.
    """

    inner_steps: tuple[int, ...]
    step: float
    hypergradients: tuple[float, ...]
    evaluation: float
    memory: float
    peaks: tuple[int, ...]

    def hypergradient(self, inner_steps: int) -> float:
        """Seconds of one through so many inner steps.

        Raises:
            SedonaError: none through so many was timed.
        """
        if inner_steps not in self.inner_steps:
            known = ", ".join(map(str, self.inner_steps))
            raise SedonaError(f"no time of a hypergradient through {inner_steps} inner steps; there are {known}")
        return self.hypergradients[self.inner_steps.index(inner_steps)]

    def whole(
        self, inner_steps: int, pretrain_steps: int, outer_steps: int, evaluated: int, memory: bool = True
    ) -> Seconds:
        """Of a whole search (Algorithm 1).

        Args:
            inner_steps: T.
            pretrain_steps, outer_steps: how many.
            evaluated: pictures that evaluations during the pretraining look at, in all.
            memory: whether weight sets are read and written.

        Raises:
            SedonaError: as `hypergradient`.
        """
        outer_step = self.hypergradient(inner_steps) + self.step + (self.memory if memory else 0.0)
        return Seconds(pretrain_steps * self.step, evaluated * self.evaluation, outer_steps * outer_step)


def measure(
    network: NetworkConfig,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    batch_size: int = 128,
    outer_batch_size: int = 1_024,
    inner_steps: Sequence[int] = (1, 5),
    backend: str = "adjoint",
    heads: HeadConfig | None = None,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> SearchTimes:
    """Time every piece, with the objective of Eq. 7.

    Args:
        network: the base network.
        num_classes, image_size, in_channels: of the data set.
        batch_size: pictures of a step.
        outer_batch_size: pictures that validate.
        inner_steps: the T's of hypergradients.
        backend: one of `bilevel.BACKENDS`; it also takes the pretraining steps.
        heads: readings of Table 9.
        device: where.
        clock: seconds; `time.process_time` is steadier on a busy machine, with one thread.

    Raises:
        SedonaError: an unknown backend, or as `networks.build_network`.
    """
    config = SearchConfig(backend=backend, inner=InnerConfig(batch_size=batch_size))
    pieces = Pieces(network, num_classes, (in_channels, image_size, image_size), config, heads, device)

    def seconds(work: Callable[[], object]) -> float:
        return fastest(work, pieces.device, clock)

    with tempfile.TemporaryDirectory() as folder:
        memory = seconds(pieces.memory(folder))
    return SearchTimes(
        inner_steps=tuple(inner_steps),
        step=seconds(pieces.step(batch_size)),
        hypergradients=tuple(
            seconds(pieces.hypergradient(batch_size, outer_batch_size, steps)) for steps in inner_steps
        ),
        evaluation=seconds(pieces.evaluation(outer_batch_size)) / outer_batch_size,
        memory=memory,
        peaks=tuple(_peak(pieces, batch_size, outer_batch_size, steps) for steps in inner_steps),
    )


def _peak(pieces: Pieces, batch_size: int, outer_batch_size: int, steps: int) -> int:
    """Bytes; by a program of its own, since one in use has taken its memory before."""
    problem = pieces.problem(batch_size, outer_batch_size, steps)
    with PeakMemory() as alive:
        bilevel.hypergradient(problem, "validation", pieces.config.backend)
    return alive.peak
