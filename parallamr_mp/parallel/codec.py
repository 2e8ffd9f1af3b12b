"""Results of tasks to JSON and back, exactly or not at all.

Plain JSON values go as they are; instances of dataclasses and Pydantic models
by Pydantic, if what comes back equals what went. Anything that JSON would
change unnoticed (a tuple becomes a list, an integer key a string) is refused.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_json

_DEEPEST = 150
"""Levels of lists and dicts: what reads the file gives up at 200, and then all of it is lost."""
_LARGEST = 14_000
"""Bits of a whole number: what reads the file gives up at 4,300 digits."""


class Saved(BaseModel):
    """A result as it is written to a file."""

    value: Any = None
    kind: str | None = None
    """`module:Class` of a dataclass or model; None: plain JSON."""
    label: str = ""
    """What the task called."""


class Unsavable(Exception):  # noqa: N818  - says what is the matter with a value
    """A value that would not come back from JSON as it is."""


def encode(value: Any, label: str) -> Saved:
    """Raises `Unsavable`, saying why, if `decode` would not bring back the same."""
    kind = type(value)
    try:
        if _is_model(kind):
            return _encode_model(value, kind, label)
        _check_plain(value)
    except Unsavable:
        raise
    except Exception as error:  # whatever foreign classes raise
        raise Unsavable(f"{kind.__qualname__}: {error}") from error
    return Saved(value=value, label=label)


def _encode_model(value: Any, kind: type, label: str) -> Saved:
    path = f"{kind.__module__}:{kind.__qualname__}"
    if _found(path) is not kind:
        raise Unsavable(f"{path} is not a class at the top of a module")
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    written = adapter.dump_json(value)
    if adapter.validate_json(written) != value:
        raise Unsavable(f"{path} does not come back from JSON as it was")
    plain = from_json(written)
    _check_plain(plain)
    return Saved(value=plain, kind=path, label=label)


def decode(saved: Saved) -> Any:
    """Raises `Unsavable` if its class is not there (any more), or has changed.

    Only classes of modules that have been imported already are looked for: a
    file cannot make a program import anything.
    """
    if saved.kind is None:
        return deepcopy(saved.value)
    kind = _found(saved.kind)
    if kind is None or not _is_model(kind):
        raise Unsavable(f"there is no class {saved.kind}")
    try:
        return TypeAdapter(kind).validate_json(to_json(saved.value))
    except Exception as error:
        raise Unsavable(f"{saved.kind} has changed: {error}") from error


def _is_model(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)


def _found(path: str) -> type | None:
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def _check_plain(value: Any, depth: int = 0) -> None:
    kind = type(value)
    if depth > _DEEPEST:
        raise Unsavable(f"it is nested more than {_DEEPEST} levels deep")
    if kind is str:
        value.encode()  # a lone surrogate is no JSON
    elif kind is list:
        for item in value:
            _check_plain(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Unsavable(f"{key!r} is no string, as a key in JSON must be")
            _check_plain(key)
            _check_plain(item, depth + 1)
    elif kind is float:
        if not math.isfinite(value):
            raise Unsavable(f"{value} is no number in JSON")
    elif kind is int:
        if value.bit_length() > _LARGEST:
            raise Unsavable(f"a number of {value.bit_length():,} bits is too large for JSON")
    elif value is not None and kind is not bool:
        raise Unsavable(f"a {kind.__qualname__} is no JSON")
