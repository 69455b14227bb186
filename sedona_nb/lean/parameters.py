"""All weights of a relaxed network as one vector, ordered so that what is used together lies together."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """A piece of a vector: its number in the order of the vector, and the shape in which it is seen."""

    index: int
    shape: tuple[int, ...]

    def of(self, pieces: Sequence[Tensor]) -> Tensor:
        """The piece as a view; `pieces` is what `Layout.pieces` or `Layout.split_statistics` gave."""
        return pieces[self.index]


class Views(dict[str, Tensor]):
    """Tensors by name that are views of one vector, and what is needed to see that they still are.

    Attributes:
        vector: what they are views of.
        made: the views as `Layout.unpack` made them, in its order.
    """

    vector: Tensor
    made: list[Tensor]


class Layout:
    """Where each parameter and each BatchNorm statistic lies; filled while a network is read.

    Attributes:
        names: parameters in the order of the vector.
        norms: modules' names of the BatchNorm layers in the order of the statistics' vectors.
        size: of the vector of parameters.
        statistics_size: of the vectors of means and variances.
    """

    def __init__(self, module: nn.Module):
        self._names = {id(value): name for name, value in module.named_parameters()}
        self._modules = {id(part): name for name, part in module.named_modules()}
        self.names: list[str] = []
        self.norms: list[str] = []
        self.momentum = 0.1  # of the running statistics, the same in all BatchNorm layers
        self.shapes: dict[str, torch.Size] = {}
        self._slots: list[Slot] = []
        self._sizes: list[int] = []  # of the slots
        self._statistics: list[int] = []  # sizes of their slots
        self._features: list[int] = []  # of each BatchNorm

    @property
    def size(self) -> int:
        """See the class."""
        return sum(self._sizes)

    @property
    def statistics_size(self) -> int:
        """See the class."""
        return sum(self._statistics)

    def slot(self, parameters: Sequence[nn.Parameter], shape: tuple[int, ...]) -> Slot:
        """Append `parameters` and see them together in `shape`."""
        for value in parameters:
            name = self._names[id(value)]
            self.names.append(name)
            self.shapes[name] = value.shape
        assert sum(value.numel() for value in parameters) == prod(shape)
        self._slots.append(Slot(len(self._slots), shape))
        self._sizes.append(prod(shape))
        return self._slots[-1]

    def statistics(self, norms: Sequence[nn.BatchNorm2d]) -> Slot:
        """Append the running statistics of `norms`, seen as one vector."""
        features = [norm.num_features for norm in norms]
        self.norms += [self._modules[id(norm)] for norm in norms]
        self._features += features
        self._statistics.append(sum(features))
        return Slot(len(self._statistics) - 1, (sum(features),))

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """All slots of a vector of parameters, in one go."""
        found = vector.split(self._sizes)
        return [piece.view(slot.shape) for piece, slot in zip(found, self._slots, strict=True)]

    def split_statistics(self, vector: Tensor) -> Sequence[Tensor]:
        """All slots of a vector of means or variances, in one go."""
        return vector.split(self._statistics)

    def pack(self, tensors: Mapping[str, Tensor], copy: bool = False) -> Tensor:
        """Tensors by name -> the vector; the vector itself if they are what `unpack` gave, unless `copy`."""
        if self.packed(tensors):
            return tensors.vector.clone() if copy else tensors.vector
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def packed(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether they are what `unpack` gave, unchanged, so that `pack` need not copy."""
        if not isinstance(tensors, Views) or list(tensors) != self.names:
            return False
        return all(map(operator.is_, tensors.values(), tensors.made))

    def unpack(self, vector: Tensor) -> Views:
        """The vector -> views by name, in the vector's order."""
        vector = vector.detach()
        pieces = vector.split([self.shapes[name].numel() for name in self.names])
        views = Views(
            (name, piece.view(self.shapes[name])) for name, piece in zip(self.names, pieces, strict=True)
        )
        views.vector, views.made = vector, list(views.values())
        return views

    def update_statistics(self, buffers: Mapping[str, Tensor], batch: Tensor) -> None:
        """Running statistics take in those of a batch, means and unbiased variances (2, statistics)."""
        for part, values in zip(("running_mean", "running_var"), batch, strict=True):
            running = [buffers[f"{name}.{part}"] for name in self.norms]
            torch._foreach_lerp_(running, list(values.split(self._features)), self.momentum)
        torch._foreach_add_([buffers[f"{name}.num_batches_tracked"] for name in self.norms], 1)
