"""A search in a process of its own: steered by several processes, killed, continued, and equal to one in peace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from ipywidgets import Button, Image, VBox, Widget

from sedona_nb import data, live_search, live_search_process, progress, search, widgets
from sedona_nb.bilevel import InnerConfig
from sedona_nb.errors import SedonaError
from sedona_nb.live_folder import LiveFolder, Request, Status
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import SearchSpec
from sedona_nb.search_config import SearchConfig

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = SearchConfig(
    pretrain_steps=4,
    snapshot_every=2,
    snapshot_batches=1,
    memory_size=2,
    outer_steps=30,
    outer_batch_size=16,
    inner=InnerConfig(steps=1, batch_size=8, lr=0.05),
)


@pytest.fixture(scope="module")
def spec() -> SearchSpec:
    pictures = data.load("digits")
    return SearchSpec("digits", pictures.fingerprint, NetworkConfig("vgg11", 1 / 32), CONFIG)


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """A folder whose processes do not outlive the test, whatever happens."""
    yield tmp_path / "live"
    for process in processes(tmp_path / "live"):
        process.kill()


def processes(folder: Path) -> list[psutil.Process]:
    """Those at work in this folder; a zombie is none."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "sedona_nb.live_search_process" in line and str(folder) in line:
            found.append(process)
    return found


def no_process_is_left(folder: Path, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes(folder)


def advance(folder: Path, steps: int) -> Status:
    """Wait until so many outer steps are done."""
    until = time.monotonic() + 120
    while (now := live_search.status(folder)).searched < steps:
        assert now.state not in ("dead", "failed", "done"), now
        assert time.monotonic() < until, now
        time.sleep(0.02)
    return now


def elsewhere(code: str) -> str:
    """What another Python process prints."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", f"from sedona_nb import live_search\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


# -- in real processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_in_every_way_it_ends_as_in_peace(spec, folder, one_thread):
    assert live_search.status(folder).state == "none"
    first = live_search.start(folder, spec, "digits", threads=1)
    assert first.state == "starting"
    advance(folder, 2)

    live_search.pause(folder)
    resting = live_search.wait(folder, ("paused",), 60)
    assert 2 <= resting.searched < CONFIG.outer_steps
    time.sleep(1.0)
    assert live_search.status(folder) == resting  # stands still
    assert len(processes(folder)) == 1

    said = elsewhere(f"live_search.resume({str(folder)!r}); print(live_search.status({str(folder)!r}).searched)")
    assert int(said) >= resting.searched
    going = advance(folder, resting.searched + 2)
    assert going.pid == resting.pid  # it had waited

    os.kill(going.pid, signal.SIGKILL)
    dead = live_search.wait(folder, ("dead",), 20)
    assert dead.searched >= going.searched
    assert "Dead" in elsewhere(f"print(live_search.status({str(folder)!r}))")

    elsewhere(f"live_search.resume({str(folder)!r})")  # whose process has gone when the search goes on
    last = live_search.wait(folder, ("done",), 180)
    assert (last.searched, len(last.outer_losses)) == (CONFIG.outer_steps, CONFIG.outer_steps)
    assert no_process_is_left(folder)

    found = live_search.result(folder)
    peaceful = search.run(data.load("digits"), spec.network, spec.search, spec.heads, spec.seed)
    for name in ("alpha_history", "beta_history", "alpha_gradients", "outer_losses"):
        assert torch.equal(getattr(found, name), getattr(peaceful, name)), name
    assert found.pretraining == peaceful.pretraining
    assert live_search.start(folder, spec, "digits").state == "done"
    assert processes(folder) == []


@pytest.mark.slow
def test_two_who_start_at_once_start_one_and_stop_leaves_none(spec, folder):
    live = LiveFolder(folder)
    live.write_request(Request(spec, "digits", "cpu", 1))
    code = f"from sedona_nb import live_search\nprint(flush=True); input(); live_search.resume({str(folder)!r})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for one in both:
        one.stdout.readline()  # it has imported everything
    for one in both:
        one.stdin.write(b"\n")
        one.stdin.flush()
    for one in both:
        one.communicate()
        assert one.returncode == 0
    assert len(processes(folder)) == 1

    advance(folder, 1)
    live_search.stop(folder)
    stopped = live_search.wait(folder, ("stopped",), 60)
    assert no_process_is_left(folder)
    assert live_search.stop(folder).state == "stopped"  # nothing to stop is no error
    assert live_search.pause(folder).state == "stopped"

    live_search.resume(folder)
    now = advance(folder, stopped.searched + 1)
    assert now.pid != stopped.pid
    for seconds in (0.0, 0.05, 0.3):  # whether the process has already decided to end or not, one goes on
        live_search.stop(folder)
        time.sleep(seconds)
        live_search.resume(folder)
        now = advance(folder, now.searched + 1)
    now = live_search.wait(folder, ("searching",), 60)  # a new process may be just starting
    psutil.Process(now.pid).terminate()  # as a machine that shuts down does
    again = live_search.wait(folder, ("stopped",), 60)
    assert again.searched >= now.searched
    assert no_process_is_left(folder)


@pytest.mark.slow
def test_two_panels_steer_one_search(spec, folder, monkeypatch):
    monkeypatch.setattr(progress, "headless", lambda: False)
    panels = [widgets.live_search(folder, spec) for _ in range(2)]
    try:
        empty = picture(panels[0])
        assert enabled(panels[0]) == {"start"}
        press(panels[0], "start")
        press(panels[1], "start")  # whether it has looked since or not
        assert len(processes(folder)) == 1
        advance(folder, 2)
        assert shows(panels[0], "pause", "stop")
        assert picture(panels[0]) != empty
        press(panels[1], "pause")
        live_search.wait(folder, ("paused",), 60)
        assert shows(panels[0], "continue", "stop")
        press(panels[0], "continue")
        press(panels[0], "stop")
        live_search.wait(folder, ("stopped",), 60)
        assert shows(panels[0], "continue")
        assert enabled(widgets.live_search(folder)) == {"continue"}  # the cell, run again
        assert no_process_is_left(folder)
    finally:
        Widget.close_all()


def inside(widget: Widget, kind: type) -> list:
    found = [widget] if isinstance(widget, kind) else []
    return found + [part for child in getattr(widget, "children", ()) for part in inside(child, kind)]


def enabled(panel: VBox) -> set[str]:
    return {button.description for button in inside(panel, Button) if not button.disabled}


def press(panel: VBox, name: str) -> None:
    (button,) = [button for button in inside(panel, Button) if button.description == name]
    button.click()


def shows(panel: VBox, *buttons: str) -> bool:
    """Whether the panel, which looks once a second, has come to offer just these buttons."""
    until = time.monotonic() + 20
    while enabled(panel) != set(buttons) and time.monotonic() < until:
        time.sleep(0.05)
    return enabled(panel) == set(buttons)


def picture(panel: VBox) -> bytes:
    (one,) = inside(panel, Image)
    return bytes(one.value)


# -- without a second process ------------------------------------------------------------------------------------


@pytest.fixture
def main(monkeypatch):
    """The process's main function in this one; its handler of SIGTERM goes again."""
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    yield live_search_process.main
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


def begun(folder: Path, spec: SearchSpec, name: str = "digits") -> LiveFolder:
    live = LiveFolder(folder)
    live.write_request(Request(spec, name, "cpu", 1))
    live.write_status(Status("starting", outer_steps=spec.search.outer_steps))
    return live


def test_a_folder_without_a_search(tmp_path):
    assert live_search.status(tmp_path) == Status()
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind
    for steer in (live_search.pause, live_search.resume, live_search.stop, live_search.result):
        with pytest.raises(SedonaError, match="no search in"):
            steer(tmp_path)


def test_a_folder_belongs_to_one_search(tmp_path, spec):
    begun(tmp_path, spec)
    with pytest.raises(SedonaError, match="other settings"):
        live_search.start(tmp_path, replace(spec, seed=1), "digits")


def test_whoever_holds_the_lock_is_at_work(tmp_path, spec):
    live = begun(tmp_path, spec)
    with live.guarded():
        descriptor = live.take_lock()
    live.write_status(Status("searching", searched=3))
    assert live_search.status(tmp_path).state == "searching"
    assert live_search.start(tmp_path, spec, "digits").state == "searching"  # and nothing is started
    assert live_search.pause(tmp_path).wish == "pause"
    assert "It will pause" in str(live_search.status(tmp_path))
    assert live_search.resume(tmp_path).wish == "run"
    os.close(descriptor)
    dead = live_search.status(tmp_path)
    assert (dead.state, dead.searched) == ("dead", 3)
    with pytest.raises(SedonaError, match="waited for done"):
        live_search.wait(tmp_path)


def test_a_damaged_request_gets_one_line(tmp_path):
    (tmp_path / "request.json").write_text("{")
    with pytest.raises(SedonaError, match="damaged"):
        live_search.status(tmp_path)
    (tmp_path / "request.json").write_text(json.dumps({"spec": 1}))
    with pytest.raises(SedonaError, match="damaged"):
        live_search.start(tmp_path, None, "digits")


def test_a_search_that_cannot_begin_says_why(tmp_path, spec, main, capsys):
    live = begun(tmp_path, spec, "no-such-pictures")
    with live.guarded():
        descriptor = live.take_lock()
    assert main(str(tmp_path), descriptor) == 1
    os.close(descriptor)
    failed = live_search.status(tmp_path)
    assert failed.state == "failed"
    assert "no-such-pictures" in failed.message
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_who_rests_too_long_ends_and_stays_paused(tmp_path, spec, main):
    live = begun(tmp_path, spec)
    live.write_wish("pause")
    with live.guarded():
        descriptor = live.take_lock()
    assert main(str(tmp_path), descriptor, idle=0.2) == 0  # paused after its first step
    paused = live_search.status(tmp_path)
    assert (paused.state, paused.pretrained) == ("paused", 1)
    with live.guarded():
        assert not live.has_process()
    assert live.store.is_begun(spec)  # the checkpoint


def test_the_watch_sees_every_step(spec):
    seen = []
    config = replace(CONFIG, outer_steps=3)
    search.run(
        data.load("digits"),
        spec.network,
        config,
        watch=lambda state: seen.append((state.pretrained, state.searched)),
    )
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1), (4, 2), (4, 3)]
