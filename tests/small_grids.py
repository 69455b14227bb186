"""Grids of runs that take a second each, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sedona_nb import atomic, protocols
from sedona_nb.grid import Grid
from sedona_nb.protocols import Protocol, Setting
from sedona_nb.records import Spec, spec_hash
from sedona_nb.store import RunStore

REPOSITORY = Path(__file__).resolve().parent.parent
TABLE = "table02"


def protocol(seeds: tuple[int, ...] = (0,), lr: float = 0.05, **train: object) -> Protocol:
    """VGG-19, 1/32 as wide, on digits; a search of five steps."""
    smoke = protocols.load("smoke")
    inner = replace(smoke.profile.search.inner, steps=1, batch_size=8)
    search = replace(
        smoke.profile.search,
        pretrain_steps=2,
        snapshot_every=2,
        snapshot_batches=1,
        outer_steps=3,  # the first step of Adam is as long for every layer
        outer_batch_size=8,
        inner=inner,
    )
    train = {"steps": 6, "batch_size": 8, "evaluate_every": 3, "train_pictures": 0, "alignment_every": 0, **train}
    profile = replace(smoke.profile, search=search, train=replace(smoke.profile.train, **train))
    return replace(smoke, profile=profile, seeds=seeds, settings=(Setting(lr, 0),))


def grid(folder: Path, *variants: str, **changes: object) -> Grid:
    """Table 2 (a), or some of its rows; `changes` are of `protocol`."""
    return Grid((TABLE,), (protocol(**changes),), RunStore(folder), variants)


def results(store: RunStore) -> dict[str, dict]:
    """What came out of each run, by the hash of its spec; searches without their time."""
    found = {spec_hash(record.spec): dict(record.result) for record in store.records()}
    for result in found.values():
        result.pop("seconds", None)
    return found


def shell(*arguments: str, **variables: str) -> subprocess.Popen:
    """`python -m sedona_nb.runs` in a process of its own."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "SEDONA_HEADLESS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}
    command = [sys.executable, "-m", "sedona_nb.runs", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=REPOSITORY
    )


def spoil(store: RunStore, spec: Spec) -> None:
    """Make the run of `spec` fail."""
    atomic.save_checkpoint(store.checkpoints(spec) / "training.pt", {"identity": "of another run"})


def after(calls: int) -> Callable[[], bool]:
    """A pause that says stop when it is asked for the time number `calls`."""
    asked = iter(range(1, calls))
    return lambda: next(asked, None) is None
