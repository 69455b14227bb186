"""Passes recorded as CUDA graphs: a small network leaves a large GPU waiting for the next of thousands of kernels.

    program = RecordedProgram(relaxed, (3, 32, 32))
    program.mixed_gradient(...)     # recorded at the first call with tensors of these shapes, then only replayed

A recording repeats the same operations on the same memory. What is done may therefore not depend on the tensors'
numbers, and nothing may travel between the computer's memory and the GPU's on the way. Results lie in memory that
the next replay overwrites and are copied out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sedona_nb.lean.nodes import Workspace
from sedona_nb.lean.program import Directional, MixedGradient, Program

WARM_UP = 2  # calls before a recording, in which libraries choose their kernels and take their memory

Play = Callable[[], None]
Record = Callable[[Callable[[], Any]], tuple[Play, Any]]


def record_cuda(function: Callable[[], Any]) -> tuple[Play, Any]:
    """Record what `function` does on the GPU: how to do it again, and what it returned, to be filled by that."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()
    return graph.replay, found


@dataclass(frozen=True)
class _Recording:
    inputs: list[Tensor | None]  # where a replay looks for them
    play: Play
    found: tuple[Tensor | None, ...]  # a named tuple


class Replay:
    """A function of tensors that is recorded once for all inputs of the same shapes.

    Args:
        function: takes tensors or None, returns a tuple of tensors or None, named or not.
        record: `record_cuda`; tests record on a CPU.
        copy: what to make of a tensor of the result before it is overwritten.
    """

    def __init__(self, function: Callable[..., Any], record: Record, copy: Callable[[Tensor], Tensor]):
        self.function, self.record, self.copy = function, record, copy
        self.recordings: dict[tuple, _Recording] = {}

    def __call__(self, *inputs: Tensor | None) -> Any:
        """What `function` returns for these inputs."""
        key = tuple(None if one is None else (one.shape, one.dtype) for one in inputs)
        if key not in self.recordings:
            own = [None if one is None else one.clone() for one in inputs]
            play, found = self.record(lambda: self.function(*own))
            self.recordings[key] = _Recording(own, play, found)
        recording = self.recordings[key]
        for target, one in zip(recording.inputs, inputs, strict=True):
            if one is not None:
                target.copy_(one)
        recording.play()
        make = getattr(type(recording.found), "_make", tuple)
        return make(None if one is None else self.copy(one) for one in recording.found)


class RecordedProgram(Program):
    """A program whose passes are recorded, but for the two of a hypergradient's first step.

    Args: as `Program`, and

        record: see `Replay`.

    Recordings have a workspace of their own: what other passes take and give must not be what a replay overwrites.
    """

    def __init__(self, *arguments: Any, record: Record = record_cuda, **named: Any):
        super().__init__(*arguments, **named)
        self._own = Workspace()
        passes = super().mixed_gradient, super().mixture_gradient, super().directional, super().classifier_gradient
        self._mixed, self._mixture, self._directional, self._classifier = (
            Replay(functools.partial(self._apart, one), record, self._copy) for one in passes
        )

    def mixed_gradient(self, *inputs: Tensor | None, keep_cotangents: bool = False) -> MixedGradient:
        """As `Program.mixed_gradient`."""
        if keep_cotangents:
            return super().mixed_gradient(*inputs, keep_cotangents=True)
        return self._mixed(*inputs)

    def mixture_gradient(self, *inputs: Tensor | None) -> MixedGradient:
        """As `Program.mixture_gradient`."""
        return self._mixture(*inputs)

    def directional(self, *inputs: Tensor | None) -> Directional:
        """As `Program.directional`."""
        return self._directional(*inputs)

    def classifier_gradient(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As `Program.classifier_gradient`."""
        return self._classifier(*inputs)

    def _apart(self, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
        """A pass that takes its memory from the recordings' workspace."""
        self.workspace, usual = self._own, self.workspace
        try:
            return function(*inputs)
        finally:
            self.workspace = usual

    def _copy(self, found: Tensor) -> Tensor:
        """Vectors into memory that `recycle` takes back."""
        return self.vector(found).copy_(found) if found.shape == (self.layout.size,) else found.clone()
