"""How much a run computes, counted on shapes before it starts: the same unit for every network and method.

    units = work.of(spec, work.sizes("cifar10-jpeg"))       # a number; seconds are a device's rate times this

The unit is a multiply-accumulate of a convolution on one core. Other things take their time as well, so an
element that enters a BatchNorm counts `NORM` units, one that enters a ReLU or a pooling `OTHER`, and each part of
a network that a batch passes `CALL`, however small the batch is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from sedona_nb.costs import PARTS, build_on_meta, multiply_accumulates
from sedona_nb.data import Pictures
from sedona_nb.footprint import SIZES, PictureSizes
from sedona_nb.heads import HEADS, NO_HEAD, HeadConfig, build_head
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec, SearchSpec
from sedona_nb.training import EVALUATION_BATCH

# Fitted to the recorded layer times of four networks (batches of 128 at 32 pixels, of 8 at 224; one core): counted
# so, the networks' seconds a unit differ by a factor of 1.4, with all heads on all layers of 1.7; counted in
# multiply-accumulates alone, of 2.4 and 5.7.
NORM, OTHER = 80, 40
CALL = 3_000_000  # some 50 microseconds; steps of networks 1/32 as wide consist of little else
BACKWARD = 2  # forward passes that a backward pass takes
TESTED = {
    "digits": 360,
    "cifar10": 10_000,
    "cifar10-jpeg": 10_000,
    "fashion-mnist": 10_000,
    "tiny-imagenet": 10_000,
    "reversed-digits": 1_000,
}


@dataclass(frozen=True)
class Sizes:
    """What the work of a run depends on in a data set."""

    train: PictureSizes
    tested: int  # test pictures


def sizes(name: str, pictures: Pictures | None = None) -> Sizes | None:
    """Of the data set `name`: those of `pictures` if they are it, else known ones, else None."""
    if pictures is not None and pictures.name == name:
        return Sizes(PictureSizes.of(pictures), len(pictures.test_labels))
    return Sizes(SIZES[name], TESTED[name]) if name in TESTED else None


@dataclass(frozen=True)
class Pass:
    """A forward pass: units a picture, and units a batch besides."""

    picture: float = 0.0
    batch: float = 0.0

    def __add__(self, other: Pass) -> Pass:
        return Pass(self.picture + other.picture, self.batch + other.batch)

    def of(self, pictures: int, batch_size: int) -> float:
        """Units for so many pictures in batches."""
        return self.picture * pictures + self.batch * -(-pictures // batch_size)


def of(spec: RunSpec | SearchSpec, sizes: Sizes) -> float:
    """Units of a whole run or search.

    Args:
        spec: what is run.
        sizes: of its pictures.

    Raises:
        SedonaError: a network or head that does not go with the pictures.
    """
    return _searching(spec, sizes) if isinstance(spec, SearchSpec) else _training(spec, sizes)


def step(spec: RunSpec | SearchSpec, sizes: Sizes) -> float:
    """Units of one training or pretraining step; errors as `of`."""
    if isinstance(spec, SearchSpec):
        size = spec.search.inner.batch_size
        return (1 + BACKWARD) * _relaxed(spec, sizes).of(size, size)
    size, passes = spec.train.batch_size, 1 + BACKWARD
    if spec.method == "features-replay" and spec.decoupling.num_blocks > 1:
        passes += 1  # all but the last block are played as well
    return passes * _forward(spec, sizes).of(size, size)


def _training(spec: RunSpec, sizes: Sizes) -> float:
    train, forward = spec.train, _forward(spec, sizes)
    held_out = round(train.held_out * sizes.train.count)
    selecting = held_out or sizes.tested
    evaluations = -(-train.steps // train.evaluate_every)
    shown = evaluations * selecting + 2 * (selecting + sizes.tested + train.train_pictures)
    looks = -(-train.steps // train.alignment_every) if train.alignment_every else 0
    looked = (1 + 2 * BACKWARD) * forward.of(train.batch_size, train.batch_size)
    return train.steps * step(spec, sizes) + forward.of(shown, EVALUATION_BATCH) + looks * looked


def _searching(spec: SearchSpec, sizes: Sizes) -> float:
    """Inner steps forward; back again with tangents, which doubles a step; at the first they are half of it."""
    search, base = spec.search, _base(spec.network, sizes.train)
    held_out = round(search.held_out * sizes.train.count)
    outer = min(search.outer_batch_size, held_out)
    one = step(spec, sizes)
    inner = search.inner.steps - (search.objective == "released")
    unrolled = (3 * inner - 1) * one
    objective = (1 + BACKWARD) * base.of(outer, outer) if search.objective == "validation" else one
    shown = min(held_out, outer * (search.snapshot_batches or held_out))
    snapshots = -(-search.pretrain_steps // search.snapshot_every)
    return (
        search.pretrain_steps * one
        + snapshots * base.of(shown, outer)
        + search.outer_steps * (unrolled + objective + one)
    )


# -- forward passes ----------------------------------------------------------------------------------------------


def _forward(spec: RunSpec, sizes: Sizes) -> Pass:
    """Of the network with the heads it trains with."""
    if spec.decoupling is None:
        return _relaxed(spec, sizes)
    total = _base(spec.network, sizes.train)
    shapes = _shapes(spec.network, sizes.train)
    for layer, name in zip(spec.decoupling.splits, spec.decoupling.heads, strict=True):
        if name != NO_HEAD:
            total += _head(name, *shapes[layer - 1], sizes.train.num_classes, spec.network.width, spec.heads)
    return total


def _relaxed(spec: RunSpec | SearchSpec, sizes: Sizes) -> Pass:
    """Of the network with all heads on all layers but the last."""
    total = _base(spec.network, sizes.train)
    for shape in _shapes(spec.network, sizes.train)[:-1]:
        for name in HEADS:
            total += _head(name, *shape, sizes.train.num_classes, spec.network.width, spec.heads)
    return total


def _base(network: NetworkConfig, pictures: PictureSizes) -> Pass:
    return _read(network, pictures)[0]


def _shapes(network: NetworkConfig, pictures: PictureSizes) -> tuple[tuple[int, int], ...]:
    return _read(network, pictures)[1]


@functools.lru_cache(maxsize=64)
def _read(network: NetworkConfig, pictures: PictureSizes) -> tuple[Pass, tuple[tuple[int, int], ...]]:
    """The base network's pass, and channels and side of what its layers give."""
    built = build_on_meta(
        lambda: network.build(pictures.num_classes, pictures.image_size, pictures.in_channels, seed=None)
    )
    whole = nn.Sequential(*built.layers, built.classifier)
    shapes = tuple((channels, size) for channels, size, _ in built.cut_shapes)
    rows = 1 if built.per_position else pictures.image_size
    return _count(whole, (pictures.in_channels, rows, pictures.image_size)), shapes


@functools.lru_cache(maxsize=4096)
def _head(name: str, channels: int, size: int, num_classes: int, width: float, config: HeadConfig) -> Pass:
    head = build_on_meta(lambda: build_head(name, channels, size, num_classes, width, config))
    return _count(head, (channels, size, size))


def _count(module: nn.Module, shape: tuple[int, int, int]) -> Pass:
    parts = sum(isinstance(part, PARTS) for part in module.modules())
    return Pass(multiply_accumulates(module, shape, NORM, OTHER), CALL * parts)
