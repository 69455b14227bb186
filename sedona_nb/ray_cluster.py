"""A Ray to work on: one that is started here for the while, one that is joined, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from sedona_nb import devices
from sedona_nb.errors import SedonaError
from sedona_nb.places import home

OBJECT_STORE = 100_000_000  # bytes; only records pass through it
# Unless the user says otherwise: nothing is reported to anybody, and workers are as urgent as this process. Ray's
# own niceness of 15 leaves them a tenth of a core where another program is at work on it.
HABITS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
STARTS = 3  # of a Ray on a machine that is busy
PASSED_ON = ("SEDONA_DATA", "SEDONA_CACHE", "SEDONA_RELEASED")


def import_ray() -> ModuleType:
    """The package.

    Raises:
        SedonaError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise SedonaError("engine 'ray' needs Ray, which is not installed here: pip install 'ray>=2.40'") from None
    return ray


@contextmanager
def joined(address: str | None, cpus: int, variables: dict[str, str]) -> Iterator[tuple[ModuleType, dict]]:
    """Inside, Ray is there; one that was started here is ended afterwards, with all of its processes.

    Yields the package, and the `runtime_env` with which a task has the `variables`. Workers of a Ray that is
    started here have them from the beginning, which saves Ray the start of others: 2.5 s.

    Args:
        address: None: start one on this machine; else of a cluster, or "auto". A Ray that this process has joined
            before is taken as it is, and left as it was.
        cpus: of one that is started here. They are only counted: nothing is bound to them.
        variables: of the workers' environment.

    Raises:
        SedonaError: no Ray, or no cluster at `address`.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray, {"env_vars": variables}
        return
    if address:
        knock(address)
    habits = {name: value for name, value in HABITS.items() if name not in os.environ}
    started = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    with _own_signals(), _quiet(), _set({} if address else {**habits, **variables}):
        _init(ray, address, {} if address else started)
    try:
        yield ray, {"env_vars": variables if address else {}}
    finally:
        with _own_signals():
            ray.shutdown()


def _init(ray: ModuleType, address: str | None, options: dict) -> None:
    """`ray.init`; tried again where a new Ray is not up within the 30 s that it gives itself on any machine."""
    for left in reversed(range(1 if address else STARTS)):
        try:
            ray.init(address or "local", log_to_driver=False, **options)
            return
        except Exception as error:
            known = isinstance(error, (ConnectionError, ValueError, RuntimeError, TimeoutError))
            late = type(error) is Exception and "timed out" in str(error)
            if not known and not late:
                raise
            if known or not left:
                where = f"no Ray cluster at {address!r}" if address else "Ray does not start here"
                raise SedonaError(f"{where} ({(str(error).splitlines() or [''])[0]})") from None


def knock(address: str) -> None:
    """See whether anybody is at "host:port" or "ray://host:port"; Ray ends the whole process where nobody is.

    Raises:
        SedonaError: nobody is.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray itself looks where that is
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise SedonaError(f"no Ray cluster at {address!r} ({error.strerror or error})") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray replaces: it would end where it should stop in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Inside, the environment has these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """No notes about addresses and ports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def environment(threads: int) -> dict[str, str]:
    """Variables of a worker: this checkout is what it imports, and it finds the data that this process finds."""
    path = os.pathsep.join(part for part in (str(home()), os.environ.get("PYTHONPATH")) if part)
    own = {"PYTHONPATH": path, "SEDONA_HEADLESS": "1", "OMP_NUM_THREADS": str(threads)}
    passed = {name: os.path.abspath(os.environ[name]) for name in PASSED_ON if os.environ.get(name)}
    return {**own, **passed}


def device_of(name: str, gpus: float | None, address: str | None) -> tuple[str, float]:
    """What a worker is to compute on, as it knows it, and the share of a GPU that it asks Ray for.

    Args:
        name: "auto": on a cluster CUDA if a share of a GPU is asked for; here as `devices.resolve`.
        gpus: None: one on CUDA, else none.
        address: None: here.

    Raises:
        SedonaError: no such device here, a GPU by its number, or a share that is not possible.
    """
    if address is not None and name == "auto":
        name = "cuda" if gpus else "cpu"
    elif address is None:
        name = str(devices.resolve(name))
    if name.startswith("cuda:"):
        raise SedonaError(f"device {name!r}: Ray deals out the GPUs itself; allowed: cuda")
    if name != "cuda" and gpus:
        raise SedonaError(f"a share of {gpus:g} GPUs and device {name!r} contradict each other")
    gpus = (1.0 if name == "cuda" else 0.0) if gpus is None else gpus
    if gpus < 0 or (name == "cuda" and not gpus) or (gpus > 1 and gpus != int(gpus)):
        raise SedonaError(f"a share of {gpus:g} GPUs; allowed: more than 0 and up to 1, or a whole number")
    return name, gpus


def check_resources(ray: ModuleType, threads: int, gpus: float) -> None:
    """Refuse runs that would wait for ever.

    Raises:
        SedonaError: all nodes together have fewer CPUs or GPUs than one run asks for.
    """
    there = ray.cluster_resources()
    for kind, wanted in (("CPU", float(threads)), ("GPU", gpus)):
        if there.get(kind, 0.0) < wanted:
            raise SedonaError(f"a run asks for {wanted:g} {kind}s, Ray has {there.get(kind, 0.0):g} in all")
