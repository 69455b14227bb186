"""Convolutions as bilinear maps y = op(x, W) with both transposes, on channels-last maps (n, H, W, C).

`apply(x, w)` is the map, and `pull(x, g, w)` gives the two transposes that backpropagation and tangents need, to_x
and to_w:

    <apply(x, w), g> = <x, to_x> = <w, to_w>

Either can be left out. Which class serves a layer is `choose`'s decision; all are exact, they differ in speed
only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Index = tuple[slice | int, ...]
TINY = 4  # pixels; on maps as small the way back through the kernels for depthwise convolutions takes long


Pulled = tuple[Tensor | None, Tensor | None]  # to_x, to_w


class Bilinear(Protocol):
    """What all classes here offer; maps are (n, H, W, C)."""

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """The convolution of x with w."""

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """The gradient g of the output, pulled back to x and to w, or None."""


@dataclass(frozen=True)
class Window:
    """Any convolution, by PyTorch's kernels; weight (Co, Ci / groups, k, k)."""

    stride: int
    padding: int
    groups: int = 1

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """(n, H, W, Ci) -> (n, H', W', Co)."""
        return _last(F.conv2d(_first(x), w, None, self.stride, self.padding, 1, self.groups))

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """(n, H, W, Ci), (n, H', W', Co) -> the shapes of x and w."""
        stride, padding = [self.stride] * 2, [self.padding] * 2
        found_x, found_w, _ = torch.ops.aten.convolution_backward(
            _first(g), _first(x), w, None, stride, padding, [1, 1], False, [0, 0], self.groups, [to_x, to_w, False]
        )
        return _last(found_x) if to_x else None, found_w


@dataclass(frozen=True)
class Pointwise:
    """1x1 convolution of stride 1 as one matrix product; weight (Co, Ci)."""

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """(n, H, W, Ci) -> (n, H, W, Co)."""
        return torch.mm(x.flatten(0, 2), w.t()).view(*x.shape[:3], -1)

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """(n, H, W, Ci), (n, H, W, Co) -> the shapes of x and w."""
        flat = g.flatten(0, 2)
        return (flat @ w).view(x.shape) if to_x else None, flat.t() @ x.flatten(0, 2) if to_w else None


@dataclass(frozen=True)
class PointwiseGroups:
    """m independent 1x1 convolutions side by side, channels grouped by convolution; weight (m, Co, Ci)."""

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """(n, H, W, m*Ci) -> (n, H, W, m*Co)."""
        return self._times(x, w.transpose(1, 2))

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """(n, H, W, m*Ci), (n, H, W, m*Co) -> the shapes of x and w."""
        found_x = self._times(g, w) if to_x else None
        return found_x, torch.bmm(self._split(g, w).transpose(1, 2), self._split(x, w)) if to_w else None

    def _times(self, x: Tensor, matrices: Tensor) -> Tensor:  # (n, H, W, m*A), (m, A, B) -> (n, H, W, m*B)
        y = x.new_empty(*x.shape[:3], matrices.shape[0] * matrices.shape[2])
        torch.bmm(self._split(x, matrices), matrices, out=self._split(y, matrices))
        return y

    @staticmethod
    def _split(x: Tensor, matrices: Tensor) -> Tensor:  # (n, H, W, m*C) -> (m, nHW, C), a view
        return x.view(x.shape[:3].numel(), len(matrices), -1).transpose(0, 1)


@dataclass(frozen=True)
class TinyDepthwise:
    """Depthwise 3x3 convolution of at most `TINY` pixels, pulled back pixel by pixel; weight (C, 1, 3, 3)."""

    stride: int

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """(n, H, W, C) -> (n, H', W', C)."""
        return Window(self.stride, 1, len(w)).apply(x, w)

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """(n, H, W, C), (n, H', W', C) -> the shapes of x and w."""
        rows = self._rows(w)
        found_x = torch.zeros_like(x) if to_x else None
        found_w = torch.zeros_like(rows) if to_w else None
        for source, target, tap in self._taps(x):
            if to_x:
                found_x[source].addcmul_(g[target], rows[tap])
            if to_w:
                found_w[tap] += (x[source] * g[target]).sum(0)
        return found_x, found_w.t().reshape(w.shape) if to_w else None

    @staticmethod
    def _rows(w: Tensor) -> Tensor:  # (C, 1, 3, 3) -> (9, C), so that what belongs to a tap lies together
        return w.flatten(1).t().contiguous()

    def _outside(self, x: Tensor) -> tuple[int, int]:
        return -(-x.shape[1] // self.stride), -(-x.shape[2] // self.stride)

    def _taps(self, x: Tensor) -> Iterator[tuple[Index, Index, int]]:
        """Where in x, y and w the factors of every product in the sum lie."""
        everything = slice(None)
        rows, columns = self._outside(x)
        pixels = [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]
        for r in range(rows):
            for c in range(columns):
                for i, j in pixels:
                    tap = i - r * self.stride + 1, j - c * self.stride + 1
                    if max(tap) <= 2 and min(tap) >= 0:
                        yield (everything, i, j), (everything, r, c), 3 * tap[0] + tap[1]


@dataclass(frozen=True)
class Reduced:
    """Another class's convolution computed in a shorter format; maps and weights come and go in their own."""

    inner: Bilinear
    dtype: torch.dtype

    def apply(self, x: Tensor, w: Tensor) -> Tensor:
        """As `inner`."""
        return self.inner.apply(x.to(self.dtype), w.to(self.dtype)).to(x.dtype)

    def pull(self, x: Tensor, g: Tensor, w: Tensor, to_x: bool = True, to_w: bool = True) -> Pulled:
        """As `inner`."""
        found = self.inner.pull(*(one.to(self.dtype) for one in (x, g, w)), to_x, to_w)
        return tuple(None if one is None else one.to(x.dtype) for one in found)


def choose(kernel: int, stride: int, padding: int, groups: int, in_channels: int, pixels: int) -> Bilinear:
    """The class for a convolution whose input maps have `pixels` pixels."""
    if kernel == 1 and stride == 1 and padding == 0 and groups == 1:
        return Pointwise()
    if kernel == 3 and padding == 1 and groups == in_channels > 1 and pixels <= TINY:
        return TinyDepthwise(stride)
    return Window(stride, padding, groups)


def _first(x: Tensor) -> Tensor:
    """(n, H, W, C) -> a view (n, C, H, W), which PyTorch takes for a map in channels_last format."""
    return x.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    """(n, C, H, W) -> contiguous (n, H, W, C), copied only where the strides demand it."""
    return x.permute(0, 2, 3, 1).contiguous()
