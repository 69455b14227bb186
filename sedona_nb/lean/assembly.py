"""The nodes of a relaxed network in order, and the ways up and down through them that every pass is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sedona_nb.heads import MixedHead
from sedona_nb.lean.gates import Gate
from sedona_nb.lean.head_group import HeadGroup
from sedona_nb.lean.junctions import Junction
from sedona_nb.lean.nodes import Images, Run, Unit
from sedona_nb.lean.parameters import Layout
from sedona_nb.lean.reading import Reader
from sedona_nb.relaxed import RelaxedNetwork

TOGETHER = 4096  # numbers in a layer's output up to which its heads go together with those of the next layer


@dataclass
class Layer:
    """One layer of the base network with what hangs on it."""

    nodes: list[Unit | Junction]
    output: Junction
    to_heads: Gate | None = None  # what its heads see; None: the last layer
    onward: Gate | None = None  # what the next layer sees
    heads: HeadGroup | None = None  # to be run here: those of this layer and of `len(gates) - 1` below it

    @property
    def gates(self) -> tuple[Gate | None, Gate | None]:
        """In the order of the columns of alpha."""
        return self.to_heads, self.onward


class Assembly:
    """Layers, heads and classifier of a relaxed network, connected.

    Args:
        relaxed: the network.
        picture: (C, H, W) of the pictures.
        layout: where its parameters are entered.
        dtype: in which its convolutions are computed; None: that of the weights.

    Attributes:
        images: where the pictures of a pass are put.
        layers: from below.
        last_nodes, classifier: behind the last layer.

    Raises:
        SedonaError: a layer that no node stands for (which one, and which backend takes it).
    """

    def __init__(
        self,
        relaxed: RelaxedNetwork,
        picture: tuple[int, int, int],
        layout: Layout,
        dtype: torch.dtype | None = None,
    ):
        channels, height, width = picture
        reader = Reader(layout, dtype)
        self.images = Images((height, width, channels))
        self.layers: list[Layer] = []
        source = self.images
        waiting: list[MixedHead] = []  # heads of the layers just read, all alike
        for index, module in enumerate(relaxed.layers):
            nodes, end = reader.layer(module, source)
            layer = Layer(nodes, Junction(end, keep=not isinstance(end, Unit)))
            mixed = relaxed.heads[index] if index < len(relaxed.heads) else None
            if waiting and not (mixed is not None and self._alike(layer, mixed, waiting[-1])):
                self._attach(reader, waiting)
                waiting = []
            self.layers.append(layer)
            if mixed is not None:
                waiting.append(mixed)
                layer.to_heads, layer.onward = Gate(layer.output), Gate(layer.output)
            source = layer.onward
        self.last_nodes, self.classifier = reader.classifier(relaxed.classifier, layer.output)

    def _alike(self, layer: Layer, mixed: MixedHead, below: MixedHead) -> bool:
        """Whether a layer's heads can and should go together with those of the layer below it."""
        shape = layer.output.shape
        return prod(shape) <= TOGETHER and shape == self.layers[-1].output.shape and repr(mixed) == repr(below)

    def _attach(self, reader: Reader, mixed: list[MixedHead]) -> None:
        """Heads for the layers read last."""
        self.layers[-1].heads = reader.heads(mixed, [layer.to_heads for layer in self.layers[-len(mixed) :]])

    def set_gates(self, run: Run, abar: Tensor | None, scales: Tensor | None, keep: bool = False) -> Tensor:
        """Shares and scales for one pass; returns where gates add derivatives to the shares, (L-1, 2)."""
        to_abar = run.weights[0].new_zeros(len(self.layers) - 1, 2)
        for index, layer in enumerate(self.layers[:-1]):
            for column, gate in enumerate(layer.gates):
                released = scales is not None and column == 0
                gate.share = None if abar is None or released else abar[index, column]
                gate.scale = scales[index] if released else None
                gate.to_share = to_abar[index, column]
                gate.cotangents = run.take(gate.shape).zero_() if keep else None
        for rows, group in self.groups():
            group.scales, group.factors = None if scales is None else scales[rows], None
        return to_abar

    def set_factors(self, factors: Tensor) -> None:
        """Factors (L-1,) on the losses of the heads for one pass."""
        for rows, group in self.groups():
            group.factors = factors[rows]

    def groups(self) -> Iterator[tuple[slice, HeadGroup]]:
        """Groups of heads from below, and the rows of alpha and beta that are theirs."""
        for last, layer in enumerate(self.layers):
            if layer.heads is not None:
                yield slice(last + 1 - len(layer.heads.gates), last + 1), layer.heads

    def forward(
        self,
        run: Run,
        targets: Tensor,
        bbar: Tensor | None,
        factor: Tensor | None = None,
        cotangents: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """All layers upwards, heads included unless `bbar` is None: the losses, and their derivatives to bbar."""
        losses, to_bbar = [], []
        groups = {rows.stop - 1: (rows, group) for rows, group in self.groups()} if bbar is not None else {}
        for index, layer in enumerate(self.layers):
            for node in (*layer.nodes, layer.output):
                node.forward(run)
            if cotangents is not None and layer.to_heads is not None:
                self._pair_up(run, layer, cotangents[index])
            if index in groups:
                rows, group = groups[index]
                loss, to_mixture = group.run(run, targets, bbar[rows])
                losses.append(loss)
                to_bbar.append(to_mixture)
        for node in self.last_nodes:
            node.forward(run)
        losses.append(self.classifier.run(run, targets, factor)[None])
        return torch.cat(losses), torch.cat(to_bbar) if to_bbar else None

    def _pair_up(self, run: Run, layer: Layer, cotangents: tuple[Tensor, Tensor]) -> None:
        """Derivatives to both shares of a layer: its tangents times the cotangents of the plain pass."""
        for part in run.parts(layer.output):
            tangent = layer.output.value(run, part)[1]
            for gate, kept in zip(layer.gates, cotangents, strict=True):
                if gate.share is not None:
                    gate.to_share += (tangent * kept[0, part]).sum()

    def backward(self, run: Run) -> None:
        """All layers downwards; heads went theirs when they were visited."""
        for node in reversed(self.last_nodes):
            node.backward(run)
        for layer in reversed(self.layers):
            for node in reversed((*layer.nodes, layer.output)):
                node.backward(run)

    def release(self, run: Run) -> None:
        """All layers give memory back, in place of `backward`."""
        for layer in self.layers:
            for node in (*layer.nodes, layer.output):
                node.release(run)
        for node in self.last_nodes:
            node.release(run)
