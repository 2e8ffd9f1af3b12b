"""From what chat servers send to what a row holds: shared by all of them, whatever the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from parallamr_mp.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = 200
_CUT_REASONS = {"length", "max_tokens"}


def encode(body: dict[str, Any]) -> bytes:
    """A request body as JSON. Raises `ProviderError` for what JSON or UTF-8 cannot hold."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise ProviderError("bad_request", f"the request cannot be written as JSON: {error}") from None


def decode(content: bytes, endpoint: str) -> dict[str, Any]:
    """The JSON object an answer holds.

    Raises `ProviderError` `bad_reply`: retryable for what is no JSON, as a
    proxy's page or a cut answer may be gone the next time; final for JSON of
    another kind, which is what this server says.
    """
    try:
        payload = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise bad_reply("the answer is not JSON", content, endpoint, retryable=True) from None
    if not isinstance(payload, dict):
        raise bad_reply("the answer is no JSON object", content, endpoint)
    return payload


def bad_reply(what: str, content: bytes, endpoint: str, *, retryable: bool = False) -> ProviderError:
    """The error for an answer that cannot be understood, with its beginning."""
    start = content.decode("utf-8", errors="replace")[:_SHOWN]
    return ProviderError("bad_reply", f"{what}: {start!r}", retryable=retryable, endpoint=endpoint)


def count(value: object) -> int | None:
    """A token count, or None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return int(value) if value == value // 1 else None


def text_of(content: object, part_type: str = "text") -> str:
    """The text of a message's content: the string itself, or its parts of `part_type` put together."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part for part in content if isinstance(part, dict) and part.get("type") == part_type)
    return "".join(text for part in parts if isinstance(text := part.get(part_type), str))


def settle(
    text: str,
    *,
    finish_reason: str | None,
    reasoning: str = "",
    refusal: str = "",
    tool_calls: Sequence[object] = (),
) -> tuple[str, tuple[str, ...]]:
    """What goes into the row as its output, and the warnings that go with it.

    The answer's own text comes first; where there is none, in this order: the
    refusal, the tool calls as JSON, the reasoning.
    """
    warnings: list[str] = []
    cut = finish_reason in _CUT_REASONS
    if refusal:
        warnings.append("refused: the model declined to answer")
        text = text if text.strip() else refusal
    elif not text.strip() and tool_calls:
        text = orjson.dumps(tool_calls).decode()
    elif not text.strip() and reasoning.strip():
        text = reasoning
        where = ", the token limit came before the answer" if cut else ""
        warnings.append(f"the answer is empty: the output holds the model's reasoning{where}")
    elif not text.strip():
        warnings.append("the answer is empty")
    if cut:
        warnings.append("truncated: the answer was cut at the token limit")
    elif finish_reason == "content_filter":
        warnings.append("content filter: the server held back the answer or part of it")
    return text, tuple(warnings)
