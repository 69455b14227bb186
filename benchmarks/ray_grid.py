"""A grid of eight short runs: one after another in this process, and on a local Ray with two workers.

    python benchmarks/ray_grid.py [--workers 2] [--steps 900] [--rounds 1]

Each run has one thread. Both ways take turns, with fresh stores, and leave the same records. Ray's time is given
twice: from nothing to nothing, and without what an empty Ray takes to start and to end; that its workers import
PyTorch is part of both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from sedona_nb import data, protocols, ray_cluster, ray_engine
from sedona_nb.devices import describe
from sedona_nb.grid import Grid
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import protocol as caption
from sedona_nb.store import RunStore

VARIANTS, SEEDS = ("backprop", "dgl"), (0, 1, 2, 3)


def grid(folder: Path, steps: int, width: float) -> Grid:
    """Two methods with four seeds each on digits."""
    smoke = protocols.load("smoke")
    train = replace(
        smoke.profile.train,
        steps=steps,
        batch_size=64,
        evaluate_every=steps // 4,
        alignment_every=0,
        train_pictures=0,
    )
    profile = replace(smoke.profile, network=NetworkConfig("vgg19", width), train=train)
    protocol = replace(smoke, profile=profile, seeds=SEEDS)
    return Grid(("table02",), (protocol,), RunStore(folder), VARIANTS)


def here(work: Grid) -> dict[str, float]:
    """Seconds in this process."""
    pictures = data.load("digits")
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work.run(pictures)
    return {"in this process": time.perf_counter() - began}


def on_ray(work: Grid, workers: int) -> dict[str, float]:
    """Seconds on Ray, and without those that an empty one takes to start and to end."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        ray_engine.run(work, "digits", "cpu", workers=workers)
    ended = time.perf_counter()
    with ray_cluster.joined(None, workers, {}):
        pass
    whole, empty = ended - began, time.perf_counter() - ended
    name = f"Ray, {workers} workers"
    return {name: whole, f"{name}, less an empty Ray": whole - empty}


def results(work: Grid) -> list[dict]:
    return [record.result for record in work.store.records()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--width", type=float, default=1 / 8)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    os.environ["SEDONA_HEADLESS"] = "1"
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            alone, spread = (grid(Path(folder), options.steps, options.width) for folder in (one, other))
            for name, seconds in {**here(alone), **on_ray(spread, options.workers)}.items():
                found.setdefault(name, []).append(seconds)
            same = results(alone) == results(spread)
            example, runs = caption(alone.specs()[0]), alone.store.records()
    mean = statistics.mean(record.provenance.seconds for record in runs)
    print(
        f"{len(runs)} runs ({', '.join(VARIANTS)}; {len(SEEDS)} seeds) of {mean:.1f} s: {example}, 1 thread each"
    )
    print(
        f"{describe(torch.device('cpu'))}, {os.cpu_count()} cores, torch {torch.__version__}; same results: {same}"
    )
    base = statistics.median(found["in this process"])
    for name, seconds in found.items():
        value = statistics.median(seconds)
        spread = f" ({min(seconds):.1f} to {max(seconds):.1f})" if len(seconds) > 1 else ""
        print(f"{name:32s} {value:7.1f} s{spread}, {value / base:5.2f} of in this process")


if __name__ == "__main__":
    main()
