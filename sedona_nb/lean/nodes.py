"""The parts of a program: units of convolution, BatchNorm and ReLU; what connects them is in `junctions`.

Every part is a *source* for the next ones:

    value(run, part)             its output for the pictures of a slice, (k, n, H, W, C)
    accept(run, part, y, g)      takes the cotangent g of that output y

and may have work to do before and after:

    forward(run)                 once, before anybody asks for values
    backward(run)                once, after everybody has delivered cotangents

A `Unit` keeps nothing but what its convolution gave; its output is computed again whenever it is asked for, which
in cache is cheaper than to store and fetch it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from sedona_nb.lean.convolutions import Bilinear
from sedona_nb.lean.normalization import Moments, Normalization, Pullback, row_length, tile
from sedona_nb.lean.parameters import Slot

Shape = tuple[int, int, int]  # (H, W, C)
FEW = 4  # pictures whose mean is close enough to that of all: by a fraction of the standard deviation


class Workspace:
    """Memory for maps, used again and again: fresh pages are dear, on a CPU up to ten times the arithmetic."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []  # one-dimensional, smallest first

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor with the dtype and device of `like`, not initialised."""
        size = prod(shape)
        for position in range(bisect_left(self.free, size, key=Tensor.numel), len(self.free)):
            memory = self.free[position]
            if memory.dtype == like.dtype and memory.device == like.device:
                return self.free.pop(position)[:size].view(shape)
        return like.new_empty(size).view(shape)

    def give(self, tensor: Tensor) -> None:
        """Take back what `take` gave."""
        memory = tensor if tensor._base is None else tensor._base
        insort(self.free, memory, key=Tensor.numel)


@dataclass
class Run:
    """One pass over one batch.

    Attributes:
        k: 1 for values, 2 for values and tangents.
        count: pictures.
        weights, direction: pieces of the vectors of parameters and of their tangents (dual passes only).
        gradient: where gradients of parameters go, pieces as `weights`.
        statistics: pieces of two vectors for the batch's means and unbiased variances; None: they go nowhere.
        chunk: numbers a chunk should have at most.
        backward: whether cotangents will follow.
        store: whether junctions store values that could be computed again; memory for time.
    """

    k: int
    count: int
    weights: Sequence[Tensor]
    direction: Sequence[Tensor] | None = None
    gradient: Sequence[Tensor] | None = None
    statistics: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
    chunk: int = 1 << 18
    backward: bool = True
    store: bool = True
    workspace: Workspace = field(default_factory=lambda: Workspace())

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A map for the whole batch, (k, B, *shape), not initialised; to be given back."""
        return self.workspace.take((self.k, self.count, *shape), self.weights[0])

    def give(self, *maps: Tensor | None) -> None:
        """Give maps back."""
        for one in maps:
            if one is not None:
                self.workspace.give(one)

    def parts(self, *sources: Source) -> list[slice]:
        """Slices of the batch, small enough that what each source computes for one stays in cache."""
        count = max(1, self.chunk // (self.k * max(source.extent for source in sources)))
        return [slice(start, min(start + count, self.count)) for start in range(0, self.count, count)]


class Source(Protocol):
    """See the module's docstring.

    Attributes:
        shape: of one picture's map.
        extent: numbers of the largest map that `value` computes on the way, a picture.
    """

    shape: Shape
    extent: int

    def value(self, run: Run, part: slice) -> Tensor:
        """Output for some pictures."""

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Cotangent of that output."""


class Images:
    """The pictures: no tangent, no gradient."""

    def __init__(self, shape: Shape):
        self.shape, self.extent = shape, prod(shape)
        self.pictures: Tensor | None = None  # (1, B, H, W, C)

    def value(self, run: Run, part: slice) -> Tensor:
        """(1, n, H, W, C), also in a dual pass: tangents are zero."""
        return self.pictures[:, part]


@dataclass
class Unit:
    """Convolution, BatchNorm, and a ReLU or none."""

    source: Source
    convolution: Bilinear
    weight: Slot
    gamma: Slot
    beta: Slot
    statistics: Slot
    eps: float
    relu: bool
    shape: Shape
    z: Tensor | None = field(default=None, repr=False)  # what the convolution gave, tiled (k, B, rows, R*C)
    g: Tensor | None = field(default=None, repr=False)  # its masked cotangent, likewise

    @property
    def extent(self) -> int:
        """See `Source`."""
        return prod(self.shape)

    def forward(self, run: Run) -> None:
        """Convolve the whole batch and normalise by its statistics."""
        w = self.weight.of(run.weights)
        p = None if run.direction is None else self.weight.of(run.direction)
        self.length = length = row_length(*self.shape)
        self.z = run.take((self.extent // length, length))
        channels, pixels = self.shape[2], self.shape[0] * self.shape[1]
        moments, shift = Moments(), None
        for part in run.parts(self.source, self):
            x, z = self.source.value(run, part), self.z[:, part]
            values = self.convolution.apply(x[0], w).view(z.shape[1:])
            if shift is None:  # see `normalization`
                shift = values[:FEW].reshape(-1, channels).mean(0)
                rows = tile(shift, length)
            torch.sub(values, rows, out=z[0])
            if p is not None:
                tangents = self.convolution.apply(x[0], p).view(z.shape[1:])
                if x.shape[0] == 2:
                    torch.add(tangents, self.convolution.apply(x[1], w).view(z.shape[1:]), out=z[1])
                else:  # pictures have no tangents
                    z[1] = tangents
            moments.add(z, z.shape[1] * pixels)
        direction = None if p is None else (self.gamma.of(run.direction), self.beta.of(run.direction))
        gamma, beta = self.gamma.of(run.weights), self.beta.of(run.weights)
        self.norm = Normalization.of(moments, self.eps, gamma, beta, direction, self.relu, length)
        if run.statistics is not None:
            n, (means, variances) = self.norm.count, run.statistics
            torch.add(self.norm.mean, shift, out=self.statistics.of(means))
            torch.mul(self.norm.variance, n / max(n - 1, 1), out=self.statistics.of(variances))
        self.pullback = Pullback(self.norm)

    def value(self, run: Run, part: slice) -> Tensor:
        """After BatchNorm and ReLU."""
        z = self.z[:, part]
        return self.norm.apply(z).view(*z.shape[:2], *self.shape)

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Mask, keep and count in; must come exactly once for every picture."""
        if self.g is None:
            self.g = run.take(self.z.shape[2:])
        x = self.z[:, part]
        tiled = x.shape
        self.pullback.add(None if y is None else y.view(tiled), g.view(tiled), x, self.g[:, part])

    def backward(self, run: Run) -> None:
        """Gradients of the parameters, and cotangents for the source."""
        to_gamma, to_beta = self.pullback.close(self.length)
        self.gamma.of(run.gradient).copy_(to_gamma)
        self.beta.of(run.gradient).copy_(to_beta)
        w, gradient = self.weight.of(run.weights), self.weight.of(run.gradient)
        p = None if run.direction is None else self.weight.of(run.direction)
        further = not isinstance(self.source, Images)
        for part in run.parts(self.source, self):
            x = self.source.value(run, part)
            g = self.pullback.apply(self.g[:, part], self.z[:, part])
            g = g.view(*g.shape[:2], *self.shape)
            flat_x, flat_g = (x[0], g[0]) if len(x) == 1 else (x.flatten(0, 1), g.flatten(0, 1))
            to_x, to_w = self.convolution.pull(flat_x, flat_g, w, to_x=further)
            if part.start == 0:
                gradient.copy_(to_w)
            else:
                gradient += to_w
            if further:
                to_x = to_x.view(x.shape)
                if p is not None:
                    to_x[0].add_(self.convolution.pull(x[0], g[1], p, to_w=False)[0])
                self.source.accept(run, part, x, to_x)
        self.release(run)

    def release(self, run: Run) -> None:
        """Give memory back."""
        run.give(self.z, self.g)
        self.z = self.g = None
