"""Figures in words: panels, names of axes, small print; and that no committed figure lacks any of them."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from sedona_nb import captions, drawing

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PICTURES = sorted((REPOSITORY / "figures").glob("*.png"))
# What a figure rests on: runs, with their number or seeds, or else what is not a run.
SOURCES = "seed|run|recorded|measured|counted|computed|simulated|predicted|model|printed|released|drawing"
BASIS = re.compile(rf"\b({SOURCES}|n = \d)", re.IGNORECASE)


def described(figure: drawing.Drawing) -> str:
    picture, _ = figure._repr_png_()
    return Image.open(io.BytesIO(picture)).text["Description"]


def test_title_panels_and_small_print_in_order() -> None:
    with drawing.drawing(4, 3, title="Both", note="n = 3, seed 0; alpha-bar: ᾱ") as figure:
        left, right = figure.subplots(1, 2)
        left.plot([1, 2], [3, 4])
        left.set(xlabel="time (s)", ylabel="error (%)", title="VGG-19")
        right.bar(["a", "b"], [1, 2])
        right.set(ylabel="count")
    words = captions.describe(figure)
    assert words == "Both | VGG-19: across time (s), up error (%) | up count | n = 3, seed 0; alpha-bar: ᾱ"
    assert described(figure) == words


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_numbers_without_a_name_are_seen(scale: str) -> None:
    with drawing.drawing(4, 3) as figure:
        axes = figure.subplots()
        axes.plot([1, 10], [1, 1000])
        axes.set(yscale=scale, xlabel="step")
    assert described(figure) == f"across step, up {captions.NO_NAME} | {captions.NO_NOTE}"


def test_a_shared_axis_needs_one_name() -> None:
    with drawing.drawing(4, 3, note="Drawing.") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        left.plot([1, 2], [3, 4])
        right.plot([1, 2], [3, 4])
        left.set(xlabel="step", ylabel="loss")
    assert described(figure) == f"across step, up loss | across {captions.NO_NAME}, up loss | Drawing."


def test_what_has_no_axes_needs_no_names(tmp_path: Path) -> None:
    with drawing.drawing(4, 3, note="Drawing.") as figure:
        figure.subplots().axis("off")
    assert captions.describe(figure) == "Drawing."
    drawing.save(figure, "plain", tmp_path)
    assert "<dc:description>Drawing.</dc:description>" in (tmp_path / "plain.svg").read_text(encoding="utf-8")
    assert Image.open(tmp_path / "plain.png").text["Description"] == "Drawing."


def test_more_small_print_makes_the_figure_higher() -> None:
    with drawing.drawing(4, 3, note="One line.") as figure:
        figure.subplots()
    drawing.add_note(figure, "And another.")
    assert figure.get_supxlabel() == "One line.\nAnd another."
    assert figure.get_size_inches() == pytest.approx([4, 3.14])


def pictures_of(notebook: Path) -> list[tuple[int, str]]:
    """The cells that show a picture, and what the picture says of itself."""
    found = []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", ()):
            if "image/png" in (data := output.get("data", {})):
                image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
                found.append((number, image.text.get("Description", "nothing")))
    return found


def faults(words: str) -> list[str]:
    """What a committed figure lacks."""
    lacking = [fault for fault in (captions.NO_NAME, captions.NO_NOTE) if fault in words]
    return lacking if BASIS.search(words) else [*lacking, "what it rests on"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_has_axes_and_small_print(notebook: Path) -> None:
    wrong = [(cell, words, faults(words)) for cell, words in pictures_of(notebook) if faults(words)]
    assert wrong == []


def test_every_kept_figure_has_axes_and_small_print() -> None:
    kept = {path.name: Image.open(path).text.get("Description", "nothing") for path in PICTURES}
    assert len(kept) > 10
    assert {name: (words, faults(words)) for name, words in kept.items() if faults(words)} == {}
