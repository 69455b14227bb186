"""Grids on a real Ray: the same records as without it, through killed workers, pauses and failures."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_grids import TABLE, grid, protocol, results, shell, spoil

from sedona_nb import data, protocols, ray_cluster, ray_engine, ray_tasks
from sedona_nb.errors import SedonaError
from sedona_nb.grid import Grid, RunsFailed
from sedona_nb.records import spec_hash
from sedona_nb.run_commands import MORE_TO_DO
from sedona_nb.store import RunStore

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.usefixtures("one_thread")
LONG = {"steps": 120, "evaluate_every": 4}  # a few seconds


@pytest.fixture(scope="module")
def pictures():
    return data.load("digits")


@pytest.fixture(scope="module", autouse=True)
def one_ray_for_all() -> Iterator[None]:
    """Starting one takes seconds; the engine takes what is there."""
    with ray_cluster.joined(None, 4, {}):
        yield


def undisturbed(pictures, folder: Path, *variants: str, **changes: object) -> dict[str, dict]:
    alone = grid(folder / "undisturbed", *variants, **changes)
    assert alone.run(pictures, say=lambda line: None)
    return results(alone.store)


def workers() -> list:
    """Processes of this process's Ray that are at work on a run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "execute_here" in "".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


@contextmanager
def meanwhile(ready: Callable[[], object], do: Callable[[], object]) -> Iterator[None]:
    """Inside, a thread waits until `ready` and then does something once."""

    def watch() -> None:
        while not over.is_set():
            if ready():
                do()
                return
            time.sleep(0.01)

    over = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def checkpoints(one: Grid) -> list[Path]:
    return list(one.store.folder.glob("checkpoints/*/training.pt"))


def test_the_records_are_those_of_a_grid_without_ray(pictures, tmp_path, capsys):
    there = grid(tmp_path, "backprop", "dgl", "own search")
    assert ray_engine.run(there, {"digits": "digits", "of another protocol": "digits"}, "cpu", workers=2)
    said = capsys.readouterr().out
    assert results(there.store) == undisturbed(pictures, tmp_path, *there.variants)
    assert [record.provenance.threads for record in there.store.records()] == [1] * 4
    assert all(said.count(f"{spec_hash(spec)} ") == 1 for spec in there.specs())
    assert "runs 4/4 (100 %)" in said
    assert list((there.store.folder / "checkpoints").iterdir()) == []
    assert ray_engine.run(there, "digits", "cpu", workers=2)  # nothing left to do


def test_a_run_whose_worker_is_killed_ends_with_the_same_record(pictures, tmp_path, capsys):
    one = grid(tmp_path, "dgl", **LONG)
    with meanwhile(lambda: checkpoints(one) and workers(), lambda: workers()[0].send_signal(signal.SIGKILL)):
        assert ray_engine.run(one, "digits", "cpu", workers=1)
    assert capsys.readouterr().out.count("its process was lost (WorkerCrashedError)") == 1
    assert results(one.store) == undisturbed(pictures, tmp_path, "dgl", **LONG)


def test_a_run_whose_workers_are_lost_again_and_again_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "LOSSES", 0)
    one = grid(tmp_path, "backprop", **LONG)
    with (
        meanwhile(lambda: checkpoints(one) and workers(), lambda: workers()[0].send_signal(signal.SIGKILL)),
        pytest.raises(RunsFailed, match="1 run failed: its process was lost 1 times"),
    ):
        ray_engine.run(one, "digits", "cpu", workers=1)
    assert len(checkpoints(one)) == 1


@pytest.mark.parametrize("how", ["pause", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_running_tasks_stop_at_a_checkpoint_and_go_on_later(how, pictures, tmp_path, capsys):
    both = grid(tmp_path, "backprop", "dgl", **LONG)
    pause = (lambda: bool(checkpoints(both))) if how == "pause" else None
    ready = (lambda: checkpoints(both)) if how == "Ctrl-C" else (lambda: False)
    with meanwhile(ready, lambda: signal.raise_signal(signal.SIGINT)):
        assert not ray_engine.run(both, "digits", "cpu", workers=1, pause=pause)
    said = capsys.readouterr().out
    assert "paused at step" in said
    assert ("interrupted" in said) == (how == "Ctrl-C")
    states = both.snapshot().states
    assert [len(states[state]) for state in ("recorded", "running", "begun", "open")] == [0, 0, 1, 1]
    assert ray_engine.run(both, "digits", "cpu", workers=2)
    assert results(both.store) == undisturbed(pictures, tmp_path, "backprop", "dgl", **LONG)


def test_one_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    store = RunStore(tmp_path)
    both = Grid((TABLE,), (protocol(lr=0.04), protocol()), store, ("backprop", "dgl"))
    for spec in both.specs()[:2]:
        spoil(store, spec)
    with pytest.raises(RunsFailed, match=r"2 runs failed, the first with: .* holds a run with other settings"):
        ray_engine.run(both, "digits", "cpu", workers=2)
    assert [record.spec.train.lr for record in store.records()] == [0.05, 0.05]
    assert len(re.findall("FAILED: .* holds a run with other settings", capsys.readouterr().out)) == 2


def test_a_run_that_diverges_leaves_a_record_of_it(pictures, tmp_path, capsys):
    both = grid(tmp_path, "backprop", "dgl", lr=1e30)
    assert ray_engine.run(both, "digits", "cpu", workers=2)
    assert all(record.diverged for record in both.store.records())
    assert capsys.readouterr().out.count(": diverged: the loss of") == 2
    assert results(both.store) == undisturbed(pictures, tmp_path, "backprop", "dgl", lr=1e30)


def test_a_bug_in_a_run_is_a_failure_with_its_name(tmp_path, capsys):
    one = grid(tmp_path, "backprop")
    one.store.checkpoints(one.specs()[0]).parent.mkdir(parents=True)
    one.store.checkpoints(one.specs()[0]).with_suffix(".lock").mkdir()  # where the claim has to be a file
    with pytest.raises(RunsFailed, match="1 run failed: IsADirectoryError"):
        ray_engine.run(one, "digits", "cpu", workers=1)


@pytest.mark.slow
def test_two_drivers_on_one_cluster_and_one_store_train_nothing_twice(tmp_path, capsys):
    variants = ("backprop", "dgl", "sedona")
    ours = Grid((TABLE,), (protocols.load("smoke"),), RunStore(tmp_path), variants)
    arguments = [
        "run",
        TABLE,
        "--protocol",
        "smoke",
        "--store",
        str(tmp_path),
        "--engine",
        "ray",
        "--workers",
        "1",
    ]
    arguments += [part for name in variants for part in ("--variant", name)]
    address = ray.get_runtime_context().gcs_address
    other = shell(*arguments, "--address", address, "--device", "cpu", "--workers", "1")
    while not checkpoints(ours):  # it is at work on the first one
        assert other.poll() is None, other.communicate()[0]
        time.sleep(0.01)
    assert ray_engine.run(ours, "digits", "cpu", workers=1)
    said = other.communicate(timeout=120)[0] + capsys.readouterr().out
    assert other.returncode == 0, said
    records = ours.store.records()
    assert len(records) == 6
    # A line says how long its run took: who finds a record made by the other says the same as the other.
    lines = {line for line in said.splitlines() if "validation " in line and "K = " in line}
    assert sorted(line.split()[0] for line in lines) == sorted(spec_hash(record.spec) for record in records)


@pytest.mark.slow
def test_a_ray_of_its_own_obeys_sigterm_and_leaves_no_process(tmp_path):
    mark = uuid.uuid4().hex
    arguments = ["run", TABLE, "--protocol", "smoke", "--store", str(tmp_path), "--device", "cpu"]
    arguments += ["--variant", "dgl", "--variant", "sedona", "--variant", "predsim", "--variant", "backprop"]
    driver = shell(*arguments, "--engine", "ray", "--workers", "2", SEDONA_TEST_MARK=mark)
    while not list(tmp_path.glob("*.json")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.01)
    assert marked(mark) > 3
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == MORE_TO_DO, said
    assert not list(tmp_path.glob("checkpoints/*.stop"))
    until = time.monotonic() + 20  # for the operating system to bury them
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert marked(mark) == 0


def marked(mark: str) -> int:
    """How many processes have it in their environment."""
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.environ().get("SEDONA_TEST_MARK") == mark
        except psutil.Error:
            continue
    return count


def test_the_environment_of_workers_is_this_checkout_and_its_data(monkeypatch, tmp_path):
    monkeypatch.setenv("SEDONA_DATA", "pictures")
    monkeypatch.delenv("SEDONA_CACHE", raising=False)
    found = ray_cluster.environment(3)
    assert found["SEDONA_DATA"] == str(Path("pictures").absolute())
    assert "SEDONA_CACHE" not in found
    assert found["OMP_NUM_THREADS"] == "3"

    @ray.remote(runtime_env={"env_vars": found})
    def where() -> str:
        import sedona_nb

        return sedona_nb.__file__

    import sedona_nb

    assert ray.get(where.remote()) == sedona_nb.__file__


def test_a_stop_file_says_stop_when_it_is_told_or_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_tasks, "LOOK", 0.05)
    told, gone = (ray_tasks.new_stop_file(tmp_path, name) for name in ("told", "gone"))
    pauses = [ray_tasks.watch(told), ray_tasks.watch(gone)]
    assert [pause() for pause in pauses] == [False, False]
    ray_tasks.say_stop(told)
    gone.unlink()
    time.sleep(0.06)
    assert [pause() for pause in pauses] == [True, True]
    told.unlink()
    assert pauses[0]()


def test_looking_at_the_stop_file_costs_nothing_between_two_looks(tmp_path):
    pause = ray_tasks.watch(ray_tasks.new_stop_file(tmp_path, "driver"))
    began = time.process_time()
    for _ in range(10_000):
        pause()
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cpu", "gpus": 0.5}, "a share of 0.5 GPUs and device 'cpu' contradict each other"),
        ({"device": "cuda", "gpus": 1.5, "address": "auto"}, "a share of 1.5 GPUs; allowed: more than 0"),
        ({"device": "cuda", "gpus": 0.0, "address": "auto"}, "a share of 0 GPUs; allowed: more than 0"),
        ({"device": "cuda:1", "address": "auto"}, "device 'cuda:1': Ray deals out the GPUs itself; allowed: cuda"),
        ({"device": "cpu", "threads": 64}, "a run asks for 64 CPUs, Ray has 4 in all"),
        ({"device": "auto", "gpus": 2.0, "address": "auto"}, "a run asks for 2 GPUs, Ray has"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(arguments, said, tmp_path):
    if arguments.get("gpus") == 2.0 and ray.cluster_resources().get("GPU", 0) >= 2:
        pytest.skip("two GPUs are there")
    with pytest.raises(SedonaError) as caught:
        ray_engine.run(grid(tmp_path, "backprop"), "digits", **arguments)
    assert str(caught.value).startswith(said)


def test_without_ray_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SedonaError, match=r"not installed here: pip install 'ray>=2\.40'"):
        ray_engine.run(grid(tmp_path, "backprop"), "digits", "cpu")


def test_a_ray_that_does_not_start_in_time_gets_another_chance_and_then_one_line(monkeypatch):
    begun = []

    def late(address, **options):
        begun.append(address)
        if len(begun) < enough:
            raise Exception("The current node timed out during startup. This could happen because ...\nMore.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: begun.append("ended"))
    monkeypatch.setattr(ray, "init", late)
    enough = 3
    with ray_cluster.joined(None, 1, {}):
        assert begun == ["local"] * 3
    assert begun == ["local"] * 3 + ["ended"]
    begun, enough = [], 4
    with pytest.raises(SedonaError, match=r"^Ray does not start here \(The current node timed out .*\.\.\.\)$"):
        ray_cluster.joined(None, 1, {}).__enter__()
    assert begun == ["local"] * 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers_is_said(address):
    with pytest.raises(SedonaError, match=f"no Ray cluster at '{address}'"):
        ray_cluster.knock(address)


@pytest.mark.slow
def test_no_cluster_is_one_line_on_the_command_line(tmp_path):
    arguments = ["run", TABLE, "--protocol", "smoke", "--store", str(tmp_path), "--engine", "ray"]
    driver = shell(*arguments, "--device", "cpu", "--address", "127.0.0.1:1")
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2, said
    assert said.splitlines()[-1].startswith("no Ray cluster at '127.0.0.1:1'")
    assert len(said.splitlines()) == 3  # two of them say where the grid stands
