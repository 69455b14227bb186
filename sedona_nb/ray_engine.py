"""A grid of runs on Ray: one task a run, on this machine or on a cluster.

    ray_engine.run(grid, "cifar10", device="cuda", workers=8, gpus=0.25)      # on this machine
    ray_engine.run(grid, "cifar10", device="cuda", workers=64, address="auto")

A task is `grid.execute` in a process of its own (`ray_tasks`). It reads the pictures where it runs, from the cache
of decoded ones, and keeps its claim, its checkpoints and its record in the grid's store. So the store, the
checkout and the data must be at the same paths on all nodes, on a file system that they share and that supports
`flock`.

A run whose process or node is lost goes on from its last checkpoint. Several drivers, and processes without Ray,
may work on one store at once.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from sedona_nb import data, progress, ray_cluster, ray_tasks
from sedona_nb.grid import POLL, Grid, RunsFailed, describe, in_order, outcome
from sedona_nb.records import Record, Spec, spec_hash

WAIT = 0.5  # seconds between two questions whether to stop
LOSSES = 5  # processes of one run that may be lost before it counts as failed: it may be what kills them


def run(
    grid: Grid,
    data_names: str | Mapping[str, str],
    device: str = "auto",
    workers: int = 1,
    gpus: float | None = None,
    threads: int = 1,
    address: str | None = None,
    pause: Callable[[], bool] | None = None,
) -> bool:
    """Work through what is open in `grid`, and wait for what others are at work on.

    Args:
        grid: the runs.
        data_names: of all protocols' pictures, as `data.load` takes it; or such names by those in the specs.
        device: "cpu", "cuda" or "auto"; which GPU a worker gets is Ray's business.
        workers: runs at a time.
        gpus: share of a GPU that a run takes, or a whole number of them; None: one with "cuda", none on a CPU.
        threads: of each run, and as many of Ray's CPUs.
        address: None starts Ray on this machine and ends it afterwards; "auto" or "ray://..." joins a cluster. A
            Ray that this process has joined before is used as it is.
        pause: asked all the time whether to stop; Ctrl-C says so as well. Runs then stop at a checkpoint.

    Returns:
        whether everything has a record; False: stopped as asked.

    Raises:
        SedonaError: no Ray, no such cluster, or one without what a run asks for; settings that contradict each
            other; no such pictures.
        RunsFailed: at the end, when all others are through; each failure is also said.
    """
    ray_cluster.import_ray()
    device, gpus = ray_cluster.device_of(device, gpus, address)
    if address is None:  # decoded once, before all workers want them
        for name in {data_names} if isinstance(data_names, str) else set(data_names.values()):
            data.load(name)
    variables = ray_cluster.environment(threads)
    with ray_cluster.joined(address, workers * threads, variables) as (ray, surroundings):
        ray_cluster.check_resources(ray, threads, gpus)
        options = {"num_cpus": threads, "max_retries": 0, "runtime_env": surroundings}
        task = ray.remote(ray_tasks.execute_here).options(**options, **({"num_gpus": gpus} if gpus else {}))
        driver = _Driver(ray, task, grid, data_names, (device, grid.protocols[0].name, threads), workers)
        driver.work(pause or (lambda: False))
    if driver.stopping and any(spec_hash(spec) not in driver.failed for spec in grid.open()):
        return False
    if driver.failed:
        raise RunsFailed.of(list(driver.failed.values()))
    return True


@contextmanager
def _first_interrupt_noted() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted, the second is an interrupt; yields whether there was one.

    Ray runs Python code at any time, when references go, for example; an exception in there would be lost.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets interrupts
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


class _Driver:
    """Keeps tasks in flight as long as there is something to do.

    Args:
        ray: the package, initialised.
        task: `ray_tasks.execute_here` as a remote function.
        grid: the runs.
        data_names: of the pictures, as in `run`.
        arguments: of the task, between the name of its pictures and the stop file.
        workers: tasks at a time.
    """

    def __init__(
        self,
        ray: ModuleType,
        task: Any,
        grid: Grid,
        data_names: str | Mapping[str, str],
        arguments: tuple[Any, ...],
        workers: int,
    ):
        self.ray, self.task, self.grid, self.data_names, self.workers = ray, task, grid, data_names, workers
        folder = grid.store.folder.absolute()
        self.stop = ray_tasks.new_stop_file(folder, f"driver-{uuid.uuid4().hex[:8]}")
        self.folder, self.arguments = str(folder), (*arguments, str(self.stop))
        self.stopping = False
        self.open: list[Spec] | None = None  # without a record, when the grid was last looked at
        self.in_flight: dict[Any, Spec] = {}  # by Ray's reference
        # By the spec's hash: why it failed, how many of its processes were lost, when to try it again.
        self.failed: dict[str, str] = {}
        self.lost: dict[str, int] = {}
        self.not_before: dict[str, float] = {}

    def work(self, pause: Callable[[], bool]) -> None:
        """Until everything is recorded or failed, or all tasks have stopped."""
        try:
            with progress.bar(len(self.grid.specs()), "runs") as bar, _first_interrupt_noted() as interrupted:
                self.bar = bar
                while True:
                    if not self.stopping and interrupted():
                        bar.write("interrupted: runs stop at a checkpoint; Ctrl-C again does not wait for them")
                        self.halt()
                    if not self.stopping and pause():
                        self.halt()
                    if not self.submit() and not self.in_flight:
                        break
                    self.wait()
        finally:
            self.stop.unlink(missing_ok=True)  # whatever still runs stops, too

    def submit(self) -> bool:
        """Fill the free places; whether there is anything to do."""
        if self.stopping:
            return False
        left, now = self.left(), time.monotonic()
        ready = [spec for spec in left if self.not_before.get(spec_hash(spec), now) <= now]
        for spec in ready[: max(self.workers - len(self.in_flight), 0)]:
            several = isinstance(self.data_names, Mapping)
            name = self.data_names[spec.data] if several else self.data_names
            self.in_flight[self.task.remote(spec, self.folder, name, *self.arguments)] = spec
        return bool(left)

    def left(self) -> list[Spec]:
        """What has no record, has not failed, and is not in flight here."""
        recorded = self.open is not None and any(self.grid.store.path(spec).is_file() for spec in self.open)
        if self.open is None or recorded:  # else the grid is what it was: only records change it
            specs = self.grid.specs()
            self.open = [spec for spec in specs if not self.grid.store.path(spec).is_file()]
            self.bar.resize(len(specs))
            self.bar.update(len(specs) - len(self.open) - self.bar.count)
        here = {spec_hash(spec) for spec in self.in_flight.values()} | self.failed.keys()
        return in_order([spec for spec in self.open if spec_hash(spec) not in here], self.grid.store)

    def wait(self) -> None:
        """For a moment, or for a task to end."""
        if not self.in_flight:
            time.sleep(WAIT)
            return
        ended, _ = self.ray.wait(list(self.in_flight), num_returns=1, timeout=WAIT)
        for reference in ended:
            spec = self.in_flight[reference]
            how, what = self.ending(reference, spec_hash(spec))
            del self.in_flight[reference]
            self.take(spec, how, what)

    def halt(self) -> None:
        """Ask all tasks to stop; those that have not begun never will."""
        self.stopping = True
        ray_tasks.say_stop(self.stop)
        for reference, spec in self.in_flight.items():
            if not self.grid.store.is_claimed(spec):
                self.ray.cancel(reference)

    def ending(self, reference: Any, key: str) -> tuple[str, str]:
        """How a task ended, in the words of `ray_tasks.execute_here`, or "lost" or "cancelled"."""
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except exceptions.TaskCancelledError:
            return "cancelled", ""
        except exceptions.RayTaskError as error:
            return "failed", f"{type(error.cause).__name__}: {error.cause}"
        except exceptions.RayError as error:
            self.lost[key] = self.lost.get(key, 0) + 1
            if self.lost[key] > LOSSES:
                return "failed", f"its process was lost {self.lost[key]} times ({type(error).__name__})"
            return "lost", f"its process was lost ({type(error).__name__}), it goes on from its last checkpoint"

    def take(self, spec: Spec, how: str, what: str) -> None:
        """Keep what a task left, and say it."""
        key = spec_hash(spec)
        if how == "recorded":
            record = Record.from_json(what)
            if not self.grid.store.path(spec).is_file():
                self.grid.store.save(record)
            what = outcome(record)
        elif how == "failed":
            self.failed[key] = what
            what = f"FAILED: {what}"
        elif how == "busy":  # somebody else is at work on it
            self.not_before[key] = time.monotonic() + POLL
        elif how == "paused" and not self.stopping:  # somebody removed the stop file
            self.halt()
        if how in ("recorded", "failed", "paused", "lost"):
            self.bar.write(f"{describe(spec)}: {what}")
