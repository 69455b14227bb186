"""What an exercise is, and what is said about an answer to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KINDS = ("predict", "change", "extend")


class WrongKind(Exception):
    """An answer of another type than was asked for, or a function that gives one; the text says what was found."""


@dataclass(frozen=True)
class Exercise:
    """One exercise at the end of a lesson.

    Attributes:
        name: lesson and number, "03.1".
        kind: "predict" (a value or a choice), "change" (what a changed line gives), "extend" (a function).
        expected: what an answer is, in words: type, unit, signature; the comment in the lesson's cell.
        hint: takes any answer and returns None if it is right, else what is wrong with it, without saying what
            would be right; may raise WrongKind.
        because: one sentence that says why the right answer is right.
    """

    name: str
    kind: str
    expected: str
    hint: Callable[[Any], str | None]
    because: str


@dataclass(frozen=True)
class Verdict:
    """What `judge` says: the exercise's name, whether the answer is right, and the line that `check` prints."""

    exercise: str
    right: bool
    message: str


def verdict_on(exercise: Exercise, answer: Any) -> Verdict:
    """Ask `exercise.hint` about any object at all; nothing that the answer does makes this raise.

    An exception inside an answer's methods counts as an answer of the wrong kind. Only the interrupt of a person
    who waits for a function without end gets through.
    """
    if answer is ...:
        text = f"your turn. Put your answer in place of the dots: {exercise.expected}."
        return Verdict(exercise.name, False, one_line(f"Exercise {exercise.name}: {text}"))
    try:
        hint = exercise.hint(answer)
    except WrongKind as found:
        hint = f"Expected: {exercise.expected}; {found}."
    except (Exception, SystemExit):  # objects with a will of their own
        hint = f"Expected: {exercise.expected}; with this {type(answer).__name__} the check cannot work."
    text = f"right. {exercise.because}" if hint is None else f"not yet. {hint}"
    return Verdict(exercise.name, hint is None, one_line(f"Exercise {exercise.name}: {text}"))


def one_line(text: str, length: int = 290) -> str:
    """`text` without line breaks, shortened to `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 4] + " ..."
