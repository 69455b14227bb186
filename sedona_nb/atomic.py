"""Files that are either whole or absent: write beside the target, then rename over it."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sedona_nb.errors import SedonaError


def _write(path: Path | str, fill: Callable[[BinaryIO], None]) -> Path:
    """Let `fill` write to a temporary file in the target's folder, then rename it; nothing half-written stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private; results are meant to be shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write `content` to `path` atomically; returns the path."""
    return _write(path, lambda stream: stream.write(content))


def write_text(path: Path | str, content: str) -> Path:
    """Write `content` as UTF-8 to `path` atomically; returns the path."""
    return write_bytes(path, content.encode())


def save_tensors(path: Path | str, content: Any) -> Path:
    """`torch.save` tensors, numbers, strings and containers of them to `path` atomically; returns the path."""
    return _write(path, lambda stream: torch.save(content, stream))


def save_checkpoint(path: Path | str, content: Any) -> Path:
    """`save_tensors` for what a long run depends on; returns the path.

    Raises:
        SedonaError: the file cannot be written (no space, no permission): why, and that older files are whole.
    """
    path = Path(path)
    try:
        return save_tensors(path, content)
    except (OSError, RuntimeError) as error:
        reason = _system_error(error)
        if reason is None:
            raise
        room = f"{shutil.disk_usage(existing_folder(path)).free / 1e6:,.0f} MB are free there"
        raise SedonaError(
            f"cannot write {path}: {reason.strerror or reason} ({room}); what was written before is whole: "
            "make room or mend the folder, then run the same again"
        ) from None


def existing_folder(path: Path | str) -> Path:
    """The nearest folder on the way to `path` that is there already."""
    return next(folder for folder in Path(path).absolute().parents if folder.is_dir())


def remove_parts(folder: Path | str, name: str) -> None:
    """Remove what writers that were killed left of files called `name`, which may be a pattern."""
    for part in Path(folder).glob(f".{name}.*.part"):
        part.unlink(missing_ok=True)


def _system_error(error: BaseException | None) -> OSError | None:
    """The operating system's complaint behind `error`; `torch.save` may raise its own on top of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def load_tensors(path: Path | str, map_location: torch.device | str = "cpu") -> Any:
    """Load what `save_tensors` wrote, without running any code that the file may carry.

    Raises:
        SedonaError: the file is missing, damaged, or holds more than plain tensors and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise SedonaError(f"no file {path}")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SedonaError(f"cannot read {path}: damaged, or not plain tensors ({reason[:120]})") from None
