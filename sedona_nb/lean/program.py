"""The relaxed network as a program with three passes: mixed gradient, its directional derivative, validation."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from sedona_nb.errors import choose
from sedona_nb.lean.assembly import Assembly
from sedona_nb.lean.nodes import Run, Workspace
from sedona_nb.lean.parameters import Layout
from sedona_nb.relaxed import RelaxedNetwork

CHUNK = 1 << 19  # numbers a chunk holds on a CPU: two megabytes in float32, to stay in cache
WHOLE = 1 << 62  # on a GPU a batch is one chunk
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class MixedGradient(NamedTuple):
    """What a plain pass leaves.

    losses (L,); gradient, a vector; statistics (2, ...) means and unbiased variances of all BatchNorms; to_bbar
    (L-1, M), the derivative of each layer's loss, with the factor it has, with respect to its mixture.
    """

    losses: Tensor
    gradient: Tensor
    statistics: Tensor
    to_bbar: Tensor


class Directional(NamedTuple):
    """Derivatives of S = <G(w, abar, bbar), p>: to w, a vector or None; to abar (L-1, 2); to bbar (L-1, M)."""

    to_weights: Tensor | None
    to_abar: Tensor
    to_bbar: Tensor


class Program:
    """A relaxed network, read once for one size of pictures; its own weights are not used.

    Args:
        relaxed: the network.
        picture: (C, H, W) of the pictures.
        precision: of the convolutions, a key of `PRECISIONS`; all else is computed in the weights' own.

    Attributes:
        layout: where each parameter lies in the vectors.
        parts: nodes, in the order in which a pass visits them.

    Raises:
        SedonaError: as `Assembly`, or an unknown precision.
    """

    def __init__(self, relaxed: RelaxedNetwork, picture: tuple[int, int, int], precision: str = "float32"):
        dtype = PRECISIONS[choose(precision, PRECISIONS, "precision")]
        self.layout = Layout(relaxed)
        self.parts = Assembly(relaxed, picture, self.layout, dtype)
        self.workspace = Workspace()

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.parts.classifier.steps[-1][-1].shape[0]

    # -- passes --------------------------------------------------------------------------------------------------

    def mixed_gradient(
        self,
        weights: Tensor,
        images: Tensor,
        targets: Tensor,
        abar: Tensor,
        bbar: Tensor,
        scales: Tensor | None = None,
        keep_cotangents: bool = False,
    ) -> MixedGradient:
        """The losses and the field of Eqs. 5-6 at `weights`.

        Args:
            weights: a vector in the order of `layout`.
            images: (B, C, H, W).
            targets: smoothed labels, (B, classes).
            abar, bbar: shares, (L-1, 2) and (L-1, M).
            scales: (L-1,) of `head_scaling` "released".
            keep_cotangents: keep those that arrive at the gates; `shares_only` needs them.
        """
        run = self._run(1, images, weights)
        self.parts.set_gates(run, abar, scales, keep=keep_cotangents)
        if scales is not None:
            self.parts.set_factors(abar[:, 0])
        return self._gradient(run, weights, targets, bbar)

    def mixture_gradient(
        self,
        weights: Tensor,
        images: Tensor,
        targets: Tensor,
        coefficients: Tensor,
        bbar: Tensor,
        scales: Tensor | None = None,
    ) -> MixedGradient:
        """The losses and the ordinary gradient of their sum with `coefficients` (L,); else as `mixed_gradient`."""
        run = self._run(1, images, weights)
        self.parts.set_gates(run, None, scales)
        self.parts.set_factors(coefficients[:-1])
        return self._gradient(run, weights, targets, bbar, coefficients[-1])

    def directional(
        self,
        weights: Tensor,
        direction: Tensor,
        images: Tensor,
        targets: Tensor,
        abar: Tensor,
        bbar: Tensor,
        scales: Tensor | None = None,
    ) -> Directional:
        """The gradient of S = <G(weights, abar, bbar), direction>; arguments as in `mixed_gradient`."""
        run = self._run(2, images, weights, direction)
        gradient = self.vector(weights)
        run.gradient = self.layout.pieces(gradient)
        to_abar = self.parts.set_gates(run, abar, scales)
        if scales is not None:
            self.parts.set_factors(abar[:, 0])
        _, to_bbar = self.parts.forward(run, targets, bbar)
        self.parts.backward(run)
        return Directional(gradient, to_abar, to_bbar)

    def shares_only(
        self,
        weights: Tensor,
        direction: Tensor,
        images: Tensor,
        targets: Tensor,
        abar: Tensor,
        bbar: Tensor,
        scales: Tensor | None,
        cotangents: list[tuple[Tensor, Tensor]],
    ) -> Directional:
        """`directional` without `to_weights`: a forward pass alone, S being linear in each share.

        `cotangents` is what `take_cotangents` gave after `mixed_gradient` at the same weights and batch.
        """
        run = self._run(2, images, weights, direction)
        run.backward = False
        to_abar = self.parts.set_gates(run, abar, scales)
        if scales is not None:
            self.parts.set_factors(abar[:, 0])
        _, to_bbar = self.parts.forward(run, targets, bbar, cotangents=cotangents)
        self.parts.release(run)
        return Directional(None, to_abar, to_bbar)

    def take_cotangents(self) -> list[tuple[Tensor, Tensor]]:
        """Cotangents at the gates to heads and next layer, (1, B, H, W, C) each, one pair a layer but the last."""
        pairs = [layer.gates for layer in self.parts.layers[:-1]]
        kept = [(to_heads.cotangents, onward.cotangents) for to_heads, onward in pairs]
        for gate in itertools.chain(*pairs):
            gate.cotangents = None
        return kept

    def classifier_gradient(self, weights: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the classifier alone, with batch statistics, and its gradient (zero for the heads)."""
        run = self._run(1, images, weights)
        gradient = self.vector(weights).zero_()
        run.gradient = self.layout.pieces(gradient)
        run.store = False  # the outer batch is the largest
        self.parts.set_gates(run, None, None)
        losses, _ = self.parts.forward(run, targets, None)
        self.parts.backward(run)
        return losses[-1], gradient

    def vector(self, like: Tensor) -> Tensor:
        """A vector of parameters, not initialised; `recycle` takes it back when nobody reads it any more."""
        return self.workspace.take((self.layout.size,), like)

    def recycle(self, *vectors: Tensor) -> None:
        """Keep the memory of vectors that this program gave out for later passes."""
        for vector in vectors:
            self.workspace.give(vector)

    # -- their parts ---------------------------------------------------------------------------------------------

    def _run(self, k: int, images: Tensor, weights: Tensor, direction: Tensor | None = None) -> Run:
        self.parts.images.pictures = images.permute(0, 2, 3, 1).contiguous()[None]
        chunk = CHUNK if weights.device.type == "cpu" else WHOLE
        pieces = [None if vector is None else self.layout.pieces(vector) for vector in (weights, direction)]
        return Run(k, len(images), *pieces, chunk=chunk, workspace=self.workspace)

    def _gradient(
        self, run: Run, weights: Tensor, targets: Tensor, bbar: Tensor, factor: Tensor | None = None
    ) -> MixedGradient:
        """A plain pass; `factor` on the classifier's loss."""
        gradient = self.vector(weights)
        run.gradient = self.layout.pieces(gradient)
        statistics = weights.new_empty(2, self.layout.statistics_size)
        run.statistics = tuple(map(self.layout.split_statistics, statistics))
        losses, to_bbar = self.parts.forward(run, targets, bbar, factor)
        self.parts.backward(run)
        return MixedGradient(losses, gradient, statistics, to_bbar)
