"""All heads of one layer as one program: what they have in common is computed side by side.

Aux 1 to 4 differ in how many inverted residuals they have. Sorted by that number, stage s works on the heads
that have more than s of them, their channels next to each other; a head that is through goes on to its tail. All
tails' averages meet in the classifiers, the mixture (Eq. 3) and the loss, a few pictures at a time, and from
there the way back starts at once: nothing of a head outlives the visit to its layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb.lean.nodes import Gate, Junction, Run, Unit
from sedona_nb.lean.parameters import Slot
from sedona_nb.lean.tails import Tail

TAIL_CHUNK = 1 << 21  # numbers in the masks of a few pictures, which need not stay in the innermost cache


@dataclass
class HeadGroup:
    """The heads of one layer.

    Attributes:
        gate: how they see the layer's output.
        nodes: units and junctions of the common part, in order.
        tails: of all heads, in order of depth, those of the same form together.
        order: column of beta of each head in that order.
        weight, bias: of the linear classifiers, (M, classes, channels) and (M, classes).
        scale, share: of `head_scaling` "released": a factor on the scores, and one on all gradients of the head;
            None otherwise, when the share sits in the gate.
    """

    gate: Gate
    nodes: list[Unit | Junction]
    tails: list[Tail]
    order: list[int]
    weight: Slot
    bias: Slot
    scale: Tensor | None = None
    share: Tensor | None = None

    def run(self, run: Run, targets: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """One visit: forward and, if the run asks for it, backward into the gate.

        Args:
            targets: smoothed labels (B, classes).
            mixture: softmaxed row of beta, (M,).

        Returns:
            the mean loss (plain) or its directional derivative (dual), a scalar; its derivative with respect to
            `mixture`, (M,).
        """
        for node in self.nodes:
            node.forward(run)
        for tail in self.tails:
            tail.forward(run)
        scores = MixedScores(self, run, mixture)
        per_picture = run.k * sum(tail.extent for tail in self.tails)
        count = max(1, max(TAIL_CHUNK, run.chunk) // per_picture)
        for start in range(0, run.count, count):
            part = slice(start, min(start + count, run.count))
            pooled = torch.cat([tail.pooled(run, part) for tail in self.tails], 1)  # (k, M, n, channels)
            to_pooled = scores.add(pooled, targets[part])
            if run.backward:
                sizes = [len(tail.sources) for tail in self.tails]
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
        if run.k == 2 and self.share is not None:
            self.gate.to_share += scores.value
            return self.share * scores.value, self.share * scores.to_mixture
        return scores.value, scores.to_mixture


class MixedScores:
    """Classifiers, mixture and loss of all heads; sums over the chunks of a batch."""

    def __init__(self, group: HeadGroup, run: Run, mixture: Tensor):
        self.group, self.run_ = group, run
        self.mixture = mixture[group.order]
        self.weight, self.bias = group.weight.of(run.weights), group.bias.of(run.weights)
        if run.direction is not None:
            self.weight_d, self.bias_d = group.weight.of(run.direction), group.bias.of(run.direction)
        self.to_weight, self.to_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.value = self.weight.new_zeros(())
        self.sorted_to_mixture = torch.zeros_like(self.mixture)

    @property
    def to_mixture(self) -> Tensor:
        """In the order of beta's columns."""
        result = torch.empty_like(self.sorted_to_mixture)
        result[self.group.order] = self.sorted_to_mixture
        return result

    def add(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Pooled (k, M, n, channels) and targets (n, classes) -> cotangents of pooled."""
        scores = pooled @ self.weight.transpose(1, 2)  # (k, M, n, classes)
        scores[0] += self.bias[:, None]
        if self.run_.k == 2:
            scores[1] += pooled[0] @ self.weight_d.transpose(1, 2) + self.bias_d[:, None]
        if self.group.scale is not None:
            scores *= self.group.scale
        mixture = self.mixture[:, None, None]
        mixed = (mixture * scores).sum(1)
        value, to_mixed = local_loss(mixed, targets, self.run_.count)
        self.value += value
        self.sorted_to_mixture += (to_mixed[:, None] * scores).sum((0, 2, 3))
        if not self.run_.backward:
            return to_mixed
        to_scores = mixture * to_mixed[:, None]  # (k, M, n, classes)
        if self.group.scale is not None:
            to_scores = to_scores * (self.group.scale * self.group.share)
        for g, p in zip(to_scores, pooled, strict=True):
            self.to_weight.baddbmm_(g.transpose(1, 2), p)
        self.to_bias += to_scores[0].sum(1)
        to_pooled = to_scores @ self.weight
        if self.run_.k == 2:
            to_pooled[0] += to_scores[1] @ self.weight_d
        return to_pooled

    def store(self) -> None:
        """Write the classifiers' gradients."""
        self.group.weight.of(self.run_.gradient).copy_(self.to_weight)
        self.group.bias.of(self.run_.gradient).copy_(self.to_bias)


def local_loss(scores: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of some of `count` pictures, or its directional derivative.

    Args:
        scores: (1, n, classes), or (2, n, classes) with tangents.
        targets: smoothed labels (n, classes).
        count: what the mean is over.

    Returns:
        plain: the loss; dual: <softmax - targets, tangents>; each summed over n and divided by `count`. And its
        derivative with respect to `scores`.
    """
    logs = scores[0].log_softmax(1)
    shares = logs.exp()
    slope = (shares - targets) / count
    if scores.shape[0] == 1:
        return -(targets * logs).sum() / count, slope[None]
    value = (slope * scores[1]).sum()
    centred = scores[1] - (shares * scores[1]).sum(1, keepdim=True)
    return value, torch.stack([shares * centred / count, slope])
