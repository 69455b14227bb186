"""A folder of records, and who is at work on which: several processes may read and write it at once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedona_nb import record_results
from sedona_nb.atomic import write_text
from sedona_nb.errors import SedonaError
from sedona_nb.records import Record, Spec, spec_hash


class Busy(SedonaError):
    """Somebody else is at work on this run."""


class RunStore:
    """A folder of records, one JSON file each, named by the hash of its spec.

    Checkpoints of runs in progress lie in its subfolder `checkpoints` and go when the record is written.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, spec: Spec) -> Path:
        """Where the record of `spec` is or would be."""
        return self.folder / f"{spec_hash(spec)}.json"

    def checkpoints(self, spec: Spec) -> Path:
        """The folder for what a run in progress has to remember."""
        return self.folder / "checkpoints" / spec_hash(spec)

    def load(self, spec: Spec) -> Record | None:
        """The record of `spec`, or None.

        Raises:
            SedonaError: there is a file, but it is no record of this spec.
        """
        path = self.path(spec)
        if not path.is_file():
            return None
        record = self._read(path)
        if spec_hash(record.spec) != spec_hash(spec):
            raise SedonaError(f"{path} holds the record of another spec; remove it")
        return record

    def save(self, record: Record) -> Path:
        """Write `record`, atomically, and drop its checkpoints; returns the file."""
        path = write_text(self.path(record.spec), record.to_json())
        shutil.rmtree(self.checkpoints(record.spec), ignore_errors=True)
        return path

    @contextmanager
    def claimed(self, spec: Spec, wait: bool = True) -> Iterator[None]:
        """Be the only one at work on `spec` among all processes that ask; the claim ends with its process.

        It is a lock of the operating system on a file in `checkpoints`, so that nobody has to clean up after a
        process that was killed. A file system that several machines share must support `flock` (NFS 4 does).

        Args:
            spec: of the run.
            wait: for whoever has it now; else refuse.

        Raises:
            Busy: somebody has it, and `wait` is false.
        """
        path = self.checkpoints(spec).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise Busy(f"somebody else is at work on run {spec_hash(spec)}") from None
            if _is(descriptor, path):
                break
            os.close(descriptor)  # whoever had it removed the file: this lock is one of nothing
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def is_claimed(self, spec: Spec) -> bool:
        """Whether somebody is at work on `spec`."""
        if not self.checkpoints(spec).with_suffix(".lock").exists():
            return False
        try:
            with self.claimed(spec, wait=False):
                return False
        except Busy:
            return True

    def is_begun(self, spec: Spec) -> bool:
        """Whether there is a checkpoint from which `spec` would go on."""
        return self.checkpoints(spec).is_dir()

    def forget(self, spec: Spec) -> None:
        """Remove the record and checkpoints of `spec`, so that it is run anew."""
        self.path(spec).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints(spec), ignore_errors=True)

    def records(self) -> list[Record]:
        """All records, in the order of their names.

        Raises:
            SedonaError: a file that is no record (which, and why).
        """
        return [self._read(path) for path in sorted(self.folder.glob("*.json"))]

    def _read(self, path: Path) -> Record:
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
            record_results.check(record)
            return record
        except (SedonaError, TypeError, UnicodeDecodeError) as error:
            raise SedonaError(f"{path} is no record: {error}; mend or remove it") from None


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
