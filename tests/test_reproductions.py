"""The notebooks of tables and figures draw from records alone: nothing is trained, and what is missing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.store import RunStore

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
@pytest.mark.parametrize(
    "number", [number for number in NUMBERS if number not in ("11", "13", "29")]
)  # one protocol
def test_without_records_it_says_so_and_plots_nothing_of_ours(number, monkeypatch):
    pages = executed(number, monkeypatch, protocol="paper")
    assert "no record" in printed(pages)
    # The widget's picture, which says so in words; the paper's own panels; files and a toy; what delay does.
    of_no_record = {"12": 1, "17": 1, "18": 2, "22": 3, "25": 2}
    assert pictures(pages) <= of_no_record.get(number, 0)


@pytest.mark.slow
def test_a_seed_that_nobody_searched_with_has_no_record(monkeypatch):
    pages = executed("13", monkeypatch, seed=7)
    assert printed(pages).count("no record\n") >= 3
    assert pictures(pages) == 0


TRAINED = """
from sedona_nb import runs, viz
from sedona_nb.grid import Grid


def _look(self, pictures, *arguments):
    several = pictures if isinstance(pictures, tuple) else (pictures,)
    known = {(one.name, one.fingerprint) for one in several}
    assert {(spec.data, spec.fingerprint) for spec in self.specs()} <= known
    print("would train", len(self.open()), "runs on", *sorted(name for name, _ in known))


Grid.run = _look
def _look_too(spec, pictures, *arguments):
    print("would search on", spec.data, pictures.fingerprint == spec.fingerprint)


runs.find_or_search = _look_too
viz.save = lambda *arguments: None  # profile "paper" keeps its figures in the repository
"""
LINES = re.compile(
    r"^papermill (?P<number>\d\d)_\S+ out\.ipynb(?P<parameters>( -p \S+ (\"[^\"]*\"|\S+))*)$", re.MULTILINE
)


def deepening(number: str) -> list[dict[str, object]]:
    """The parameters of the papermill lines that a notebook ends with."""
    found = []
    for cell in nbformat.read(notebook(number), as_version=4).cells:
        for match in LINES.finditer(cell.source if cell.cell_type == "markdown" else ""):
            pairs = re.findall(r'-p (\S+) (?:"([^"]*)"|(\S+))', match["parameters"])
            found.append(
                {name: quoted or {"True": True, "False": False}.get(plain, plain) for name, quoted, plain in pairs}
            )
    return found


def training_lines() -> list[tuple[str, dict[str, object]]]:
    """What notebooks with a grid say to train, and the paper's protocol where they do not say it."""
    found = []
    for number in NUMBERS:
        lines = [] if number in ("11", "13", "18") else deepening(number)
        if lines and number != "29" and not any(line.get("profile") == "paper" for line in lines):
            lines.append({"protocol": "paper", "train": True})
        found += [(number, {key: value for key, value in line.items() if key != "device"}) for line in lines]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("number", "parameters"), training_lines())
def test_what_a_notebook_says_to_train_would_begin_and_be_drawn(number, parameters, monkeypatch, real_data_root):
    monkeypatch.setenv("SEDONA_DATA", str(real_data_root))
    said = printed(executed(number, monkeypatch, TRAINED, **parameters))
    if parameters.get("train") or parameters.get("profile") == "paper":
        assert "would train" in said or "would search on cifar10-jpeg True" in said


def test_the_verdicts_kept_beside_figures_are_those_of_the_records():
    store = RunStore(protocols.load("short").profile.results)
    kept = pd.read_csv(REPOSITORY / "figures" / "table02_short.csv", keep_default_na=False)
    entries = experiments.load("table02", [protocols.load("short", name) for name in ("vgg19", "resnet50")], store)
    now = verdicts.side_by_side(entries, store).set_index(["network", "variant"])["verdict"]
    assert len(kept)
    for row in kept.itertuples():
        assert row.verdict == now[row.network.lower().replace("-", ""), row.method]


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
