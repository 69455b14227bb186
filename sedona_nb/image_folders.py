"""Pictures from a tree of class folders (torchvision's ImageFolder layout), on disk or inside a zip.

    train/<class>/**/picture      the class is the first folder below train, however deep the picture lies
    test/<class>/**/picture       or val/ in its place; test/ wins where both have labels
    val/val_annotations.txt       Tiny-ImageNet's own way: "picture<tab>class" a line, pictures in val/images/

One folder around the whole tree does no harm. Without test/, val/ is the test set, and no third set is made up:
pictures to choose a model by are always split off train. A test/ whose folders are no classes (the official one of
Tiny-ImageNet has no labels) is passed over.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.picture_cache import DecodedPictures
from sedona_nb.picture_sources import PictureSource, first_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
Result = TypeVar("Result")
ANNOTATIONS = "val_annotations.txt"
MOST_THREADS = 4  # large pictures are decoded side by side; small ones mostly wait for Python's lock
PICTURES_A_TASK = 500  # for one decoding thread; with a few only, handing over costs more than decoding


@dataclass(frozen=True)
class Listing:
    """Which files make up a data set: (name, class number) pairs, sorted by class and name."""

    classes: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


def read_image_folder(source: PictureSource, image_size: int | None = None) -> DecodedPictures:
    """Decode all pictures of `source` to RGB.

    Args:
        source: a folder or zip.
        image_size: resize the shorter side to this many pixels (bilinear, antialiased) and cut out the centre;
            None takes the pictures as they are, and then all must be square and of one size.

    Raises:
        SedonaError: no such tree, a picture that cannot be decoded or has another size, too little memory.
    """
    listing = list_pictures(source)
    size = image_size or _size_of_first(source, listing.train[0][0])
    check_memory(len(listing.train) + len(listing.test), size, available_memory())
    train, test = (
        _decode_all(source, part, size, image_size is not None) for part in (listing.train, listing.test)
    )
    labels = [torch.tensor([label for _, label in part]) for part in (listing.train, listing.test)]
    return DecodedPictures.measure(train, labels[0], test, labels[1], listing.classes)


def list_pictures(source: PictureSource) -> Listing:
    """Find classes and pictures; classes are the folders of train/ in order of their names.

    Raises:
        SedonaError: no train/<class>/ pictures, no labelled test/ or val/, or a test class that train lacks.
    """
    files = [(name, PurePosixPath(name).parts) for name in source.names()]
    files = [(name, parts) for name, parts in files if not parts[0].startswith((".", "__MACOSX"))]
    tops = {parts[0] for _, parts in files}
    if len(tops) == 1 and "train" not in tops:
        files = [(name, parts[1:]) for name, parts in files if len(parts) > 1]
    pictures = [f for f in files if f[0].lower().endswith(SUFFIXES) and not f[1][-1].startswith(".")]
    train = [(parts, name) for name, parts in pictures if parts[0] == "train" and len(parts) > 2]
    classes = tuple(sorted({parts[1] for parts, _ in train}))
    if not classes:
        raise SedonaError(
            f"{source.path}: no pictures in train/<class>/; allowed: a tree with train/ and test/ or val/"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    for split in ("test", "val"):
        inside = [(parts, name) for name, parts in pictures if parts[0] == split and len(parts) > 1]
        notes = [name for name, parts in files if parts == (split, ANNOTATIONS)]
        if notes:
            annotated = _annotations(source, notes[0])
            named = [(annotated.get(parts[-1], ""), parts, name) for parts, name in inside]
        else:
            named = [(parts[1] if len(parts) > 2 else "", parts, name) for parts, name in inside]
        unknown = sorted({label for label, _, _ in named if label not in numbers})
        if len(unknown) == len({label for label, _, _ in named}):
            continue  # absent, or pictures without labels
        if unknown:
            raise SedonaError(f"{source.path}: {split}/ has pictures of class {unknown[0]!r}, which train/ lacks")
        test = sorted((numbers[label], parts, name) for label, parts, name in named)
        return Listing(
            classes,
            tuple((name, numbers[parts[1]]) for parts, name in sorted(train)),
            tuple((name, label) for label, _, name in test),
        )
    raise SedonaError(f"{source.path}: no labelled pictures in test/<class>/ or val/<class>/")


def check_memory(count: int, size: int, available: int | None) -> None:
    """Refuse to decode `count` RGB pictures of `size` x `size` if `available` bytes do not hold them.

    Raises:
        SedonaError: with what is needed, what is free, and the size of picture that would fit.
    """
    needed = count * 3 * size * size
    if available is None or needed <= 0.9 * available:  # a tenth stays for the work itself
        return
    fits = int((0.9 * available / (3 * count)) ** 0.5)
    raise SedonaError(
        f"{count:,} pictures of {size}x{size} need {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB"
        f" are free; image_size={fits} would fit"
    )


def available_memory() -> int | None:
    """Bytes that can still be had on this machine or in this container; None if the system does not say."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS tells the total only
            limits += [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        limits += [int(Path("/sys/fs/cgroup/memory.max").read_text())]
    return min(limits, default=None)


def _annotations(source: PictureSource, name: str) -> dict[str, str]:
    """Picture name -> class name, from lines "picture<tab>class<tab>box"."""
    lines = [line.split("\t") for line in source.read(name).decode(errors="replace").splitlines() if line.strip()]
    if any(len(line) < 2 for line in lines):
        raise SedonaError(f"{source.path}: {name} has a line without a tab; allowed: picture<tab>class")
    return {line[0]: line[1].strip() for line in lines}


def _size_of_first(source: PictureSource, name: str) -> int:
    width, height = with_name(source, name, lambda content: Image.open(io.BytesIO(content)).size)
    if width != height:
        raise SedonaError(
            f"{source.path}: picture {name!r} is {width}x{height}, not square; pass image_size to resize and crop"
        )
    return width


def _decode_all(source: PictureSource, part: tuple[tuple[str, int], ...], size: int, resize: bool) -> Tensor:
    pictures = torch.empty(len(part), size, size, 3, dtype=torch.uint8)

    def decode(start: int) -> None:
        for place in range(start, min(start + PICTURES_A_TASK, len(part))):
            name = part[place][0]
            picture = with_name(source, name, lambda content: _decode(content, size if resize else None))
            if picture.shape != pictures[place].shape:
                height, width, _ = picture.shape
                raise SedonaError(
                    f"{source.path}: picture {name!r} is {width}x{height}, the first one is {size}x{size};"
                    f" pass image_size to resize and crop"
                )
            pictures[place] = picture

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(0, len(part), PICTURES_A_TASK)):  # raises what a thread raised, in order
            pass
    return pictures


def _decode(content: bytes, image_size: int | None) -> Tensor:
    """(H, W, 3) uint8 from the bytes of a picture file."""
    picture = Image.open(io.BytesIO(content))
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    if image_size is not None:
        scale = image_size / min(picture.size)
        width, height = (max(image_size, round(side * scale)) for side in picture.size)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        picture = picture.crop((left, top, left + image_size, top + image_size))
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)


def with_name(source: PictureSource, name: str, use: Callable[[bytes], Result]) -> Result:
    """`use` on the content of one file of `source`.

    Raises:
        SedonaError: whatever a missing or damaged picture brings up, as one line with its name.
    """
    content = source.read(name)
    try:
        return use(content)
    except MemoryError:
        raise
    except Exception as error:  # picture libraries raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise SedonaError(f"{source.path}: picture {name!r} is damaged ({first_line(error)})") from None
