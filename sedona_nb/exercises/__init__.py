"""Exercises that answer back: what was typed into a lesson's cell goes in, a verdict comes out.

    sd.exercises.check("01.1", answer)      # prints whether the answer is right, else what is wrong with it
    sd.exercises.judge("01.1", answer)      # the same as a value
    sd.exercises.names()                    # "00.1" to "09.3"

verdict      an exercise and a verdict as values
readings     from whatever was typed to a plain value
answers      answers that are values: a choice, a number, a set
trials       answers that are functions, tried on several cases
lesson00 .. lesson09     three exercises each: predict, change one line, extend
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sedona_nb.errors import choose
from sedona_nb.exercises.verdict import Exercise, Verdict, verdict_on
from sedona_nb.wrapping import say

__all__ = ["Exercise", "Verdict", "check", "exercise", "judge", "names"]

LESSONS, EACH = 10, 3


def check(name: str, answer: Any = ...) -> None:
    """Print what there is to say about an answer: your turn (for `...`), not yet and why, or right and why.

    Raises:
        SedonaError: there is no exercise of that name. Whatever the answer is, nothing is raised for it.
    """
    say(judge(name, answer).message)


def judge(name: str, answer: Any) -> Verdict:
    """The verdict on any object as an answer.

    Raises:
        SedonaError: there is no exercise of that name.
    """
    return verdict_on(exercise(name), answer)


def exercise(name: str) -> Exercise:
    """The exercise called `name`; its lesson is loaded when first asked for.

    Raises:
        SedonaError: there is none of that name.
    """
    lesson, _, number = choose(name, names(), "exercise").partition(".")
    return import_module(f"{__name__}.lesson{lesson}").EXERCISES[int(number) - 1]


def names() -> tuple[str, ...]:
    """Of all exercises, in the order of the lessons: "00.1" to "09.3"."""
    return tuple(f"{lesson:02d}.{number}" for lesson in range(LESSONS) for number in range(1, EACH + 1))
