"""The base network's classifier, plain and dual: linear maps on small tensors, left to automatic derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

from sedona_nb.lean.head_group import local_loss
from sedona_nb.lean.nodes import Run, Source


@dataclass
class Classifier:
    """Pooling and linear maps behind the last layer.

    Attributes:
        source: the last layer's output.
        steps: ("pool", size), ("flatten",), ("relu",) or ("linear", slot of the weight, slot of the bias).
    """

    source: Source
    steps: list[tuple]

    def run(self, run: Run, targets: Tensor, factor: Tensor | None = None) -> Tensor:
        """Loss (plain) or directional derivative (dual); the source and the weights receive their cotangents.

        `factor`: on the loss, for the cotangents; None: 1.
        """
        whole = slice(0, run.count)
        y = self.source.value(run, whole)
        slots = [slot for kind, *slots in self.steps if kind == "linear" for slot in slots]
        weights = [slot.of(run.weights).detach().requires_grad_() for slot in slots]
        direction = [None] * len(slots) if run.direction is None else [slot.of(run.direction) for slot in slots]
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            scores = self._scores(leaf.permute(0, 1, 4, 2, 3), weights, direction)
        value, to_scores = local_loss(scores.detach(), targets, run.count)
        if run.backward:
            to_scores = to_scores if factor is None else to_scores * factor
            to_y, *to_weights = grad(scores, [leaf, *weights], to_scores)
            for slot, found in zip(slots, to_weights, strict=True):
                slot.of(run.gradient).copy_(found)
            self.source.accept(run, whole, y, to_y.contiguous())
        return value

    def _scores(self, x: Tensor, weights: list[Tensor], direction: list[Tensor | None]) -> Tensor:
        """(k, B, C, H, W) -> (k, B, classes); every step is linear or a mask that the values decide."""
        weights, direction = iter(weights), iter(direction)
        for kind, *details in self.steps:
            if kind == "pool":
                x = F.adaptive_avg_pool2d(x.flatten(0, 1), details[0]).unflatten(0, x.shape[:2])
            elif kind == "flatten":
                x = x.flatten(2)
            elif kind == "relu":
                x = x * (x[:1] > 0)
            else:
                w, b, dw, db = next(weights), next(weights), next(direction), next(direction)
                y = F.linear(x[0], w, b)
                x = torch.stack([y] if dw is None else [y, F.linear(x[1], w) + F.linear(x[0], dw, db)])
        return x
