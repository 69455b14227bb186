"""The folder of records among several processes: claims, writers at once, readers in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_grids import REPOSITORY, grid

from sedona_nb.provenance import Provenance
from sedona_nb.records import Record, RunSpec, spec_hash
from sedona_nb.store import Busy, RunStore

PROCESSES = 4
BEST = {"best": {"validation": {"top1": 50.0}, "test": {"top1": 50.0}}}  # the least that a result must have
WHERE = Provenance("cpu", 1, 1.0, 1, "", "", "", "", None, "test")
forked = multiprocessing.get_context("fork")  # files only, no arithmetic: what a fork of PyTorch can do


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


(SPEC,) = grid(Path("nowhere"), "backprop").specs()


def spec_of(seed: int = 0) -> RunSpec:
    return replace(SPEC, seed=seed)


def together(work: Callable[..., None], *arguments: object) -> list[int]:
    """`work(number, *arguments)` in several processes at once; their exit codes."""
    processes = [forked.Process(target=work, args=(number, *arguments)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def count_up(number: int, store: RunStore, wait: bool, times: int) -> None:
    """Add 1 to a number in a file, in a way that goes wrong as soon as two do it at once."""
    counter, done = store.folder / "counter", 0
    while done < times:
        try:
            with store.claimed(spec_of(), wait):
                value = int(counter.read_text())
                time.sleep(0.0002)
                counter.write_text(str(value + 1))
                done += 1
        except Busy:
            time.sleep(0.0001)


@pytest.mark.parametrize("wait", [True, False])
def test_a_claim_is_held_by_one_process_at_a_time(store, wait):
    (store.folder / "counter").write_text("0")
    assert together(count_up, store, wait, 50) == [0] * PROCESSES
    assert int((store.folder / "counter").read_text()) == 50 * PROCESSES
    assert list((store.folder / "checkpoints").iterdir()) == []


def hold(store: RunStore, ready: Path) -> None:
    with store.claimed(spec_of()):
        ready.touch()
        time.sleep(60)


def test_the_claim_of_a_killed_process_is_gone(store, tmp_path):
    spec, ready = spec_of(), tmp_path / "ready"
    process = forked.Process(target=hold, args=(store, ready))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    assert store.is_claimed(spec)
    with pytest.raises(Busy, match=spec_hash(spec)), store.claimed(spec, wait=False):
        pass
    assert not store.is_claimed(spec_of(seed=1))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not store.is_claimed(spec)
    with store.claimed(spec, wait=False):
        assert store.is_claimed(spec)
    assert list((store.folder / "checkpoints").iterdir()) == []


def test_a_claim_ends_with_the_error_inside_it(store):
    with pytest.raises(ZeroDivisionError), store.claimed(spec_of()):
        raise ZeroDivisionError
    assert not store.is_claimed(spec_of())


def write_many(number: int, store: RunStore) -> None:
    """Records that the others write as well, and others that only this process writes."""
    for turn in range(20):
        store.save(Record(spec_of(seed=turn), {**BEST, "turn": turn, "pad": "x" * 20_000}, WHERE))
        store.save(Record(spec_of(seed=1_000 * (number + 1) + turn), {**BEST, "turn": turn}, WHERE))


def test_writers_at_once_lose_nothing(store):
    assert together(write_many, store) == [0] * PROCESSES
    seeds = {*range(20), *(1_000 * (number + 1) + turn for number in range(PROCESSES) for turn in range(20))}
    records = store.records()
    assert {record.spec.seed for record in records} == seeds
    assert all(record.result["turn"] == record.spec.seed % 1_000 for record in records)
    assert len(list(store.folder.iterdir())) == len(seeds)  # and nothing half-written beside them


def rewrite(store: RunStore, stop: Path) -> None:
    turn = 0
    while not stop.exists():
        turn += 1
        store.save(Record(spec_of(), {**BEST, "turn": turn, "numbers": [turn] * 20_000}, WHERE))


def test_a_reader_never_sees_half_a_record(store, tmp_path):
    stop, spec, seen = tmp_path / "stop", spec_of(), set()
    process = forked.Process(target=rewrite, args=(store, stop))
    process.start()
    until = time.monotonic() + 30
    while len(seen) < 20 and time.monotonic() < until:
        record = store.load(spec)  # raises where the file is not whole
        if record is not None:
            assert record.result["numbers"] == [record.result["turn"]] * 20_000
            seen.add(record.result["turn"])
    stop.touch()
    process.join()
    assert len(seen) >= 20


TRAIN = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from small_grids import grid
from sedona_nb import data
from sedona_nb.runs import find_or_train
part = grid(sys.argv[1], "backprop", steps=60)
(spec,) = part.specs()
print(find_or_train(spec, data.load("digits"), part.store).provenance.seconds)
"""


def test_two_processes_that_want_one_run_train_it_once(tmp_path):
    command = [sys.executable, "-c", TRAIN, str(tmp_path), str(Path(__file__).parent)]
    variables = {**os.environ, "SEDONA_HEADLESS": "1", "PYTHONPATH": str(REPOSITORY)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][-1] == said[1][-1]  # seconds to a hundredth: of one and the same run
    assert sorted(any("seed 0" in line for line in lines) for lines in said) == [False, True]
