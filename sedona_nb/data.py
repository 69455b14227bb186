"""Named data sets, as uint8 tensors in memory or read while training, and seeded splits of them.

`SEDONA_DATA` says where data lies, `SEDONA_CACHE` where decoded pictures are kept. Nothing is downloaded unless
asked, and no data set stands in for another under its name: `ImageData.name` and `.fingerprint` say what ran.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sedona_nb import digits, sequences, stream_names
from sedona_nb.augmentation import Augmentation, recipe
from sedona_nb.errors import SedonaError, choose
from sedona_nb.picture_cache import DecodedPictures, cache_folder, recall
from sedona_nb.picture_sources import FolderSource, open_source
from sedona_nb.places import home
from sedona_nb.seeds import mix
from sedona_nb.streamed_pictures import StreamedPictures, open_pictures

NAMES = (
    "digits",
    "cifar10",
    "cifar10-jpeg",
    "fashion-mnist",
    "tiny-imagenet",
    sequences.NAME,
    *stream_names.ALWAYS,
)
# Folders or zips that a name stands for, best first, and what the pictures in them are called wherever shown.
TREES = {
    "cifar10": {"cifar10": "cifar10-jpeg"},  # a tree of pictures is a re-encoding: never shown as CIFAR-10 itself
    "cifar10-jpeg": {"cifar10": "cifar10-jpeg"},
    "fashion-mnist": {},
    "tiny-imagenet": {
        "tiny-imagenet-200": "tiny-imagenet",
        "tiny-imagenet": "tiny-imagenet",
        "tiny-imagenet-50": "tiny-imagenet-50",
    },
    "imagenet": {"imagenet": "imagenet", "ImageNet": "imagenet", "ILSVRC2012": "imagenet"},
}


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory. Pictures are (N, C, H, W) uint8 whose memory is laid out (N, H, W, C)."""

    name: str  # as shown with every number; "cifar10-jpeg" is never called "cifar10"
    train_images: Tensor
    train_labels: Tensor  # (N,) int64
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation
    fingerprint: str  # sha256 of class names, labels and pixels, first 16 hex digits

    @property
    def mean(self) -> tuple[float, ...]:
        """A channel each, 0..1."""
        return self.augmentation.mean

    @property
    def std(self) -> tuple[float, ...]:
        """A channel each, 0..1."""
        return self.augmentation.std

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """1 for grey pictures, 3 for RGB."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.train_images.shape[2]

    def describe(self) -> str:
        """One line for people."""
        size = f"{self.in_channels}x{self.image_size}x{self.image_size}"
        return (
            f"{self.name}: {len(self.train_labels):,} train and {len(self.test_labels):,} test pictures of {size},"
            f" {self.num_classes} classes, fingerprint {self.fingerprint}"
        )


Pictures = ImageData | StreamedPictures | sequences.SequenceData


def load(
    name: str | Path,
    root: Path | str | None = None,
    download: bool = False,
    cache: Path | str | None = None,
    image_size: int | None = None,
) -> Pictures:
    """Load a data set by name or path.

    Args:
        name: "digits" (offline, from scikit-learn); "cifar10" or "fashion-mnist" (torchvision's files below
            `root`; Fashion-MNIST's four .gz files in fashion-mnist/, or the Debian package dataset-fashion-mnist,
            will do); "cifar10-jpeg" (cifar10.zip or cifar10/ below `root`; "cifar10" takes it too where the
            original is missing, and is then called "cifar10-jpeg"); "tiny-imagenet" (tiny-imagenet-200 as
            distributed, or tiny-imagenet, or tiny-imagenet-50, folder or zip); a folder or zip in ImageFolder
            layout, by path or by the name it has below `root`. "imagenet", and "stream:" before the name or path
            of a folder or zip: pictures that are read while training (`streamed_pictures`), at 224 pixels;
            "stream@64:..." at 64. "reversed-digits": no pictures, but the task of `sequences`.
        root: where data lies; default SEDONA_DATA, else the folder data of the repository.
        download: let torchvision download "cifar10" or "fashion-mnist" if the original files are missing.
        cache: folder of decoded pictures; default SEDONA_CACHE, else ~/.cache/sedona_nb.
        image_size: for folders and zips: resize the shorter side to this, cut out the centre. For pictures that
            are read while training: the size that a network sees.

    Raises:
        SedonaError: unknown name, missing or damaged files, pictures that differ in size or do not fit into
            memory.
    """
    root = Path(root or os.environ.get("SEDONA_DATA") or home() / "data").expanduser()
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise SedonaError(f"image_size {image_size!r} is not allowed; allowed: pixels, at least 1, or None")
    streamed = stream_names.parse(str(name))
    if streamed is not None:
        rest, size = streamed
        if None not in (size, image_size) and size != image_size:
            raise SedonaError(f"data {name!r} and image_size {image_size} contradict each other")
        return open_pictures(*_find_tree(rest, root), size or image_size)
    if name == sequences.NAME:
        if image_size is not None:
            raise SedonaError(f"{name} has no pictures; image_size is for folders and zips of pictures")
        return sequences.reversed_digits()
    shown, source, decode = None, None, None
    if name == "digits":
        _fixed_size(name, image_size)
        source = f"scikit-learn {version('scikit-learn')}, split {digits.DIGITS_SPLIT_SEED}"
        shown, decode = name, digits.read
    elif name in ("cifar10", "fashion-mnist"):
        from sedona_nb import torchvision_sets  # torchvision is slow to import, and digits do without

        folder = torchvision_sets.folder_of(name, root)
        if download and not folder.exists():
            torchvision_sets.fetch(name, root)
        if folder.exists():
            _fixed_size(name, image_size)
            shown, source = name, FolderSource(folder).stamp()
            decode = lambda: torchvision_sets.read(name, folder)  # noqa: E731
    if decode is None:
        from sedona_nb import image_folders

        shown, path = _find_tree(name, root)
        tree = open_source(path)
        source = f"{tree.stamp()} image_size={image_size}"
        decode = lambda: image_folders.read_image_folder(tree, image_size)  # noqa: E731
    return _image_data(shown, recall(cache_folder(cache), shown, source, decode))


def split(num_items: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Part the numbers 0..num_items-1 at random: (held out, kept), int64, disjoint, together all of them.

    The search holds out 40 % of train to validate on, training 10 % to choose the best weights by (recipe sheet).

    Args:
        num_items: how many there are.
        fraction: held out, rounded to whole items; 0 <= fraction < 1.
        seed: integer of at least 0; the same split on every machine.

    Raises:
        SedonaError: a fraction outside [0, 1), a negative number of items, a bad seed.
    """
    if not 0 <= fraction < 1 or num_items < 0:
        raise SedonaError(f"cannot hold out {fraction!r} of {num_items!r}; allowed: a fraction from 0 to below 1")
    if not isinstance(seed, Integral) or seed < 0:
        raise SedonaError(f"seed {seed!r} is not allowed; allowed: integers of at least 0")
    order = torch.from_numpy(np.random.default_rng(mix(int(seed), "split")).permutation(num_items))
    held_out = round(num_items * fraction)
    return order[:held_out], order[held_out:]


def _image_data(name: str, decoded: DecodedPictures) -> ImageData:
    return ImageData(
        name=name,
        train_images=decoded.train_pictures.permute(0, 3, 1, 2),
        train_labels=decoded.train_labels,
        test_images=decoded.test_pictures.permute(0, 3, 1, 2),
        test_labels=decoded.test_labels,
        classes=decoded.classes,
        augmentation=recipe(name, decoded.mean, decoded.std),
        fingerprint=decoded.fingerprint,
    )


def _fixed_size(name: str, image_size: int | None) -> None:
    if image_size not in (None, 32):
        raise SedonaError(f"{name} has pictures of 32x32; image_size is for folders and zips of pictures")


def _find_tree(name: str | Path, root: Path) -> tuple[str, Path]:
    """What the pictures are called, and their folder or zip: by path, by known name, by what lies below `root`."""
    given = Path(name).expanduser()
    if isinstance(name, Path) or os.sep in name or "/" in name or given.suffix == ".zip":
        stem = given.stem if given.suffix == ".zip" else given.resolve().name
        return _called(stem), given
    if not name.strip("."):
        raise SedonaError(
            f"unknown data set {name!r}; allowed: {', '.join(NAMES)}, or a folder or zip by its path"
        )
    candidates = TREES.get(name, {name: _called(name)})
    for stem, called in candidates.items():
        for path in (root / stem, root / f"{stem}.zip"):
            if path.is_dir() if path.suffix != ".zip" else path.is_file():
                return called, path
    if name not in NAMES:
        choose(name, (*NAMES, "a folder or zip of pictures by its path", f"or by its name in {root}"), "data set")
    looked = [f"{stem}/" for stem in candidates] + [f"{stem}.zip" for stem in candidates]
    advice = "SEDONA_DATA or root= sets the folder"
    if name in ("cifar10", "fashion-mnist"):
        from sedona_nb import torchvision_sets

        distributed = [f"{place}/" for place in torchvision_sets.DISTRIBUTED.get(name, ())]
        looked = [f"{torchvision_sets.SETS[name][1]}/", *distributed, *looked]
        advice = f"download=True lets torchvision fetch it, {advice}"
    raise SedonaError(f"no {name} in {root} (looked for {', '.join(looked)}); {advice}")


def _called(stem: str) -> str:
    """What a folder or zip of this name is called wherever shown."""
    return {old: new for tree in TREES.values() for old, new in tree.items()}.get(stem, stem)
