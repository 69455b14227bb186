"""A folder or a zip as a list of files that can be read by name; a zip is read in place and never unpacked."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from sedona_nb.errors import SedonaError


class PictureSource(Protocol):
    """What the reader of picture trees needs: names with forward slashes, relative to the top, and their bytes."""

    path: Path

    def names(self) -> list[str]:
        """All files."""

    def read(self, name: str) -> bytes:
        """The content of one file; SedonaError if it cannot be read."""

    def size(self, name: str) -> int:
        """Bytes that `read` gives."""

    def stamp(self) -> str:
        """Changes whenever a file does, as far as sizes and times of change tell."""


class FolderSource:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def names(self) -> list[str]:
        """All files below the folder; links are followed, as torchvision's ImageFolder does."""
        found = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            below = Path(folder).relative_to(self.path)
            found += [(below / name).as_posix() for name in files]
        return found

    def read(self, name: str) -> bytes:
        """The content of one file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise SedonaError(f"cannot read {self.path / name} ({error.strerror})") from None

    def size(self, name: str) -> int:
        """Bytes of one file."""
        try:
            return os.stat(self.path / name).st_size
        except OSError as error:
            raise SedonaError(f"cannot read {self.path / name} ({error.strerror})") from None

    def stamp(self) -> str:
        """A hash over names, sizes and times of all files: the folder's own time says nothing about them."""
        digest = hashlib.sha256()
        for name in sorted(self.names()):
            state = os.stat(self.path / name)
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return f"{self.path} {digest.hexdigest()}"


class ZipSource:
    """Members of a zip file, opened when first needed.

    Raises:
        SedonaError: when listed: not a zip, damaged, or a member that would lie outside the zip's own folder; when
            read: a damaged or encrypted member. Each names the zip and the member.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._archive: zipfile.ZipFile | None = None

    def names(self) -> list[str]:
        """All members that are files."""
        names = [info.filename for info in self._open().infolist() if not info.is_dir()]
        for name in names:
            # Nothing is unpacked here, but a zip that tries to leave its folder is not one to trust with anything.
            windows = PureWindowsPath(name)  # sees drive letters and both kinds of slashes
            if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
                raise SedonaError(f"{self.path}: member {name!r} lies outside the zip; refused")
        return names

    def read(self, name: str) -> bytes:
        """The content of one member; several threads may read at once."""
        try:
            return self._open().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise SedonaError(f"{self.path}: cannot read member {name!r} ({first_line(error)})") from None

    def size(self, name: str) -> int:
        """Bytes of one member, unpacked."""
        return self._open().getinfo(name).file_size

    def stamp(self) -> str:
        """Path, size and time of change of the zip."""
        state = self.path.stat()
        return f"{self.path} {state.st_size} {state.st_mtime_ns}"

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
                raise SedonaError(f"{self.path} is not a readable zip ({first_line(error)})") from None
        return self._archive


def open_source(path: Path) -> PictureSource:
    """The folder or zip at `path`; SedonaError if there is none."""
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ZipSource(path)
    raise SedonaError(f"no folder or zip of pictures at {path}")


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:150]
