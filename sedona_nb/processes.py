"""A handful of processes that work together on one machine: started, watched, and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from sedona_nb.errors import SedonaError

HOST = "127.0.0.1"
GRACE = 10.0  # seconds that the others have to say what happened before they are ended


def run(
    command: list[str],
    names: list[str],
    logs: Path,
    port: int = 0,
    show: Callable[[str], None] = print,
    lost: int = 75,
    threads: int = 1,
) -> None:
    """Start `command` once for each name and wait until all are done; if one fails, all end.

    The processes find each other by torchrun's environment variables. Their standard input closes when this
    process goes, however it goes (`end_with_parent`); their standard error goes to `<logs>/<number>.log`.

    Args:
        command: the same for all; RANK, LOCAL_RANK and WORLD_SIZE tell them apart.
        names: for messages.
        logs: folder.
        port: for their store; 0: a free one.
        show: called with each line that a process prints.
        lost: exit code that says: a neighbour went away.
        threads: of each process.

    Raises:
        SedonaError: the port is in use, or a process failed (which, and its last words).
    """
    store = _store(port)
    logs.mkdir(parents=True, exist_ok=True)
    base = {**os.environ, "MASTER_ADDR": HOST, "MASTER_PORT": str(store.port), "WORLD_SIZE": str(len(names))}
    base |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": str(threads), "SEDONA_HEADLESS": "1"}
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_import_root()), os.environ.get("PYTHONPATH")]))
    children: list[subprocess.Popen] = []
    readers: list[threading.Thread] = []
    try:
        for rank in range(len(names)):
            with (logs / f"{rank + 1}.log").open("wb") as log:
                child = subprocess.Popen(
                    command,
                    env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            children.append(child)
            readers.append(threading.Thread(target=_read, args=(child, show), daemon=True))
            readers[-1].start()
        _wait(children, names, logs, lost)
        for reader in readers:
            reader.join()
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for child in children:
            child.wait()
            child.stdin.close()
            child.stdout.close()
        del store


def _store(port: int) -> dist.TCPStore:
    try:
        return dist.TCPStore(HOST, port, is_master=True, wait_for_workers=False)
    except (dist.DistNetworkError, RuntimeError) as error:
        if "in use" in str(error) or "EADDRINUSE" in str(error):
            raise SedonaError(f"port {port} is in use; choose another, or 0 for any free one") from None
        raise


def _import_root() -> Path:
    """Where the package can be imported from, whatever the child's working folder."""
    return Path(__file__).resolve().parent.parent


def _read(child: subprocess.Popen, show: Callable[[str], None]) -> None:
    for line in child.stdout:
        show(line)


def _wait(children: list[subprocess.Popen], names: list[str], logs: Path, lost: int) -> None:
    """Until all are done.

    Raises:
        SedonaError: one failed; of several the one that did not merely lose a neighbour.
    """
    while any(child.poll() is None for child in children):
        if any(child.poll() for child in children):
            break
        time.sleep(0.02)
    if not any(child.poll() for child in children):
        return
    until = time.monotonic() + GRACE
    while not any(child.poll() not in (None, 0, lost) for child in children) and time.monotonic() < until:
        time.sleep(0.02)
    codes = [child.poll() for child in children]
    failed = [rank for rank, code in enumerate(codes) if code not in (None, 0, lost)]
    failed = failed or [rank for rank, code in enumerate(codes) if code]
    rank = failed[0]
    if codes[rank] < 0:
        raise SedonaError(f"{names[rank]} was killed by signal {signal.Signals(-codes[rank]).name}")
    words = _last_words(logs / f"{rank + 1}.log")
    raise SedonaError(f"{names[rank]} failed: {words}" if names[rank] not in words else words)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"it left no message in {log}"


def end_with_parent() -> None:
    """In a child of `run`: end when the parent has gone and closed our standard input."""

    def watch() -> None:
        while os.read(0, 1024):  # not by way of sys.stdin: whoever is forked meanwhile would wait for its lock
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_lost_neighbour(error: BaseException) -> bool:
    """Whether a communication failed because the other side is gone."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
