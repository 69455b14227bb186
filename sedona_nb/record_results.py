"""The least that a record's result must have, so that a damaged file is one line and not a traceback later."""

from __future__ import annotations

from typing import Any

from sedona_nb.errors import SedonaError
from sedona_nb.heads import HEADS
from sedona_nb.records import Record, RunSpec, SearchSpec


def check(record: Record) -> None:
    """Refuse a result that is not one of its kind of spec.

    A training run: errors of the chosen checkpoint on held-out and on test pictures, or how it diverged. A search:
    rows of alpha and of beta, equally many, and its histories. What timings must have, `timing_runs` says.

    Raises:
        SedonaError: what is missing or of the wrong kind.
    """
    if not isinstance(record.result, dict):
        raise SedonaError(f"result is {record.result!r:.40}; allowed: an object")
    diverged = _at(record.result, "diverged")
    if isinstance(record.spec, RunSpec) and diverged is not None:
        if not (isinstance(diverged, str) and diverged):
            raise SedonaError(f"result.diverged is {diverged!r}; allowed: which loss, and when")
    elif isinstance(record.spec, RunSpec):
        for split in ("validation", "test"):
            error = _at(record.result, "best", split, "top1")
            if not _is_number(error):
                raise SedonaError(f"result.best.{split}.top1 is {error!r}; allowed: an error in percent")
    if isinstance(record.spec, SearchSpec):
        rows = [_rows(record.result, name, width) for name, width in (("alpha", 2), ("beta", len(HEADS)))]
        if rows[0] != rows[1]:
            raise SedonaError(f"result.alpha has {rows[0]} rows, result.beta {rows[1]}; allowed: as many")
        for name in ("alpha_history", "beta_history", "alpha_gradients", "outer_losses", "pretraining"):
            if not isinstance(_at(record.result, name), list):
                raise SedonaError(f"result.{name} is {_at(record.result, name)!r}; allowed: a list")


def _at(value: Any, *names: str) -> Any:
    """What lies there, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _rows(result: Any, name: str, width: int) -> int:
    rows = _at(result, name)
    fits = isinstance(rows, list) and rows and all(isinstance(row, list) and len(row) == width for row in rows)
    if not fits or not all(_is_number(one) for row in rows for one in row):
        raise SedonaError(f"result.{name} is no table of numbers; allowed: {width} in a row")
    return len(rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
