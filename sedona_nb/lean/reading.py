"""From modules to nodes: how layers and heads of a relaxed network are translated into a program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import nn

from sedona_nb.errors import SedonaError
from sedona_nb.heads import InvertedResidual, MixedHead
from sedona_nb.lean.classifier import Classifier
from sedona_nb.lean.convolutions import Bilinear, Pointwise, PointwiseGroups, Reduced, choose
from sedona_nb.lean.gates import Channels, Gate, Stack
from sedona_nb.lean.head_group import HeadGroup
from sedona_nb.lean.junctions import Junction, MaxPool, Residual, Selection
from sedona_nb.lean.nodes import Source, Unit
from sedona_nb.lean.parameters import Layout, Slot
from sedona_nb.lean.tails import Tail
from sedona_nb.networks import Residual as ResidualBlock


def unknown(part: nn.Module) -> NoReturn:
    """Refuse a module that no node stands for.

    Raises:
        SedonaError: always.
    """
    text = type(part).__name__ if list(part.children()) else repr(part)
    raise SedonaError(
        f"backend 'adjoint' does not know the layer {text}; backends 'functional' and 'higher' take any layer"
    )


@dataclass(frozen=True)
class HeadParts:
    """An Aux head taken apart."""

    stem: tuple[tuple[nn.Conv2d, nn.BatchNorm2d], ...]  # pointwise, depthwise; a ReLU behind each
    stages: tuple[InvertedResidual, ...]
    tail: tuple[nn.Conv2d, nn.BatchNorm2d]
    classifier: nn.Linear

    @classmethod
    def of(cls, head: nn.Module) -> HeadParts:
        """Take an Aux head of `heads.build_head` apart."""
        parts = list(head) if isinstance(head, nn.Sequential) else []
        stages = tuple(part for part in parts if isinstance(part, InvertedResidual))
        kinds = [type(part) for part in parts if not isinstance(part, InvertedResidual)]
        unit = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        if kinds != [*unit, *unit, *unit, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]:
            unknown(head)
        rest = [part for part in parts if not isinstance(part, InvertedResidual)]
        return cls(((rest[0], rest[1]), (rest[3], rest[4])), stages, (rest[6], rest[7]), rest[-1])


@dataclass
class Reader:
    """Translates modules into nodes and lays out their parameters on the way.

    Attributes:
        layout: where parameters are entered.
        dtype: in which units convolve, see `convolutions.Reduced`; None: that of the weights.
    """

    layout: Layout
    dtype: torch.dtype | None = None

    def layer(self, module: nn.Module, source: Source) -> tuple[list[Unit | Junction], Source]:
        """A layer of the base network: its nodes in order, and its output."""
        nodes: list[Unit | Junction] = []
        parts = list(module) if isinstance(module, nn.Sequential) else [module]
        while parts:
            part = parts.pop(0)
            if isinstance(part, nn.Sequential):
                parts = [*part, *parts]
            elif isinstance(part, nn.Conv2d):
                norm = parts.pop(0) if parts else part
                relu = bool(parts) and isinstance(parts[0], nn.ReLU)
                parts = parts[relu:]
                source = self.unit([(part, norm)], relu, source)
                nodes.append(source)
            elif isinstance(part, nn.MaxPool2d | ResidualBlock):
                if isinstance(part, nn.MaxPool2d):
                    source = self.pool(part, source)
                else:
                    if isinstance(source, Unit):  # body and shortcut both read it
                        source = Junction(source)
                        nodes.append(source)
                    inside, source = self.residual(part, source)
                    nodes += inside
                if parts:
                    source = Junction(source, keep=True)
                    nodes.append(source)
            else:
                unknown(part)
        return nodes, source

    def residual(self, block: ResidualBlock, source: Source) -> tuple[list[Unit | Junction], Source]:
        """A residual block of a ResNet."""
        nodes, body = self.layer(block.body, source)
        shortcut = source
        if not isinstance(block.shortcut, nn.Identity):
            inside, shortcut = self.layer(block.shortcut, source)
            nodes += inside
        return nodes, Residual(body, shortcut, relu=True)

    def pool(self, part: nn.MaxPool2d, source: Source) -> MaxPool:
        """Max-pooling with square windows."""
        kernel, stride, padding = part.kernel_size, part.stride, part.padding
        if not all(isinstance(value, int) for value in (kernel, stride, padding)) or part.ceil_mode:
            unknown(part)
        height, width, channels = source.shape
        outside = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
        return MaxPool(source, kernel, stride, padding, (*outside, channels))

    def unit(
        self, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]], relu: bool, source: Source, groups: int = 1
    ) -> Unit:
        """Convolutions side by side, each with its BatchNorm.

        Several ones must have the same form. They fall into `groups` of the same size, one after the other, each
        of which reads channels of its own.
        """
        for conv, norm in pairs:
            self._check(conv, norm)
        first = pairs[0][0]
        kernel, stride, padding = first.kernel_size[0], first.stride[0], first.padding[0]
        height, width, channels = source.shape
        count, out = len(pairs), sum(conv.out_channels for conv, _ in pairs)
        depthwise = first.groups == first.in_channels == first.out_channels and kernel > 1
        within = channels if depthwise else first.groups
        bilinear: Bilinear = choose(kernel, stride, padding, within, channels, height * width)
        shape: tuple[int, ...] = (out, first.in_channels // first.groups, kernel, kernel)
        if isinstance(bilinear, Pointwise):
            shape = shape[:2]
            if groups > 1:
                bilinear, shape = PointwiseGroups(), (groups, out // groups, first.in_channels)
        elif count > 1 and not depthwise:
            unknown(first)
        bilinear = bilinear if self.dtype is None else Reduced(bilinear, self.dtype)
        weight = self.layout.slot([conv.weight for conv, _ in pairs], shape)
        norms = [norm for _, norm in pairs]
        outside = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
        return Unit(source, bilinear, weight, *self.affine(norms, (out,)), norms[0].eps, relu, (*outside, out))

    def affine(self, norms: Sequence[nn.BatchNorm2d], shape: tuple[int, ...]) -> tuple[Slot, Slot, Slot]:
        """Where gamma, beta and the statistics of BatchNorms side by side lie; gamma and beta seen in `shape`."""
        gamma = self.layout.slot([norm.weight for norm in norms], shape)
        return gamma, self.layout.slot([norm.bias for norm in norms], shape), self.layout.statistics(norms)

    def heads(self, mixed: Sequence[MixedHead], gates: list[Gate]) -> HeadGroup:
        """All heads of some layers whose heads are alike, see `head_group`."""
        layers = len(gates)
        rows = [[HeadParts.of(head) for head in one.heads] for one in mixed]
        order = sorted(range(len(rows[0])), key=lambda column: len(rows[0][column].stages))
        rows = [[row[column] for column in order] for row in rows]
        nodes: list[Unit | Junction] = []
        source: Source = gates[0] if layers == 1 else Stack(gates)
        for position in range(2):
            source = self.unit([head.stem[position] for row in rows for head in row], True, source, layers)
            nodes.append(source)
        places: list[int] = []  # of each head in the layers' rows of beta one after the other
        ends: list[tuple[list[HeadParts], Channels]] = []
        first = 0  # of the heads that are still going
        for stage in range(len(rows[0][-1].stages) + 1):
            junction = Junction(source, keep=True)
            nodes.append(junction)
            going = len(order) - first
            width = junction.shape[2] // (layers * going)
            done = sum(len(head.stages) == stage for head in rows[0])
            leaving = slice(first, first + done)
            first += done
            if done:
                through = [head for row in rows for head in row[leaving]]
                ends.append((through, Channels(junction, Selection(layers, 0, done * width))))
                places += [layer * len(order) + column for layer in range(layers) for column in order[leaving]]
            if done < going:
                entry = Channels(junction, Selection(layers, done * width, going * width))
                blocks = [head.stages[stage] for row in rows for head in row[first:]]
                units, source = self.inverted_residuals(blocks, entry)
                nodes += units
        tails = [self.tail(list(alike)) for _, alike in itertools.groupby(ends, _form)]
        linears = [head.classifier for heads, _ in ends for head in heads]
        shape = (len(linears), linears[0].out_features, linears[0].in_features)
        weight = self.layout.slot([linear.weight for linear in linears], shape)
        bias = self.layout.slot([linear.bias for linear in linears], shape[:2])
        return HeadGroup(gates, nodes, tails, places, weight, bias)

    def inverted_residuals(self, blocks: list[InvertedResidual], entry: Channels) -> tuple[list[Unit], Source]:
        """The same stage of several heads."""
        units: list[Unit] = []
        source: Source = entry
        for position, relu in ((0, True), (3, True), (6, False)):
            pairs = [(block.body[position], block.body[position + 1]) for block in blocks]
            source = self.unit(pairs, relu, source, groups=len(pairs))
            units.append(source)
        return units, Residual(source, entry, relu=False) if blocks[0].residual else source

    def tail(self, ends: list[tuple[list[HeadParts], Channels]]) -> Tail:
        """The last convolutions of heads whose inputs have the same shape."""
        pairs = [head.tail for heads, _ in ends for head in heads]
        for conv, norm in pairs:
            self._check(conv, norm)
        count, channels, width = len(pairs), pairs[0][0].out_channels, pairs[0][0].in_channels
        weight = self.layout.slot([conv.weight for conv, _ in pairs], (count, channels, width))
        affine = self.affine([norm for _, norm in pairs], (count, channels))
        counts = [len(heads) for heads, _ in ends]
        return Tail([source for _, source in ends], counts, weight, *affine, pairs[0][1].eps, channels)

    def classifier(self, module: nn.Module, source: Source) -> tuple[list[Unit | Junction], Classifier]:
        """The last layer's head; poolings that open it become nodes."""
        parts = list(module) if isinstance(module, nn.Sequential) else [module]
        nodes: list[Unit | Junction] = []
        while parts and isinstance(parts[0], nn.MaxPool2d):
            source = Junction(self.pool(parts.pop(0), source), keep=True)
            nodes.append(source)
        steps: list[tuple] = []
        for part in parts:
            if isinstance(part, nn.AdaptiveAvgPool2d):
                steps.append(("pool", part.output_size))
            elif isinstance(part, nn.Flatten):
                steps.append(("flatten",))
            elif isinstance(part, nn.ReLU):
                steps.append(("relu",))
            elif isinstance(part, nn.Linear) and part.bias is not None:
                shape = (part.out_features, part.in_features)
                weight = self.layout.slot([part.weight], shape)
                steps.append(("linear", weight, self.layout.slot([part.bias], shape[:1])))
            elif not (isinstance(part, nn.Dropout) and part.p == 0):
                unknown(part)
        return nodes, Classifier(source, steps)

    @staticmethod
    def _check(conv: nn.Module, norm: nn.Module) -> None:
        """Refuse what a `Unit` does not compute."""
        if not isinstance(conv, nn.Conv2d):
            unknown(conv)
        plain = isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats
        if not plain or norm.momentum != 0.1:
            unknown(norm)
        square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
        if not square or conv.dilation[0] != 1 or conv.bias is not None or conv.padding_mode != "zeros":
            unknown(conv)


def _form(end: tuple[list[HeadParts], Channels]) -> tuple[int, ...]:
    """Shape of the maps that each of these heads' tails read."""
    heads, source = end
    return (*source.shape[:2], heads[0].tail[0].in_channels)
