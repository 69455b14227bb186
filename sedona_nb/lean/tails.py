"""The end of a head: 1x1 convolution to many channels, BatchNorm, ReLU, average over the map.

Written as usual, it stores a map of 512 channels for an input of a few: most of the memory of a search. But for an
input h of P channels all that is needed can be had without that map:

- statistics of z = W h follow from the P x P moments of h, so BatchNorm folds into the convolution beforehand:
  values A h + b, tangents A hd + A2 h + b2;
- the map then exists for a few pictures at a time, from the mixture's loss straight back to h.

Two ways to use it, the same numbers:

`by_masks` (many pixels): only the mask M = [z > 0] of 0s and 1s is formed. With U = M^T [h, 1, hd] of a picture,

      pooled = sum_k U[k] [A; b][k],        pooled tangent = sum_k U[k] [A2; b2; A][k]

  and the gradients of A, b, A2, b2 need U only, that of h is M times a small matrix.
`by_maps` (few pixels): values and tangents are formed, masked and summed; cotangents are masked and multiplied.

The division by the number of pixels, which makes averages of the sums, is left to the classifiers' weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sedona_nb.lean.folding import FoldedDual, FoldedPlain
from sedona_nb.lean.gates import Channels
from sedona_nb.lean.nodes import Run
from sedona_nb.lean.parameters import Slot

MASKS_FROM = 4  # pixels for each input channel
MASKS = 1 << 17  # numbers in as many masks as are made at a time


@dataclass
class Tail:
    """The ends of m heads of the same form; see the module's docstring.

    Between forward and backward, `pooled` and `accept` take turns, part by part.
    """

    sources: list[Channels]
    counts: list[int]  # heads of each source
    weight: Slot  # (m, channels, P)
    gamma: Slot  # (m, channels), as beta
    beta: Slot
    statistics: Slot
    eps: float
    channels: int

    @property
    def extent(self) -> int:
        """Numbers that `pooled` touches a picture."""
        return sum(self.counts) * self.pixels * self.channels

    @property
    def pixels(self) -> int:
        """Of a map."""
        return prod(self.sources[0].shape[:2])

    @property
    def by_masks(self) -> bool:
        """Which way is faster."""
        return self.pixels >= MASKS_FROM * (self.weight.shape[2] + 1)

    def forward(self, run: Run) -> None:
        """Moments of the input, and from them the folded convolution."""
        whole = slice(0, run.count)
        views = [source.view(run, whole, count) for source, count in zip(self.sources, self.counts, strict=True)]
        h = torch.cat([view.flatten(2, 3).movedim(3, 1) for view in views], 1)  # (k, m, B, S, P)
        self._rows = torch.cat([h[0], h.new_ones(*h.shape[1:4], 1), *h[1:]], 3)  # [h, 1, hd]
        h = h.flatten(2, 3)
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
            means, variances = run.statistics
            self.statistics.of(means).copy_(self._fold.mean.view(-1))
            torch.mul(self._fold.variance.view(-1), count / max(count - 1, 1), out=self.statistics.of(variances))
        self._folded = self._fold.matrices
        self._sums = [torch.zeros_like(matrix) for matrix in self._folded]

    def pooled(self, run: Run, part: slice, out: Tensor) -> None:
        """The sum over the map goes to `out`, (k, m, n, channels)."""
        rows = self._rows[:, part]  # (m, n, S, P+1 or 2P+1)
        values = run.workspace.take((*rows.shape[:3], self.channels), rows)
        maps, inside = [values], slice(0, self.weight.shape[2] + 1)
        if self.by_masks:
            u = self._to_masks(rows, values)
            torch.sum(u[:, :, inside] * self._folded[0][:, None], 2, out=out[0])
            if run.k == 2:
                torch.sum(u * self._folded[1][:, None], 2, out=out[1])
            self._last = maps, u
        else:
            rows = rows.flatten(1, 2)
            torch.bmm(rows[..., inside], self._folded[0], out=values.flatten(1, 2))
            values.clamp_(min=0)
            if run.k == 2:
                maps.append(run.workspace.take(values.shape, values))
                torch.bmm(rows, self._folded[1], out=maps[1].flatten(1, 2))
                _mask(maps[1], values, maps[1])
            for one, target in zip(maps, out, strict=True):
                torch.sum(one, 2, out=target)
            self._last = maps, rows
        if not run.backward:
            run.give(*maps)

    def _to_masks(self, rows: Tensor, values: Tensor) -> Tensor:
        """`values` (m, n, S, channels) become masks; U (m, n, P+1 or 2P+1, channels). In cache, step by step."""
        m, n, pixels, _ = rows.shape
        u = values.new_empty(m, n, rows.shape[3], self.channels)
        count = max(1, MASKS // (pixels * self.channels))
        for head, matrix in enumerate(self._folded[0]):
            for start in range(0, n, count):
                some = head, slice(start, start + count)
                x, z = rows[some], values[some]
                torch.mm(x[..., : len(matrix)].flatten(0, 1), matrix, out=z.flatten(0, 1))
                z.gt_(0)  # z itself is not needed any more
                torch.bmm(x.mT, z, out=u[some])
        return u

    def accept(self, run: Run, part: slice, g: Tensor) -> None:
        """Cotangent of what `pooled` gave last, (k, m, n, channels)."""
        height, width, _ = self.sources[0].shape
        maps, other = self._last
        del self._last
        if self.by_masks:
            to_h = self._through_masks(g, maps[0], other).view(*g.shape[1:3], run.k, -1, height, width)
            to_h = to_h.permute(2, 1, 4, 5, 0, 3)
        else:
            to_h = self._through_maps(g, maps, other).view(*g.shape[1:3], height, width, run.k, -1)
            to_h = to_h.permute(4, 1, 2, 3, 0, 5)
        run.give(*maps)
        self._deliver(run, part, to_h)

    def _through_masks(self, g: Tensor, mask: Tensor, u: Tensor) -> Tensor:
        """Cotangents of h, or [h, hd], pixels last: a product with so few rows is faster than one with columns."""
        a = self._folded[0][:, :-1]  # (m, P, channels)
        size = a.shape[1]
        self._sums[0] += (u[:, :, : size + 1] * g[0][:, :, None]).sum(1)
        to_h = g[0][:, :, None] * a[:, None]  # (m, n, P, channels)
        if len(self._sums) == 2:
            self._sums[1] += u.mul_(g[1][:, :, None]).sum(1)
            to_h.addcmul_(g[1][:, :, None], self._folded[1][:, None, :size])
            to_h = torch.cat([to_h, g[1][:, :, None] * a[:, None]], 2)
        return torch.bmm(to_h.flatten(0, 1), mask.flatten(0, 1).mT)

    def _through_maps(self, g: Tensor, maps: list[Tensor], rows: Tensor) -> Tensor:
        """The same, pixels first; overwrites the maps."""
        for target, one in reversed(list(zip(maps, g, strict=True))):  # values last: they are the mask
            _mask(one[:, :, None].expand(target.shape), maps[0], target)
        cotangents = [one.flatten(1, 2) for one in maps]
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
        size = self.weight.shape[2]
        h = [self._rows[..., :size], self._rows[..., size + 1 :]][: run.k]
        centred = [one.flatten(1, 2) - mean[:, None] for one, mean in zip(h, self._means, strict=True)]
        to_mean, to_covariance = to_moments[:2]
        to_h = [torch.baddbmm(to_mean[:, None], centred[0], to_covariance + to_covariance.mT)]
        if run.k == 2:
            to_mean_d, to_cross = to_moments[2:]
            to_h[0].baddbmm_(centred[1], to_cross.mT)
            to_h.append(torch.baddbmm(to_mean_d[:, None], centred[0], to_cross))
        to_h = torch.stack(to_h).div_(centred[0].shape[1])
        height, width, _ = self.sources[0].shape
        self._deliver(run, whole, to_h.view(*to_h.shape[:2], run.count, height, width, size).movedim(1, 4))
        self.release(run)

    def _deliver(self, run: Run, part: slice, to_h: Tensor) -> None:
        """Cotangents of all heads' inputs, (k, n, H, W, m, P), to where they come from."""
        for source, one in zip(self.sources, to_h.split(self.counts, 4), strict=True):
            source.accept(run, part, None, one)

    def release(self, run: Run) -> None:
        """Forget what `forward` prepared."""
        self._fold = self._folded = self._sums = self._means = self._rows = None


def _mask(g: Tensor, values: Tensor, out: Tensor) -> None:
    """out = g where values > 0, else 0."""
    torch.ops.aten.threshold_backward.grad_input(g, values, 0, grad_input=out)
