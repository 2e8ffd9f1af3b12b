"""From what chat servers send to what a row holds: shared by all of them, whatever the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from parallamr_mp.errors import ProviderError
from parallamr_mp.models import JsonText
from parallamr_mp.providers.failures import redact
from parallamr_mp.providers.json_text import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SHOWN = 200
_CUT_REASONS = {"length", "max_tokens"}
_FINISH_REASONS = frozenset({*_CUT_REASONS, "stop", "tool_calls", "function_call", "content_filter", "load"})
"""Words of the APIs themselves: no echo of a secret."""
TRUNCATED = "truncated: the answer was cut at the token limit"
_MOST = 2**53
"""No count is larger; from here on floats cannot tell whole numbers apart."""


def encode(body: dict[str, Any]) -> bytes:
    """A request body as JSON. Raises `ProviderError` for what JSON or UTF-8 cannot hold."""
    try:
        # Copied, for what orjson returns keeps the room that it might have needed, ten times the text; and
        # each of hundreds of threads holds its body for as long as it waits.
        return bytes(memoryview(orjson.dumps(body)))
    except TypeError as error:
        raise ProviderError("bad_request", f"the request cannot be written as JSON: {error}") from None


def encodable(text: str) -> object:
    """A text for a body that `encode` is given: where its JSON is known, it is not made again."""
    return orjson.Fragment(b"".join(text.pieces)) if isinstance(text, JsonText) else text


def decode(
    content: bytes,
    endpoint: str,
    secrets: Callable[[], Iterable[str]] = tuple,
    status: int = 200,
) -> dict[str, Any]:
    """The JSON object an answer holds. Raises `ProviderError` as `bad_reply` makes it."""
    what = "the answer is no JSON object"
    payload = None
    try:
        payload = loads(content)
    except ValueError:
        what = "the answer is not JSON"
    if not isinstance(payload, dict):
        # Outside of `except`: a JSON error holds the whole text, and that may hold the key.
        raise bad_reply(what, content, endpoint, secrets, status)
    return payload


def bad_reply(
    what: str,
    content: bytes,
    endpoint: str,
    secrets: Callable[[], Iterable[str]] = tuple,
    status: int = 200,
) -> ProviderError:
    """The error for a complete answer without sense, with its beginning, without what `secrets` returns.

    Final: the server has answered, and may want to be paid for it each time.
    """
    hide = tuple(secrets())
    shown = redact(content.decode("utf-8", errors="replace"), hide)
    try:
        plain = dumps(loads(content))
    except (ValueError, RecursionError):
        plain = ""
    if (hidden := redact(plain, hide)) != plain:
        shown = hidden  # it may stand there twice, once in JSON's escapes: those are gone here
    return ProviderError("bad_reply", f"{what}: {shown[:_SHOWN]!r}", endpoint=endpoint, status=status)


def count(value: object) -> int | None:
    """A token count, or None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
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


def is_cut(finish_reason: object) -> bool:
    """Whether an answer ended because it reached a limit of tokens."""
    return isinstance(finish_reason, str) and finish_reason in _CUT_REASONS


def finish_reason_of(reason: object, hide: Callable[[str | None], str | None]) -> str | None:
    """Why an answer ended, as its server says it; `hide` takes the secrets out of words that are strange."""
    if not isinstance(reason, str):
        return None
    return reason if reason in _FINISH_REASONS else hide(reason)


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
    cut = is_cut(finish_reason)
    blank = not text or text.isspace()
    if refusal:
        warnings.append("refused: the model declined to answer")
        text = refusal if blank else text
    elif blank and tool_calls:
        text = dumps(tool_calls)
    elif blank and reasoning.strip():
        text = reasoning
        where = ", the token limit came before the answer" if cut else ""
        warnings.append(f"the answer is empty: the output holds the model's reasoning{where}")
    elif blank:
        warnings.append("the answer is empty")
    if cut:
        warnings.append(TRUNCATED)
    elif finish_reason == "content_filter":
        warnings.append("content filter: the server held back the answer or part of it")
    return text, tuple(warnings)
