"""Run the notebooks one after another and say how each one fared.

    python -m sedona_nb.execute --profile small --data cifar10 --only 04 --only 11

Executed copies go to build/executed/<profile>-<data>/, each beside a .log that grows as the notebook prints; the
notebooks themselves stay as they are. Exit code: 0; 1 if a notebook failed; 2 for a mistake in the arguments; 130
if it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NoReturn

from sedona_nb import stream_names
from sedona_nb.errors import SedonaError, choose
from sedona_nb.notebook_process import Outcome, run
from sedona_nb.progress import duration

REPOSITORY = Path(__file__).resolve().parent.parent
PROFILES = ("smoke", "small", "paper")  # those of profiles.py, whose import takes seconds
TABLE_NOTEBOOK = "11"  # when the notebook behind the main table has run, the table is printed


def find(folder: Path, only: Sequence[str] = (), solutions: bool = False) -> list[Path]:
    """The notebooks of `folder` in name order, those of its solutions/ after them if wanted.

    Args:
        folder: where the notebooks are.
        only: numbers ("3", "03") to which the choice is limited; none means all.
        solutions: whether to add folder/solutions/*.ipynb.

    Raises:
        SedonaError: there is no notebook, or none of a wanted number.
    """
    paths = sorted(folder.glob("*.ipynb")) + (sorted(folder.glob("solutions/*.ipynb")) if solutions else [])
    if not paths:
        raise SedonaError(f"no notebooks in {folder}")
    numbers = dict.fromkeys(_number(path) for path in paths)
    wanted = {choose(text.zfill(2), numbers, "notebook") for text in only}
    return [path for path in paths if not wanted or _number(path) in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a CI that gives up, a closed terminal: as orderly as Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks to be left alone
            signal.signal(number, _interrupt)
    for name in ("SEDONA_DATA", "SEDONA_CACHE", "SEDONA_RELEASED"):  # notebooks run in another folder
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    try:
        return _run_all(_parse(arguments))
    except SedonaError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read along left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python still flushes on its way out
        return 1


def _run_all(options: argparse.Namespace) -> int:
    folder = options.folder.resolve()
    notebooks = find(folder, options.only, options.solutions)
    parameters = {"profile": options.profile, "data": options.data, "device": options.device}
    parameters |= {} if options.seed is None else {"seed": options.seed}
    data_name = re.sub(r"[^\w.-]+", "_", Path(options.data).name)
    target = options.output.resolve() / f"{options.profile}-{data_name}"
    pictures = _pictures(options.data)
    count = f"{len(notebooks)} notebook{'s' if len(notebooks) > 1 else ''}"
    print(f"{count} with {', '.join(f'{key} {value}' for key, value in parameters.items())}")
    print(f"pictures: {pictures}\nexecuted copies: {_shown(target)}", flush=True)
    if options.fresh:
        print(f"forgotten: {_forget(options.profile, options.data)} records", flush=True)
    outcomes: dict[str, Outcome] = {}
    for notebook in notebooks:
        relative = notebook.relative_to(folder)
        name, copy = str(relative.with_suffix("")), target / relative
        if sys.stdout.isatty():
            print(f"{name} ...", end="\r", flush=True)
        outcome = outcomes[name] = run(notebook, copy, parameters, options.timeout and 60 * options.timeout)
        print(_line(name, outcome))
        for line in outcome.reason:
            print(f"    {line}")
        if not outcome.ok:
            print(f"    more: {_shown(copy if copy.exists() else copy.with_suffix('.log'))}")
        sys.stdout.flush()
    _print_summary(outcomes)
    if any(_number(notebook) == TABLE_NOTEBOOK for notebook in notebooks):
        _print_tables(options.profile, options.data)
    return 0 if all(outcome.ok for outcome in outcomes.values()) else 1


def _pictures(data: str) -> str:
    """One line about the data set, loaded by a process of its own: torch here would count for every notebook.

    Decoded pictures stay in the cache, so that no notebook has to wait for them.

    Raises:
        SedonaError: there are no such pictures.
    """
    code = (
        "import sys\nfrom sedona_nb import data, errors\n"
        "try:\n    print(data.load(sys.argv[1]).describe())\n"
        "except errors.SedonaError as error:\n    sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, data]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SedonaError((done.stderr.strip().splitlines() or ["the pictures could not be loaded"])[-1])
    return done.stdout.strip()


def _forget(profile: str, data: str) -> int:
    """Remove the records that this profile made of these pictures, so that they are made anew."""
    from sedona_nb import data as pictures  # not at the top: they load torch, which would count for every notebook
    from sedona_nb import profiles, runs

    name = pictures.load(data).name
    store = runs.RunStore(profiles.load(profile).results)
    old = [r for r in store.records() if r.provenance.profile == profile and getattr(r.spec, "data", None) == name]
    for record in old:
        store.forget(record.spec)
    return len(old)


def _print_summary(outcomes: dict[str, Outcome]) -> None:
    failed = sum(not outcome.ok for outcome in outcomes.values())
    total = duration(sum(outcome.seconds for outcome in outcomes.values()))
    peak = _megabytes(max(outcome.peak_memory for outcome in outcomes.values()))
    print("\n" + _row("notebook", "result", "time", "peak memory"))
    for name, outcome in outcomes.items():
        print(_line(name, outcome))
    print(_row("all", f"{failed} FAILED" if failed else "ok", total, peak), flush=True)


def _print_tables(profile: str, data: str) -> None:
    from sedona_nb import tables  # not before: pandas here would count as memory of every notebook

    if hasattr(tables, "summary"):
        try:
            print(f"\n{tables.summary(profile=profile, data=data)}")
        except SedonaError as error:  # say, records that a failed notebook did not make
            print(f"\nno table: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:  # one line, without the usage
            self.exit(2, f"{message} (--help lists what is allowed)\n")

    parser = Parser(prog="python -m sedona_nb.execute", description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="smoke", help="sizes of everything: smoke, small or paper")
    parser.add_argument("--data", help="digits, cifar10, ... or a path (default: digits; paper: cifar10)")
    parser.add_argument("--only", action="append", default=[], metavar="NN", help="this notebook; may be repeated")
    parser.add_argument("--solutions", action="store_true", help="the solved exercises too")
    parser.add_argument("--seed", type=int, help="default: the notebook's own")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--fresh", action="store_true", help="train again what results/ already has")
    parser.add_argument("--timeout", type=float, metavar="MINUTES", help="longest time for one notebook")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "notebooks", help="where the notebooks are")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build" / "executed", help="where copies go")
    options = parser.parse_args(arguments)
    choose(options.profile, PROFILES, "profile")
    if options.timeout is not None and not options.timeout > 0:
        raise SedonaError(f"--timeout {options.timeout:g}: minutes, more than 0")
    options.data = options.data or ("cifar10" if options.profile == "paper" else "digits")
    prefix, data = stream_names.parted(options.data)
    if os.sep in data or data.endswith(".zip"):  # from a notebook's folder, it would mean another place
        data = str(Path(data).expanduser().resolve())
        if not Path(data).exists():
            raise SedonaError(f"--data: no file or folder {data}")
    options.data = prefix + data
    if options.device != "auto":
        with ProcessPoolExecutor(max_workers=1) as elsewhere:
            elsewhere.submit(_check_device, options.device).result()
    return options


def _check_device(name: str) -> None:
    from sedona_nb import devices  # in a process of its own: torch here would count as memory of every notebook

    devices.resolve(name)


def _number(path: Path) -> str:
    return path.stem.partition("_")[0]


def _line(name: str, outcome: Outcome) -> str:
    result = "ok" if outcome.ok else "FAILED"
    return _row(name, result, duration(outcome.seconds), _megabytes(outcome.peak_memory))


def _row(name: str, result: str, seconds: str, memory: str) -> str:
    return f"{name:<44} {result:<9} {seconds:>8} {memory:>12}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _shown(path: Path) -> str:
    """`path` as a person in this folder would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
