"""The pictures of a training run: who is held out, the training batches by number, and what is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sedona_nb import data
from sedona_nb.batches import BatchStream, DevicePictures, evaluation_batches
from sedona_nb.errors import choose
from sedona_nb.seeds import mix
from sedona_nb.train_config import TrainConfig

SPLITS = ("validation", "test")


class RunPictures:
    """A data set as one run sees it.

    Args:
        pictures: the data set.
        config: the run's schedule: batch size, held-out share, padding.
        seed: of the split and of the batches.
        device: where batches are made.
    """

    def __init__(self, pictures: data.ImageData, config: TrainConfig, seed: int, device: torch.device):
        self.source, self.device = pictures, device
        self.augmentation = pictures.augmentation
        if config.padding is not None:
            self.augmentation = self.augmentation.with_padding(config.padding)
        self.prepared = DevicePictures.prepare(pictures.train_images, device)
        self.held_out, kept = data.split(len(pictures.train_labels), config.held_out, seed)
        self.stream = BatchStream(
            self.prepared,
            pictures.train_labels,
            kept,
            config.batch_size,
            self.augmentation,
            mix(seed, "training"),
            device,
        )

    def batch(self, step: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Training batch number `step`, or a part of it: images (B, C, H, W), labels (B,)."""
        return self.stream.batch(step, part)

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the held-out ("validation") or of the test pictures ("test")."""
        choose(split, SPLITS, "split")
        if split == "validation":
            source = (self.prepared, self.source.train_labels, self.held_out)
        else:
            source = (self.source.test_images, self.source.test_labels, None)
        return evaluation_batches(*source, batch_size, self.augmentation, self.device)
