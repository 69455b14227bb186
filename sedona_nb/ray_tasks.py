"""What runs in a Ray worker: one run of a grid, which stops at a checkpoint when a file of the store says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from sedona_nb import data, devices
from sedona_nb.atomic import write_text
from sedona_nb.errors import Diverged, Paused, SedonaError
from sedona_nb.grid import execute
from sedona_nb.records import Spec
from sedona_nb.store import Busy, RunStore

LOOK = 1.0  # seconds between two looks at the stop file


def execute_here(
    spec: Spec, folder: str, data_name: str, device: str, profile: str, threads: int, stop: str
) -> tuple[str, str]:
    """One run, in this process.

    Args:
        spec: what to run.
        folder: of the store.
        data_name: of the pictures, which are read here.
        device: as this process has it.
        profile: for the record's provenance.
        threads: of PyTorch.
        stop: the stop file.

    Returns:
        how it ended, "recorded", "paused", "busy" or "failed", and the record as JSON or the reason.
    """
    torch.set_num_threads(threads)
    pause = watch(Path(stop))
    if pause():
        return "paused", "stopped before it began"
    store = RunStore(folder)
    try:
        record = execute(spec, data.load(data_name), store, devices.resolve(device), profile, pause)
    except Diverged:
        record = store.load(spec)
    except Busy as busy:
        return "busy", str(busy)
    except Paused as paused:
        return "paused", str(paused)
    except SedonaError as error:  # anything else is a bug, and comes to the driver as it is
        return "failed", str(error)
    return "recorded", record.to_json()


def new_stop_file(folder: Path, name: str) -> Path:
    """A stop file in the store's `folder` that says to go on."""
    return write_text(folder / "checkpoints" / f"{name}.stop", "no")


def say_stop(stop: Path) -> None:
    """Make whoever watches `stop` stop."""
    write_text(stop, "stop")


def watch(stop: Path) -> Callable[[], bool]:
    """Whether to stop: `say_stop` was called, or the file is gone. Looks at it every `LOOK` seconds.

    It is opened, not only asked for: that is when a network file system finds out that somebody changed it.
    """
    looked, asked = -LOOK, False

    def pause() -> bool:
        nonlocal looked, asked
        now = time.monotonic()
        if not asked and now - looked >= LOOK:
            looked = now
            try:
                asked = stop.read_text(encoding="utf-8") == "stop"
            except FileNotFoundError:
                asked = True
        return asked

    return pause
