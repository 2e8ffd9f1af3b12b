"""What servers say of their rate limits along with every answer: headers → `Allowance`.

Names and forms in use, as their makers document them:

    OpenAI, Azure, Groq, vLLM's proxies   x-ratelimit-{limit,remaining,reset}-{requests,tokens}
    Cerebras                              the same with -minute or -day behind it
    Anthropic                             anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}
    OpenRouter and many gateways          X-RateLimit-{Limit,Remaining,Reset}
    IETF drafts (httpapi-ratelimit)       RateLimit-{Limit,Remaining,Reset}
                                          RateLimit: limit=10, remaining=4, reset=5
                                          RateLimit-Policy: "p";q=10;w=60 with RateLimit: "p";r=4;t=5

A reset is a number of seconds, a Go duration (`6m0s`, `120ms`), a moment in
seconds or milliseconds since the epoch, or one as in RFC 3339.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from parallamr_mp.models import Allowance
from parallamr_mp.providers.exchange import Headers

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = "ratelimit"
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_FIRST_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:[,;]|$)", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:d|h|ms|m|s|us|µs|ns))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(d|h|ms|m|s|us|µs|ns)", re.ASCII)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_MEMBER = re.compile(r"[,;]\s*(limit|remaining|reset|r|t|q)\s*=\s*(\d+(?:\.\d+)?)(?=\s*(?:[,;]|$))", re.ASCII)
_LONGEST_NUMBER = 40
"""Characters. No number that a server means is longer, and making one of millions takes minutes."""
_OLDEST_MOMENT = 1e9
"""From here on a number of seconds is a moment since the epoch, not a while: that would be 30 years."""
_OLDEST_MILLISECONDS = 1e11
_LONGEST = 366 * 86400.0
_WORDS = {"limit": "limit", "remaining": "left", "reset": "reset"}
_MEMBERS = {"limit": "limit", "remaining": "left", "reset": "reset", "q": "limit", "r": "left", "t": "reset"}


def _fields() -> dict[str, tuple[str, int]]:
    """Header name → (field of `Allowance`, rank): of two headers for a field the lower rank wins."""
    named: dict[str, tuple[str, int]] = {}
    for word, part in _WORDS.items():
        for what in ("requests", "tokens"):
            field = f"{what}_{part}"
            named[f"x-ratelimit-{word}-{what}"] = field, 0
            named[f"anthropic-ratelimit-{what}-{word}"] = field, 0
            named[f"x-ratelimit-{word}-{what}-minute"] = field, 1
            named[f"x-ratelimit-{word}-{what}-day"] = field, 2
        named[f"x-ratelimit-{word}"] = f"requests_{part}", 3
        named[f"ratelimit-{word}"] = f"requests_{part}", 4
    return named


_FIELDS = _fields()


def allowance_of(headers: Mapping[str, str], now: float) -> Allowance | None:
    """What the headers of an answer say of rate limits, or None when they say nothing that makes sense.

    `now` is in seconds since the epoch, for resets that are moments: those in
    the past count as now. Never raises. Runs for every answer: where there is no
    such header it looks once at the text.
    """
    if isinstance(headers, Headers):
        if _MARK not in headers.lowered:
            return None
        headers = headers.named_with(_MARK)
    elif _MARK not in "\n".join(headers).lower():
        return None
    found: dict[str, float] = {}
    ranks: dict[str, int] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _FIELDS:
            field, rank = _FIELDS[lower]
            number = _reset(value, now) if field.endswith("_reset") else _amount(value)
            if number is not None and rank < ranks.get(field, 9):
                found[field], ranks[field] = number, rank
        elif lower in {"ratelimit", "ratelimit-policy"}:
            for member, text in _MEMBER.findall(f",{value[:500]}"):
                field, number = f"requests_{_MEMBERS[member]}", _in_range(text)
                if number is not None and field not in ranks:
                    found[field], ranks[field] = number, 5
    return Allowance(**found) if found else None


def number(text: str | None) -> float | None:
    """A decimal number as headers hold them, or None: not below zero, not infinite, not endless."""
    if text is None:
        return None
    text = text.strip()
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def _in_range(text: str) -> float | None:
    value = number(text)
    return value if value is not None and value < _OLDEST_MILLISECONDS else None


def _amount(text: str) -> float | None:
    """A number of requests or tokens; of a list of limits, which older drafts have, the one in force."""
    first = _FIRST_NUMBER.match(text)
    return None if first is None else _in_range(first[1])


def _reset(text: str, now: float) -> float | None:
    text = text.strip()
    value = number(text)
    if value is None:
        value = _duration(text)
    elif value >= _OLDEST_MOMENT:
        moment = value / 1000 if value >= _OLDEST_MILLISECONDS else value
        value = max(0.0, moment - now)
    if value is None:
        value = _moment(text, now)
    return value if value is not None and 0 <= value <= _LONGEST else None


def _duration(text: str) -> float | None:
    if len(text) > _LONGEST_NUMBER or not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION_PART.findall(text))


def _moment(text: str, now: float) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        wait = moment.timestamp() - now
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait)
