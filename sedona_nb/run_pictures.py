"""The pictures of a training run: who is held out, the training batches by number, and what is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from sedona_nb import data
from sedona_nb.batches import BatchStream, DevicePictures, evaluation_batches
from sedona_nb.errors import SedonaError, choose
from sedona_nb.seeds import mix
from sedona_nb.sequences import SequenceData
from sedona_nb.train_config import TrainConfig

if TYPE_CHECKING:
    from sedona_nb.run_sequences import RunSequences
    from sedona_nb.streamed_run import StreamedRunPictures

SPLITS = ("validation", "test", "train")


def tested(config: TrainConfig) -> tuple[str, ...]:
    """The splits on which a run tests its last and its best weights."""
    return SPLITS if config.train_pictures else SPLITS[:2]


class RunPictures:
    """A data set in memory as one run sees it.

    Args:
        pictures: the data set.
        config: the run's schedule: batch size, held-out share, padding.
        seed: of the split and of the batches.
        device: where batches are made.

    Raises:
        SedonaError: as `parted`, or fewer pictures than a batch holds.
    """

    def __init__(self, pictures: data.ImageData, config: TrainConfig, seed: int, device: torch.device):
        self.source, self.device = pictures, device
        self.augmentation = pictures.augmentation
        if config.padding is not None:
            self.augmentation = self.augmentation.with_padding(config.padding)
        self.prepared = DevicePictures.prepare(pictures.train_images, device)
        self.held_out, kept = parted(len(pictures.train_labels), config, seed)
        self.train_items = kept[: config.train_pictures]
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
        """Batches of the pictures that select ("validation"), of the test pictures, or of "train" pictures.

        The held-out pictures select; with `TrainConfig(held_out=0)` there are none, and the test pictures do.
        """
        items = among_train(split, self.held_out, self.train_items)
        if items is not None:
            source = (self.prepared, self.source.train_labels, items)
        else:
            source = (self.source.test_images, self.source.test_labels, None)
        return evaluation_batches(*source, batch_size, self.augmentation, self.device)

    def close(self) -> None:
        """Nothing runs that would have to end."""


def parted(count: int, config: TrainConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the train pictures that select and of those that train, as `data.split`; share 0: none select.

    Raises:
        SedonaError: a share so small that it is no picture: what selects must not change unnoticed.
    """
    held_out, kept = data.split(count, config.held_out, seed)
    if config.held_out and not len(held_out):
        raise SedonaError(
            f"held_out {config.held_out:g} of {count:,} pictures is none; allowed: more, or 0: the test pictures"
        )
    return held_out, kept


def among_train(split: str, held_out: Tensor, train_items: Tensor) -> Tensor | None:
    """Numbers of the train pictures that `split` means; None: it means the test pictures.

    Raises:
        SedonaError: an unknown split, or "train" where no pictures are set aside for it.
    """
    choose(split, SPLITS, "split")
    if split == "train" and not len(train_items):
        raise SedonaError("no train pictures to test on; allowed with TrainConfig(train_pictures=...) above 0")
    items = {"validation": held_out, "train": train_items}.get(split)
    return items if items is not None and len(items) else None


AnyRunPictures = Union[RunPictures, "StreamedRunPictures", "RunSequences"]


def prepare(pictures: data.Pictures, config: TrainConfig, seed: int, device: torch.device) -> AnyRunPictures:
    """What goes with the data set: `RunPictures`, `RunSequences`, or `StreamedRunPictures` while they are read.

    Arguments and errors are theirs.
    """
    if isinstance(pictures, data.ImageData):
        return RunPictures(pictures, config, seed, device)
    if isinstance(pictures, SequenceData):
        from sedona_nb.run_sequences import RunSequences  # which needs `parted`

        return RunSequences(pictures, config, seed, device)
    from sedona_nb.streamed_run import StreamedRunPictures  # needs torchvision, which is slow to import

    return StreamedRunPictures(pictures, config, seed, device)
