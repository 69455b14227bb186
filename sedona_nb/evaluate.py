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


class Tally:
    """Counts errors, batch after batch.

    Args:
        ensembles: largest number of last heads to ensemble; None: all of them.
    """

    def __init__(self, ensembles: int | None = None):
        self.ensembles = ensembles
        self.count = 0
        self.wrong: tuple[Tensor, Tensor, Tensor | None] | None = None  # heads, ensembles, top-5 of the last head

    def add(self, scores: list[Tensor], labels: Tensor) -> None:
        """Take in the scores (B, classes) of all heads, the classifier's last, and the labels (B,)."""
        sizes = range(1, min(len(scores), self.ensembles or len(scores)) + 1)
        heads = torch.stack([_wrong(part, labels) for part in scores])
        ensembles = torch.stack([_wrong(ensemble_scores(scores, size), labels) for size in sizes])
        top5 = (scores[-1].topk(5).indices != labels[:, None]).all(1).sum() if scores[-1].shape[1] > 5 else None
        if self.wrong is not None:
            heads, ensembles = heads + self.wrong[0], ensembles + self.wrong[1]
            top5 = None if top5 is None else top5 + self.wrong[2]
        self.wrong = heads, ensembles, top5
        self.count += len(labels)

    def result(self) -> Errors:
        """Errors so far."""
        heads, ensembles, top5 = self.wrong
        return Errors(
            top1=100 * heads[-1].item() / self.count,
            top5=None if top5 is None else 100 * top5.item() / self.count,
            heads=tuple(100 * wrong / self.count for wrong in heads.tolist()),
            ensembles=tuple(100 * wrong / self.count for wrong in ensembles.tolist()),
            count=self.count,
        )


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
    tally = Tally(ensembles)
    for images, labels in batches:
        tally.add(network(images), labels)
    network.train(training)
    return tally.result()


def _wrong(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(1) != labels).sum()
