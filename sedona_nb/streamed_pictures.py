"""A data set of picture files that are read while training, for sets that do not fit into memory (ImageNet).

Only the list of files is held. `picture_stream` reads, crops and mirrors them, as the paper does on ImageNet
(Appendix E.2): `RandomResizedCrop` and mirror images for training; the shorter side resized to 256 and the centre
of 224 cut out for evaluation; ImageNet's mean and standard deviation for both.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.image_folders import list_pictures
from sedona_nb.picture_sources import PictureSource, open_source
from sedona_nb.stream_names import DEFAULT_SIZE

RECIPE = 1  # of crops and evaluation; raised when they change, since fingerprints stand for what a network sees
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's models take them
Part = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class StreamedPictures:
    """What `data.ImageData` is for pictures in memory. Names are bytes in one array: no copies in processes."""

    name: str  # as shown with every number: "imagenet", or with another size "imagenet@64"
    path: Path  # of the folder or zip
    train_names: np.ndarray  # (N,) names below `path`, UTF-8
    train_labels: Tensor  # (N,) int64
    test_names: np.ndarray  # of test/ or val/
    test_labels: Tensor
    classes: tuple[str, ...]
    image_size: int  # height and width that a network sees, in pixels
    fingerprint: str  # sha256 of class names, image size, names, labels and file sizes, first 16 hex digits
    in_channels: int = 3
    mean: tuple[float, ...] = MEAN  # a channel each, 0..1
    std: tuple[float, ...] = STD

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def describe(self) -> str:
        """One line for people."""
        size = f"{self.in_channels}x{self.image_size}x{self.image_size}"
        return (
            f"{self.name}: {len(self.train_labels):,} train and {len(self.test_labels):,} test pictures of {size},"
            f" read while training, {self.num_classes} classes, fingerprint {self.fingerprint}"
        )


def open_pictures(called: str, path: Path, image_size: int | None = None) -> StreamedPictures:
    """List the pictures below `path`; no picture is read.

    The fingerprint takes the names and sizes of all files, not their content, of which ImageNet has 150 GB: it
    notices pictures that are missing, added, in another class, cut off or encoded anew, and no swapped bytes.

    Args:
        called: name of the pictures, the size left out.
        path: folder or zip with `train/<class>/` and `test/<class>/` or `val/<class>/`, as in `image_folders`. A
            folder is better for many pictures: each process that reads a zip holds its table of contents.
        image_size: in pixels; None: 224.

    Raises:
        SedonaError: no such tree, or a zip that cannot be read.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    source = open_source(path)
    listing = list_pictures(source)
    digest = hashlib.sha256(json.dumps(["streamed", RECIPE, size, listing.classes]).encode())
    for part in (listing.train, listing.test):
        digest.update(_stamp(source, part))
    (train_names, train_labels), (test_names, test_labels) = map(_arrays, (listing.train, listing.test))
    return StreamedPictures(
        name=called if (called, size) == ("imagenet", DEFAULT_SIZE) else f"{called}@{size}",
        path=source.path,
        train_names=train_names,
        train_labels=train_labels,
        test_names=test_names,
        test_labels=test_labels,
        classes=listing.classes,
        image_size=size,
        fingerprint=digest.hexdigest()[:16],
    )


def in_memory_only(pictures: object, what: str) -> None:
    """Refuse streamed pictures where pictures are needed in memory.

    Raises:
        SedonaError: they are streamed; `what` needs others.
    """
    if isinstance(pictures, StreamedPictures):
        raise SedonaError(f"{what} needs pictures in memory, {pictures.name} is read while training")


def _stamp(source: PictureSource, part: Part) -> bytes:
    """Name, label and size of each file, without a folder that is around the whole tree."""
    first = part[0][0].split("/")
    wrapped = "" if first[0] in ("train", "test", "val") else f"{first[0]}/"
    lines = (f"{name[len(wrapped) :]}\0{label}\0{source.size(name)}\n" for name, label in part)
    return "".join(lines).encode(errors="surrogateescape")


def _arrays(part: Part) -> tuple[np.ndarray, Tensor]:
    names = np.array([name.encode(errors="surrogateescape") for name, _ in part])
    return names, torch.tensor([label for _, label in part])
