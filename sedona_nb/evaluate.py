"""Errors of every head and of ensembles of the last heads (Sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb.blocks import ensemble_scores
from sedona_nb.precision import Arithmetic


@dataclass(frozen=True)
class Errors:
    """Errors in percent of the pictures seen.

    Attributes:
        top1, top5: of the last head, the network's classifier (top5 is None with 5 classes or fewer).
        heads: top-1 error of every head, the classifier last.
        ensembles: top-1 error of the summed log-softmax scores of the last 1, 2, .. n heads.
        count: number of pictures.
        ensembles_top5: top-5 error of the same (None with 5 classes or fewer, and in records of before).
    """

    top1: float
    top5: float | None
    heads: tuple[float, ...]
    ensembles: tuple[float, ...]
    count: int
    ensembles_top5: tuple[float, ...] | None = None


class Tally:
    """Counts errors, batch after batch.

    Args:
        ensembles: largest number of last heads to ensemble; None: all of them.
    """

    def __init__(self, ensembles: int | None = None):
        self.ensembles = ensembles
        self.count = 0
        # Of heads and of ensembles; in top-5 of the last head, and of ensembles.
        self.wrong: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None = None

    def add(self, scores: list[Tensor], labels: Tensor) -> None:
        """Take in the scores (B, classes) of all heads, the classifier's last, and the labels (B,)."""
        sizes = range(1, min(len(scores), self.ensembles or len(scores)) + 1)
        heads = torch.stack([_wrong(part, labels) for part in scores])
        summed = [ensemble_scores(scores, size) for size in sizes]
        ensembles = torch.stack([_wrong(part, labels) for part in summed])
        top5 = together = None
        if scores[-1].shape[1] > 5:
            top5 = _wrong_of_five(scores[-1], labels)
            together = torch.stack([_wrong_of_five(part, labels) for part in summed])
        found = heads, ensembles, top5, together
        if self.wrong is not None:
            pairs = zip(found, self.wrong, strict=True)
            found = tuple(None if one is None else one + before for one, before in pairs)
        self.wrong = found
        self.count += len(labels)

    def result(self) -> Errors:
        """Errors so far."""
        heads, ensembles, top5, together = self.wrong
        return Errors(
            top1=100 * heads[-1].item() / self.count,
            top5=None if top5 is None else 100 * top5.item() / self.count,
            heads=tuple(100 * wrong / self.count for wrong in heads.tolist()),
            ensembles=tuple(100 * wrong / self.count for wrong in ensembles.tolist()),
            count=self.count,
            ensembles_top5=None if together is None else tuple(100 * n / self.count for n in together.tolist()),
        )


@torch.no_grad()
def errors(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ensembles: int | None = None,
    arithmetic: Arithmetic | None = None,
) -> Errors:
    """Evaluate `network` with running statistics; it is left in the mode in which it came.

    Args:
        network: images (B, C, H, W) -> list of scores (B, classes), the classifier's last.
        batches: pairs of images and labels.
        ensembles: largest number of last heads to ensemble; None: all of them.
        arithmetic: in which numbers the network computes; None: float32. Its scores are at least float32.
    """
    arithmetic = arithmetic or Arithmetic()
    training = network.training
    network.eval()
    tally = Tally(ensembles)
    for images, labels in batches:
        with arithmetic.autocast():
            scores = network(images)
        tally.add(scores, labels)
    network.train(training)
    return tally.result()


def _wrong(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(1) != labels).sum()


def _wrong_of_five(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.topk(5).indices != labels[:, None]).all(1).sum()
