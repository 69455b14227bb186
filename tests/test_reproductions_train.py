"""What a reproduction says to train would begin, on the pictures at hand; nothing is trained here."""

from __future__ import annotations

import re

import nbformat
import pytest
from reproduction_pages import NUMBERS, executed, notebook, printed

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
