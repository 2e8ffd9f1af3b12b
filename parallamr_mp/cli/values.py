"""The values of options, from text: times, amounts, limits by scope, prices.

Each takes the text and `where` it stands (`--max-wait`, `PARALLAMR_MAX_WAIT`,
`parallamr.toml: max-wait`), and raises `BadInput` that names it, says what was
expected and gives an example. Whether a value makes sense is for `config.check`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from parallamr_mp.errors import BadInput
from parallamr_mp.experiments import parse_param
from parallamr_mp.tariff import Price

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _SECONDS), re.ASCII)
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([km]?)", re.ASCII | re.IGNORECASE)
_TIMES = {"": 1.0, "k": 1e3, "m": 1e6}


def duration(text: str, where: str) -> float:
    """Seconds, from a plain number or units in falling order: `90s`, `5m`, `2h`, `1d`, `1h30m`."""
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        pass
    match = _DURATION.fullmatch(text.lower())
    if match is None or not text:
        raise BadInput(f"{where} {text}: expected a time, as in 90, 90s, 5m, 2h, 1d or 1h30m")
    parts = zip(match.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * seconds for number, seconds in parts if number is not None)


def amount(text: str, where: str) -> float:
    """A number, perhaps of thousands or millions: `500`, `200k`, `1.5M`."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{where} {text}: expected a number, as in 500, 200k or 1.5M")
    return float(match[1]) * _TIMES[match[2].lower()]


def number(text: str, where: str) -> float:
    """A plain number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where} {text}: expected a number")
    return value


def whole(text: str, where: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise BadInput(f"{where} {text}: expected a whole number") from None


def price(text: str, where: str) -> Price:
    """USD a million tokens: `INPUT:OUTPUT`, as in `2.5:10`."""
    input_, colon, output = text.partition(":")
    if not colon:
        raise BadInput(f"{where} {text}: expected INPUT:OUTPUT in USD a million tokens, as in 2.5:10")
    return Price(number(input_, where), number(output, where))


def errors_allowed(text: str, where: str) -> tuple[int | None, float | None]:
    """How many error rows a run goes on with: a number (`5`), or a share between 0 and 1 (`10%`)."""
    if text.strip().endswith("%"):
        return None, number(text.strip().removesuffix("%"), where) / 100
    try:
        return int(text), None
    except ValueError:
        raise BadInput(f"{where} {text}: expected a number or a share, as in 5 or 10%") from None


def by_scope(text: str, where: str) -> list[tuple[str, str]]:
    """Pairs of scope and value from `openai=64,openai/gpt-4o=8`; the value is what follows the last `=`."""
    pairs = []
    for part in text.split(","):
        scope, equals, value = part.rpartition("=")
        if not equals or not scope.strip() or not value.strip():
            raise BadInput(
                f"{where} {text}: expected SCOPE=VALUE",
                hint="The scope is a provider or one of its models, as in openai=8 or openai/gpt-4o=2;"
                " prices are of a model, as in openai/gpt-4o=2.5:10.",
            )
        pairs.append((scope.strip(), value.strip()))
    return pairs


def check_scope(scope: str, where: str, known: Collection[str], *, model: bool = False) -> None:
    """Refuses a scope of an unknown provider, and one without a model where a `model` is wanted."""
    provider, slash, name = scope.partition("/")
    check_provider(provider, where, known)
    if bool(slash or model) != bool(name):
        raise BadInput(f"{where} {scope}: expected PROVIDER/MODEL, as in openai/gpt-4o")


def check_provider(provider: str, where: str, known: Collection[str]) -> None:
    """Refuses an unknown provider."""
    if provider not in known:
        raise BadInput(f"{where}: unknown provider {provider!r}", hint=f"Known: {', '.join(sorted(known))}.")


def param(text: str, where: str) -> tuple[str, Any]:
    """A body parameter, `temperature=0.2`: its name, and its value from JSON or a bare word."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"{where} {text}: expected NAME=JSON, as in temperature=0.2")
    try:
        return name.strip(), parse_param(value.strip())
    except ValueError as error:
        raise BadInput(f"{where} {text}: the value is not JSON: {error}") from None


def rows(range_: str | None, limit: int | None) -> tuple[int, int | None]:
    """First and last row, from `--range A:B` and `--limit N`."""
    if limit is not None and limit < 1:
        raise BadInput(f"--limit {limit}: must be at least 1")
    first, last = 1, None
    if range_ is not None:
        match = re.fullmatch(r"(\d*):(\d*)", range_)
        if match is None:
            raise BadInput(f"--range {range_}: expected A:B, as in 1:100, 101: or :50")
        first = int(match[1] or 1)
        last = int(match[2]) if match[2] else None
        if first < 1 or (last is not None and last < first):
            raise BadInput(
                f"--range {range_}: rows are numbered from 1, and the last cannot come before the first"
            )
    if limit is not None:
        last = min(first + limit - 1, last) if last is not None else first + limit - 1
    return first, last
