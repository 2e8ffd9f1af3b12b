"""What an answer that is no answer says: status, words and wishes of the server → `ProviderError`."""

from __future__ import annotations

import html
import json
import math
import re
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from parallamr_mp.errors import ProviderError
from parallamr_mp.providers.endpoints import shown_url
from parallamr_mp.providers.json_text import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_WORDS = 500
SHORTEST_SECRET = 4
"""Servers without keys are given fillers such as `x`; redacting those would garble every message."""

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
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


@dataclass(frozen=True, slots=True)
class ServerWords:
    """What an error body says, whatever its shape."""

    message: str
    codes: frozenset[str]
    """Every short word it gives for the kind of error: `code`, `type`, `status`."""


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
    `x-should-retry`; all else is final. `now` is the time of day in seconds
    since the epoch, for `Retry-After` dates; None: the clock's. `secrets` are
    taken out of the server's words. `any_404_is_the_model` is for APIs where
    nothing else can be missing.
    """
    said = server_words(body)
    words = _cut(redact(said.message, secrets))  # in this order: half a secret would not be found
    retry_after = retry_after_seconds(headers, time.time() if now is None else now)
    kind, message, retryable = _judge(status, said.codes, words, model, any_404_is_the_model)
    if 300 <= status < 400:
        target = redact(shown_url(_header(headers, "location") or ""), secrets)
        message = f"HTTP {status}: the server redirects to {target or 'nowhere'}; redirects are not followed"
        if target:
            message += ": set the base URL to the new address"
    wish = (_header(headers, "x-should-retry") or "").strip().lower()
    if wish in {"true", "false"} and kind in {"rate_limit", "server", "timeout"}:
        retryable = wish == "true"
    return ProviderError(
        kind, message, retryable=retryable, retry_after=retry_after, endpoint=shown_url(endpoint)
    )


def _judge(
    status: int, codes: frozenset[str], words: str, model: str, any_404_is_the_model: bool
) -> tuple[str, str, bool]:
    """(kind, message, retryable) for a status and what came with it."""
    message = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    if status in _RETRYABLE_4XX:
        return _RETRYABLE_4XX[status], message, True
    if codes & _OVERFLOW_CODES or _OVERFLOW.search(words):
        return "context_overflow", message, False  # some servers say it with a 500
    if status >= 500:
        return "server", message, True
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
    return ServerWords(_message_of(payload), frozenset(codes))


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
    milliseconds = _number(_header(headers, "retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = _header(headers, "retry-after")
    seconds = _number(value)
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


def _number(text: str | None) -> float | None:
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


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
