"""The sequences of a training run, as `run_pictures` has the pictures of one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sedona_nb.epoch_order import EpochOrder
from sedona_nb.run_pictures import among_train, parted
from sedona_nb.seeds import mix
from sedona_nb.sequences import SequenceData, example
from sedona_nb.train_config import TrainConfig


class RunSequences:
    """The task as one training run sees it; the counterpart of `run_pictures.RunPictures`.

    Args:
        data: the task.
        config: its batch size and held-out share count.
        seed: of the split and the batches.
        device: where batches are made.

    Raises:
        SedonaError: a held-out share that is not one sequence, or fewer sequences than a batch holds.
    """

    def __init__(self, data: SequenceData, config: TrainConfig, seed: int, device: torch.device):
        self.data, self.device = data, device
        self.held_out, kept = parted(len(data.train_labels), config, seed)
        self.train_items = kept[: config.train_pictures]
        self.order = EpochOrder(kept, config.batch_size, mix(seed, "training"))

    def batch(self, step: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Training batch number `step`, or a part of it, as `example`."""
        numbers = self.data.train_labels[self.order.items(step)[part]]
        return example(numbers.to(self.device), self.data.symbols)

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split, as `run_pictures.RunPictures.evaluation`."""
        items = among_train(split, self.held_out, self.train_items)
        numbers = self.data.test_labels if items is None else self.data.train_labels[items]
        for part in numbers.split(batch_size):
            yield example(part.to(self.device), self.data.symbols)

    def close(self) -> None:
        """Nothing runs that would have to end."""
