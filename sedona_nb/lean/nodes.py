"""The parts of a program: units of convolution, BatchNorm and ReLU, and what connects them.

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

from bisect import insort
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.lean.convolutions import Bilinear
from sedona_nb.lean.normalization import Moments, Normalization, Pullback, fold, row_length
from sedona_nb.lean.parameters import Slot

Shape = tuple[int, int, int]  # (H, W, C)


class Workspace:
    """Memory for maps, used again and again: fresh pages are dear, on a CPU up to ten times the arithmetic."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []  # one-dimensional, smallest first

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor with the dtype and device of `like`, not initialised."""
        size = prod(shape)
        for position, memory in enumerate(self.free):
            if memory.shape[0] >= size and memory.dtype == like.dtype and memory.device == like.device:
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
        weights, direction: vectors of parameters and of their tangents (dual passes only).
        gradient: where gradients of parameters go, a vector like `weights`.
        statistics: means and unbiased variances of the batch go here, (2, statistics); None: nowhere.
        chunk: numbers a chunk should have at most.
        backward: whether cotangents will follow.
        store: whether junctions store values that could be computed again; memory for time.
    """

    k: int
    count: int
    weights: Tensor
    direction: Tensor | None = None
    gradient: Tensor | None = None
    statistics: Tensor | None = None
    chunk: int = 1 << 18
    backward: bool = True
    store: bool = True
    workspace: Workspace = field(default_factory=lambda: Workspace())

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A map for the whole batch, (k, B, *shape), not initialised; to be given back."""
        return self.workspace.take((self.k, self.count, *shape), self.weights)

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
        self.length = row_length(*self.shape)
        self.z = run.take((self.extent // self.length, self.length))
        channels, pixels = self.shape[2], self.shape[0] * self.shape[1]
        moments, shift = Moments(), None
        for part in run.parts(self.source, self):
            x, z = self.source.value(run, part), self.z[:, part]
            maps = z.view(*z.shape[:2], *self.shape)
            if run.k == 1:
                maps[0] = self.convolution.apply(x[0], w, shift)
            else:
                maps[0] = self.convolution.apply(x[0], w, shift)
                maps[1] = self.convolution.apply(x[0], p)
                if x.shape[0] == 2:  # pictures have no tangents
                    maps[1] += self.convolution.apply(x[1], w)
            if shift is None:  # see `normalization`
                shift = -fold(z[0].mean((0, 1)), channels) * (channels / self.length)
                maps[0] += shift
            moments.add(z, z.shape[1] * pixels)
        direction = None if p is None else (self.gamma.of(run.direction), self.beta.of(run.direction))
        gamma, beta = self.gamma.of(run.weights), self.beta.of(run.weights)
        self.norm = Normalization.of(moments, self.eps, gamma, beta, direction, self.relu, self.length)
        if run.statistics is not None:
            n = self.norm.count
            self.statistics.of(run.statistics[0]).copy_(self.norm.mean - shift)
            self.statistics.of(run.statistics[1]).copy_(self.norm.variance * (n / max(n - 1, 1)))
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
        gradient.zero_()
        for part in run.parts(self.source, self):
            x = self.source.value(run, part)
            g = self.pullback.apply(self.g[:, part], self.z[:, part])
            g = g.view(*g.shape[:2], *self.shape)
            flat_x, flat_g = x.flatten(0, 1), g[: x.shape[0]].flatten(0, 1)
            to_x, to_w = self.convolution.pull(flat_x, flat_g, w, to_x=further)
            gradient += to_w
            if further:
                to_x = to_x.view(x.shape)
                if p is not None:
                    to_x[0] += self.convolution.pull(x[0], g[1], p, to_w=False)[0]
                self.source.accept(run, part, x, to_x)
        self.release(run)

    def release(self, run: Run) -> None:
        """Give memory back."""
        run.give(self.z, self.g)
        self.z = self.g = None


@dataclass
class Junction:
    """A value with several consumers: their cotangents are added up before they go on to the source.

    `keep`: store the value even if the run does not ask for it: computing it again is dear.
    """

    source: Source
    keep: bool = False
    kept: Tensor | None = field(default=None, repr=False)
    g: Tensor | None = field(default=None, repr=False)

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return self.source.shape

    @property
    def extent(self) -> int:
        """See `Source`."""
        return self.source.extent

    def forward(self, run: Run) -> None:
        """Store the value if it is to be kept."""
        if self.keep or run.store:
            self.kept = run.take(self.shape)
            for part in run.parts(self):
                self.kept[:, part] = self.source.value(run, part)
        self.reached: dict[tuple[int, int], int] = {}

    def value(self, run: Run, part: slice) -> Tensor:
        """The source's."""
        return self.source.value(run, part) if self.kept is None else self.kept[:, part]

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Add."""
        self.add(run, part, g, (0, self.shape[2]))

    def add(self, run: Run, part: slice, g: Tensor, channels: tuple[int, int]) -> None:
        """Add to some channels; who comes first, picture after picture, fills the memory."""
        if self.g is None:
            self.g = run.take(self.shape)
        target = self.g[:, part, ..., slice(*channels)]
        if part.start == self.reached.get(channels, 0):
            self.reached[channels] = part.stop
            target.copy_(g)
        else:
            target += g

    def backward(self, run: Run) -> None:
        """Pass the sum on."""
        for part in run.parts(self):
            self.source.accept(run, part, self.value(run, part), self.g[:, part])
        self.release(run)

    def release(self, run: Run) -> None:
        """Give memory back."""
        run.give(self.kept, self.g)
        self.kept = self.g = None


@dataclass
class MaxPool:
    """Max-pooling of a unit's output; its tangent follows the maximum."""

    source: Source
    kernel: int
    stride: int
    padding: int
    shape: Shape

    @property
    def extent(self) -> int:
        """See `Source`."""
        return self.source.extent

    def value(self, run: Run, part: slice) -> Tensor:
        """Pool values, and take the tangents of the chosen pixels."""
        x = self.source.value(run, part)
        pooled, chosen = self._pool(x)
        if x.shape[0] == 1:
            return pooled[None]
        return torch.stack([pooled, x[1].flatten(1, 2).gather(1, chosen).view(pooled.shape)])

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Send each cotangent to the pixel that was chosen."""
        x = self.source.value(run, part)
        _, chosen = self._pool(x)
        to_x = torch.zeros_like(x)
        for source, target in zip(g, to_x, strict=True):
            target.flatten(1, 2).scatter_add_(1, chosen, source.flatten(1, 2))
        self.source.accept(run, part, x, to_x)

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(k, n, H, W, C) -> pooled values (n, H', W', C), chosen pixels (n, H'W', C)."""
        pooled, chosen = F.max_pool2d(
            x[0].permute(0, 3, 1, 2), self.kernel, self.stride, self.padding, return_indices=True
        )
        return pooled.permute(0, 2, 3, 1).contiguous(), chosen.permute(0, 2, 3, 1).flatten(1, 2)


@dataclass
class Residual:
    """Sum of a unit without ReLU and a shortcut, and a ReLU or none behind it."""

    body: Source
    shortcut: Source
    relu: bool

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return self.body.shape

    @property
    def extent(self) -> int:
        """See `Source`."""
        return max(self.body.extent, self.shortcut.extent)

    def value(self, run: Run, part: slice) -> Tensor:
        """Add and rectify."""
        y = self.body.value(run, part).add_(self.shortcut.value(run, part))
        if self.relu:
            if y.shape[0] == 2:
                y[1] *= y[0] > 0
            y[0].clamp_(min=0)
        return y

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Both summands receive the masked cotangent."""
        if self.relu:
            g = g * (y[0] > 0)
        self.body.accept(run, part, None, g)
        self.shortcut.accept(run, part, None, g)


@dataclass
class Channels:
    """Some channels of a junction."""

    source: Junction
    first: int
    last: int

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return (*self.source.shape[:2], self.last - self.first)

    @property
    def extent(self) -> int:
        """See `Source`."""
        return prod(self.shape)

    def value(self, run: Run, part: slice) -> Tensor:
        """A contiguous copy."""
        return self.source.value(run, part)[..., self.first : self.last].contiguous()

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Add to these channels."""
        self.source.add(run, part, g, (self.first, self.last))


@dataclass
class Gate:
    """What one consumer sees of a layer's output: the value as it is, its cotangent times a share (Eq. 4).

    In a dual pass the share sits on the tangent, and its own derivative is collected. `scale` divides what the
    consumer sees (`head_scaling` "released").
    """

    source: Junction
    share: Tensor | None = None  # scalar; None: 1, without a derivative
    scale: Tensor | None = None
    to_share: Tensor | None = None  # derivative of a dual pass
    cotangents: Tensor | None = None  # of a plain pass, before the share; kept where they are asked for

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return self.source.shape

    @property
    def extent(self) -> int:
        """See `Source`."""
        return prod(self.shape)

    def value(self, run: Run, part: slice) -> Tensor:
        """Values, and tangents times the share."""
        y = self.source.value(run, part)
        if run.k == 2 and self.share is not None:
            y = y * self._factors(run)
        return y if self.scale is None else y / self.scale

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Cotangents of values (plain) or tangents (dual) times the share."""
        if self.scale is not None:
            g = g / self.scale
        if self.share is not None:
            if run.k == 2:
                self.to_share += (self.source.value(run, part)[1] * g[1]).sum()
            elif self.cotangents is not None:
                self.cotangents[:, part] += g
            g = g * self._factors(run)
        self.source.accept(run, part, y, g)

    def _factors(self, run: Run) -> Tensor:
        """The share, or (1, share), to go with (k, n, H, W, C)."""
        if run.k == 1:
            return self.share
        return torch.stack([torch.ones_like(self.share), self.share]).view(2, 1, 1, 1, 1)
