"""The notebooks of tables and figures draw from records alone: nothing is trained, and what is missing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.store import RunStore

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = {
    "11": "table02",
    "12": "figure03",
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
}
NETWORKS = {"27": "resnet50", "28": "resnet50", "29": "transformer20"}  # others: vgg19
NUMBERS = tuple(EXPERIMENTS)
QUIET = {"11": {"own": False}}  # parameters with which a notebook that also runs something of its own does not
OWN = {"11": 2}  # pictures of that
NO_TRAINING = """
from sedona_nb import search, training


def _refuse(*arguments, **options):
    raise AssertionError("a reproduction trains")


search.run = training.train = _refuse
"""
TWO_NETWORKS = """
from sedona_nb import paper

paper.NETWORKS = paper.NETWORKS[:2]
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


@pytest.mark.parametrize("number", NUMBERS)
def test_a_reproduction_draws_from_records_alone_within_seconds(number, monkeypatch):
    pages = executed(number, monkeypatch, **QUIET.get(number, {}))
    committed = nbformat.read(notebook(number), as_version=4)
    assert pictures(pages) == pictures(committed) - OWN.get(number, 0) > 0
    protocol = protocols.load("short", NETWORKS.get(number, "vgg19"))
    store = RunStore(protocol.profile.results)
    said = " ".join(printed(pages).split())
    entries = experiments.load(EXPERIMENTS[number], protocol, store) if EXPERIMENTS[number] else []
    for line in verdicts.missing(entries, store):
        assert line in said
    assert float(re.findall(r"([\d.]+) processor seconds", printed(pages))[-1]) < 20


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in ("11", "29")])  # one protocol
def test_without_records_it_says_so_and_plots_nothing_of_ours(number, monkeypatch):
    pages = executed(number, monkeypatch, protocol="paper")
    assert "no record" in printed(pages)
    # The widget's picture, which says so in words; the paper's own panels; files and a toy; what delay does.
    of_no_record = {"12": 1, "17": 1, "18": 2, "22": 3, "25": 2}
    assert pictures(pages) <= of_no_record.get(number, 0)


@pytest.mark.slow
def test_times_of_a_search_are_taken_where_that_is_asked_for(monkeypatch, tmp_path):
    pages = executed("18", monkeypatch, TWO_NETWORKS, protocol="smoke", measure=True, results=str(tmp_path))
    specs = [record.spec for record in RunStore(tmp_path).records()]
    assert sorted((spec.network.name, spec.backend) for spec in specs) == [
        ("resnet50", "adjoint"),
        ("vgg19", "adjoint"),
        ("vgg19", "adjoint"),
        ("vgg19", "higher"),
    ]
    assert {(spec.in_channels, spec.network.width) for spec in specs} == {(1, 1 / 32)}
    assert "vgg19 0.03125x, 1x32x32, batch 32, validation batch 128, backend higher" in " ".join(
        printed(pages).split()
    )
    assert pictures(pages) == 2


@pytest.mark.parametrize("number", NUMBERS)
def test_every_reproduction_has_the_same_anatomy(number):
    text = json.dumps(json.loads(notebook(number).read_text(encoding="utf-8")))
    for part in (
        "What we see",
        f"What differs from the {'poster' if number in NETWORKS else 'paper'}",
        "To deepen it",
        "Exercises",
        "Summary",
        "papermill",
    ):
        assert part in text, part
    assert "TO BE WRITTEN" not in text
