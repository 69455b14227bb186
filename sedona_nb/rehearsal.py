"""The passes of `lean` rehearsed without arithmetic: what nodes take from the workspace, and how large it gets.

    numbers = rehearsal.largest(program, config, outer)   # x 4 bytes

Maps come from a workspace that keeps what is given back for later passes. How much it holds in the end depends on
the order in which maps of different size come and go, so the order is followed: pretraining step, the inner steps
of an outer step, the outer batch, and the way back. `forward` and `backward` in `lean.nodes` say who takes what
when; maps of a few pictures, in the making, are left out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from math import prod

from sedona_nb.lean.gates import Stack
from sedona_nb.lean.junctions import Junction, Residual
from sedona_nb.lean.nodes import Images, Source, Unit
from sedona_nb.lean.program import Program
from sedona_nb.search_config import SearchConfig

ROUNDS = 2  # of the same, after which the workspace has found its size


def largest(program: Program, config: SearchConfig, outer: int) -> int:
    """Numbers in the workspace at its largest, and in the cotangents that are kept from the first inner step.

    Args:
        program: the network.
        config: the search, with backend "adjoint".
        outer: pictures in the outer batch.
    """
    size = config.inner.batch_size
    passes = _Passes(program)
    passes.run(1, size)
    most = sum(passes.free)
    steps = config.inner.steps - (config.objective == "released")
    for _ in range(min(config.outer_steps, ROUNDS)):
        gates = [gate for layer in program.parts.layers[:-1] for gate in layer.gates if steps]
        cotangents = [passes.take(size * prod(gate.shape)) for gate in gates]
        for _ in range(min(steps, ROUNDS)):
            passes.run(1, size)
        if config.objective == "validation":
            passes.run(1, outer, heads=False, store=False)
        else:
            passes.run(1, size)
        if steps > 1:
            passes.run(2, size)
        if steps:
            passes.run(2, size, backward=False)
        most = max(most, sum(passes.free) + sum(cotangents))
        passes.run(1, size)
    return most


class _Passes:
    """A program's workspace during its passes.

    Attributes:
        free: sizes of the pieces in the workspace, ascending; between passes these are all of its pieces.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.free: list[int] = []
        self.held: dict[int, list[int]] = {}  # sizes of pieces by the id of the node that has them
        self.reached: set[int] = set()  # ids of nodes that have a cotangent

    def take(self, size: int) -> int:
        """The smallest piece that is large enough, or a new one, as in `lean.nodes.Workspace`: its size."""
        place = bisect_left(self.free, size)
        return self.free.pop(place) if place < len(self.free) else size

    def run(self, k: int, count: int, heads: bool = True, backward: bool = True, store: bool = True) -> None:
        """One pass; arguments as in `lean.nodes.Run`."""
        scale = k * count
        below: list[Unit | Junction] = []
        for layer in self.program.parts.layers:
            nodes = [*layer.nodes, layer.output]
            self._forward(nodes, scale, store)
            below += nodes
            if heads and layer.heads is not None:
                self._forward(layer.heads.nodes, scale, store)
                if backward:
                    self._reach([source for tail in layer.heads.tails for source in tail.sources], scale)
                self._backward(layer.heads.nodes, scale, backward)
        self._forward(self.program.parts.last_nodes, scale, store)
        if backward:
            self._reach([self.program.parts.classifier.source], scale)
        self._backward([*below, *self.program.parts.last_nodes], scale, backward)

    def _forward(self, nodes: Iterable[Unit | Junction], scale: int, store: bool) -> None:
        for node in nodes:
            keeps = isinstance(node, Unit) or node.keep or store
            self.held[id(node)] = [self.take(scale * prod(node.shape))] if keeps else []

    def _backward(self, nodes: Sequence[Unit | Junction], scale: int, reach: bool) -> None:
        for node in reversed(nodes):
            if reach:
                self._reach([node.source], scale)
            for size in self.held.pop(id(node)):
                insort(self.free, size)
            self.reached.discard(id(node))

    def _reach(self, sources: Iterable[Source], scale: int) -> None:
        """The nodes behind `sources` receive cotangents, and take memory for them if these are the first."""
        for source in sources:
            if isinstance(source, Residual):
                self._reach([source.body, source.shortcut], scale)
            elif isinstance(source, Stack):
                self._reach(source.sources, scale)
            elif isinstance(source, Unit | Junction):
                if id(source) not in self.reached:
                    self.reached.add(id(source))
                    self.held[id(source)].append(self.take(scale * prod(source.shape)))
            elif not isinstance(source, Images):
                self._reach([source.source], scale)
