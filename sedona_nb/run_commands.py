"""The runs behind tables and figures, from the shell.

    python -m sedona_nb.runs list table02                          # what it consists of, and what has a record
    python -m sedona_nb.runs estimate table02 figure06             # hours, and with --price what they cost
    python -m sedona_nb.runs run table02 --stop-after 9m           # go on where the last call stopped
    python -m sedona_nb.runs run figure06 --engine ray --workers 8 --device cuda --gpus 0.125
    python -m sedona_nb.runs status table02                        # a snapshot, while others are at work
    python -m sedona_nb.runs table table02                         # paper beside ours

Without names, all experiments. The same command typed in two shells shares the work. Exit code: 0; 1 if a run
or the disk failed; 2 for a mistake in the arguments; 75 if it stopped as asked and there is more to do.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sedona_nb.errors import SedonaError, choose

COMMANDS = ("list", "estimate", "run", "status", "table")
ENGINES = ("here", "ray")
FOR = {"gpus": ("run",), "address": ("run",), "stop_after": ("run",), "price": ("estimate",)}
FOR["workers"] = ("run", "estimate")
MORE_TO_DO = 75  # the exit code that says "try again later" (EX_TEMPFAIL)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        options = parse(arguments)
        return {"list": _list, "estimate": _estimate, "run": _run, "status": _status, "table": _table}[
            options.command
        ](options)
    except SedonaError as error:
        from sedona_nb.grid import RunsFailed

        print(error, file=sys.stderr)
        return 1 if isinstance(error, RunsFailed) else 2
    except BrokenPipeError:  # whoever read this has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder that cannot be made, a disk that is full
        print(f"{error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was trained since the last checkpoint is lost", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
        SedonaError: a value that is not allowed, or two that contradict each other.
    """

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:  # one line, without the usage
            self.exit(2, f"{message} (--help lists what is allowed)\n")

    parser = Parser(
        prog="python -m sedona_nb.runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", metavar="command", help=", ".join(COMMANDS))
    parser.add_argument("names", nargs="*", help="experiments, such as table02 or figure06; default: all")
    parser.add_argument(
        "--protocol", default="short", help="short (default), smoke, paper, or its others: imagenet, ..."
    )
    parser.add_argument("--network", action="append", help="may be repeated; default: vgg19")
    parser.add_argument("--variant", action="append", default=[], help="only these rows; may be repeated")
    parser.add_argument("--data", help="name or path of the pictures; default: the protocol's")
    parser.add_argument("--store", type=Path, help="folder of the records; default: the protocol's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=1, help="of each run; default: 1")
    parser.add_argument("--engine", default="here", help="here: one run at a time in this process; or ray")
    parser.add_argument("--workers", type=int, help="runs at a time; engine ray only")
    parser.add_argument("--gpus", type=float, help="share of a GPU a run takes; engine ray only")
    parser.add_argument("--address", help="of a Ray cluster, or auto; default: one on this machine")
    parser.add_argument("--stop-after", metavar="TIME", help="such as 90s, 9m, 2h: stop at a checkpoint then")
    parser.add_argument("--price", type=float, help="of an hour of a device, for estimate")
    options = parser.parse_intermixed_args(arguments)  # names may stand behind options
    choose(options.command, COMMANDS, "command")
    choose(options.engine, ENGINES, "engine")
    for name, commands in FOR.items():
        if getattr(options, name) is not None and options.command not in commands:
            flag = f"--{name.replace('_', '-')}"
            raise SedonaError(f"{flag} means nothing to {options.command}; allowed with: {', '.join(commands)}")
    if options.command == "run" and options.engine != "ray":
        given = [n for n in ("workers", "gpus", "address") if getattr(options, n) is not None]
        if given:
            raise SedonaError(
                f"--{given[0]} is for --engine ray; allowed here: one run at a time, or several shells"
            )
    if options.threads < 1 or (options.workers is not None and options.workers < 1):
        raise SedonaError("--threads and --workers are whole numbers from 1")
    if options.price is not None and not 0 <= options.price < math.inf:
        raise SedonaError(f"--price {options.price:g} is not allowed; allowed: a number from 0")
    options.stop_after = None if options.stop_after is None else seconds(options.stop_after)
    return options


def seconds(text: str) -> float:
    """Seconds of "90s", "9m", "1.5h" or "90".

    Raises:
        SedonaError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if not match or float(match[1]) == 0:
        raise SedonaError(f"{text!r} is no time; allowed: such as 90s, 9m, 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def until(stop_after: float | None) -> Callable[[], bool]:
    """Whether to stop: when so many seconds are over, or once the machine asks for it with SIGTERM."""
    deadline = None if stop_after is None else time.monotonic() + stop_after
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    return lambda: bool(asked) or (deadline is not None and time.monotonic() >= deadline)


# -- commands ----------------------------------------------------------------------------------------------------


def _grid(options: argparse.Namespace):
    """The grid that is asked for, on the pictures at hand; and these, where they are needed."""
    from sedona_nb import data, experiments, protocols
    from sedona_nb.grid import Grid
    from sedona_nb.store import RunStore

    networks = tuple(dict.fromkeys(options.network or ["vgg19"]))
    store = RunStore(options.store or protocols.load(options.protocol, networks[0]).profile.results)
    if store.folder.exists() and not store.folder.is_dir():
        raise SedonaError(f"--store {store.folder} is a file; allowed: a folder, which need not exist yet")
    loaded, pictures = tuple(protocols.load(options.protocol, network, store) for network in networks), ()
    if options.data:
        pictures = (data.load(options.data),)
        loaded = tuple(protocol.on(pictures[0]) for protocol in loaded)
    elif options.command == "run":
        loaded, pictures = protocols.gather(loaded)
    elif not all(protocol.fingerprint for protocol in loaded):
        with suppress(SedonaError):  # not at hand: nothing that they are for can have begun here
            loaded, pictures = protocols.gather(loaded)
    names = tuple(dict.fromkeys(options.names)) or tuple(experiments.EXPERIMENTS)
    return Grid(names, loaded, store, tuple(options.variant)), pictures


def _list(options: argparse.Namespace) -> int:
    from sedona_nb import result_tables
    from sedona_nb.grid import describe, state_of

    grid, _ = _grid(options)
    for name in grid.names:
        print(name if grid.entries(name) else result_tables.no_entries(name))
        for entry in grid.entries(name):
            print(f"  {entry.network}, {entry.variant}, K = {entry.num_blocks}")
            for spec in (*entry.needs, *entry.runs):
                needed = "needed first: " if spec in entry.needs else ""
                print(f"    {state_of(spec, grid.store):<9} {needed}{describe(spec)}")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    import torch

    from sedona_nb import devices, estimates

    place = devices.planned(options.device)  # before one rents a GPU, one has none
    grid, pictures = _grid(options)
    torch.set_num_threads(options.threads)  # part of what a CPU is called in records
    print(estimates.text(grid, place, options.workers or 1, options.price, *pictures[:1]))
    return 0


def _status(options: argparse.Namespace) -> int:
    from sedona_nb.grid import describe

    snapshot = _grid(options)[0].snapshot()
    for state in ("running", "begun"):
        for spec in snapshot.states[state]:
            print(f"{state:<9} {describe(spec)}")
    print(snapshot.text())
    return 0


def _table(options: argparse.Namespace) -> int:
    from sedona_nb import result_tables

    grid, _ = _grid(options)
    labels = [protocol.label for protocol in grid.protocols]
    print("\n\n".join(result_tables.text(name, labels, grid.entries(name), grid.store) for name in grid.names))
    return 0


def _run(options: argparse.Namespace) -> int:
    import torch

    from sedona_nb import devices

    place = options.device if options.engine == "ray" else devices.resolve(options.device)
    (grid, pictures), pause = _grid(options), until(options.stop_after)
    print(grid.snapshot().text(), flush=True)
    if options.engine == "ray":
        from sedona_nb import ray_engine

        workers = options.workers or max(1, (os.cpu_count() or 1) // options.threads)
        names = {one.name: options.data or one.name for one in pictures}
        done = ray_engine.run(grid, names, place, workers, options.gpus, options.threads, options.address, pause)
    else:
        torch.set_num_threads(options.threads)
        done = grid.run(pictures, place, pause, lambda line: print(line, flush=True))
    print(grid.snapshot().text())
    return 0 if done else MORE_TO_DO
