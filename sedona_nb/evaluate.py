"""Errors of every head and of ensembles of the last heads (Sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb.blocks import ensemble_scores


@dataclass(frozen=True)
class Errors:
    """Errors in percent of the pictures seen.

    Attributes:
        top1, top5: of the last head, the network's classifier (top5 is None with 5 classes or fewer).
        heads: top-1 error of every head, the classifier last.
        ensembles: top-1 error of the summed log-softmax scores of the last 1, 2, .. n heads.
        count: number of pictures.
    """

    top1: float
    top5: float | None
    heads: tuple[float, ...]
    ensembles: tuple[float, ...]
    count: int


@torch.no_grad()
def errors(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], ensembles: int | None = None) -> Errors:
    """Evaluate `network` with running statistics; it is left in the mode in which it came.

    Args:
        network: images (B, C, H, W) -> list of scores (B, classes), the classifier's last.
        batches: pairs of images and labels.
        ensembles: largest number of last heads to ensemble; None: all of them.
    """
    training = network.training
    network.eval()
    wrong_heads = wrong_ensembles = wrong_top5 = None
    count = 0
    for images, labels in batches:
        scores = network(images)
        sizes = range(1, min(len(scores), ensembles or len(scores)) + 1)
        of_heads = torch.stack([_wrong(part, labels) for part in scores])
        of_ensembles = torch.stack([_wrong(ensemble_scores(scores, size), labels) for size in sizes])
        of_top5 = (scores[-1].topk(5).indices != labels[:, None]).all(1).sum() if scores[-1].shape[1] > 5 else None
        wrong_heads = of_heads if wrong_heads is None else wrong_heads + of_heads
        wrong_ensembles = of_ensembles if wrong_ensembles is None else wrong_ensembles + of_ensembles
        wrong_top5 = of_top5 if wrong_top5 is None else wrong_top5 + of_top5
        count += len(labels)
    network.train(training)
    return Errors(
        top1=100 * wrong_heads[-1].item() / count,
        top5=None if wrong_top5 is None else 100 * wrong_top5.item() / count,
        heads=tuple(100 * wrong / count for wrong in wrong_heads.tolist()),
        ensembles=tuple(100 * wrong / count for wrong in wrong_ensembles.tolist()),
        count=count,
    )


def _wrong(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(1) != labels).sum()
