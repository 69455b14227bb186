"""The weight memory of Algorithm 1: up to N sets of weights, sampled uniformly, renewed as the search goes on.

Sets live in RAM, or, with a folder, in one file each. Files are never changed, and a set that leaves the memory
keeps its file until `commit`, so that the state saved at the last checkpoint can always be restored.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sedona_nb.atomic import load_tensors, remove_parts, save_checkpoint
from sedona_nb.bilevel import Weights
from sedona_nb.errors import SedonaError, choose

KEEPS = ("best", "last")
EVICTIONS = ("oldest", "replace")
REMEDY = "bring the file back from a copy, or start the search anew in an empty folder"


@dataclass(frozen=True)
class Entry:
    """One stored set: `number` counts insertions, `step` the training steps behind it, `error` is validation's."""

    number: int
    step: int
    error: float | None


class WeightMemory:
    """N sets of (theta, phi) with their momenta and running statistics.

    Args:
        capacity: N; 50 in the paper.
        keep: which snapshots of the pretraining stay: "best" by validation error (the paper), or the "last" ones
            (what the released code does: its choice of the worst set to evict is never passed on).
        eviction: what an updated set pushes out during the search: the "oldest" set (the paper), or the very set
            that it came from, "replace" (what the released code does).
        folder: where to keep the sets; None keeps them in RAM.

    Raises:
        SedonaError: a capacity below 1 or an unknown policy.
    """

    def __init__(
        self, capacity: int, keep: str = "best", eviction: str = "oldest", folder: Path | str | None = None
    ):
        if capacity < 1:
            raise SedonaError(f"memory for {capacity} weight sets: at least 1 is needed")
        self.capacity = capacity
        self.keep = choose(keep, KEEPS, "choice of snapshots to keep")
        self.eviction = choose(eviction, EVICTIONS, "eviction")
        self.folder = None if folder is None else Path(folder)
        self.entries: list[Entry] = []
        self._in_ram: dict[int, Weights] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self.entries)

    def offer(self, weights: Weights, step: int, error: float) -> bool:
        """A snapshot of the pretraining; returns whether it was kept.

        Raises:
            SedonaError: its file cannot be written; the memory is as it was.
        """
        leaving = None
        if len(self) == self.capacity:
            if self.keep == "last":
                leaving = self.entries[0]
            else:
                leaving = max(self.entries, key=lambda entry: (entry.error, -entry.number))
                if error >= leaving.error:
                    return False
        self._insert(weights, step, error, leaving)
        return True

    def sample(self, generator: torch.Generator) -> tuple[Entry, Weights]:
        """One set, each with the same probability; it stays in the memory.

        Raises:
            SedonaError: the memory is empty, or the set's file is missing or damaged (which, and what to do).
        """
        if not self.entries:
            raise SedonaError("the weight memory is empty: pretrain first, or store initial weights")
        entry = self.entries[int(torch.randint(len(self), (1,), generator=generator))]
        return entry, self._load(entry)

    def renew(self, sampled: Entry, weights: Weights, step: int) -> None:
        """Store the weights that one more step made of `sampled` (last two lines of Algorithm 1's loop).

        Raises:
            SedonaError: their file cannot be written; the memory is as it was.
        """
        leaving = None
        if self.eviction == "replace":
            leaving = sampled
        elif len(self) >= self.capacity:
            leaving = min(self.entries, key=lambda entry: entry.number)
        self._insert(weights, step, None, leaving)

    def state(self) -> dict:
        """What a checkpoint has to hold so that `restore` finds the same sets again."""
        return {"next": self._next, "entries": [asdict(entry) for entry in self.entries]}

    def restore(self, state: dict) -> None:
        """Go back to a saved `state`; files of sets that came later are removed.

        Raises:
            SedonaError: a set of that state has no file.
        """
        self._next = state["next"]
        self.entries = [Entry(**entry) for entry in state["entries"]]
        for entry in self.entries:
            if self.folder is None or not self._file(entry).is_file():
                raise SedonaError(
                    f"weight set {entry.number} of the checkpoint is missing from {self.folder}; {REMEDY}"
                )
        self.commit()

    def commit(self) -> None:
        """Remove the files of sets that are no longer in the memory; call after the checkpoint is written.

        What a writer that was killed left half-written goes as well.
        """
        if self.folder is None:
            return
        remove_parts(self.folder, "set-*.pt")
        present = {self._file(entry).name for entry in self.entries}
        for path in self.folder.glob("set-*.pt"):
            if path.name not in present:
                path.unlink()

    def _file(self, entry: Entry) -> Path:
        return self.folder / f"set-{entry.number:08d}.pt"

    def _insert(self, weights: Weights, step: int, error: float | None, leaving: Entry | None) -> None:
        entry = Entry(self._next, step, error)
        kept = Weights(*({name: value.detach().cpu().clone() for name, value in part.items()} for part in weights))
        if self.folder is None:
            self._in_ram[entry.number] = kept
        else:
            save_checkpoint(self._file(entry), list(kept))  # first: where this fails, nothing has changed
        if leaving is not None:
            self._drop(leaving)
        self._next += 1
        self.entries.append(entry)

    def _load(self, entry: Entry) -> Weights:
        if self.folder is None:
            return self._in_ram[entry.number]
        path = self._file(entry)
        try:
            parts = load_tensors(path)
            with zipfile.ZipFile(
                path
            ) as archive:  # torch.save writes check sums, torch.load does not look at them
                if archive.testzip() is not None:
                    raise SedonaError(f"{path} has been altered, its check sums are wrong")
            return Weights(*parts)
        except (SedonaError, TypeError) as error:  # TypeError: a whole file, but of something else
            reason = error if isinstance(error, SedonaError) else f"{path} holds something else"
            raise SedonaError(f"weight set {entry.number} is lost: {reason}; {REMEDY}") from None

    def _drop(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self._in_ram.pop(entry.number, None)
