"""CIFAR-10 and Fashion-MNIST from the files that torchvision reads, downloaded only when asked.

Fashion-MNIST is also taken as its authors give it away, four .gz files in one folder, and so as the Debian package
dataset-fashion-mnist installs it.
"""

from __future__ import annotations

import gzip
import os
import shutil
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
# name -> folders of the files as distributed: below the root, or (Debian's package) wherever the root is
DISTRIBUTED = {"fashion-mnist": ("fashion-mnist", "/usr/share/datasets/fashion-mnist")}


def folder_of(name: str, root: Path) -> Path:
    """Where the original files of data set `name` lie, or would lie once fetched."""
    fetched = root / SETS[name][1]
    places = [fetched, *(root / place for place in DISTRIBUTED.get(name, ()))]
    return next((place for place in places if place.is_dir()), fetched)


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


def read(name: str, folder: Path) -> DecodedPictures:
    """Read the original files of `name` in `folder`, which is one that `folder_of` says.

    CIFAR-10 is pickled; torchvision compares each file's checksum with the published one before it opens it.
    Fashion-MNIST's 28x28 pictures get a border of 2 black pixels: 32x32 is what the paper's networks take.

    Raises:
        SedonaError: missing or damaged files.
    """
    dataset, fetched = SETS[name]
    advice = "pass download=True" if folder.name == fetched else "put complete files there"
    try:
        if folder.name == fetched:
            parts = [dataset(str(folder.parent), train=train, download=False) for train in (True, False)]
        else:
            with tempfile.TemporaryDirectory() as scratch:
                _unpack(folder, Path(scratch) / fetched / "raw")
                parts = [dataset(scratch, train=train, download=False) for train in (True, False)]
    except Exception as error:  # damaged files surface as RuntimeError, ValueError, EOFError, UnpicklingError, ...
        reason = first_line(error)
        raise SedonaError(f"{folder} is incomplete or damaged ({reason}); remove it and {advice}") from None
    pictures = [_pictures(torch.as_tensor(part.data)) for part in parts]
    labels = [torch.as_tensor(part.targets, dtype=torch.int64) for part in parts]
    if any(len(pixels) != len(numbers) for pixels, numbers in zip(pictures, labels, strict=True)):
        raise SedonaError(f"{folder} is damaged (pictures and labels differ in number); remove it")
    return DecodedPictures.measure(pictures[0], labels[0], pictures[1], labels[1], tuple(parts[0].classes))


def _pictures(pixels: Tensor) -> Tensor:
    """(N, 32, 32, 3) as they are, (N, 28, 28) to (N, 32, 32, 1)."""
    if pixels.dim() == 4:
        return pixels.contiguous()
    return torch.nn.functional.pad(pixels, (2, 2, 2, 2)).unsqueeze(-1).contiguous()


def _unpack(folder: Path, raw: Path) -> None:
    """The .gz files of `folder`, unpacked into `raw`."""
    raw.mkdir(parents=True)
    for path in sorted(folder.glob("*.gz")):
        with gzip.open(path) as packed, (raw / path.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
