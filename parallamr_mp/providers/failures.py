"""What an answer that is no answer says: status, words and wishes of the server → `ProviderError`."""

from __future__ import annotations

import html
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from parallamr_mp.errors import ProviderError
from parallamr_mp.providers.allowance import allowance_of, number
from parallamr_mp.providers.endpoints import shown_url
from parallamr_mp.providers.json_text import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from parallamr_mp.models import Allowance

_MAX_WORDS = 500
SHORTEST_SECRET = 4
"""Servers without keys are given fillers such as `x`; redacting those would garble every message."""

_UNKNOWN_MODEL_CODES = {"model_not_found", "model_not_available", "DeploymentNotFound"}
_UNKNOWN_MODEL = re.compile(
    r"not a valid model|invalid model id|no endpoints found"
    r"|\bmodel\b.{0,200}?(not found|not exist|doesn't exist|n't available|not available)",
    re.IGNORECASE | re.DOTALL,
)
_OVERFLOW_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_OVERFLOW = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context_size"
    r"|exceeds? .{0,60}context (size|length|window)|context (size|length|window) (is )?exceeded"
    r"|prompt is too long",
    re.IGNORECASE | re.DOTALL,
)
_RETRYABLE_4XX = {408: "timeout", 409: "server", 429: "rate_limit"}
_QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
"""Of OpenAI and its like: the money is used up, and no waiting brings it back. The words that go with it
do not tell: Google says the same where the next minute's allowance is meant."""
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_OVERLOAD_CODES = {"overloaded_error", "server_overloaded", "engine_overloaded", "overloaded", "slow_down"}
_OVERLOAD = re.compile(
    r"\boverloaded\b|\bat capacity\b|server (is )?(too )?busy|slow down|queue is full"
    # Ollama; llama.cpp, which answers so while it starts
    r"|maximum pending requests|loading model|no slots? available",
    re.IGNORECASE,
)
_ASKED_TOO_SOON = frozenset({"rate_limit", "overloaded"})
_MAY_PASS = frozenset({"rate_limit", "overloaded", "server", "timeout"})
_UPSTREAM = re.compile(r"temporarily rate-limited upstream", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerWords:
    """What an error body says, whatever its shape."""

    message: str
    codes: frozenset[str]
    """Every short word it gives for the kind of error: `code`, `type`, `status`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """OpenRouter: those of rate limits, here and not where headers are."""
    upstream: bool = False
    """OpenRouter: it is a provider behind it that says so."""


def failure_from_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    model: str,
    endpoint: str,
    *,
    now: float | None = None,
    secrets: Iterable[str] = (),
    any_404_is_the_model: bool = False,
) -> ProviderError:
    """The error for an answer with this status, to be raised or not by the caller.

    408, 409, 429 and 5xx are retryable, unless the server says otherwise in
    `x-should-retry` or means that it is out of money; all else is final.
    Refused are requests that came too soon: 429, and 5xx of a server that says
    it is overloaded or, with 503 or 529, when to come back. `now` is the time
    of day in seconds since the epoch; None: the clock's. `secrets` are
    taken out of the server's words. `any_404_is_the_model` is for APIs where
    nothing else can be missing.
    """
    said = server_words(body)
    words = _cut(redact(said.message, secrets))  # in this order: half a secret would not be found
    now = time.time() if now is None else now
    retry_after = retry_after_seconds(headers, now)
    allowance = allowance_of(headers, now) or allowance_of(said.headers, now)
    kind, message, retryable = _judge(
        status, said.codes, words, model, any_404_is_the_model, comes_back=retry_after is not None
    )
    if 300 <= status < 400:
        target = redact(shown_url(_header(headers, "location") or ""), secrets)
        message = f"HTTP {status}: the server redirects to {target or 'nowhere'}; redirects are not followed"
        if target:
            message += ": set the base URL to the new address"
    wish = (_header(headers, "x-should-retry") or "").strip().lower()
    if wish in {"true", "false"} and kind in _MAY_PASS:
        retryable = wish == "true"
    if retry_after is None and kind in _ASKED_TOO_SOON and allowance is not None:
        retry_after = _until_there_is_some(allowance)
    return ProviderError(
        kind,
        message,
        retryable=retryable,
        retry_after=retry_after,
        endpoint=shown_url(endpoint),
        refused=retryable and kind in _ASKED_TOO_SOON,
        status=status,
        one_model=kind in _MAY_PASS and (said.upstream or _UPSTREAM.search(words) is not None),
        allowance=allowance,
    )


def _until_there_is_some(allowance: Allowance) -> float | None:
    """Seconds until nothing that is used up now is used up still."""
    pairs = [
        (allowance.requests_left, allowance.requests_reset),
        (allowance.tokens_left, allowance.tokens_reset),
    ]
    return max((reset for left, reset in pairs if left == 0 and reset is not None), default=None)


def _judge(
    status: int,
    codes: frozenset[str],
    words: str,
    model: str,
    any_404_is_the_model: bool,
    *,
    comes_back: bool,
) -> tuple[str, str, bool]:
    """(kind, message, retryable) for a status and what came with it.

    `comes_back`: the server says when it will take requests again.
    """
    message = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    if status == 402 or (400 <= status < 500 and codes & _QUOTA_CODES):
        return "quota", message, False
    if status == 429 and _TOO_LARGE.search(words):
        return "bad_request", message, False  # larger than all the tokens of a minute
    if status in _RETRYABLE_4XX:
        return _RETRYABLE_4XX[status], message, True
    if codes & _OVERFLOW_CODES or _OVERFLOW.search(words):
        return "context_overflow", message, False  # some servers say it with a 500
    if status >= 500:
        told = codes & _OVERLOAD_CODES or (status in {503, 529} and (comes_back or _OVERLOAD.search(words)))
        return "overloaded" if told else "server", message, True
    named = bool(codes & _UNKNOWN_MODEL_CODES)
    described = status in {400, 404, 422} and _UNKNOWN_MODEL.search(words) is not None
    if named or described or (status == 404 and any_404_is_the_model):
        lament = f"Model {model} not found or unavailable"
        return "model_not_found", f"{lament}: {words}" if words else lament, False
    if status in {401, 403}:
        return "auth", message, False
    if status == 404:
        return "not_found", f"{message} (is the base URL right?)", False
    if 300 <= status < 400:
        return "redirect", message, False
    return "bad_request", message, False


def server_words(body: bytes) -> ServerWords:
    """The message and codes in an error body: the JSON shapes in use, else the text itself."""
    try:
        payload = loads(body)
    except ValueError:
        text = " ".join(body.decode("utf-8", errors="replace").split())
        return ServerWords(text, frozenset())
    if not isinstance(payload, dict):
        return ServerWords(_as_text(payload), frozenset())
    inner = payload.get("error")
    sources = [inner, payload] if isinstance(inner, dict) else [payload]
    codes = {
        source[key]
        for source in sources
        for key in ("code", "type", "status")
        if isinstance(source.get(key), str)
    }
    metadata = inner.get("metadata") if isinstance(inner, dict) else None
    if not isinstance(metadata, dict):
        return ServerWords(_message_of(payload), frozenset(codes))
    given = metadata.get("headers")
    return ServerWords(
        _message_of(payload),
        frozenset(codes),
        {name: str(value) for name, value in given.items()} if isinstance(given, dict) else {},
        upstream=isinstance(metadata.get("provider_name"), str),
    )


def _message_of(payload: dict[str, Any]) -> str:
    error = payload.get("error")
    if isinstance(error, dict):
        message = _as_text(error.get("message") or error.get("code") or error)
        metadata = error.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):
            # OpenRouter: "Provider returned error", and what the provider said in here.
            message = f"{message}: {_as_text(metadata['raw'])}"
        return message
    for key in ("error", "detail", "message"):
        if payload.get(key):
            return _as_text(payload[key])
    return _as_text(payload)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) and "msg" in item for item in value):
        # FastAPI's list of what is wrong, each with its place in the body.
        return "; ".join(f"{'.'.join(map(str, item.get('loc') or []))}: {item['msg']}" for item in value)
    return dumps(value)


def _cut(text: str) -> str:
    text = text.encode(errors="replace").decode().strip()  # lone surrogates cannot be printed
    return text if len(text) <= _MAX_WORDS else text[:_MAX_WORDS].rstrip() + "…"


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """How long the server asks to wait, in seconds, or None when it asks nothing that makes sense.

    Reads `retry-after-ms`, then `Retry-After` as a number of seconds or as an
    HTTP date (against `now`, seconds since the epoch). Negative, infinite and
    garbled values count as not said. Never raises. Source: RFC 9110, 10.2.3.
    """
    milliseconds = number(_header(headers, "retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = _header(headers, "retry-after")
    seconds = number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        wait = when.timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return wait if wait >= 0 else None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    for key, value in headers.items():
        if key.lower() == name:
            return value
    return None


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret in it replaced, also where it is escaped as JSON, HTML or URLs do.

    Secrets shorter than four characters are none.
    """
    forms = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in forms_of(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[redacted]")
    return text


@lru_cache(maxsize=64)
def forms_of(secret: str) -> frozenset[str]:
    """The ways in which an echo may write a secret: as JSON, HTML, URLs and Python do."""
    escaped = {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    # Go and others keep JSON fit to stand in HTML.
    escaped |= {re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", form) for form in escaped}
    escaped |= {form.replace("/", "\\/") for form in escaped}
    quoted = {quote(secret, safe=safe, errors="replace") for safe in ("", "/")}
    quoted.add(quote_plus(secret, errors="replace"))
    quoted |= {re.sub("%..", lambda code: code[0].lower(), form) for form in quoted}
    return frozenset({secret, html.escape(secret), repr(secret)[1:-1], *quoted, *escaped})
