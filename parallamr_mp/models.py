"""The data that crosses seams: frozen, slotted, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parallamr_mp.crossing import crossing
from parallamr_mp.values import value

RESULT_COLUMNS = (
    "status",
    "input_tokens",
    "context_window",
    "output_tokens",
    "output",
    "error_message",
    "row_number",
    "repeat",
    "experiment_id",
    "attempts",
    "latency_s",
    "finish_reason",
    "cost_usd",
    "endpoint",
    "completed_at",
)
"""Follow the input's own columns."""

ORIGINAL_COLUMNS = RESULT_COLUMNS[:6]
"""Those of the original parallamr: its readers go on working, and its files can be gone on with."""


RESERVED_PARAMS = frozenset({"model", "messages", "stream", "stream_options"})
"""Body fields that no `param:NAME` may set: the row says who is asked what, and answers are read whole."""


@crossing()
class Status(StrEnum):
    """What a result row says of its experiment."""

    OK = "ok"
    WARNING = "warning"
    """Answered, but the user should look: an unfilled variable, a cut or empty answer, …"""
    ERROR = "error"
    """No answer; `error_message` says why."""


class JsonText(str):
    """A long text that knows its JSON: most of it was encoded once and for all rows.

    Whatever is made of it by a string's methods is a plain string.
    """

    __slots__ = ("pieces",)

    pieces: tuple[bytes, ...]
    """Put together they are a JSON string. Whoever sends it does so: rows in flight share the long ones."""


@value
class ChatRequest:
    """One question for a provider: what is asked, and the body parameters that go with it."""

    model: str
    prompt: str
    system: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    """Typed JSON values for the request body, by their name on the wire."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The row's template variables: for providers that show or log them, never sent as such."""


@crossing()
@value
class Allowance:
    """What a server says of its rate limits along with an answer or a refusal; None: it did not say."""

    requests_limit: float | None = None
    """Requests in a full allowance."""
    requests_left: float | None = None
    requests_reset: float | None = None
    """Seconds until the allowance of requests is full again."""
    tokens_limit: float | None = None
    tokens_left: float | None = None
    tokens_reset: float | None = None


@value
class Reply:
    """What a provider answered. Counts are in tokens, cost in USD; None means: it did not say."""

    text: str
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    endpoint: str = ""
    warnings: tuple[str, ...] = ()
    """Sentences that make the row a `warning`: truncated, refused, empty, …"""
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model a server offers, with its context window in tokens where the server tells."""

    name: str
    context_window: int | None = None


@crossing()
@value
class Inputs:
    """The texts one experiment is made from, as read from their files: templates, not yet filled."""

    prompt: str
    documents: tuple[tuple[str, str], ...] = ()
    """Context files: (name, text)."""
    system: str | None = None


@crossing("allowance")
@value
class Failure:
    """Why a lease brought no value: a `ProviderError`, or the death of a worker, as data."""

    kind: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    """Seconds the server asked to wait."""
    endpoint: str = ""
    unknown: bool = False
    """Nobody can know whether the work was done and has to be paid for: see `errors.ProviderError`."""
    refused: bool = False
    """The server is there and did nothing: too many requests, overload. To come back later is all it asks."""
    unreached: bool = False
    """There was no server to be reached: nothing was sent."""
    status: int | None = None
    """The HTTP status, where there was one."""
    one_model: bool = False
    """A refusal that says nothing of the endpoint's other models."""
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What a call came to, where nobody knows whether that is stored: its parent has died."""

    payload: Any
    attempt: int
    value: Any
    failure: Failure | None
    seconds: float
