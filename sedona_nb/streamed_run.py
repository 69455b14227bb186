"""The pictures of a training run that reads them while it trains; `run_pictures` has those in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.picture_stream import PictureStream, evaluation_stream
from sedona_nb.run_pictures import among_train, parted
from sedona_nb.seeds import mix
from sedona_nb.streamed_pictures import StreamedPictures
from sedona_nb.train_config import TrainConfig


class StreamedRunPictures:
    """Streamed pictures as one run sees them; methods and meaning are those of `run_pictures.RunPictures`.

    "test" are the pictures of test/ or val/. On ImageNet the paper reports errors on val (Table 3), and the
    released code selects the checkpoint by the same pictures: with `TrainConfig(held_out=0)` they are
    "validation", too, and the reported minimum is a little too low (notebook 09). With a share above 0, that share
    of the train pictures selects, cut out at the centre as for evaluation, and the test pictures decide nothing.

    Args:
        pictures: the data set.
        config: the run's schedule: batch size, held-out share.
        seed: of the split and of the batches.
        device: where batches are wanted.

    Raises:
        SedonaError: a crop padding, which is for pictures in memory, a held-out share that is no picture, or fewer
            pictures than a batch holds.
    """

    def __init__(self, pictures: StreamedPictures, config: TrainConfig, seed: int, device: torch.device):
        if config.padding is not None:
            raise SedonaError(
                f"padding {config.padding} is for pictures in memory; allowed with streamed ones: None"
            )
        self.source, self.device = pictures, device
        self.held_out, kept = parted(len(pictures.train_labels), config, seed)
        self.train_items = kept[: config.train_pictures]
        self.stream = PictureStream(
            pictures, kept, config.batch_size, mix(seed, "training"), device, stop=config.steps
        )

    def batch(self, step: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Training batch number `step`, or a part of it: images (B, C, H, W), labels (B,)."""
        return self.stream.batch(step, part)

    def evaluation(self, split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the pictures that select ("validation"), of the test pictures, or of "train" pictures."""
        items = among_train(split, self.held_out, self.train_items)
        train = items is not None
        if not train:
            items = torch.arange(len(self.source.test_labels))
        return evaluation_stream(self.source, train, items, batch_size, self.device)

    def close(self) -> None:
        """End the processes that read pictures."""
        self.stream.close()
