"""CIFAR-10 and Fashion-MNIST from the files that torchvision reads, downloaded only when asked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from sedona_nb.errors import SedonaError
from sedona_nb.picture_cache import DecodedPictures
from sedona_nb.picture_sources import first_line

# name -> (torchvision's class, the folder it keeps below its root)
SETS = {
    "cifar10": (datasets.CIFAR10, "cifar-10-batches-py"),
    "fashion-mnist": (datasets.FashionMNIST, "FashionMNIST"),
}


def folder_of(name: str, root: Path) -> Path:
    """Where the original files of data set `name` lie below `root`."""
    return root / SETS[name][1]


def fetch(name: str, root: Path) -> None:
    """Let torchvision download `name`; it appears below `root` once complete, or not at all.

    Raises:
        SedonaError: no connection, a damaged download, no room.
    """
    dataset, folder = SETS[name]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
            dataset(scratch, train=True, download=True)
            os.replace(Path(scratch) / folder, root / folder)
    except (OSError, RuntimeError) as error:
        raise SedonaError(f"cannot download {name} into {root} ({first_line(error)})") from None


def read(name: str, root: Path) -> DecodedPictures:
    """Read the original files of `name` below `root`.

    CIFAR-10 is pickled; torchvision compares each file's checksum with the published one before it opens it.
    Fashion-MNIST's 28x28 pictures get a border of 2 black pixels: 32x32 is what the paper's networks take.

    Raises:
        SedonaError: missing or damaged files.
    """
    dataset, folder = SETS[name]
    try:
        parts = [dataset(str(root), train=train, download=False) for train in (True, False)]
    except Exception as error:  # damaged files surface as RuntimeError, ValueError, EOFError, UnpicklingError, ...
        reason = first_line(error)
        raise SedonaError(
            f"{root / folder} is incomplete or damaged ({reason}); remove it and pass download=True"
        ) from None
    pictures = [_pictures(torch.as_tensor(part.data)) for part in parts]
    labels = [torch.as_tensor(part.targets, dtype=torch.int64) for part in parts]
    if any(len(pixels) != len(numbers) for pixels, numbers in zip(pictures, labels, strict=True)):
        raise SedonaError(f"{root / folder} is damaged (pictures and labels differ in number); remove it")
    return DecodedPictures.measure(pictures[0], labels[0], pictures[1], labels[1], tuple(parts[0].classes))


def _pictures(pixels: Tensor) -> Tensor:
    """(N, 32, 32, 3) as they are, (N, 28, 28) to (N, 32, 32, 1)."""
    if pixels.dim() == 4:
        return pixels.contiguous()
    return torch.nn.functional.pad(pixels, (2, 2, 2, 2)).unsqueeze(-1).contiguous()
