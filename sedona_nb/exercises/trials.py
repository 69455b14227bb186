"""Answers that are functions: tried out on cases of the check's own, each call on fresh arguments.

    cases = [Case("three equal layers", lambda: (torch.zeros(3, 2),), {2, 3}, "All layers are equal here: ...")]
    hint = tried(answer, "undecided(alpha)", cases, readings.whole_numbers, slips=[(off_by_one, "These are ...")])

What an answer prints or warns is swallowed, the state of torch's random numbers and its default type stay as they
were, and the same seed goes before every call: one answer, one verdict.
"""

from __future__ import annotations

import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import torch

from sedona_nb.exercises.readings import named
from sedona_nb.exercises.verdict import WrongKind


class Case(NamedTuple):
    """One trial of a function.

    Attributes:
        about: the case in words, after "for": "a chain of three layers".
        arguments: makes them, anew for every call.
        right: the result asked for.
        hint: what to look at if the result is another one.
        read: of this case, where results cannot be compared without its arguments; None: the one for all cases.
    """

    about: str
    arguments: Callable[[], tuple]
    right: Any
    hint: str
    read: Callable[[Any], Any] | None = None


def tried(
    answer: Any,
    signature: str,
    cases: Sequence[Case],
    read: Callable[[Any], Any],
    slips: Sequence[tuple[Callable, str]] = (),
    same: Callable[[Any, Any], bool] = lambda one, other: bool(one == other),
) -> str | None:
    """None if the function gives the right result in all cases, else a hint.

    Args:
        answer: anything; hopefully a function.
        signature: as in the exercise, "undecided(alpha)".
        cases: the lesson's own first, then others.
        read: from what the function returns to a value that `same` can compare; may raise WrongKind.
        slips: wrong functions that one can see coming, with their hints: known by equal results in all cases.
        same: whether two read results are equal.

    Raises:
        WrongKind: not a function, not callable in this way, stopped by an error, or returned another type.
    """
    found = [_result(answer, signature, case, read) for case in cases]
    failed = [not same(one, case.right) for one, case in zip(found, cases, strict=True)]
    if not any(failed):
        return None
    for slip, hint in slips:
        results = [_result(slip, signature, case, read) for case in cases]
        if all(same(one, other) for one, other in zip(found, results, strict=True)):
            return hint
    case = cases[failed.index(True)]
    return f"Wrong for {case.about}. {case.hint}"


def _result(answer: Any, signature: str, case: Case, read: Callable[[Any], Any]) -> Any:
    returned = called(answer, signature, case.arguments(), case.about)
    try:
        return (case.read or read)(returned)
    except WrongKind as wrong:
        raise WrongKind(f"for {case.about} the result does not fit: {wrong}") from None


def called(answer: Any, signature: str, arguments: tuple, about: str) -> Any:
    """What the answer returns for `arguments`.

    Raises:
        WrongKind: not callable, other parameters, or an exception inside it.
    """
    if not callable(answer):
        raise WrongKind(f"this is {named(answer)}")
    try:
        inspect.signature(answer).bind(*arguments)
    except TypeError:
        raise WrongKind(f"this one cannot be called as {signature}") from None
    except ValueError:  # a function written in C does not tell
        pass
    try:
        with aside():
            return answer(*arguments)
    except (Exception, SystemExit) as error:
        raise WrongKind(f"for {about} it {stopped_with(error)}") from None


def stopped_with(error: BaseException) -> str:
    """The error of a learner's code in a few words of one line."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"stopped with {textwrap.shorten(said, 90, placeholder=' ...')}"


@contextmanager
def aside() -> Iterator[None]:
    """Run a learner's code; nothing of it is seen or stays: prints, warnings, random state, default type."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    with (
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            with torch.enable_grad():
                yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(gradients)
