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
    """The ends of m heads of the same form; see the module's docstring.

    Between forward and backward, `pooled` and `accept` take turns, part by part.
    """

    sources: list[Channels]
    weight: Slot  # (m, channels, P)
    gamma: Slot  # (m, channels), as beta
    beta: Slot
    statistics: Slot
    eps: float
    channels: int

    @property
    def extent(self) -> int:
        """Numbers that `pooled` touches a picture."""
        height, width, _ = self.sources[0].shape
        return len(self.sources) * height * width * self.channels

    @property
    def by_masks(self) -> bool:
        """Which way is faster."""
        height, width, channels = self.sources[0].shape
        return height * width >= MASKS_FROM * (channels + 1)

    def _inputs(self, run: Run, part: slice) -> Tensor:
        """h of all heads, (k, m, n, S, P)."""
        return torch.stack([source.value(run, part).flatten(2, 3) for source in self.sources], 1)

    def forward(self, run: Run) -> None:
        """Moments of the input, and from them the folded convolution."""
        h = self._inputs(run, slice(0, run.count)).flatten(2, 3)  # (k, m, rows, P)
        count = h.shape[2]
        self._means = h.mean(2)  # (k, m, P)
        centred = h[0] - self._means[0][:, None]
        moments = [self._means[0], centred.mT @ centred / count]
        if run.k == 2:
            moments += [self._means[1], centred.mT @ (h[1] - self._means[1][:, None]) / count]
        slots = self.weight, self.gamma, self.beta
        inputs = [slot.of(run.weights) for slot in slots]
        if run.direction is None:
            self._fold = FoldedPlain(moments, inputs, self.eps)
        else:
            directions = [slot.of(run.direction) for slot in slots]
            self._fold = FoldedDual(moments, inputs, directions, self.eps)
        if run.statistics is not None:
            self.statistics.of(run.statistics[0]).copy_(self._fold.mean.flatten())
            self.statistics.of(run.statistics[1]).copy_(
                self._fold.variance.flatten() * (count / max(count - 1, 1))
            )
        self._folded = self._fold.matrices
        self._sums = [torch.zeros_like(matrix) for matrix in self._folded]

    def pooled(self, run: Run, part: slice) -> Tensor:
        """Mean over the map, (k, m, n, channels)."""
        h = self._inputs(run, part)
        _, m, n, pixels, width = h.shape
        stacked = torch.cat([h[0], h.new_ones(m, n, pixels, 1), *h[1:]], 3)  # [h, 1, hd]: P+1 or 2P+1 columns
        rows = stacked.flatten(1, 2)
        maps = [run.workspace.take((m, n * pixels, self.channels), h)]
        torch.bmm(rows[..., : width + 1], self._folded[0], out=maps[0])
        if self.by_masks:
            maps[0].gt_(0)  # z itself is not needed any more
            mask = maps[0].view(m * n, pixels, -1)
            u = torch.bmm(stacked.flatten(0, 1).mT, mask).view(m, n, -1, self.channels)  # P+1 or 2P+1 rows
            pooled = [(u[:, :, : width + 1] * self._folded[0][:, None]).sum(2)]
            if run.k == 2:
                pooled.append((u * self._folded[1][:, None]).sum(2))
            self._last = maps, u
        else:
            maps[0].clamp_(min=0)
            if run.k == 2:
                maps.append(run.workspace.take(maps[0].shape, h))
                torch.bmm(rows, self._folded[1], out=maps[1])
                _mask(maps[1], maps[0], maps[1])
            pooled = [one.view(m, n, pixels, -1).sum(2) for one in maps]
            self._last = maps, rows
        if not run.backward:
            run.give(*maps)
        return torch.stack(pooled).div_(pixels)

    def accept(self, run: Run, part: slice, g: Tensor) -> None:
        """Cotangent of what `pooled` gave last, (k, m, n, channels)."""
        height, width, _ = self.sources[0].shape
        g = g / (height * width)
        maps, other = self._last
        del self._last
        to_h = self._through_masks(g, maps[0], other) if self.by_masks else self._through_maps(g, maps, other)
        run.give(*maps)
        to_h = to_h.view(*g.shape[1:3], height, width, -1)  # (m, n, H, W, P or 2P)
        for source, one in zip(self.sources, to_h, strict=True):
            source.accept(run, part, None, one[None] if run.k == 1 else torch.stack(one.chunk(2, 3)))

    def _through_masks(self, g: Tensor, mask: Tensor, u: Tensor) -> Tensor:
        """Cotangents of h, or [h, hd]."""
        m, n = u.shape[:2]
        a = self._folded[0][:, :-1]  # (m, P, channels)
        size = a.shape[1]
        self._sums[0] += (u[:, :, : size + 1] * g[0][:, :, None]).sum(1)
        to_h = g[0][:, :, None] * a[:, None]  # (m, n, P, channels)
        if len(self._sums) == 2:
            self._sums[1] += u.mul_(g[1][:, :, None]).sum(1)
            to_h.addcmul_(g[1][:, :, None], self._folded[1][:, None, :size])
            to_h = torch.cat([to_h, g[1][:, :, None] * a[:, None]], 2)
        return torch.bmm(mask.view(m * n, -1, self.channels), to_h.flatten(0, 1).mT)

    def _through_maps(self, g: Tensor, maps: list[Tensor], rows: Tensor) -> Tensor:
        """The same; overwrites the maps."""
        m, n = g.shape[1:3]
        values = maps[0].view(m, n, -1, self.channels)
        cotangents = []
        for target, one in zip([*maps[1:], maps[0]], g.flip(0), strict=True):  # values last: they are the mask
            _mask(one[:, :, None].expand(values.shape), values, target.view(values.shape))
            cotangents.insert(0, target)
        a = self._folded[0][:, :-1]
        size = a.shape[1]
        self._sums[0].baddbmm_(rows[..., : size + 1].mT, cotangents[0])
        to_h = cotangents[0] @ a.mT
        if len(cotangents) == 2:
            self._sums[1].baddbmm_(rows.mT, cotangents[1])
            to_h.baddbmm_(cotangents[1], self._folded[1][:, :size].mT)
            to_h = torch.cat([to_h, cotangents[1] @ a.mT], 2)
        return to_h

    def backward(self, run: Run) -> None:
        """What the statistics' dependence on weights and input adds."""
        to_inputs, to_moments = self._fold.pull(self._sums)
        for slot, value in zip((self.weight, self.gamma, self.beta), to_inputs, strict=True):
            slot.of(run.gradient).copy_(value)
        whole = slice(0, run.count)
        h = self._inputs(run, whole)  # (k, m, B, S, P)
        centred = (h - self._means[:, :, None, None]).flatten(2, 3)
        to_mean, to_covariance = to_moments[:2]
        to_h = [torch.baddbmm(to_mean[:, None], centred[0], to_covariance + to_covariance.mT)]
        if run.k == 2:
            to_mean_d, to_cross = to_moments[2:]
            to_h[0].baddbmm_(centred[1], to_cross.mT)
            to_h.append(torch.baddbmm(to_mean_d[:, None], centred[0], to_cross))
        to_h = torch.stack(to_h, 1).div_(centred.shape[2])  # (m, k, rows, P)
        for source, one in zip(self.sources, to_h, strict=True):
            source.accept(run, whole, None, one.view(run.k, run.count, *source.shape))
        self.release(run)

    def release(self, run: Run) -> None:
        """Forget what `forward` prepared."""
        self._fold = self._folded = self._sums = self._means = None


def _mask(g: Tensor, values: Tensor, out: Tensor) -> None:
    """out = g where values > 0, else 0."""
    torch.ops.aten.threshold_backward.grad_input(g, values, 0, grad_input=out)
