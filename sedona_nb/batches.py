"""Batches straight from uint8 pictures in memory: shuffled and augmented for training, in order for evaluation.

A training batch is one gather. Crop, mirror image and rotation only say which source pixel each target pixel
shows, so they are worked out as row and column numbers, (B, H, W), and the pixels are fetched once; nothing is
padded, copied or decoded in between. The same index arithmetic runs on the CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from sedona_nb.augmentation import Augmentation
from sedona_nb.epoch_order import EpochOrder
from sedona_nb.errors import SedonaError
from sedona_nb.pixels import Normalizer
from sedona_nb.seeds import mix


@dataclass(frozen=True, eq=False)
class DevicePictures:
    """Pictures on a device as one table of pixels; prepare it once and give it to every stream over them."""

    pixels: Tensor  # (N*H*W, C) uint8
    height: int
    width: int

    @classmethod
    def prepare(cls, images: Tensor, device: torch.device | str = "cpu") -> DevicePictures:
        """Move `images` (N, C, H, W) uint8 to `device`.

        Images of `data.load` lie in memory as (N, H, W, C); on the CPU the table then shares their memory.

        Raises:
            SedonaError: `images` is not a uint8 tensor of four dimensions.
        """
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise SedonaError(
                f"pictures are {images.dtype} of shape {tuple(images.shape)}; allowed: torch.uint8 (N, C, H, W)"
            )
        _, channels, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).contiguous().view(-1, channels)
        return cls(pixels.to(device), height, width)

    def __len__(self) -> int:
        return len(self.pixels) // (self.height * self.width)


class _Selection:
    """Pictures and labels on a device, and which of them to use: what both kinds of batches begin with."""

    def __init__(
        self,
        images: Tensor | DevicePictures,
        labels: Tensor,
        indices: Tensor | None,
        batch_size: int,
        augmentation: Augmentation,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.pictures = images if isinstance(images, DevicePictures) else DevicePictures.prepare(images, device)
        self.device = self.pictures.pixels.device
        if self.device != torch.empty(0, device=device).device:  # 'cuda' means the current GPU
            raise SedonaError(f"the pictures were prepared on {self.device}, batches are wanted on {device}")
        count, channels = len(self.pictures), self.pictures.pixels.shape[1]
        if len(labels) != count:
            raise SedonaError(f"{count:,} pictures and {len(labels):,} labels; allowed: a label a picture")
        self.indices = torch.arange(count) if indices is None else indices.cpu().long()
        if len(self.indices) and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < count:
            raise SedonaError(f"an index lies outside the {count:,} pictures")
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise SedonaError(f"batch size {batch_size!r} is not allowed; allowed: integers of at least 1")
        if len(augmentation.mean) not in (1, channels):
            raise SedonaError(
                f"pictures have {channels} channels, the augmentation's mean {len(augmentation.mean)}"
            )
        self.labels = labels.to(self.device)
        self.batch_size, self.augmentation = batch_size, augmentation
        self.normalised = Normalizer(
            augmentation.mean,
            augmentation.std,
            self.pictures.height,
            self.pictures.width,
            channels,
            self.device,
            dtype,
        )

    def plain(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of the pictures `items` (B,), normalised and nothing else."""
        items = items.to(self.device)
        return self.normalised(self.pictures.pixels.view(len(self.pictures), -1)[items]), self.labels[items]


class BatchStream:
    """Training batches by number: batch i depends on (seed, i) and the arguments, never on what was drawn before.

    `EpochOrder` says which pictures a batch shows. Random numbers are drawn on the CPU, so every device gets the
    same batches; NumPy draws them, since its generators use all bits of a mixed seed and torch's own on the CPU 32
    of them, too few to keep the 64,000 batches of a run apart.

    Args:
        images: (N, C, H, W) uint8, or `DevicePictures` shared by several streams.
        labels: (N,) int64.
        indices: which pictures to use, (n,) int64; None for all.
        batch_size: B, pictures a batch.
        augmentation: what to do at random, and mean and std.
        seed: integer of at least 0.
        device: where batches are made.
        augment: False for shuffled batches that are only normalised.
        dtype: of the batches; arithmetic is in float32.

    Raises:
        SedonaError: fewer pictures than one batch holds, or arguments that do not fit each other.
    """

    def __init__(
        self,
        images: Tensor | DevicePictures,
        labels: Tensor,
        indices: Tensor | None,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device | str = "cpu",
        augment: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._selection = _Selection(images, labels, indices, batch_size, augmentation, device, dtype)
        self._order = EpochOrder(self._selection.indices, batch_size, seed)
        self.seed, self.augment = int(seed), augment
        pictures, place = self._selection.pictures, self._selection.device
        self._row_numbers = torch.arange(pictures.height, device=place)[:, None]  # (H, 1)
        self._column_numbers = torch.arange(pictures.width, device=place)  # (W,)

    @property
    def num_items(self) -> int:
        """How many pictures the stream draws from."""
        return len(self._selection.indices)

    @property
    def batch_size(self) -> int:
        """Pictures a batch."""
        return self._selection.batch_size

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the pictures."""
        return self._order.batches_per_epoch

    def batch(self, number: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Batch `number` (from 0): pictures (B, C, H, W), channels last, and labels (B,).

        `part` makes only these pictures of it, the same ones as in the whole batch.
        """
        items = self.items(number)
        if not self.augment:
            return self._selection.plain(items[part])
        # Random numbers are drawn for the whole batch, whichever part is wanted.
        rows, columns, outside = (None if one is None else one[part] for one in self._sources(items, number))
        items = items[part].to(self._selection.device)
        pictures = self._selection.pictures
        source = (items[:, None, None] * pictures.height + rows) * pictures.width + columns  # (B, H, W)
        pixels = pictures.pixels.index_select(0, source.view(-1))  # (B*H*W, C)
        if outside is not None:
            pixels.masked_fill_(outside.view(-1, 1), 0)
        return self._selection.normalised(pixels.view(len(items), -1)), self._selection.labels[items]

    def items(self, number: int) -> Tensor:
        """Which pictures batch `number` shows: (B,) int64 on the CPU, numbers into `images`.

        Raises:
            SedonaError: a batch number that is no integer of at least 0.
        """
        return self._order.items(number)

    def _sources(self, items: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """For each target pixel its source row and column, (B, H, 1) and (B, 1, W) or, rotated, (B, H, W) both.

        The third value marks target pixels whose source lies outside the picture, (B, H, W) bool, or is None where
        there can be none; their row and column are clamped so that they can be gathered all the same.
        """
        height, width = self._selection.pictures.height, self._selection.pictures.width
        augmentation, place = self._selection.augmentation, self._selection.device
        random = np.random.default_rng(mix(self.seed, "augmentation", int(number)))
        offsets = random.integers(-augmentation.padding, augmentation.padding + 1, size=(2, len(items)))
        mirrored = random.integers(0, 2, size=(1, len(items))) * int(augmentation.flip)
        down, right, mirrored = torch.from_numpy(np.concatenate([offsets, mirrored])).to(place)[:, :, None, None]
        columns = self._column_numbers
        rows = self._row_numbers + down  # (B, H, 1)
        columns = torch.where(mirrored.bool(), width - 1 - columns, columns) + right  # (B, 1, W)
        if not augmentation.padding and not augmentation.rotation:
            return rows, columns, None
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        if augmentation.rotation:
            # The crop is cut from the rotated picture: from here on, rows and columns count in that one's source.
            angles = np.deg2rad(random.uniform(-augmentation.rotation, augmentation.rotation, size=len(items)))
            turn = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
            cosine, sine = torch.from_numpy(turn).to(place)[:, :, None, None]
            y, x = rows - (height - 1) / 2, columns - (width - 1) / 2  # from the centre, y pointing down
            rows = (x * sine + y * cosine + (height - 1) / 2).round_().long()
            columns = (x * cosine - y * sine + (width - 1) / 2).round_().long()
            outside |= (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        return rows.clamp_(0, height - 1), columns.clamp_(0, width - 1), outside


def evaluation_batches(
    images: Tensor | DevicePictures,
    labels: Tensor,
    indices: Tensor | None,
    batch_size: int,
    augmentation: Augmentation,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All pictures once, in the order of `indices` (None for all), only normalised; the last batch may be short.

    Arguments, shapes and errors are those of `BatchStream`.
    """
    selection = _Selection(images, labels, indices, batch_size, augmentation, device, dtype)
    return (selection.plain(items) for items in selection.indices.split(batch_size) if len(items))
