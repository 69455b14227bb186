"""Kinds of answers that are values: a choice, a number, a set. Each returns None if right, else a hint.

`slips` are wrong answers that one can see coming, each with what is wrong with it; `otherwise` is for all others,
and says what to look at. Answers of another type end in `WrongKind`, see `readings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sedona_nb.exercises import readings

Slips = Iterable[tuple[Any, str]]


def choice(answer: Any, right: str, slips: Mapping[str, str]) -> str | None:
    """One of some words: the right one, or one of the keys of `slips`, whose value is its hint."""
    return slips.get(readings.word(answer, [right, *slips]))


def number(answer: Any, right: float, tolerance: float, slips: Slips, otherwise: str) -> str | None:
    """A number, right within `tolerance` (absolute).

    Args:
        answer: anything.
        right: the value.
        tolerance: how far an answer may be off; a slip is recognised within as much, or within 3 %;
            the nearest one counts.
        slips: (value, hint) pairs.
        otherwise: the hint for other values.
    """
    value = readings.number(answer)
    if abs(value - right) <= tolerance:
        return None
    near = [
        (abs(value - wrong), hint)
        for wrong, hint in slips
        if abs(value - wrong) <= max(tolerance, abs(wrong) / 30)
    ]
    return min(near)[1] if near else otherwise


def whole_number(answer: Any, right: int, slips: Slips, otherwise: str) -> str | None:
    """A whole number; `slips`: (value, hint) pairs."""
    value = readings.whole_number(answer)
    return None if value == right else dict(slips).get(value, otherwise)


def whole_numbers(answer: Any, right: Iterable[int], slips: Slips, otherwise: str) -> str | None:
    """A set of whole numbers; `slips`: (set, hint) pairs."""
    return _same_set(readings.whole_numbers(answer), right, slips, otherwise)


def words(answer: Any, allowed: Sequence[str], right: Iterable[str], slips: Slips, otherwise: str) -> str | None:
    """A set of some of the words `allowed`; `slips`: (set, hint) pairs."""
    return _same_set(readings.words(answer, allowed), right, slips, otherwise)


def numbers(answer: Any, right: Sequence[float], tolerance: float, slips: Slips, otherwise: str) -> str | None:
    """As many numbers as `right` has, in its order, each within `tolerance`; `slips`: (numbers, hint) pairs."""
    value = readings.numbers(answer, len(right))
    for known, hint in [(right, None), *slips]:
        if all(abs(one - other) <= tolerance for one, other in zip(value, known, strict=True)):
            return hint
    return otherwise


def _same_set(value: frozenset, right: Iterable, slips: Slips, otherwise: str) -> str | None:
    for known, hint in [(right, None), *slips]:
        if value == frozenset(known):
            return hint
    return otherwise
