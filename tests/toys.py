"""Small networks and random batches in float64, on which derivatives can be checked to many digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sedona_nb.bilevel import Batch, Weights, initial_weights
from sedona_nb.networks import LayeredNetwork, build_resnet, build_vgg, initialize
from sedona_nb.relaxed import RelaxedNetwork, relax

CLASSES = 5


@contextmanager
def float64() -> Iterator[None]:
    """Build modules and draw numbers in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def toy_network(kind: str) -> LayeredNetwork:
    """ "vgg": 4 layers with pooling; "resnet": 4 bottlenecks with stride and projection. BatchNorm in both."""
    if kind == "vgg":
        network = build_vgg((8, "M", 8, 12, "M", 12), 1.0, CLASSES, 8, hidden=8, name="toy vgg")
    else:
        network = build_resnet((1, 2, 1), 0.125, CLASSES, 8, name="toy resnet")
    initialize(network, 3)
    return network


def toy_relaxed(kind: str) -> RelaxedNetwork:
    """The toy with all four heads on its first three layers."""
    return relax(toy_network(kind), CLASSES, width=1 / 64, seed=5)


def toy_weights(relaxed: RelaxedNetwork, generator: torch.Generator) -> Weights:
    """Its weights, with momenta that are not zero."""
    weights = initial_weights(relaxed)
    momenta = {
        n: 0.01 * torch.randn(m.shape, generator=generator, dtype=m.dtype) for n, m in weights.momenta.items()
    }
    parameters = {name: value.requires_grad_() for name, value in weights.parameters.items()}
    return Weights(parameters, momenta, weights.buffers)


def toy_batch(generator: torch.Generator, size: int = 6) -> Batch:
    """`size` random 8x8 pictures and labels."""
    images = torch.randn(size, 3, 8, 8, generator=generator)
    return images, torch.randint(CLASSES, (size,), generator=generator)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return ((found - wanted).norm() / wanted.norm()).item()
