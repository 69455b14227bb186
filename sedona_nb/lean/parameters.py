"""All weights of a relaxed network as one vector, ordered so that what is used together lies together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """A piece of the vector, seen in a shape."""

    offset: int
    shape: tuple[int, ...]

    def of(self, vector: Tensor) -> Tensor:
        """The piece as a view."""
        return vector[self.offset : self.offset + prod(self.shape)].view(self.shape)


class Layout:
    """Where each parameter and each BatchNorm statistic lies; filled while a network is read.

    Attributes:
        names: parameters in the order of the vector.
        norms: modules' names of the BatchNorm layers in the order of the statistics' vectors.
    """

    def __init__(self, module: nn.Module):
        self._names = {id(value): name for name, value in module.named_parameters()}
        self._modules = {id(part): name for name, part in module.named_modules()}
        self.names: list[str] = []
        self.norms: list[str] = []
        self.momentum = 0.1  # of the running statistics, the same in all BatchNorm layers
        self.shapes: dict[str, torch.Size] = {}
        self.size = 0  # of the vector of parameters
        self.statistics_size = 0  # of the vectors of means and variances

    def slot(self, parameters: Sequence[nn.Parameter], shape: tuple[int, ...]) -> Slot:
        """Append `parameters` and see them together in `shape`."""
        place = Slot(self.size, shape)
        for value in parameters:
            name = self._names[id(value)]
            self.names.append(name)
            self.shapes[name] = value.shape
            self.size += value.numel()
        assert self.size - place.offset == prod(shape)
        return place

    def statistics(self, norms: Sequence[nn.BatchNorm2d]) -> Slot:
        """Append the running statistics of `norms`, seen as one vector."""
        place = Slot(self.statistics_size, (sum(norm.num_features for norm in norms),))
        self.norms += [self._modules[id(norm)] for norm in norms]
        self.statistics_size += place.shape[0]
        return place

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors by name -> the vector; the vector itself, not a copy, if they are what `unpack` gave."""
        first = tensors[self.names[0]]
        vector = first._base
        if vector is not None and vector.shape == (self.size,) and not vector.requires_grad:
            offsets = zip(self.names, self._offsets(), strict=True)
            if all(tensors[n]._base is vector and tensors[n].storage_offset() == offset for n, offset in offsets):
                return vector
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """The vector -> views by name, in the vector's order."""
        pieces = vector.detach().split([self.shapes[name].numel() for name in self.names])
        return {n: piece.view(self.shapes[n]) for n, piece in zip(self.names, pieces, strict=True)}

    def update_statistics(self, buffers: Mapping[str, Tensor], batch: Tensor) -> None:
        """Running statistics take in those of a batch, means and unbiased variances (2, statistics)."""
        for part, values in zip(("running_mean", "running_var"), batch, strict=True):
            running = [buffers[f"{name}.{part}"] for name in self.norms]
            torch._foreach_lerp_(running, list(values.split([len(one) for one in running])), self.momentum)
        torch._foreach_add_([buffers[f"{name}.num_batches_tracked"] for name in self.norms], 1)

    def _offsets(self) -> list[int]:
        sizes = [self.shapes[name].numel() for name in self.names]
        return [0, *itertools.accumulate(sizes[:-1])]
