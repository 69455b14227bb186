"""Seconds a batch takes in each layer and each possible head: the times of any decoupling's blocks are their sums.

    times = layer_times.measure(NetworkConfig("resnet101", width=1.0), 1000, 224, batch_size=8)
    blocks = times.of(Decoupling.published("resnet101", 4))      # BlockTimes, for `schedule`

Layers of the same form on maps of the same size are timed once: ResNet-152 has 50 layers of 13 kinds. Random
pictures and weights: only shapes matter. A real step of VGG-19 (0.25x, batch 128) takes 1.1 to 1.2 times the sum
of its parts: its batch has to be made, and its maps are no longer in cache when the way back asks for them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb.costs import build_on_meta
from sedona_nb.decoupling import Decoupling
from sedona_nb.devices import synchronize
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HeadConfig, build_head
from sedona_nb.losses import cross_entropy
from sedona_nb.networks import NetworkConfig
from sedona_nb.schedule import BlockTimes

FLOAT = 4  # bytes
BANDWIDTH = 10e9  # bytes a second between two devices: a PCIe 3 slot at two thirds of what it promises
HEADS = ("aux1", "aux2", "aux3", "aux4", "mlp-sr")


@dataclass(frozen=True)
class LayerTimes:
    """Seconds a batch; L layers.

    Attributes:
        batch_size: pictures.
        forward: (L,).
        backward: (L,), with the cotangent of the layer's input.
        backward_alone: (L,), without: for the first layer of a block.
        update: (L,), of the optimiser, SGD with momentum.
        heads: forward, backward, loss and update of a head behind each layer but the last, by name, (L-1,) each.
        classifier: the same of the classifier.
        outputs: numbers in a picture's map behind each layer but the last, (L-1,).
    """

    batch_size: int
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    backward_alone: tuple[float, ...]
    update: tuple[float, ...]
    heads: dict[str, tuple[float, ...]]
    classifier: float
    outputs: tuple[int, ...]

    def block(self, first: int, last: int, head: str | None, bandwidth: float = BANDWIDTH) -> BlockTimes:
        """Layers `first` to `last` (1-based) with a head, or with the classifier (None).

        Args:
            first, last: of the block.
            head: a key of `heads`; None if `last` is L.
            bandwidth: bytes a second to the next device.

        Raises:
            SedonaError: times of such a head were not taken.
        """
        if head is not None and head not in self.heads:
            raise SedonaError(f"no times of head {head!r}; there are {', '.join(self.heads)}")
        inside = slice(first - 1, last)
        return BlockTimes(
            forward=sum(self.forward[inside]),
            backward=self.backward_alone[first - 1] + sum(self.backward[first:last]),
            head=self.classifier if head is None else self.heads[head][last - 1],
            update=sum(self.update[inside]),
            transfer=0.0 if head is None else FLOAT * self.batch_size * self.outputs[last - 1] / bandwidth,
            through=0.0 if first == 1 else self.backward[first - 1] - self.backward_alone[first - 1],
        )

    def of(self, decoupling: Decoupling, bandwidth: float = BANDWIDTH) -> list[BlockTimes]:
        """Of every block.

        Raises:
            SedonaError: another number of layers, or as `block`.
        """
        if decoupling.num_layers != len(self.forward):
            raise SedonaError(f"times of {len(self.forward)} layers for {decoupling.num_layers} layers")
        pairs = zip(decoupling.blocks, (*decoupling.heads, None), strict=True)
        return [self.block(first, last, head, bandwidth) for (first, last), head in pairs]

    def backprop(self) -> float:
        """One step of end-to-end backpropagation on one device."""
        inner = sum(self.forward) + self.backward_alone[0] + sum(self.backward[1:])
        return inner + sum(self.update) + self.classifier


def counted(
    network: NetworkConfig,
    num_classes: int,
    image_size: int,
    count: Callable[[nn.Module, tuple[int, int, int]], int],
    in_channels: int = 3,
    config: HeadConfig | None = None,
) -> LayerTimes:
    """Times if a device took as long as `count` says, for one picture; the unit does not matter for a speed-up.

    Args:
        network: the base network.
        num_classes, image_size, in_channels: of the data set.
        count: of a part and the (C, H, W) of its input: `costs.multiply_accumulates` (a device that computes),
            `costs.traffic` (one that moves numbers). A backward pass counts as two forward passes, an update not.
        config: of the heads.
    """

    def head(name: str, shape: tuple[int, int, int]) -> float:
        made = build_on_meta(lambda: build_head(name, *shape[:2], num_classes, network.width, config))
        return 3.0 * count(made, shape)

    base = build_on_meta(lambda: network.build(num_classes, image_size, in_channels))
    *shapes, last = [(channels, size, size) for channels, size, _ in base.cut_shapes]
    inputs = [(in_channels, image_size, image_size), *shapes]
    forward = tuple(float(count(layer, shape)) for layer, shape in zip(base.layers, inputs, strict=True))
    twice = tuple(2 * value for value in forward)
    known = {(name, shape): head(name, shape) for name in HEADS for shape in set(shapes)}
    return LayerTimes(
        1,
        forward,
        twice,
        twice,
        (0.0,) * len(forward),
        heads={name: tuple(known[name, shape] for shape in shapes) for name in HEADS},
        classifier=3.0 * count(base.classifier, last),
        outputs=tuple(channels * size**2 for channels, size, _ in shapes),
    )


def measure(
    network: NetworkConfig,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    batch_size: int = 128,
    config: HeadConfig | None = None,
    device: torch.device | str = "cpu",
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> LayerTimes:
    """Time every kind of layer and head.

    Args:
        network: the base network.
        num_classes, image_size, in_channels: of the data set.
        batch_size: pictures.
        config: of the heads.
        device: where.
        rounds: of which the median counts, after one that does not.
        clock: seconds; `time.process_time` is steadier on a busy machine, with one thread.
    """
    device = torch.device(device)
    base = network.build(num_classes, image_size, in_channels, seed=0).to(
        device, memory_format=torch.channels_last
    )
    base.train()
    watch = _Watch(device, rounds, clock)
    labels = torch.randint(num_classes, (batch_size,), device=device)
    x = torch.randn(batch_size, in_channels, image_size, image_size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    rows: list[tuple[float, float, float, float]] = []
    heads: dict[str, list[float]] = {name: [] for name in HEADS}
    for layer in base.layers:
        rows.append(watch.layer(layer, x))
        with torch.no_grad():
            x = layer(x)
        if len(rows) < len(base.layers):
            for name in HEADS:
                seconds = watch.known.get((name, x.shape))
                if seconds is None:
                    head = build_head(name, x.shape[1], x.shape[2], num_classes, network.width, config, seed=0)
                    seconds = watch.known[name, x.shape] = watch.head(head.to(device).train(), x, labels)
                heads[name].append(seconds)
    columns = zip(*rows, strict=True)
    return LayerTimes(
        batch_size,
        *(tuple(column) for column in columns),
        heads={name: tuple(values) for name, values in heads.items()},
        classifier=watch.head(base.classifier, x, labels),
        outputs=tuple(channels * size**2 for channels, size, _ in base.cut_shapes[:-1]),
    )


class _Watch:
    """Times parts of a network; what it has seen before it does not time again."""

    def __init__(self, device: torch.device, rounds: int, clock: Callable[[], float]):
        self.device, self.rounds, self.clock = device, rounds, clock
        self.known: dict[tuple, tuple[float, float, float, float] | float] = {}

    def layer(self, layer: nn.Module, x: Tensor) -> tuple[float, float, float, float]:
        """Forward, backward with and without the cotangent of x, update."""
        key = repr(layer), x.shape
        if key not in self.known:
            weights = list(layer.parameters())
            optimizer = torch.optim.SGD(weights, 1e-9, 0.9, fused=True)
            leaf = x.detach().requires_grad_()
            g = torch.randn_like(layer(x))
            found = []
            for _ in range(self.rounds + 1):
                forward, y = self.once(lambda: layer(leaf))
                backward, _ = self.once(lambda y=y: torch.autograd.grad(y, [leaf, *weights], g))
                y = layer(x.detach())
                alone, gradients = self.once(lambda y=y: torch.autograd.grad(y, weights, g))
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                found.append((forward, backward, alone, self.once(optimizer.step)[0]))
            self.known[key] = tuple(statistics.median(column) for column in zip(*found[1:], strict=True))
        return self.known[key]

    def head(self, head: nn.Module, x: Tensor, labels: Tensor) -> float:
        """One local step, as seen from the block's output x."""
        optimizer = torch.optim.SGD(head.parameters(), 1e-9, 0.9, fused=True)
        leaf = x.detach().requires_grad_()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            leaf.grad = None
            cross_entropy(head(leaf), labels).backward()
            optimizer.step()

        return statistics.median([self.once(step)[0] for _ in range(self.rounds + 1)][1:])

    def once(self, work: Callable[[], object]) -> tuple[float, object]:
        """Seconds, and what came out."""
        synchronize(self.device)
        began = self.clock()
        found = work()
        synchronize(self.device)
        return self.clock() - began, found
