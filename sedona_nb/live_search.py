"""A search in a process of its own that outlives cell, tab and kernel; started and steered by way of its folder.

    live_search.start("build/live", spec, "digits")  # where it is at work already, nothing is started twice
    live_search.status("build/live")                 # pretraining, searching, paused, dead, done, ...
    live_search.pause("build/live")                  # after the step that it is at; the process waits, idle
    live_search.resume("build/live")                 # from there, or from the checkpoint if the process is gone
    live_search.stop("build/live")                   # after the step that it is at; the process ends
    live_search.result("build/live")                 # what it found

Any process may call these, also one that did not start the search. Whatever the interruptions, the result is that
of one `search.run` with the same seed, on the CPU bit for bit. What the folder holds: `live_folder`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sedona_nb.errors import SedonaError
from sedona_nb.live_folder import LiveFolder, Request, Status
from sedona_nb.records import SearchSpec, spec_hash
from sedona_nb.runs import search_result
from sedona_nb.search_config import SearchResult


def start(
    folder: Path | str,
    spec: SearchSpec,
    data: Path | str,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> Status:
    """Search in the background, or go on with what is begun; where it is at work or done, nothing happens.

    Args:
        folder: of this search and no other; is made.
        spec: what to search, see `methods.search_spec`.
        data: name or path of the pictures, as `data.load` takes it.
        device: where to compute.
        threads: of the process; default: as many as this one has.

    Raises:
        SedonaError: the folder belongs to a search of another spec.
    """
    live = LiveFolder(folder)
    data = str(Path(data).absolute()) if Path(data).exists() else str(data)
    wanted = Request(spec, data, str(device), threads or torch.get_num_threads())
    with live.guarded():
        found = live.read_request()
        if found is not None and spec_hash(found.spec) != spec_hash(spec):
            raise SedonaError(f"{folder} holds a search with other settings; choose another folder")
        if not live.has_process():
            live.write_request(wanted)
        return _go_on(live)


def resume(folder: Path | str) -> Status:
    """Go on with a search that was paused or stopped, that failed or was killed; else nothing happens.

    Raises:
        SedonaError: no search in this folder.
    """
    live = _begun(folder)
    with live.guarded():
        return _go_on(live)


def pause(folder: Path | str) -> Status:
    """Ask the search to rest after the step that it is at; its process waits for half an hour at most.

    Raises:
        SedonaError: no search in this folder.
    """
    return _wish(folder, "pause")


def stop(folder: Path | str) -> Status:
    """Ask the process to end after the step that it is at; what was done is kept.

    Raises:
        SedonaError: no search in this folder.
    """
    return _wish(folder, "stop")


def status(folder: Path | str) -> Status:
    """How the search of this folder stands, by whomever it was started; "none" where there is none."""
    live = LiveFolder(folder)
    if live.read_request() is None:
        return Status()
    with live.guarded():
        return _status(live)


def wait(folder: Path | str, states: Sequence[str] = ("done",), seconds: float = 600.0) -> Status:
    """Wait until the search is in one of `states`.

    Raises:
        SedonaError: it is not by then, or came to rest in another state, where it would stay for ever.
    """
    until = time.monotonic() + seconds
    while (now := status(folder)).state not in states:
        ended = now.state in ("none", "done", "dead", "failed", "stopped")
        if ended or time.monotonic() > until:
            raise SedonaError(f"waited for {' or '.join(states)}. {now}")
        time.sleep(0.05)
    return now


def result(folder: Path | str) -> SearchResult:
    """What a search that is done has found.

    Raises:
        SedonaError: it is not done.
    """
    live = _begun(folder)
    record = live.store.load(live.read_request().spec)
    if record is None:
        raise SedonaError(f"no result yet. {status(folder)}")
    return search_result(record)


def _begun(folder: Path | str) -> LiveFolder:
    live = LiveFolder(folder)
    if live.read_request() is None:
        raise SedonaError(f"no search in {folder}; live_search.start begins one")
    return live


def _wish(folder: Path | str, wish: str) -> Status:
    live = _begun(folder)
    with live.guarded():
        if live.has_process():
            live.write_wish(wish)
        return _status(live)


def _status(live: LiveFolder) -> Status:
    """What the process wrote, unless it is gone and could not say so; under `guarded`."""
    found = live.read_status()
    if found.at_work and not live.has_process():
        message = f"Its process is gone; continue goes on from the checkpoint. Its last words: {live.log.name}."
        return replace(found, state="dead", message=message)
    return found


def _go_on(live: LiveFolder) -> Status:
    """See to it that a process is at work, unless all is done; under `guarded`."""
    found = live.read_status()
    if found.state == "none":
        config = live.read_request().spec.search
        found = Status("starting", pretrain_steps=config.pretrain_steps, outer_steps=config.outer_steps)
    if found.state == "done":
        return found
    live.write_wish("run")
    descriptor = live.take_lock()
    if descriptor is None:  # somebody is at work, or resting: the wish is enough
        return live.read_status()
    try:
        live.write_status(replace(found, state="starting", message=""))
        _spawn(live, descriptor)
    finally:
        os.close(descriptor)  # the child has its own; the lock goes with the last of them
    return live.read_status()


def _spawn(live: LiveFolder, descriptor: int) -> None:
    """A process in a session of its own, so that nothing that ends the kernel ends it; it inherits the lock."""
    request = live.read_request()
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(request.threads),
        "SEDONA_HEADLESS": "1",
    }
    command = [sys.executable, "-m", "sedona_nb.live_search_process", str(live.path), str(descriptor)]
    with live.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(descriptor,),
            start_new_session=True,
        )
    # Somebody has to ask how it ended, or its entry stays in the table of processes as long as this one lives.
    threading.Thread(target=process.wait, daemon=True).start()
