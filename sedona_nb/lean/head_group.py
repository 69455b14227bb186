"""All heads of one layer, or of several layers alike, as one program: what they share is computed side by side.

Aux 1 to 4 differ in how many inverted residuals they have. Sorted by that number, stage s works on the heads
that have more than s of them, their channels next to each other; a head that is through goes on to its tail. All
tails' averages meet in the classifiers, the mixture (Eq. 3) and the loss, a few pictures at a time, and from
there the way back starts at once: nothing of a head outlives the visit to its layer.

Where maps are small, what each step costs besides its arithmetic dominates. Heads of several layers then go
together, layer by layer next to each other at every stage; they differ in what their first convolution reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sedona_nb.lean.gates import Gate
from sedona_nb.lean.junctions import Junction
from sedona_nb.lean.nodes import Run, Unit
from sedona_nb.lean.parameters import Slot
from sedona_nb.lean.tails import Tail

TAIL_CHUNK = 1 << 22  # numbers in the masks of a few pictures, which need not stay in the innermost cache


@dataclass
class HeadGroup:
    """The heads of some layers, M each.

    Attributes:
        gates: how they see each layer's output.
        nodes: units and junctions of the common part, in order.
        tails: of all heads, those of the same form together.
        order: of each head, in the order of the tails, its place in the layers' rows of beta one after the other.
        weight, bias: of the linear classifiers, (heads, classes, channels) and (heads, classes).
        scales: of `head_scaling` "released": a factor on each layer's scores; None: 1.
        factors: on each layer's loss: its share where the gate has none (`head_scaling` "released"), or its
            coefficient in a mixture of losses; None: 1.
    """

    gates: list[Gate]
    nodes: list[Unit | Junction]
    tails: list[Tail]
    order: list[int]
    weight: Slot
    bias: Slot
    scales: Tensor | None = None
    factors: Tensor | None = None
    _constants: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """One over each head's pixels (heads, 1, 1), and `order`, on the device of `like`; sent there once."""
        if (
            self._constants is None
            or self._constants[0].device != like.device
            or self._constants[0].dtype != like.dtype
        ):
            pixels = [tail.pixels for tail in self.tails for _ in range(sum(tail.counts))]
            order = torch.tensor(self.order, device=like.device)
            self._constants = 1 / like.new_tensor(pixels)[:, None, None], order
        return self._constants

    def run(self, run: Run, targets: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """One visit: forward and, if the run asks for it, backward into the gates.

        Args:
            targets: smoothed labels (B, classes).
            mixture: softmaxed rows of beta, (layers, M).

        Returns:
            the mean losses (plain) or their directional derivatives (dual), (layers,), without `factors`; and the
            derivatives with respect to `mixture`, (layers, M), with them.
        """
        for node in self.nodes:
            node.forward(run)
        for tail in self.tails:
            tail.forward(run)
        scores = MixedScores(self, run, mixture)
        per_picture = run.k * sum(tail.extent for tail in self.tails)
        count = max(1, max(TAIL_CHUNK, run.chunk) // per_picture)
        sizes = [sum(tail.counts) for tail in self.tails]
        for start in range(0, run.count, count):
            part = slice(start, min(start + count, run.count))
            pooled = scores.weight.new_empty(run.k, sum(sizes), part.stop - start, self.weight.shape[2])
            for tail, out in zip(self.tails, pooled.split(sizes, 1), strict=True):
                tail.pooled(run, part, out)
            to_pooled = scores.add(pooled, targets[part])
            if run.backward:
                for tail, g in zip(self.tails, to_pooled.split(sizes, 1), strict=True):
                    tail.accept(run, part, g)
        if run.backward:
            scores.store()
            for tail in reversed(self.tails):
                tail.backward(run)
            for node in reversed(self.nodes):
                node.backward(run)
        else:
            for node in (*self.nodes, *self.tails):
                node.release(run)
        if run.k == 2 and self.factors is not None:
            for gate, value in zip(self.gates, scores.values, strict=True):
                gate.to_share += value
        return scores.values, scores.to_mixture


class MixedScores:
    """Classifiers, mixtures and losses of all heads of a group; sums over the chunks of a batch.

    The scores of a layer are a mixture of its heads' scores, so those of all layers are the heads' times a matrix
    (layers, heads) with a block of zeros where the layer is another one.
    """

    def __init__(self, group: HeadGroup, run: Run, mixture: Tensor):
        self.group, self.run_ = group, run
        weight, self.bias = group.weight.of(run.weights), group.bias.of(run.weights)
        self.per_pixel, self.order = group.constants(weight)
        self.mixing = torch.block_diag(*mixture).index_select(1, self.order)
        self.weight = weight * self.per_pixel  # for sums over maps instead of averages
        if run.direction is not None:
            self.weight_d = group.weight.of(run.direction) * self.per_pixel
            self.bias_d = group.bias.of(run.direction)
        self.to_weight, self.to_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.values = self.weight.new_zeros(len(mixture))
        self.to_mixing = torch.zeros_like(self.mixing)

    @property
    def to_mixture(self) -> Tensor:
        """The derivatives to the layers' mixtures, (layers, M)."""
        layers = len(self.mixing)
        blocks = torch.empty_like(self.to_mixing).index_copy_(1, self.order, self.to_mixing)
        return blocks.view(layers, layers, -1).diagonal().t()

    def add(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Sums over maps (k, heads, n, channels) and targets (n, classes) -> the sums' cotangents."""
        scores = (self.weight @ pooled.mT).mT.contiguous()  # (k, heads, n, classes); this way round it is faster
        scores[0] += self.bias[:, None]
        if self.run_.k == 2:
            scores[1] += torch.baddbmm(self.bias_d[:, None], pooled[0], self.weight_d.mT)
        mixed = self._scaled((self.mixing @ scores.flatten(2)).unflatten(2, scores.shape[2:]))
        values, to_mixed = local_loss(mixed, targets, self.run_.count)  # (layers,), (k, layers, n, classes)
        self.values += values
        to_mixed = self._scaled(to_mixed).flatten(2)
        if self.group.factors is not None:
            to_mixed = to_mixed * self.group.factors[:, None]
        self.to_mixing += (to_mixed @ scores.flatten(2).mT).sum(0)
        if not self.run_.backward:
            return to_mixed
        to_scores = (self.mixing.t() @ to_mixed).view(scores.shape)
        for g, p in zip(to_scores, pooled, strict=True):
            self.to_weight.baddbmm_(g.mT, p)
        self.to_bias += to_scores[0].sum(1)
        to_pooled = to_scores @ self.weight
        if self.run_.k == 2:
            to_pooled[0].baddbmm_(to_scores[1], self.weight_d)
        return to_pooled

    def store(self) -> None:
        """Write the classifiers' gradients."""
        torch.mul(self.to_weight, self.per_pixel, out=self.group.weight.of(self.run_.gradient))
        self.group.bias.of(self.run_.gradient).copy_(self.to_bias)

    def _scaled(self, mixed: Tensor) -> Tensor:
        """(k, layers, n, classes) times the layers' scales."""
        return mixed if self.group.scales is None else mixed * self.group.scales[:, None, None]


def local_loss(scores: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of some of `count` pictures, or its directional derivative.

    Args:
        scores: (1, ..., n, classes), or (2, ..., n, classes) with tangents.
        targets: smoothed labels (n, classes).
        count: what the mean is over.

    Returns:
        plain: the loss; dual: <softmax - targets, tangents>; each summed over n and divided by `count`, (...). And
        its derivative with respect to `scores`.
    """
    logs = scores[0].log_softmax(-1)
    shares = logs.exp()
    slope = (shares - targets).div_(count)
    if scores.shape[0] == 1:
        return (targets * logs).sum((-2, -1)) / -count, slope[None]
    value = (slope * scores[1]).sum((-2, -1))
    centred = scores[1] - (shares * scores[1]).sum(-1, keepdim=True)
    return value, torch.stack([shares * centred / count, slope])
