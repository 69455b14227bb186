"""What connects the units of a program: values with several consumers, pooling, sums."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sedona_nb.lean.nodes import Run, Shape, Source


@dataclass(frozen=True)
class Selection:
    """Channels `first` to `last` of each of so many equal parts."""

    parts: int
    first: int
    last: int

    def of(self, maps: Tensor) -> Tensor:
        """(..., C) -> a view (..., parts, last - first)."""
        return maps.view(*maps.shape[:-1], self.parts, -1)[..., self.first : self.last]


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
        self.reached: dict[Selection | None, int] = {}

    def value(self, run: Run, part: slice) -> Tensor:
        """The source's."""
        return self.source.value(run, part) if self.kept is None else self.kept[:, part]

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Add."""
        self.add(run, part, g)

    def add(
        self, run: Run, part: slice, g: Tensor, selection: Selection | None = None, factor: Tensor | None = None
    ) -> None:
        """Add g, times a factor, to some channels; who comes first, picture after picture, fills the memory.

        With a selection, g is (k, n, H, W, parts, channels of a part).
        """
        if self.g is None:
            self.g = run.take(self.shape)
        target = self.g[:, part]
        if selection is not None:
            target = selection.of(target)
        if part.start == self.reached.get(selection, 0):
            self.reached[selection] = part.stop
            target.copy_(g) if factor is None else torch.mul(g, factor, out=target)
        else:
            target.add_(g) if factor is None else target.addcmul_(g, factor)

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
        pixels = chosen.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.stack([pooled, x[1].flatten(1, 2).gather(1, pixels).view(pooled.shape)])

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Send each cotangent to the pixel that was chosen."""
        x = self.source.value(run, part)
        _, chosen = self._pool(x)
        pulled = [
            torch.ops.aten.max_pool2d_with_indices_backward(
                one.permute(0, 3, 1, 2), x[0].permute(0, 3, 1, 2), *self._sizes, [1, 1], False, chosen
            ).permute(0, 2, 3, 1)
            for one in g
        ]
        to_x = pulled[0][None] if len(pulled) == 1 else torch.stack(pulled)
        self.source.accept(run, part, x, to_x.contiguous())

    @property
    def _sizes(self) -> tuple[list[int], list[int], list[int]]:
        """Kernel, stride and padding as PyTorch's kernels want them."""
        return [self.kernel] * 2, [self.stride] * 2, [self.padding] * 2

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(k, n, H, W, C) -> pooled values (n, H', W', C), chosen pixels (n, C, H', W')."""
        pooled, chosen = torch.ops.aten.max_pool2d_with_indices(x[0].permute(0, 3, 1, 2), *self._sizes)
        return pooled.permute(0, 2, 3, 1).contiguous(), chosen


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
