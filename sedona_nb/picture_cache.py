"""Decoded pictures as one value, and on disk: decoding 60,000 pictures takes seconds, mapping them no time."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedona_nb.atomic import save_tensors

LAYOUT = 1  # of the cache file; files of another layout are rebuilt


@dataclass(frozen=True, eq=False)
class DecodedPictures:
    """Train and test pictures of one source, (N, H, W, C) uint8, labels (N,) int64, and what follows from them."""

    train_pictures: Tensor
    train_labels: Tensor
    test_pictures: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # of the train pictures, a channel each, 0..1, rounded to four digits
    std: tuple[float, ...]  # likewise
    fingerprint: str  # sha256 of class names, labels and pixels, first 16 hex digits

    @classmethod
    def measure(
        cls,
        train_pictures: Tensor,
        train_labels: Tensor,
        test_pictures: Tensor,
        test_labels: Tensor,
        classes: tuple[str, ...],
    ) -> DecodedPictures:
        """Add mean, std and fingerprint to contiguous pictures and labels."""
        mean, std = channel_statistics(train_pictures)
        digest = hashlib.sha256(json.dumps(classes).encode())
        for part in (train_labels, train_pictures, test_labels, test_pictures):
            digest.update(json.dumps(list(part.shape)).encode())
            digest.update(part.contiguous().numpy())
        return cls(
            train_pictures, train_labels, test_pictures, test_labels, classes, mean, std, digest.hexdigest()[:16]
        )


def channel_statistics(pictures: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of (N, H, W, C) uint8 pictures, 0..1, rounded to four digits.

    Summed in whole numbers, so the result does not depend on the machine. A channel that never changes gets
    std 1: it can be normalised like any other.
    """
    channels = pictures.shape[-1]
    total, squares = torch.zeros(2, channels, dtype=torch.int64)
    for chunk in pictures.flatten(1).split(256):
        wide = chunk.to(torch.int32)  # (256, H*W*C): summed along the pictures first, which is fast
        total += wide.sum(0).view(-1, channels).sum(0)
        squares += (wide * wide).sum(0).view(-1, channels).sum(0)
    count = pictures.numel() // channels
    mean = total.double() / count
    std = (squares.double() / count - mean**2).clamp_min(0).sqrt()
    rounded = [[round(value / 255, 4) for value in values.tolist()] for values in (mean, std)]
    return tuple(rounded[0]), tuple(value or 1.0 for value in rounded[1])


def cache_folder(cache: Path | str | None = None) -> Path:
    """Where decoded pictures are kept: `cache`, else SEDONA_CACHE, else ~/.cache/sedona_nb."""
    return Path(cache or os.environ.get("SEDONA_CACHE") or Path.home() / ".cache" / "sedona_nb").expanduser()


def recall(folder: Path, name: str, source: str, decode: Callable[[], DecodedPictures]) -> DecodedPictures:
    """The pictures that `decode` returns, from the cache where an earlier call left them.

    Args:
        folder: of the cache; made when needed.
        name: for people who look into the folder.
        source: all that the pictures depend on (path, size, time of change, image size); part of the file name.
        decode: called when the cache has no usable file. What it raises is passed on, and nothing is written.

    A damaged cache file is rebuilt, since nothing is lost with it; a cache that cannot be written is a warning.
    """
    path = folder / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.pt"
    kept = _mapped(path)
    if kept is not None:
        return kept
    decoded = decode()
    try:
        save_tensors(path, {"layout": LAYOUT, **asdict(decoded), "classes": list(decoded.classes)})
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"pictures of {name} will be decoded again next time: cannot write {path} ({reason})", stacklevel=2
        )
        return decoded
    return _mapped(path) or decoded  # the mapped file is shared between processes, the decoded copy can go


def _mapped(path: Path) -> DecodedPictures | None:
    """The pictures in `path`, mapped into memory and not read yet, or None if they cannot be used."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
        if content.pop("layout") != LAYOUT:
            return None
        sequences = {key: tuple(content[key]) for key in ("classes", "mean", "std")}
        return DecodedPictures(**{**content, **sequences})
    except Exception:  # whatever a damaged file brings up, the answer is to decode again
        return None
