"""The pieces that a search consists of, each to be run alone, on random pictures and weights: for clocks.

    pieces = Pieces(NetworkConfig("vgg19"), 10, (3, 32, 32), SearchConfig())
    fastest(pieces.step(128), pieces.device)                     # seconds of a pretraining step
    fastest(pieces.hypergradient(128, 1024, 5), pieces.device)   # and of Eq. 7 through five inner steps

For time and memory only shapes matter. `pace` foretells from a few small pieces what a search will take,
`search_times` takes them at their full size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from sedona_nb import adjoint, bilevel, devices
from sedona_nb import relaxed as relax
from sedona_nb.bilevel import Batch, Problem
from sedona_nb.heads import HeadConfig
from sedona_nb.lean.program import Program
from sedona_nb.memory import WeightMemory
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig

Work = Callable[[], object]
RATE = 1e-4  # of the steps: the weights are random and have to stay finite
SHORT = 0.5  # seconds in all, under which more runs are timed


class Pieces:
    """A relaxed network with random weights and undecided shares, and what a search does with it.

    Args:
        network: the base network.
        num_classes: of the data set.
        picture: (C, H, W) of its pictures.
        config: backend, precision, objective, and the inner steps' loss, momentum and weight decay.
        heads: readings of Table 9.
        device: where.

    Raises:
        SedonaError: as `networks.build_network`.
    """

    def __init__(
        self,
        network: NetworkConfig,
        num_classes: int,
        picture: tuple[int, int, int],
        config: SearchConfig,
        heads: HeadConfig | None = None,
        device: torch.device | str = "cpu",
    ):
        self.config, self.device, self.picture, self.num_classes = (
            config,
            torch.device(device),
            picture,
            num_classes,
        )
        base = network.build(num_classes, picture[1], picture[0], seed=0)
        self.relaxed = relax.relax(base, num_classes, network.width, config=heads, seed=0).train()
        self.relaxed.to(self.device, memory_format=torch.channels_last)
        self.weights = bilevel.trainable(bilevel.initial_weights(self.relaxed), self.device)
        rows = self.relaxed.num_layers - 1
        self.alpha = torch.zeros(rows, 2, device=self.device)
        self.beta = torch.zeros(rows, self.relaxed.num_heads, device=self.device)
        self.program = Program(self.relaxed, picture, config.precision) if config.backend == "adjoint" else None
        self.generator = torch.Generator().manual_seed(0)

    def step(self, size: int) -> Work:
        """A pretraining step (Eqs. 5 and 6) on `size` pictures."""
        shares, batch, inner = (self.alpha.softmax(1), self.beta.softmax(1)), self.batch(size), self.config.inner
        if self.program is not None:
            return lambda: adjoint.inner_step(self.program, self.weights, *shares, batch, RATE, inner)
        return lambda: bilevel.inner_step(self.relaxed, self.weights, *shares, batch, RATE, inner)

    def hypergradient(self, size: int, outer: int, steps: int) -> Work:
        """The gradient of Eq. 7 as a search takes it, in memory that is kept; arguments as `problem`."""
        problem, objective = self.problem(size, outer, steps), self.config.objective
        if self.program is not None:
            return lambda: adjoint.adjoint_hypergradient(problem, objective, self.program)
        return lambda: bilevel.hypergradient(problem, objective, self.config.backend)

    def problem(self, size: int, outer: int, steps: int) -> Problem:
        """A hypergradient's question: through `steps` steps of `size` pictures, and `outer` to validate."""
        inner = replace(self.config.inner, steps=steps, batch_size=size)
        batches = [self.batch(size) for _ in range(steps)]
        return Problem(self.relaxed, self.weights, self.alpha, self.beta, batches, self.batch(outer), RATE, inner)

    def evaluation(self, size: int) -> Work:
        """The classifier's scores of `size` pictures, with running statistics and without heads."""
        images, _ = self.batch(size)

        def evaluate() -> None:
            self.relaxed.eval()
            with torch.no_grad():
                relax.forward(self.relaxed, self.weights.parameters, self.weights.buffers, images, None, None)
            self.relaxed.train()

        return evaluate

    def memory(self, folder: Path | str) -> Work:
        """One weight set read, and another written in its place, in files of `folder`."""
        memory = WeightMemory(capacity=1, folder=folder)
        memory.offer(self.weights, 0, 1.0)

        def read_and_write() -> None:
            entry, stored = memory.sample(self.generator)
            bilevel.trainable(stored, self.device)
            memory.renew(entry, self.weights, entry.step + 1)
            memory.commit()

        return read_and_write

    def batch(self, size: int) -> Batch:
        """Random pictures (B, C, H, W) and labels (B,)."""
        images = torch.randn(size, *self.picture, generator=self.generator)
        labels = torch.randint(self.num_classes, (size,), generator=self.generator)
        return images.to(self.device, memory_format=torch.channels_last), labels.to(self.device)


def fastest(work: Work, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the best of two runs, or more if they are short: the first also chooses kernels, fetches memory.

    `clock`: `time.process_time` is steadier on a busy machine, with one thread.
    """
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < SHORT and len(seconds) < 5):
        devices.synchronize(device)
        began = clock()
        work()
        devices.synchronize(device)
        seconds.append(clock() - began)
    return min(seconds)
