"""A grid of runs: what it consists of, where it stands, and how it is worked through in this process.

    grid = Grid(("table02", "figure06"), (protocols.load("short", "vgg19"),), store)
    print(grid.snapshot().text())
    grid.run(pictures)                          # of its protocols, see `protocols.gather`

What a grid wants may depend on what it has found: the runs behind a table begin when the search or the choice of a
learning rate before them has a record. So it is asked anew after every record. Several processes may work through
one grid at once, on one store: each takes what nobody else is at work on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sedona_nb import experiments, progress
from sedona_nb.data import Pictures
from sedona_nb.entries import Entry
from sedona_nb.errors import Diverged, Paused, SedonaError, choose
from sedona_nb.protocols import Protocol
from sedona_nb.records import Record, RunSpec, SearchSpec, Spec, spec_hash
from sedona_nb.runs import find_or_search, find_or_train
from sedona_nb.store import Busy, RunStore

STATES = ("recorded", "running", "begun", "open")
POLL = 2.0  # seconds between two looks at what others are at work on


class RunsFailed(SedonaError):
    """Some runs of a grid failed; all others that were open are through."""

    @classmethod
    def of(cls, errors: Sequence[object]) -> RunsFailed:
        """The error that names how many and the first."""
        count = f"{len(errors)} run{'s'[: len(errors) > 1]} failed"
        return cls(f"{count}, the first with: {errors[0]}" if len(errors) > 1 else f"{count}: {errors[0]}")


@dataclass(frozen=True)
class Snapshot:
    """Where a grid stands: its specs by state, and how many entries wait for others of its runs.

    recorded: has its record. running: some process is at work on it. begun: has a checkpoint, nobody is at work.
    """

    states: dict[str, tuple[Spec, ...]]
    waiting: int

    @property
    def total(self) -> int:
        """All specs known so far; entries that wait will add theirs."""
        return sum(map(len, self.states.values()))

    def text(self, width: int = 40) -> str:
        """One line of numbers, and a bar."""
        done = len(self.states["recorded"])
        filled = width * done // self.total if self.total else 0
        counts = ", ".join(f"{len(specs)} {state}" for state, specs in self.states.items())
        more = f"; {self.waiting} entries wait for records of others" if self.waiting else ""
        return f"[{'#' * filled}{'.' * (width - filled)}] {done} of {self.total} runs\n{counts}{more}"


@dataclass(frozen=True)
class Grid:
    """The runs of some experiments under some protocols.

    Attributes:
        names: of `experiments.EXPERIMENTS`.
        protocols: each experiment runs under each of them.
        store: where records are looked up and kept.
        variants: only entries of these variants; empty: all.

    Raises:
        SedonaError: an unknown experiment, or a variant that none of them has.
    """

    names: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    store: RunStore
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            choose(name, experiments.EXPERIMENTS, "experiment")
        known = {entry.variant for entry in self._all(self.names)} if self.variants else ()
        for variant in self.variants:
            choose(variant, sorted(known), "variant")

    def _all(self, names: Sequence[str]) -> list[Entry]:
        return [e for name in names for p in self.protocols for e in experiments.load(name, p, self.store)]

    def entries(self, name: str | None = None) -> list[Entry]:
        """The entries, or those of one experiment, as the records so far determine them."""
        entries = self._all(self.names if name is None else (name,))
        return [entry for entry in entries if not self.variants or entry.variant in self.variants]

    def specs(self, name: str | None = None) -> list[Spec]:
        """All runs known so far, or those of one experiment: each once, in the order of the entries."""
        found: dict[str, Spec] = {}
        for entry in self.entries(name):
            for spec in (*entry.needs, *entry.runs):
                found.setdefault(spec_hash(spec), spec)
        return list(found.values())

    def open(self, name: str | None = None) -> list[Spec]:
        """Those without a record."""
        return [spec for spec in self.specs(name) if not self.store.path(spec).is_file()]

    def snapshot(self) -> Snapshot:
        """Where the grid stands.

        Raises:
            SedonaError: a file that should be the record of a run, and is none.
        """
        states: dict[str, list[Spec]] = {state: [] for state in STATES}
        for spec in self.specs():
            states[state_of(spec, self.store)].append(spec)
        for spec in states["recorded"]:
            self.store.load(spec)
        waiting = sum(not entry.runs for entry in self.entries())
        return Snapshot({state: tuple(specs) for state, specs in states.items()}, waiting)

    def run(
        self,
        pictures: Pictures | Sequence[Pictures],
        device: torch.device | str = "cpu",
        pause: Callable[[], bool] | None = None,
        say: Callable[[str], None] = print,
    ) -> bool:
        """Work through what is open, one run after another, and wait for what others are at work on.

        Args:
            pictures: of all protocols, or several of which each finds its own by name.
            device: where to compute.
            pause: asked after each step whether to stop there.
            say: gets a line a run.

        Returns:
            whether everything has a record, if only one that says how it diverged; False: `pause` said stop.

        Raises:
            RunsFailed: at the end, when all others are through; each failure is also said.
        """
        failed: dict[str, SedonaError] = {}
        several = list(pictures) if isinstance(pictures, Sequence) else [pictures]
        by_name = {one.name: one for one in several}
        while True:
            open_specs = in_order([spec for spec in self.open() if spec_hash(spec) not in failed], self.store)
            if not open_specs:
                break
            busy = 0
            for spec in open_specs:
                if pause is not None and pause():
                    return False
                try:
                    its = by_name.get(spec.data, several[0])  # others are refused by their names
                    record = execute(spec, its, self.store, device, self.protocols[0].name, pause)
                except Busy:
                    busy += 1
                    continue
                except Paused as stop:
                    say(f"{describe(spec)}: {stop}")
                    return False
                except Diverged:
                    record = self.store.load(spec)
                except SedonaError as error:
                    failed[spec_hash(spec)] = error
                    say(f"{describe(spec)}: FAILED: {error}")
                    continue
                say(f"{describe(spec)}: {outcome(record)}")
                break  # what is open may have changed
            if busy == len(open_specs):
                time.sleep(POLL)
        if failed:
            raise RunsFailed.of(list(failed.values()))
        return True


def execute(
    spec: Spec,
    pictures: Pictures,
    store: RunStore,
    device: torch.device | str = "cpu",
    profile: str = "",
    pause: Callable[[], bool] | None = None,
    wait: bool = False,
) -> Record:
    """The record of any spec of a grid; errors as in `runs.find_or_search` and `runs.find_or_train`."""
    work = find_or_search if isinstance(spec, SearchSpec) else find_or_train
    return work(spec, pictures, store, device, profile, pause, wait)


def state_of(spec: Spec, store: RunStore) -> str:
    """One of `STATES`."""
    if store.path(spec).is_file():
        return "recorded"
    if store.is_claimed(spec):
        return "running"
    return "begun" if store.is_begun(spec) else "open"


def describe(spec: Spec) -> str:
    """A run in a few words: its hash, and what it is."""
    what = f"{spec_hash(spec)} {spec.network.name}"
    if isinstance(spec, RunSpec):
        blocks = spec.decoupling.num_blocks if spec.decoupling else spec.method
        rate = f"rate {spec.train.lr:g}, warm-up {spec.train.warmup_steps}"
        return f"{what} {spec.method}, K = {blocks}, seed {spec.seed}, {rate}"
    return f"{what} search, {spec.search.objective}, T = {spec.search.inner.steps}, seed {spec.seed}"


def outcome(record: Record) -> str:
    """A record in a few words."""
    took = progress.duration(record.provenance.seconds)
    if record.diverged:
        return f"diverged: {record.diverged}; {took}"
    if "best" in record.result:
        best = record.result["best"]
        return f"validation {best['validation']['top1']:.2f} %, test {best['test']['top1']:.2f} %, {took}"
    return f"searched in {took}"


def in_order(specs: Sequence[Spec], store: RunStore) -> list[Spec]:
    """Begun runs first, so that a piece of work that was interrupted ends before another begins."""
    return sorted(specs, key=lambda spec: not store.is_begun(spec))
