"""JSON → cells and columns of their own (`--flatten`).

    answer text ──extract_json──► dict | list ──flatten──► (path, cell text)… ──ColumnNames──► column

Pure, and one answer at a time: the only thing kept is the name of each column
seen, at most `max_columns` of them, whatever the number of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, TypeAlias

from parallamr_mp.results.extract import Json
from parallamr_mp.results.records import guard

Path: TypeAlias = tuple[str, ...]

# --- flat cells --------------------------------------------------------------------------------


def flatten(
    value: Json, *, max_depth: int = 6, max_items: int = 50, max_keys: int = 200
) -> Iterator[tuple[Path, str]]:
    """Each scalar of `value` with its path, as the text of a cell. Nothing is lost.

    Path parts are keys and indexes as they are; an array at the top is found
    under "items". Strings are given as they are, true and false as such, null
    as "", numbers as JSON. What is too much stays together as JSON text: a
    container at a path of `max_depth` parts, and under the part "rest" what an
    array has beyond `max_items` elements or an object beyond `max_keys` keys
    ("_rest" if the object has a "rest" of its own). An empty container is "[]"
    or "{}"; an empty object at the top has no cells. Paths are distinct.
    Lone surrogates are written as escapes, so that every cell is valid UTF-8.
    """
    if isinstance(value, list):
        value = {"items": value}
    if value:
        yield from _cells(value, (), max_depth, max_items, max_keys)


def exceeds(value: Json, *, max_depth: int = 6, max_items: int = 50, max_keys: int = 200) -> bool:
    """Whether `flatten`, given the same bounds, keeps a part of `value` together as JSON text."""

    def too_much(part: Any, depth: int) -> bool:
        if not isinstance(part, dict | list) or not part:
            return False
        if depth >= max_depth or len(part) > (max_items if isinstance(part, list) else max_keys):
            return True
        items = part if isinstance(part, list) else part.values()
        return any(too_much(item, depth + 1) for item in items)

    return too_much(value, 1 if isinstance(value, list) else 0)


def _cells(
    value: Any, path: Path, max_depth: int, max_items: int, max_keys: int
) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, dict | list):
        yield path, _cell(value)
    elif not value or len(path) >= max_depth:
        yield path, _json_text(value)
    elif isinstance(value, list):
        for index, item in enumerate(value[:max_items]):
            yield from _cells(item, (*path, str(index)), max_depth, max_items, max_keys)
        if rest := value[max_items:]:
            yield (*path, "rest"), _json_text(rest)
    else:
        keys = list(value)
        for key in keys[:max_keys]:
            yield from _cells(value[key], (*path, key), max_depth, max_items, max_keys)
        if left := keys[max_keys:]:
            part = "rest"
            while part in value:
                part = "_" + part
            yield (*path, part), _json_text({key: value[key] for key in left})


def _cell(scalar: Any) -> str:
    if isinstance(scalar, str):
        return _encodable(scalar)
    return "" if scalar is None else json.dumps(scalar)


def _json_text(value: Json) -> str:
    return _encodable(json.dumps(value, ensure_ascii=False))


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


# --- column names ------------------------------------------------------------------------------

_NAME_LENGTH = 200
_DROPPED_COUNTED = 10_000


class ColumnNames:
    """The column of each path: its parts joined by `_`, given on first sight and kept.

    A name that is taken, by the columns in `taken` or by another path, is
    prefixed with `json_` until it is free. Blanks around a part go, inside it
    they become one space; a part with nothing left is `_`; a name beyond 200
    characters ends in a hash instead. At most `max_columns` names are given.
    With `excel_safe` they are guarded: keys are a model's words.
    Memory is bounded by that number. Not safe for threads: it belongs to
    whoever owns the output.
    """

    def __init__(self, taken: Iterable[str], max_columns: int = 1000, *, excel_safe: bool = False) -> None:
        self.columns: list[str] = []
        self._used = set(taken)
        self._max_columns = max_columns
        self._excel_safe = excel_safe
        self._names: dict[Path, str] = {}
        self._dropped: set[int] = set()

    @property
    def dropped(self) -> int:
        """Distinct paths that got no column; counted up to 10,000, then it means at least so many."""
        return len(self._dropped)

    def name(self, path: Path) -> str | None:
        """The column for `path`, the same for every row; None when there are too many already."""
        name = self._names.get(path)
        if name is not None:
            return name
        if len(self.columns) >= self._max_columns:
            if len(self._dropped) < _DROPPED_COUNTED:
                self._dropped.add(hash(path))
            return None
        name = _readable(path)
        if self._excel_safe:
            name = guard(name)
        while name in self._used:
            name = "json_" + name
        self._used.add(name)
        self.columns.append(name)
        self._names[path] = name
        return name


def _readable(path: Path) -> str:
    name = "_".join(" ".join(_encodable(part).split()) or "_" for part in path)
    if len(name) <= _NAME_LENGTH:
        return name
    digest = sha256("\0".join(path).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - 9]}-{digest}"
