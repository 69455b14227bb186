"""The relaxed network as a program with three passes: mixed gradient, its directional derivative, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sedona_nb.lean.head_group import HeadGroup
from sedona_nb.lean.nodes import Gate, Images, Junction, Run, Unit, Workspace
from sedona_nb.lean.parameters import Layout
from sedona_nb.lean.reading import Reader
from sedona_nb.relaxed import RelaxedNetwork

CHUNK = 1 << 18  # numbers a chunk holds on a CPU: a megabyte in float32, to stay in cache
WHOLE = 1 << 62  # on a GPU a batch is one chunk


@dataclass
class Layer:
    """One layer of the base network with what hangs on it."""

    nodes: list[Unit | Junction]
    output: Junction
    heads: HeadGroup | None  # None: the last layer
    onward: Gate | None  # what the next layer sees
    ranges: tuple[slice, slice]  # of its own and of its heads' weights in the vector


class MixedGradient(NamedTuple):
    """What a plain pass leaves.

    losses (L,); gradient, a vector; statistics (2, ...) means and unbiased variances of all BatchNorms; to_bbar
    (L-1, M), the derivative of each layer's loss with respect to its mixture.
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

    Raises:
        SedonaError: a layer that no node stands for (which one, and which backend takes it).
    """

    def __init__(self, relaxed: RelaxedNetwork, picture: tuple[int, int, int]):
        channels, height, width = picture
        self.layout = Layout(relaxed)
        reader = Reader(self.layout)
        self.images = Images((height, width, channels))
        self.workspace = Workspace()
        self.layers: list[Layer] = []
        source = self.images
        for index, module in enumerate(relaxed.layers):
            start = self.layout.size
            nodes, end = reader.layer(module, source)
            output = Junction(end, keep=not isinstance(end, Unit))
            middle = self.layout.size
            heads = onward = None
            if index < len(relaxed.heads):
                heads, onward = reader.heads(relaxed.heads[index], Gate(output)), Gate(output)
            ranges = slice(start, middle), slice(middle, self.layout.size)
            self.layers.append(Layer(nodes, output, heads, onward, ranges))
            source = onward
        start = self.layout.size
        self.last_nodes, self.classifier = reader.classifier(relaxed.classifier, output)
        self.classifier_range = slice(start, self.layout.size)

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.classifier.steps[-1][-1].shape[0]

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
        run.gradient = self.vector(weights)
        run.statistics = weights.new_empty(2, self.layout.statistics_size)
        self._set_gates(run, abar, scales, keep_cotangents)
        losses, to_bbar = self._forward(run, targets, bbar)
        self._backward(run)
        return MixedGradient(torch.stack(losses), run.gradient, run.statistics, torch.stack(to_bbar))

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
        run.gradient = self.vector(weights)
        self._set_gates(run, abar, scales)
        _, to_bbar = self._forward(run, targets, bbar)
        self._backward(run)
        shares = [torch.stack([layer.heads.gate.to_share, layer.onward.to_share]) for layer in self.layers[:-1]]
        return Directional(run.gradient, torch.stack(shares), torch.stack(to_bbar))

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
        self._set_gates(run, abar, scales)
        _, to_bbar = self._forward(run, targets, bbar, cotangents)
        for layer in self.layers:
            for node in (*layer.nodes, layer.output):
                node.release(run)
        for node in self.last_nodes:
            node.release(run)
        shares = [torch.stack([layer.heads.gate.to_share, layer.onward.to_share]) for layer in self.layers[:-1]]
        return Directional(None, torch.stack(shares), torch.stack(to_bbar))

    def take_cotangents(self) -> list[tuple[Tensor, Tensor]]:
        """Cotangents at the gates to heads and next layer, (1, B, H, W, C) each, one pair a layer but the last."""
        kept = [(layer.heads.gate.cotangents, layer.onward.cotangents) for layer in self.layers[:-1]]
        for layer in self.layers[:-1]:
            layer.heads.gate.cotangents = layer.onward.cotangents = None
        return kept

    def classifier_gradient(self, weights: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the classifier alone, with batch statistics, and its gradient (zero for the heads)."""
        run = self._run(1, images, weights)
        run.gradient = self.vector(weights).zero_()
        run.store = False  # the outer batch is the largest
        self._set_gates(run, None, None)
        losses, _ = self._forward(run, targets, None)
        self._backward(run)
        return losses[-1], run.gradient

    def vector(self, like: Tensor) -> Tensor:
        """A vector of parameters, not initialised; `recycle` takes it back when nobody reads it any more."""
        return self.workspace.take((self.layout.size,), like)

    def recycle(self, *vectors: Tensor) -> None:
        """Keep the memory of vectors that this program gave out for later passes."""
        for vector in vectors:
            self.workspace.give(vector)

    # -- their parts ---------------------------------------------------------------------------------------------

    def _run(self, k: int, images: Tensor, weights: Tensor, direction: Tensor | None = None) -> Run:
        self.images.pictures = images.permute(0, 2, 3, 1).contiguous()[None]
        chunk = CHUNK if weights.device.type == "cpu" else WHOLE
        return Run(k, len(images), weights, direction, chunk=chunk, workspace=self.workspace)

    def _set_gates(self, run: Run, abar: Tensor | None, scales: Tensor | None, keep: bool = False) -> None:
        for index, layer in enumerate(self.layers[:-1]):
            for column, gate in enumerate((layer.heads.gate, layer.onward)):
                released = scales is not None and column == 0
                gate.share = None if abar is None or released else abar[index, column]
                gate.scale = scales[index] if released else None
                gate.to_share = run.weights.new_zeros(())
                gate.cotangents = run.take(gate.shape).zero_() if keep else None
            layer.heads.scale = None if scales is None else scales[index]
            layer.heads.share = None if scales is None else abar[index, 0]

    def _forward(
        self,
        run: Run,
        targets: Tensor,
        bbar: Tensor | None,
        cotangents: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers upwards, heads included unless `bbar` is None: the losses, and their derivatives to bbar."""
        losses, to_bbar = [], []
        for index, layer in enumerate(self.layers):
            for node in (*layer.nodes, layer.output):
                node.forward(run)
            if layer.heads is None:
                break
            if bbar is not None:
                loss, to_mixture = layer.heads.run(run, targets, bbar[index])
                losses.append(loss)
                to_bbar.append(to_mixture)
            if cotangents is not None:
                self._pair_up(run, layer, cotangents[index])
        for node in self.last_nodes:
            node.forward(run)
        losses.append(self.classifier.run(run, targets))
        return losses, to_bbar

    def _pair_up(self, run: Run, layer: Layer, cotangents: tuple[Tensor, Tensor]) -> None:
        """Derivatives to both shares of a layer: its tangents times the cotangents of the plain pass."""
        for part in run.parts(layer.output):
            tangent = layer.output.value(run, part)[1]
            for gate, kept in zip((layer.heads.gate, layer.onward), cotangents, strict=True):
                if gate.share is not None:
                    gate.to_share += (tangent * kept[0, part]).sum()

    def _backward(self, run: Run) -> None:
        for node in reversed(self.last_nodes):
            node.backward(run)
        for layer in reversed(self.layers):
            for node in reversed((*layer.nodes, layer.output)):
                node.backward(run)
