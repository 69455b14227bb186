"""How far greedy gradients point where backpropagation's would (Appendix C.4, Figure 8).

At the weights and on the batch of one training step, each layer's 3x3 kernels have two gradients: the greedy one,
of the local loss of the layer's block, and that of the classifier's loss through the whole network. Their cosine
is 1 in the last block, where both are the same, and everywhere if there is one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sedona_nb.blocks import BlockNetwork, LocalLoss, seeded_dropout
from sedona_nb.precision import Arithmetic, full, reduced
from sedona_nb.seeds import mix


def gradient_cosines(
    network: BlockNetwork,
    images: Tensor,
    labels: Tensor,
    config: LocalLoss,
    seed: int = 0,
    arithmetic: Arithmetic | None = None,
) -> Tensor:
    """Cosine of greedy and end-to-end gradient, layer by layer; the network stays as it is, `.grad` included.

    All 3x3 kernels of a layer count as one vector. A gradient of zeros has the cosine 0.

    Args:
        network: in training mode; batch statistics are used and running ones left alone.
        images: (B, C, H, W).
        labels: (B,).
        config: of the local losses; the end-to-end gradient is that of the last one.
        seed: of the step, for dropout, as in `Block.local_step`.
        arithmetic: in which numbers; None: float32.

    Returns:
        (L,), on the network's device.
    """
    arithmetic = arithmetic or Arithmetic()
    losses, x = [], images
    with fixed_statistics(network), arithmetic.autocast():
        for block in network.blocks:
            with seeded_dropout(block, mix(seed, "block", block.first)):
                x = reduced(block.layers(x))  # not detached: the way down that greedy training cuts off
                scores = full(block.head(x))
            losses.append(arithmetic.scaled(block.loss(x, scores, labels, config)))
    kernels = [[square_kernels(layer) for layer in block.layers] for block in network.blocks]
    greedy = [
        torch.autograd.grad(loss, _flat(own), retain_graph=True) for loss, own in zip(losses, kernels, strict=True)
    ]
    whole = torch.autograd.grad(losses[-1], [kernel for own in kernels for kernel in _flat(own)])
    pairs = iter(zip([gradient for part in greedy for gradient in part], whole, strict=True))
    cosines = []
    for layer in (layer for own in kernels for layer in own):
        here = [next(pairs) for _ in layer]
        one, other = (torch.cat([pair[side].flatten() for pair in here]).double() for side in (0, 1))
        cosines.append(torch.nn.functional.cosine_similarity(one, other, dim=0))
    return torch.stack(cosines).detach()


def square_kernels(layer: nn.Module) -> list[Tensor]:
    """The weights of the layer's 3x3 convolutions."""
    convolutions = (part for part in layer.modules() if isinstance(part, nn.Conv2d))
    return [part.weight for part in convolutions if part.kernel_size == (3, 3)]


@contextmanager
def fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in training mode uses the batch's statistics and does not touch its running ones."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before


def _flat(nested: list[list[Tensor]]) -> list[Tensor]:
    return [kernel for layer in nested for kernel in layer]
