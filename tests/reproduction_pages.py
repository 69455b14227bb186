"""The notebooks of tables and figures, executed with parameters in a kernel that cannot train."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = {
    "11": "table02",
    "12": "figure03",
    "13": "",  # Tables 3 and 5, under protocols of their own
    "14": "table04",
    "16": "table06",
    "17": "table07",
    "18": "table08",
    "22": "",  # searches of Table 2, and the released files
    "24": "figure06",
    "25": "figure07",
    "26": "figure08",
    "27": "poster_table1",
    "28": "poster_figure3",
    "29": "poster_figure3",
    "30": "first_head",
}
NETWORKS = {"27": "resnet50", "28": "resnet50", "29": "transformer20"}  # others: vgg19
NUMBERS = tuple(EXPERIMENTS)
NO_TRAINING = """
from sedona_nb import search, training


def _refuse(*arguments, **options):
    raise AssertionError("a reproduction trains")


search.run = training.train = _refuse
"""
CLOCK = "import time\nprint(f'{time.process_time():.1f} processor seconds')"


def notebook(number: str) -> Path:
    (path,) = (REPOSITORY / "notebooks").glob(f"{number}_*.ipynb")
    return path


def executed(
    number: str, monkeypatch: pytest.MonkeyPatch, before: str = "", **parameters: object
) -> nbformat.NotebookNode:
    """The notebook, run with these parameters in a kernel that cannot train; the last cell tells the time."""
    monkeypatch.setenv("SEDONA_HEADLESS", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pages = nbformat.read(notebook(number), as_version=4)
    place = next(i for i, cell in enumerate(pages.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    pages.cells.insert(place + 1, nbformat.v4.new_code_cell(lines + NO_TRAINING + before))
    pages.cells.append(nbformat.v4.new_code_cell(CLOCK))
    NotebookClient(
        pages, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(notebook(number).parent)}}
    ).execute()
    return pages


def printed(pages: nbformat.NotebookNode) -> str:
    outputs = [output for cell in pages.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def pictures(pages: nbformat.NotebookNode) -> int:
    outputs = [output for cell in pages.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)
