"""What lies in the folder of a live search: what is searched, what is wished, how far it is, and who is at work.

    request.json   what is searched, with which pictures, where it computes
    wish           what the process shall do: "run", "pause" or "stop"
    status.json    how far it is; the process writes it
    lock           held by the process as long as it lives: the operating system lets go of it, however it ends
    guard          held for a moment by whoever decides something, so that decisions come one after another
    record/        a store (`RunStore`): checkpoints, and at the end the record
    log.txt        what the process printed

Every file is replaced whole (`atomic`), so that readers never see half of one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sedona_nb.atomic import write_text
from sedona_nb.decoding import decode
from sedona_nb.errors import SedonaError
from sedona_nb.records import SearchSpec
from sedona_nb.search_state import SearchState
from sedona_nb.store import RunStore

WISHES = ("run", "pause", "stop")
AT_WORK = ("starting", "pretraining", "searching")  # only with a process; without one it is "dead"
AT_REST = ("paused", "stopped", "dead", "failed")  # can be continued
STATES = ("none", *AT_WORK, *AT_REST, "done")


@dataclass(frozen=True)
class Request:
    """What a process needs to know before it can search."""

    spec: SearchSpec
    data: str  # name or path, as `data.load` takes it
    device: str
    threads: int  # sums, and with them the last bits, depend on it


@dataclass(frozen=True)
class Status:
    """How a search stands; S outer steps are done, L layers.

    Attributes:
        state: one of `STATES`.
        pretrained, pretrain_steps: pretraining steps done, and of how many.
        searched, outer_steps: outer steps done (S), and of how many.
        shares: alpha_1-bar of each layer now, (L-1,).
        outer_losses: validation loss at each outer step, (S,).
        errors: (pretraining step, validation error in percent), one an evaluation of the pretraining.
        seconds: of work, up to the last checkpoint.
        pid: of the process that wrote this; 0: none has yet.
        message: why it failed, or what else a person should know.
        wish: what the process was asked to do; it looks after each step.
    """

    state: str = "none"
    pretrained: int = 0
    pretrain_steps: int = 0
    searched: int = 0
    outer_steps: int = 0
    shares: tuple[float, ...] = ()
    outer_losses: tuple[float, ...] = ()
    errors: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    pid: int = 0
    message: str = ""
    wish: str = "run"

    @property
    def at_work(self) -> bool:
        """Whether a process is searching, or about to."""
        return self.state in AT_WORK

    @classmethod
    def of(cls, spec: SearchSpec, state: SearchState, name: str, pid: int = 0) -> Status:
        """The status of a search of `spec` with this state of affairs, under the name of one of `STATES`."""
        return cls(
            name,
            state.pretrained,
            spec.search.pretrain_steps,
            state.searched,
            spec.search.outer_steps,
            tuple(state.alpha.softmax(1)[:, 0].tolist()),
            tuple(state.losses),
            tuple((step, error) for step, _, error in state.pretraining),
            state.seconds,
            pid,
        )

    def __str__(self) -> str:
        if self.state == "none":
            return "There is no search in this folder yet."
        words = (
            f"{self.state[0].upper()}{self.state[1:]}: pretraining {self.pretrained:,} of {self.pretrain_steps:,}"
        )
        words += f" steps, search {self.searched:,} of {self.outer_steps:,} outer steps."
        if self.at_work and self.wish != "run":
            words += f" It will {self.wish} after this step."
        return f"{words} {self.message}".rstrip()


class LiveFolder:
    """The files of one live search; reading one that is not there gives None or the status "none"."""

    def __init__(self, folder: Path | str):
        self.path = Path(folder).absolute()
        self.store = RunStore(self.path / "record")
        self.lock, self.log = self.path / "lock", self.path / "log.txt"

    def write_request(self, request: Request) -> None:
        """Say what shall be searched."""
        write_text(self.path / "request.json", json.dumps(dataclasses.asdict(request), indent=1) + "\n")

    def read_request(self) -> Request | None:
        """What is searched.

        Raises:
            SedonaError: the file is damaged, or of another version.
        """
        path = self.path / "request.json"
        if not path.is_file():
            return None
        try:
            return decode(Request, json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, SedonaError) as error:
            raise SedonaError(f"{path} is damaged ({error}); choose another folder, or remove this one") from None

    def write_status(self, status: Status) -> None:
        """Say how far the search is."""
        write_text(self.path / "status.json", json.dumps(dataclasses.asdict(status)) + "\n")

    def read_status(self) -> Status:
        """What was written last, by whomever, and what is wished now."""
        path = self.path / "status.json"
        if not path.is_file():
            return Status()
        status = decode(Status, json.loads(path.read_text(encoding="utf-8")))
        return dataclasses.replace(status, wish=self.read_wish())

    def write_wish(self, wish: str) -> None:
        """Ask the process for one of `WISHES`."""
        write_text(self.path / "wish", wish)

    def read_wish(self) -> str:
        """What was asked for last."""
        try:
            wish = (self.path / "wish").read_text(encoding="utf-8")
        except FileNotFoundError:
            return "run"
        return wish if wish in WISHES else "run"

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Be the only one who decides something about this folder; for moments, not for steps."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "guard").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def take_lock(self) -> int | None:
        """A descriptor that holds the lock, or None where a process has it; ask under `guarded` only."""
        descriptor = os.open(self.lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def has_process(self) -> bool:
        """Whether a process holds the lock; ask under `guarded` only."""
        descriptor = self.take_lock()
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None
