"""From whatever was typed to a plain value, or `WrongKind` with a polite word about what was found instead.

Each function takes any object. NumPy's and torch's numbers count as numbers, lists and tuples as sets; a truth
value is no number, a text is not read as one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sedona_nb.exercises.verdict import WrongKind


def word(answer: Any, allowed: Sequence[str]) -> str:
    """One of `allowed`, however it is spelled in capitals and spaces."""
    if not isinstance(answer, str):
        raise WrongKind(f"this is {named(answer)}")
    spelled = " ".join(answer.lower().split())
    for option in allowed:
        if spelled == option.lower():
            return option
    raise WrongKind("the text is none of these")


def number(answer: Any) -> float:
    """A finite real number: int, float, a NumPy number, an array or tensor with one entry."""
    if isinstance(answer, bool | str | bytes) or answer is None:
        raise WrongKind(f"this is {named(answer)}")
    if str(getattr(answer, "dtype", "")).endswith("bool"):
        raise WrongKind("this is a truth value")
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise WrongKind(f"this is {named(answer)}") from None
    if math.isnan(value):
        raise WrongKind("this is NaN, which is not a number")
    if math.isinf(value):
        raise WrongKind("this is infinite")
    return value


def whole_number(answer: Any) -> int:
    """An int, or another number without a fraction: 3.0 counts."""
    value = number(answer)
    if not value.is_integer():
        raise WrongKind(f"{value:g} is not a whole number")
    return int(value)


def numbers(answer: Any, count: int) -> tuple[float, ...]:
    """`count` numbers: a tuple, a list, an array or a tensor of shape (count,)."""
    found = entries(answer)
    if len(found) != count:
        raise WrongKind(f"here are {len(found)} entries")
    return tuple(number(entry) for entry in found)


def whole_numbers(answer: Any) -> frozenset[int]:
    """A set of whole numbers; lists, tuples, tensors count as sets, a number as a set of one, {} as empty."""
    if isinstance(answer, Real):
        return frozenset([whole_number(answer)])
    return frozenset(whole_number(entry) for entry in entries(answer))


def words(answer: Any, allowed: Sequence[str]) -> frozenset[str]:
    """A set of some of `allowed`; one word alone counts as a set of one."""
    if isinstance(answer, str):
        return frozenset([word(answer, allowed)])
    return frozenset(word(entry, allowed) for entry in entries(answer))


def tensor(answer: Any, shape: tuple[int, ...]) -> Tensor:
    """A real tensor of this shape without NaN, as float64 on the CPU; nested lists and arrays count."""
    if isinstance(answer, str | bytes | dict) or answer is None:
        raise WrongKind(f"this is {named(answer)}")
    try:
        value = torch.as_tensor(answer).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise WrongKind(f"this is {named(answer)}") from None
    if tuple(value.shape) != shape:
        raise WrongKind(f"this has shape {tuple(value.shape)}")
    if value.isnan().any():
        raise WrongKind("this holds NaN")
    return value


def truth(answer: Any) -> bool:
    """True or False; the truth values of NumPy and torch count."""
    if isinstance(answer, bool):
        return answer
    kind = str(getattr(answer, "dtype", ""))
    if kind.endswith("bool") and getattr(answer, "ndim", 1) == 0:
        return bool(answer)
    raise WrongKind(f"this is {named(answer)}")


def entries(answer: Any) -> list[Any]:
    """What a list, tuple, set, range, array or one-dimensional tensor holds."""
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise WrongKind(f"this is {named(answer)}")
    if isinstance(answer, dict) and answer:
        raise WrongKind("this is a dict")
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
        return answer if isinstance(answer, list) else [answer]
    if operator.length_hint(answer, 0) > 10_000:
        raise WrongKind("it has more than 10,000 entries")
    return [entry for entry, _ in zip(answer, range(10_000), strict=False)]  # some iterables have no end


def named(answer: Any) -> str:
    """What a person calls the answer's type: "None", "a text", "a Tensor"."""
    if answer is None:
        return "None"
    known = {str: "a text", bool: "a truth value", dict: "a dict", type: "a class"}
    kind = known.get(type(answer), type(answer).__name__)
    return kind if kind.startswith("a ") else f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
