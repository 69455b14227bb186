"""The process of a live search: it searches, says how far it is, and looks after each step what is wished.

Started by `live_search`, which hands it the folder and a descriptor that holds the folder's lock.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import replace

import torch

from sedona_nb import data, runs
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.live_folder import LiveFolder, Status
from sedona_nb.search_state import SearchState

EVERY = 0.25  # seconds between two looks of the status, while the kind of work stays the same
POLL = 0.1  # seconds between two looks at the wish while resting
IDLE = 1800.0  # seconds of rest after which the process ends; the search stays paused and can be continued


class _Worker:
    """What connects a search with its folder."""

    def __init__(self, folder: str, descriptor: int, idle: float):
        self.live, self.descriptor, self.idle = LiveFolder(folder), descriptor, idle
        self.request = self.live.read_request()
        self.last = replace(self.live.read_status(), pid=os.getpid(), message="")
        self.written = 0.0
        self.terminated = False

    def terminate(self, *_: object) -> None:
        """Whoever sends SIGTERM means stop."""
        self.terminated = True

    def wish(self) -> str:
        return "stop" if self.terminated else self.live.read_wish()

    def watch(self, state: SearchState) -> None:
        """Note how far the search is."""
        name = "pretraining" if state.pretrained < self.request.spec.search.pretrain_steps else "searching"
        now = time.monotonic()
        changed = name != self.last.state
        self.last = Status.of(self.request.spec, state, name, os.getpid())
        if changed or now - self.written >= EVERY:
            self.say(self.last)

    def say(self, status: Status) -> None:
        """Write the status."""
        self.last, self.written = status, time.monotonic()
        self.live.write_status(status)

    def rest(self) -> bool:
        """Until somebody wishes to run (True) or to stop, or nobody wishes anything for too long (False).

        Whoever wishes to run takes the guard and then tries the lock. So the decision to end is taken, and the
        lock let go of, under the guard: a wish comes before, and is obeyed, or after, and starts a new process.
        """
        until = time.monotonic() + self.idle
        if self.wish() == "pause":
            self.say(replace(self.last, state="paused"))
        while True:
            wish = self.wish()
            if wish == "run":
                return True
            if wish == "stop" or time.monotonic() > until:
                with self.live.guarded():
                    if self.wish() == "run":
                        continue
                    self.say(replace(self.last, state="stopped" if wish == "stop" else "paused"))
                    os.close(self.descriptor)
                    return False
            time.sleep(POLL)

    def run(self) -> None:
        """Search until it is done or somebody wishes to stop."""
        torch.set_num_threads(self.request.threads)
        pictures = data.load(self.request.data)
        spec, store, device = self.request.spec, self.live.store, self.request.device
        while True:
            try:
                record = runs.find_or_search(
                    spec, pictures, store, device, pause=lambda: self.wish() != "run", watch=self.watch
                )
            except Paused:
                if self.rest():
                    continue
                return
            found = runs.search_result(record)
            state = SearchState(
                found.alpha,
                found.beta,
                spec.search.pretrain_steps,
                spec.search.outer_steps,
                losses=found.outer_losses.tolist(),
                pretraining=found.pretraining,
                seconds=found.seconds,
            )
            self.say(Status.of(spec, state, "done", os.getpid()))
            return


def main(folder: str, descriptor: int, idle: float = IDLE) -> int:
    """Search as the folder says; returns the exit code."""
    os.set_inheritable(descriptor, False)  # who inherits it holds the lock
    worker = _Worker(folder, descriptor, idle)
    signal.signal(signal.SIGTERM, worker.terminate)
    worker.say(replace(worker.last, state="starting"))
    try:
        worker.run()
    except SedonaError as error:
        worker.say(replace(worker.last, state="failed", message=f"{error}."))
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        worker.say(replace(worker.last, state="failed", message=f"{type(error).__name__}: {error}."))
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
