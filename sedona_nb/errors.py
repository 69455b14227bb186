"""Errors that a person reads: one line, what was wrong, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SedonaError(ValueError):
    """A mistake in the input, or a state of the disk that a person has to know about.

    In a notebook it shows as its one line, without the stack that led to it.
    """

    def _render_traceback_(self) -> list[str]:  # IPython asks the exception itself how it wants to be shown
        return [f"{type(self).__name__}: {self}"]


class Paused(SedonaError):
    """A run that stopped at a checkpoint because it was asked to; started again, it goes on."""


class Diverged(SedonaError):
    """A training run whose loss stopped being finite; the same run would end there again."""


class TieWarning(UserWarning):
    """A choice between layers whose learned values single precision cannot tell apart."""


def choose(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`; `what` names the thing in the error ("network", "head", ...).

    Raises:
        SedonaError: with the allowed values and, where one is close, the likely intention.
    """
    names = list(allowed)
    if value in names:
        return value
    close = get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SedonaError(f"unknown {what} {value!r}; allowed: {', '.join(names)}{hint}")
