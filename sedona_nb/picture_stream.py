"""Batches of `StreamedPictures`, read and cropped by worker processes while the network computes.

Batch i is a function of (seed, i), as in `batches`: which pictures, which crops, which mirror images. A batch is
made by one process, each picture under random numbers of its own, so that neither the number of processes
(`SEDONA_WORKERS`) nor the batch at which a run begins changes a bit. Pictures travel as uint8.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from sedona_nb.epoch_order import EpochOrder
from sedona_nb.errors import SedonaError
from sedona_nb.image_folders import with_name
from sedona_nb.picture_sources import PictureSource, first_line, open_source
from sedona_nb.pixels import Normalizer
from sedona_nb.seeds import mix
from sedona_nb.streamed_pictures import StreamedPictures

MOST_WORKERS = 16
PREFETCH = 2  # batches a worker prepares ahead
SHORTER_SIDE = 256 / 224  # of what is resized for evaluation, over the side of what is cut out of it


class Order(Protocol):
    """Which pictures batch `number` shows."""

    def items(self, number: int) -> Tensor:
        """(B,) int64."""


class InOrder:
    """All of `indices` (n,) once, in their order, `batch_size` at a time; the last batch may be short."""

    def __init__(self, indices: Tensor, batch_size: int):
        self.parts = indices.split(batch_size)

    def items(self, number: int) -> Tensor:
        """(B,) int64."""
        return self.parts[number]


def training_transform(size: int) -> v2.Transform:
    """A random crop, 8 to 100 % of the area and 3/4 to 4/3 as wide as high, to `size` pixels; mirrored or not."""
    return v2.Compose([v2.RandomResizedCrop(size, (0.08, 1.0), (3 / 4, 4 / 3)), v2.RandomHorizontalFlip()])


def evaluation_transform(size: int) -> v2.Transform:
    """The shorter side to 256/224 of `size` pixels, and of that the centre ("single-crop")."""
    return v2.Compose([v2.Resize(round(size * SHORTER_SIDE)), v2.CenterCrop(size)])


class BatchReader:
    """Makes batch `number`: what a DataLoader calls its data set, in worker processes or in this one.

    Args:
        pictures: the data set.
        train: read its train or its test pictures.
        order: which of them a batch shows.
        augment: crop and mirror at random, or cut out the centre.
        seed: of crops and mirror images.

    Attributes:
        part: read these pictures of a batch only; they are the same as in the whole batch.
    """

    def __init__(self, pictures: StreamedPictures, train: bool, order: Order, augment: bool, seed: int = 0):
        self.path, self.size, self.order, self.seed = pictures.path, pictures.image_size, order, seed
        self.part = slice(None)
        self.names = pictures.train_names if train else pictures.test_names
        self.labels = pictures.train_labels if train else pictures.test_labels
        self.transform = (training_transform if augment else evaluation_transform)(self.size)
        self._opened: tuple[int, PictureSource] | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | str:
        """Pictures (B, size, size, 3) uint8 and labels (B,); or what is wrong with a picture, in one line."""
        items = self.order.items(number)
        places = range(len(items))[self.part]  # in the whole batch, by which random numbers go
        items = items[self.part]
        pixels = torch.empty(len(items), self.size, self.size, 3, dtype=torch.uint8)
        try:
            with torch.random.fork_rng(devices=[]):
                for row, place, item in zip(itertools.count(), places, items.tolist(), strict=False):
                    # torchvision draws from torch's generator, so this is the one to be seeded.
                    torch.default_generator.manual_seed(mix(self.seed, "crop", number, place))
                    name = self.names[item].decode(errors="surrogateescape")
                    pixels[row] = with_name(self._source(), name, self._picture)
        except SedonaError as error:
            return str(error)  # raised in a worker, it would come out with the worker's stack in its text
        return pixels, self.labels[items]

    def _picture(self, content: bytes) -> Tensor:
        # Pillow, as torchvision's ImageFolder: it reads all of ImageNet's files and refuses those cut off.
        picture = Image.open(io.BytesIO(content))
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        return torch.from_numpy(np.array(self.transform(picture)))

    def _source(self) -> PictureSource:
        """The folder or zip, opened by this very process: one that it forked from must not share its file."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_source(self.path)
        return self._opened[1]


class PictureStream:
    """Training batches by number; asked for in ascending order, they are prepared ahead.

    Args:
        pictures: the data set.
        indices: which of its train pictures to use, (n,) int64.
        batch_size: B.
        seed: integer of at least 0.
        device: where batches are wanted.
        stop: number of the batch before which the run ends; None: not known.
        workers: processes that read; None: as `worker_count`.

    Raises:
        SedonaError: fewer pictures than one batch holds, or a bad seed.
    """

    def __init__(
        self,
        pictures: StreamedPictures,
        indices: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        stop: int | None = None,
        workers: int | None = None,
    ):
        order = EpochOrder(indices, batch_size, seed)
        self._reader = BatchReader(pictures, True, order, augment=True, seed=int(seed))
        self._arrival = _Arrival(pictures, device)
        self._stop, self._workers = stop, worker_count() if workers is None else workers
        self._next: int | None = None
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def batch(self, number: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Batch `number` (from 0): pictures (B, 3, size, size), normalised, channels last, and labels (B,).

        `part` makes only these pictures of it; a stream is fast if it is always the same one.

        Raises:
            SedonaError: a picture that cannot be read (which), or a worker that was killed.
        """
        if number != self._next or part != self._reader.part:
            self.close()
            self._reader.part = part
            self._reader.order.items(number)  # refuses what is no number
            past = self._stop is None or number >= self._stop
            numbers = itertools.count(number) if past else range(number, self._stop)
            self._batches = _batches(self._reader, numbers, self._arrival, self._workers)
        self._next = None  # if the next line fails, all begins anew
        found = next(self._batches)
        self._next = number + 1
        return found

    def close(self) -> None:
        """End the worker processes; a batch asked for later starts others."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._next = None, None


def evaluation_stream(
    pictures: StreamedPictures,
    train: bool,
    indices: Tensor,
    batch_size: int,
    device: torch.device | str = "cpu",
    workers: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The centres of the train or test pictures `indices`, once, in order; the last batch may be short.

    Shapes and errors are those of `PictureStream.batch`; worker processes end with the last batch.
    """
    order = InOrder(indices, batch_size)
    workers = min(worker_count() if workers is None else workers, len(order.parts))
    reader = BatchReader(pictures, train, order, augment=False)
    return _batches(reader, range(len(order.parts)), _Arrival(pictures, device), workers)


def worker_count() -> int:
    """How many processes read pictures: SEDONA_WORKERS, else one for each processor but one, at most 16.

    Raises:
        SedonaError: SEDONA_WORKERS is no whole number.
    """
    asked = os.environ.get("SEDONA_WORKERS")
    if asked is not None:
        if not asked.isdecimal():
            raise SedonaError(
                f"SEDONA_WORKERS={asked!r} is not allowed; allowed: whole numbers, 0 for no processes"
            )
        return int(asked)
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, mine - 1))


class _Arrival:
    """From what a reader made to what the network takes, on its device."""

    def __init__(self, pictures: StreamedPictures, device: torch.device | str):
        self.device, size = torch.device(device), pictures.image_size
        self.pinned = self.device.type == "cuda"
        self._normalised = Normalizer(pictures.mean, pictures.std, size, size, 3, self.device)

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        pixels, labels = (part.to(self.device, non_blocking=self.pinned) for part in (pixels, labels))
        return self._normalised(pixels.flatten(1)), labels


def _batches(reader: BatchReader, numbers: range, arrival: _Arrival, workers: int) -> Iterator:
    """What `reader` makes of `numbers`, in their order."""
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=arrival.pinned,
        generator=torch.Generator(),  # else it draws a number from everybody's
    )
    batches = None
    try:
        batches = iter(loader)
        for content in batches:
            if isinstance(content, str):
                raise SedonaError(content)
            yield arrival(*content)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SedonaError(f"a process that reads pictures ended: {first_line(error)}") from None
    finally:
        del batches  # ends the processes now, even if an error's traceback keeps this frame
