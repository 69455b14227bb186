"""What the first block sends through the network: training batches, and between them what is to be done.

    for header, images, labels in instructions.entries(pictures, config, position, step=0): ...

A MARK's detail says what it wants: EVALUATED (a split is through), CHECKPOINT, LOAD_BEST, STOP.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sedona_nb.messages import EVALUATE, MARK, TRAIN, Header
from sedona_nb.replicas import Position
from sedona_nb.run_pictures import AnyRunPictures, tested
from sedona_nb.train_config import TrainConfig

EVALUATED, CHECKPOINT, LOAD_BEST, STOP = range(4)
Entry = tuple[Header, Tensor, Tensor]  # images (B, C, H, W) and labels (B,); empty with a MARK


def entries(pictures: AnyRunPictures, config: TrainConfig, position: Position, step: int) -> Iterator[Entry]:
    """All that follows from where a run stands, in order.

    Of several replicas all train, each on its part of every batch, and the first evaluates; so the others have no
    use for the best weights.

    Args:
        pictures: of the run.
        config: the schedule.
        position: of the process, which holds the first block.
        step: steps done.
    """
    for number in range(step, config.steps):
        images, labels = pictures.batch(number, position.part(config.batch_size))
        yield Header(TRAIN, number, len(labels)), images, labels
        done = number + 1
        if done % config.evaluate_every == 0 or done == config.steps:
            if position.leads:
                yield from _evaluation(pictures, "validation", config.batch_size // position.replicas, done)
            yield _mark(CHECKPOINT, done)
    for mark in (LOAD_BEST, STOP) if position.leads else (STOP,):
        for split in tested(config) if position.leads else ():
            yield from _evaluation(pictures, split, config.batch_size // position.replicas, config.steps)
        yield _mark(mark, config.steps)


def _evaluation(pictures: AnyRunPictures, split: str, batch_size: int, step: int) -> Iterator[Entry]:
    """All pictures of a split, and that these were all."""
    for images, labels in pictures.evaluation(split, batch_size):
        yield Header(EVALUATE, step, len(labels)), images, labels
    yield _mark(EVALUATED, step)


def _mark(detail: int, step: int) -> Entry:
    return Header(MARK, step, 0, detail), torch.empty(0), torch.empty(0, dtype=torch.int64)
