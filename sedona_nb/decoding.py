"""From plain JSON back to frozen dataclasses: every field there, none unknown, every scalar of its type."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from sedona_nb.errors import SedonaError

SCALARS = {int: int, float: (int, float), str: str, bool: bool}  # what JSON has where a field is one


def decode(cls: type, content: Any) -> Any:
    """Build dataclass `cls` from what `dataclasses.asdict` and JSON made of it.

    A missing field marked "later" gets its default.

    Raises:
        SedonaError: a field is missing or unknown, or a value is not allowed.
    """
    if not isinstance(content, dict):
        raise SedonaError(f"{cls.__name__} must be an object, not {type(content).__name__}")
    hints = typing.get_type_hints(cls)
    names = {part.name for part in dataclasses.fields(cls)}
    later = {part.name for part in dataclasses.fields(cls) if part.metadata.get("later")}
    if set(content) | later != names:
        wrong = sorted((set(content) | later) ^ names)
        raise SedonaError(f"{cls.__name__}: fields missing or unknown: {', '.join(map(str, wrong))}")
    values = {name: _decode_value(hints[name], value, f"{cls.__name__}.{name}") for name, value in content.items()}
    return cls(**values)


def _decode_value(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return decode(hint, value)
    if typing.get_origin(hint) is tuple:
        return _as_tuple(value)
    if typing.get_origin(hint) is dict:
        return {key: _decode_value(typing.get_args(hint)[1], one, f"{name}.{key}") for key, one in value.items()}
    allowed = SCALARS.get(hint)
    if allowed and (not isinstance(value, allowed) or isinstance(value, bool) != (hint is bool)):
        raise SedonaError(f"{name} is {value!r}; allowed: {hint.__name__}")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
