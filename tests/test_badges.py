"""Badges say what is so, and the committed ones are those of today."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from sedona_nb import badges, exercises

REPOSITORY = Path(__file__).resolve().parent.parent


def test_committed_badges_are_of_today() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name, (left, right) in badges.facts(REPOSITORY).items():
        path = REPOSITORY / "figures" / "readme" / f"{name}.svg"
        assert path.read_text(encoding="utf-8") == badges.draw(left, right), f"{path}: python -m sedona_nb.badges"
        assert f"![{left}: {right}](figures/readme/{path.name})" in readme


def test_facts_are_counted(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.9"\n')
    (tmp_path / "notebooks").mkdir()
    for name in ("00_a", "01_b", "10_c"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    facts = badges.facts(tmp_path)
    assert facts["python"] == ("python", "3.9 or newer")
    assert facts["notebooks"] == ("notebooks", "2 lessons, 1 reproductions")
    assert facts["exercises"][1].startswith(f"{len(exercises.names())} ")


@pytest.mark.parametrize("right", ["<&>", "≥ 3.10", ""])
def test_a_badge_is_svg_with_its_words_as_title(right: str) -> None:
    root = ElementTree.fromstring(badges.draw("left", right))
    assert root.find("{http://www.w3.org/2000/svg}title").text == f"left: {right}"
