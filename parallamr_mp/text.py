"""Words for people: one line, numbers with their nouns, sums, times, names that were mistyped."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_NUMBERS = re.compile(r"\d+(?:\.\d+)?")


def kind_of(message: str) -> str:
    """What messages have in common that differ in numbers only, such as a row's or an address's."""
    return _NUMBERS.sub("#", message)[:200]


def one_line(text: str, width: int | None = None) -> str:
    """The text of strangers (a server's message, a cell) without what breaks a line or drives a terminal.

    Cut to `width` characters where that is given.
    """
    text = _CONTROL.sub(" ", text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def count(number: int, noun: str) -> str:
    """`1 row`, `2 rows`; with thousands separated."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def usd(amount: float) -> str:
    """A sum in USD with the digits that matter: `1,234.50`, `1.2300`, `0.000012`; without a sign or name."""
    places = 2 if amount >= 100 else 4 if amount >= 0.01 or not amount else 6
    return f"{amount:,.{places}f}"


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """Which of the known names was meant by one that is mistyped, if any; `alike` from 0 to 1, the same."""
    from difflib import get_close_matches  # noqa: PLC0415 - hardly ever needed

    return next(iter(get_close_matches(name, list(known), 1, alike)), None)


def utc(seconds: float | None = None) -> str:
    """A time in seconds since the epoch as files have it: `2026-01-31T23:59:00.123Z`. None: now."""
    if seconds is None:  # once a row: most of them share their second
        whole, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        return f"{_second(whole)}.{milliseconds:03}Z"
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
