"""Sentences in lines that JupyterLab does not break, and no committed output that it would."""

from __future__ import annotations

import pytest

from sedona_nb import wrapping


def test_words_and_their_order_stay() -> None:
    text = "short: resnet152, backprop (K = 1), predsim (K = 2, 4, 8, 12, 16): no record; 3 of 3 runs each. " * 3
    folded = wrapping.fold(text)
    assert folded.split() == text.split()
    assert len(folded.splitlines()) > 2
    assert max(map(len, folded.splitlines())) <= wrapping.WIDTH


def test_lines_after_the_first_stand_in() -> None:
    assert wrapping.fold("one two three", width=9) == "one two\n  three"


@pytest.mark.parametrize("text", ["", "short", "a line\nand another", "x" * 200])
def test_what_fits_or_cannot_be_broken_stays(text: str) -> None:
    assert wrapping.fold(text) == text


def test_say_prints_each_text(capsys: pytest.CaptureFixture[str]) -> None:
    wrapping.say("one", "two " * 40)
    wrapping.say()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one"
    assert [line.split() for line in lines[1:]] == [["two"] * 25, ["two"] * 15]
