"""After new records: the outputs that notebooks are committed with, and what the README shows of the results.

    python -m sedona_nb.refresh                        # what is drawn from records alone, and the README's tables
    python -m sedona_nb.refresh 12 27                  # these notebooks, and the README
    python -m sedona_nb.refresh 11 --cells table02     # of this one, only cells with this text; others train
    python -m sedona_nb.refresh 27 --figures           # and what it leaves in figures/ (profile small)

Lessons, and the reproduction that also trains something of its own (11), have to be named. A notebook
is run as it stands, in a process of its own, and keeps all but its outputs; one that fails keeps these, too.
Exit code: 0; 1 if a notebook failed; 2 for a mistake in the arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sedona_nb import atomic, execute
from sedona_nb.errors import SedonaError
from sedona_nb.notebook_process import run


def take_over(notebook: Path, copy: Path, cells: str = "") -> int:
    """Give the code cells of `notebook` the outputs that they have in its executed copy.

    Args:
        notebook: changed in one go, or not at all.
        copy: executed without parameters, so that it has the same cells.
        cells: only code cells whose source contains this.

    Returns:
        How many cells have other outputs now.

    Raises:
        SedonaError: the copy has other cells.
    """
    import nbformat

    ours, theirs = (nbformat.read(path, as_version=4) for path in (notebook, copy))
    if [cell.source for cell in ours.cells] != [cell.source for cell in theirs.cells]:
        raise SedonaError(f"{copy.name} is a copy of another notebook than {notebook.name}: the cells differ")
    changed = 0
    for own, new in zip(ours.cells, theirs.cells, strict=True):
        if own.cell_type == "code" and cells in own.source:
            outputs = _merged(new.outputs)
            changed += own.outputs != outputs
            own.outputs, own.execution_count = outputs, new.execution_count
    if changed:
        atomic.write_text(notebook, nbformat.writes(ours) + "\n")
    return changed


def readme(path: Path) -> bool:
    """Put the tables of `overview` where the page has them; whether its text is another one now."""
    from sedona_nb import overview  # pandas and torch, which would count for every notebook

    before = path.read_text(encoding="utf-8")
    after = overview.filled(before)
    if after != before:
        atomic.write_text(path, after)
    return after != before


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        return _refresh(_parse(arguments))
    except SedonaError as error:
        print(error, file=sys.stderr)
        return 2


# -- pieces ------------------------------------------------------------------------------------------------------


def _refresh(options: argparse.Namespace) -> int:
    notebooks = execute.find(options.folder.resolve(), options.names)
    if not options.names:
        notebooks = [path for path in notebooks if _from_records_alone(path)]
    if options.cells and not any(options.cells in source for path in notebooks for source in _code(path)):
        raise SedonaError(f"--cells {options.cells!r}: in none of {', '.join(path.stem for path in notebooks)}")
    failed = 0
    for notebook in notebooks:
        copy = options.output.resolve() / notebook.name
        outcome = run(notebook, copy, {})
        failed += not outcome.ok
        if outcome.ok:
            changed = take_over(notebook, copy, options.cells)
            print(
                f"{notebook.stem}: {changed} cells with other outputs"
                if changed
                else f"{notebook.stem}: as it was"
            )
        else:
            print("\n    ".join([f"{notebook.stem}: FAILED, left as it was", *outcome.reason]))
        sys.stdout.flush()
    if options.readme.is_file():
        print("README: other tables" if readme(options.readme) else "README: as it was", flush=True)
    if options.figures and not failed:
        only = [word for path in notebooks for word in ("--only", path.name.partition("_")[0])]
        return execute.main(["--profile", "small", "--data", "cifar10", "--folder", str(options.folder), *only])
    return 1 if failed else 0


def _from_records_alone(notebook: Path) -> bool:
    """Whether its parameters say that pictures have no effect."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return any("parameters" in c.metadata.get("tags", ()) and 'data: str = ""' in c.source for c in cells)


def _code(notebook: Path) -> list[str]:
    """Sources of its code cells."""
    import nbformat

    return [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]


def _merged(outputs: Sequence) -> list:
    """What a kernel printed in pieces, as one piece: where it is cut is chance."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:  # one line, without the usage
            self.exit(2, f"{message} (--help lists what is allowed)\n")

    parser = Parser(prog="python -m sedona_nb.refresh", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NN", help="numbers; default: those from records alone")
    parser.add_argument("--cells", default="", metavar="TEXT", help="only cells that contain this")
    parser.add_argument("--figures", action="store_true", help="run them under profile small, too: figures/")
    parser.add_argument("--folder", type=Path, default=execute.REPOSITORY / "notebooks", help="of the notebooks")
    parser.add_argument(
        "--readme", type=Path, default=execute.REPOSITORY / "README.md", help="page with the tables of results"
    )
    parser.add_argument(
        "--output", type=Path, default=execute.REPOSITORY / "build" / "refresh", help="where executed copies go"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
