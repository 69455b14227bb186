"""Committed outputs drawn anew: taken over whole or not at all, and nothing else changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sedona_nb import refresh
from sedona_nb.errors import SedonaError

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = "# Page\n\n<!-- results -->\nold\n<!-- /results -->\n\n<!-- poster -->\nold\n<!-- /poster -->\n"


def write(path: Path, *sources: str, output: str = "") -> Path:
    """A notebook whose code cells have `output`; a cell that begins with # is text."""
    make = nbformat.v4
    cells = [make.new_markdown_cell(s) if s.startswith("#") else make.new_code_cell(s) for s in sources]
    if path.name >= "10":  # a reproduction, from records alone
        cells.insert(0, make.new_code_cell('data: str = ""', metadata={"tags": ["parameters"]}))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code" and output and cell.source != 'data: str = ""':
            cell.outputs = [make.new_output("stream", name="stdout", text=output)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(make.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    places = ["--folder", folder, "--readme", folder / "README.md", "--output", folder / "executed"]
    words = [sys.executable, "-m", "sedona_nb.refresh", *arguments, *places]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


def printed(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [
        "".join(o.text for o in c.outputs) for c in cells if c.cell_type == "code" and not c.metadata.get("tags")
    ]


def test_outputs_are_taken_over_and_everything_else_stays(tmp_path):
    loud = "import sys, time\nfor i in range(3):\n    print(i)\n    sys.stdout.flush()\n    time.sleep(0.3)"
    first = write(tmp_path / "10_first.ipynb", "# text", loud, "print('two')", output="stale\n")
    lesson = write(tmp_path / "01_lesson.ipynb", "print('now')", output="stale\n")  # only if it is named
    (tmp_path / "README.md").write_text(PAGE)
    before = nbformat.read(first, as_version=4)
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "10_first: 2 cells with other outputs\nREADME: other tables\n"
    assert printed(first) == ["0\n1\n2\n", "two\n"]
    assert printed(lesson) == ["stale\n"]
    after = nbformat.read(first, as_version=4)
    assert len(after.cells[2].outputs) == 1  # printed in three pieces
    for cell in [*before.cells, *after.cells]:
        cell.pop("outputs", None)
        cell.pop("execution_count", None)
    assert after == before
    assert "old" not in (tmp_path / "README.md").read_text()
    text, when = first.read_bytes(), first.stat().st_mtime_ns
    again = command(tmp_path, "10")
    assert again.stdout == "10_first: as it was\nREADME: as it was\n"
    assert (first.read_bytes(), first.stat().st_mtime_ns) == (text, when)


def test_only_some_cells(tmp_path):
    path = write(tmp_path / "18_times.ipynb", "print('time')", 'print("record")', output="stale\n")
    done = command(tmp_path, "18", "--cells", '"record"')
    assert done.stdout == "18_times: 1 cells with other outputs\n"
    assert printed(path) == ["stale\n", "record\n"]
    wrong = command(tmp_path, "18", "--cells", "nowhere")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "--cells 'nowhere': in none of 18_times\n"


def test_a_notebook_that_fails_keeps_its_outputs(tmp_path):
    path = write(tmp_path / "10_bad.ipynb", "print('fine')", "1 / 0", output="stale\n")
    write(tmp_path / "11_good.ipynb", "print('fine')")
    before = path.read_bytes()
    done = command(tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("10_bad: FAILED, left as it was\n")
    assert "ZeroDivisionError" in done.stdout
    assert "11_good: 1 cells with other outputs" in done.stdout
    assert path.read_bytes() == before


def test_mistakes_are_one_line(tmp_path):
    write(tmp_path / "10_one.ipynb", "1")
    for arguments in (["99"], ["--no-such"]):
        done = command(tmp_path, *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    other = write(tmp_path / "11_other.ipynb", "2")
    with pytest.raises(SedonaError, match="the cells differ"):
        refresh.take_over(tmp_path / "10_one.ipynb", other)


@pytest.mark.slow
def test_a_committed_reproduction_is_as_a_refresh_leaves_it(tmp_path):
    """Byte for byte, but for pictures: their bytes depend on the version of what drew them."""
    (original,) = (REPOSITORY / "notebooks").glob("19_*.ipynb")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "sedona_nb").symlink_to(REPOSITORY / "sedona_nb")
    copy = Path(shutil.copy(original, tmp_path / "notebooks"))
    done = command(tmp_path / "notebooks", "19")
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (nbformat.read(path, as_version=4) for path in (original, copy))
    for cell in [*ours.cells, *theirs.cells]:
        if "nbval-ignore-output" in cell.metadata.get("tags", ()):
            cell.outputs = []
    assert theirs == ours
    assert nbformat.writes(nbformat.read(copy, as_version=4)) + "\n" == copy.read_text(encoding="utf-8")
