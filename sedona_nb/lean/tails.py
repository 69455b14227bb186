"""The end of a head: 1x1 convolution to many channels, BatchNorm, ReLU, average over the map.

Written as usual, it stores a map of 512 channels for an input of a few: most of the memory of a search. But for an
input h of P channels all that is needed can be had without that map:

- statistics of z = W h follow from the P x P moments of h, so BatchNorm folds into the convolution beforehand:
  values A h + b, tangents A hd + A2 h + b2;
- the map then exists for a few pictures at a time, from the mixture's loss straight back to h.

Two ways to use it, the same numbers:

`by_masks` (many pixels): only the mask M = [z > 0] of 0s and 1s is formed. With U = M^T [h, 1, hd] of a picture,

      pooled = sum_k U[k] [A; b][k] / S,        pooled tangent = sum_k U[k] [A2; b2; A][k] / S

  and the gradients of A, b, A2, b2 need U only, that of h is M times a small matrix.
`by_maps` (few pixels): values and tangents are formed, masked and averaged; cotangents are masked and multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb.lean.folding import FoldedDual, FoldedPlain
from sedona_nb.lean.nodes import Channels, Run
from sedona_nb.lean.parameters import Slot

MASKS_FROM = 4  # pixels for each input channel


@dataclass
class Tail:
    """See the module's docstring. `pooled` and `accept` take turns, part by part, between forward and backward."""

    source: Channels
    weight: Slot
    gamma: Slot
    beta: Slot
    statistics: Slot
    eps: float
    channels: int

    @property
    def extent(self) -> int:
        """Numbers that `pooled` touches a picture."""
        return self.source.shape[0] * self.source.shape[1] * self.channels

    @property
    def by_masks(self) -> bool:
        """Which way is faster."""
        height, width, channels = self.source.shape
        return height * width >= MASKS_FROM * (channels + 1)

    def forward(self, run: Run) -> None:
        """Moments of the input, and from them the folded convolution."""
        h = self.source.value(run, slice(0, run.count)).flatten(1, 3)  # (k, rows, P)
        count = h.shape[1]
        mean = h.mean(1)
        centred = h[0] - mean[0]
        moments = [mean[0], centred.t() @ centred / count]
        if run.k == 2:
            moments += [mean[1], centred.t() @ (h[1] - mean[1]) / count]
        self._means = mean
        slots = self.weight, self.gamma, self.beta
        inputs = [slot.of(run.weights) for slot in slots]
        if run.direction is None:
            self._fold = FoldedPlain(moments, inputs, self.eps)
        else:
            directions = [slot.of(run.direction) for slot in slots]
            self._fold = FoldedDual(moments, inputs, directions, self.eps)
        if run.statistics is not None:
            self.statistics.of(run.statistics[0]).copy_(self._fold.mean)
            self.statistics.of(run.statistics[1]).copy_(self._fold.variance * (count / max(count - 1, 1)))
        self._folded = self._fold.matrices
        self._sums = [torch.zeros_like(part) for part in self._folded]

    def pooled(self, run: Run, part: slice) -> Tensor:
        """Mean over the map, (k, n, channels)."""
        h = self.source.value(run, part).flatten(2, 3)  # (k, n, S, P)
        _, n, pixels, width = h.shape
        stacked = torch.cat([h[0], h.new_ones(n, pixels, 1), *h[1:]], 2)  # (n, S, P+1 or 2P+1): [h, 1, hd]
        rows = stacked.view(n * pixels, -1)
        maps = [run.workspace.take((n, pixels, self.channels), h)]
        torch.mm(rows[:, : width + 1], self._folded[0], out=maps[0].view(n * pixels, -1))
        if self.by_masks:
            maps[0].gt_(0)  # z itself is not needed any more
            u = torch.bmm(stacked.transpose(1, 2), maps[0])  # (n, P+1 or 2P+1, channels)
            pooled = [(u[:, : width + 1] * self._folded[0]).sum(1)]
            if run.k == 2:
                pooled.append((u * self._folded[1]).sum(1))
            self._last = maps[0], u
        else:
            maps[0].clamp_(min=0)
            if run.k == 2:
                maps.append(run.workspace.take(maps[0].shape, h))
                torch.mm(rows, self._folded[1], out=maps[1].view(n * pixels, -1))
                _mask(maps[1], maps[0], maps[1])
            pooled = [one.sum(1) for one in maps]
            self._last = maps, stacked
        if not run.backward:
            run.give(*maps)
        return torch.stack(pooled).div_(pixels)

    def accept(self, run: Run, part: slice, g: Tensor) -> None:
        """Cotangent of what `pooled` gave last."""
        height, width, _ = self.source.shape
        g = g / (height * width)
        to_h = self._through_masks(run, g) if self.by_masks else self._through_maps(run, g)
        del self._last
        to_h = to_h.view(g.shape[1], height, width, -1)
        if run.k == 1:
            self.source.accept(run, part, None, to_h[None])
        else:
            self.source.accept(run, part, None, torch.stack(to_h.chunk(2, 3)))

    def _through_masks(self, run: Run, g: Tensor) -> Tensor:
        """Cotangents of h, or [h, hd], (n, S, P or 2P)."""
        mask, u = self._last
        a = self._folded[0][:-1]  # (P, channels)
        size = a.shape[0]
        self._sums[0] += (u[:, : size + 1] * g[0][:, None]).sum(0)
        to_h = g[0][:, None] * a  # (n, P, channels)
        if run.k == 2:
            self._sums[1] += u.mul_(g[1][:, None]).sum(0)
            to_h.addcmul_(g[1][:, None], self._folded[1][:size])
            to_h = torch.cat([to_h, g[1][:, None] * a], 1)
        result = torch.bmm(mask, to_h.transpose(1, 2))
        run.give(mask)
        return result

    def _through_maps(self, run: Run, g: Tensor) -> Tensor:
        """The same."""
        maps, stacked = self._last
        rows = stacked.flatten(0, 1)
        a = self._folded[0][:-1]
        size = a.shape[0]
        values = maps[0]
        cotangents = []
        for target, one in zip([*maps[1:], values], g.flip(0), strict=True):  # values last: they are the mask
            _mask(one[:, None].expand(values.shape), values, target)
            cotangents.insert(0, target.flatten(0, 1))
        self._sums[0].addmm_(rows[:, : size + 1].t(), cotangents[0])
        to_h = cotangents[0] @ a.t()
        if run.k == 2:
            self._sums[1].addmm_(rows.t(), cotangents[1])
            to_h.addmm_(cotangents[1], self._folded[1][:size].t())
            to_h = torch.cat([to_h, cotangents[1] @ a.t()], 1)
        run.give(*maps)
        return to_h

    def backward(self, run: Run) -> None:
        """What the statistics' dependence on weights and input adds."""
        to_inputs, to_moments = self._fold.pull(self._sums)
        for slot, value in zip((self.weight, self.gamma, self.beta), to_inputs, strict=True):
            slot.of(run.gradient).copy_(value)
        whole = slice(0, run.count)
        h = self.source.value(run, whole)
        count = h[0].numel() // h.shape[-1]
        centred = [one - mean for one, mean in zip(h, self._means, strict=True)]
        to_mean, to_covariance = to_moments[:2]
        to_h = [torch.matmul(centred[0], to_covariance + to_covariance.t()) + to_mean]
        if run.k == 2:
            to_mean_d, to_cross = to_moments[2:]
            to_h[0] += torch.matmul(centred[1], to_cross.t())
            to_h.append(torch.matmul(centred[0], to_cross) + to_mean_d)
        self.source.accept(run, whole, None, torch.stack(to_h) / count)
        self.release(run)

    def release(self, run: Run) -> None:
        """Forget what `forward` prepared."""
        self._fold = self._folded = self._sums = self._means = None


def _mask(g: Tensor, values: Tensor, out: Tensor) -> None:
    """out = g where values > 0, else 0."""
    torch.ops.aten.threshold_backward.grad_input(g, values, 0, grad_input=out)
