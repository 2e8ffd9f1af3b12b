"""The chat-completions API, as OpenAI, vLLM, llama.cpp, OpenRouter and many others speak it."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Any

from parallamr_mp.models import RESERVED_PARAMS, ChatRequest, ModelInfo, Reply
from parallamr_mp.providers.allowance import allowance_of
from parallamr_mp.providers.answers import (
    bad_reply,
    count,
    decode,
    encodable,
    encode,
    finish_reason_of,
    settle,
    text_of,
)
from parallamr_mp.providers.catalogue import LOOKUP_SECONDS, AskedOnce, Listed, listed, window_of
from parallamr_mp.providers.http import HttpClient, HttpReply, failure_from_status
from parallamr_mp.providers.json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parallamr_mp.errors import ProviderError
    from parallamr_mp.providers.connection import Connection
    from parallamr_mp.providers.endpoints import BaseUrl
    from parallamr_mp.tariff import Price

_ANY_OTHER = ""
"""The name under which a server's answer for every other model is kept."""


def messages_of(request: ChatRequest) -> list[dict[str, Any]]:
    """The conversation to send: the system prompt where there is one, then the prompt; for `encode`."""
    prompt, system = request.prompt, request.system
    asked = [{"role": "user", "content": prompt if type(prompt) is str else encodable(prompt)}]
    if system is None:
        return asked
    return [{"role": "system", "content": system if type(system) is str else encodable(system)}, *asked]


class ChatCompletions:
    """One server that speaks chat completions, asked with fixed headers.

    Safe from many threads. `extra` are body fields that every request carries
    unless a parameter of the same name says otherwise.
    """

    def __init__(
        self,
        client: HttpClient,
        base: BaseUrl,
        headers: Mapping[str, str],
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.base = base
        self._client = client
        self._headers = dict(headers)
        self._extra = dict(extra or {})
        self._target = client.target(
            "POST", base.join("/chat/completions"), self._headers, endpoint=base.shown
        )
        self._listed: AskedOnce[Mapping[str, Listed]] = AskedOnce(self._ask_list, {})

    def complete(self, request: ChatRequest) -> Reply:
        """Asks once. Raises `ProviderError`."""
        params = request.params
        if not RESERVED_PARAMS.isdisjoint(params):
            params = {name: value for name, value in params.items() if name not in RESERVED_PARAMS}
        body = encode(
            {**self._extra, **params, "model": request.model, "messages": messages_of(request)},
        )
        reply = self._client.ask(self._target, body)
        if not 200 <= reply.status < 300:
            raise self._failure(reply, request.model)
        return self._read(reply, request.model)

    def list_models(self) -> list[ModelInfo]:
        """The models on offer. Raises `ProviderError`."""
        entries = self._models()
        return [ModelInfo(entry["id"], window_of(entry)) for entry in entries]

    def context_window(self, model: str) -> int | None:
        """The model's context window, asked for once for all models. Never raises."""
        return self._listing(model).window

    def price(self, model: str) -> Price | None:
        """The model's price, where the server's list has it; asked for with the windows. Never raises."""
        return self._listing(model).price

    def _listing(self, model: str) -> Listed:
        known = self._listed.get("models")
        return known.get(model) or known.get(_ANY_OTHER) or Listed()

    def _ask_list(self, _: str) -> Mapping[str, Listed]:
        return _by_name(self._models(LOOKUP_SECONDS))

    def _models(self, timeout: float | None = None) -> list[dict[str, Any]]:
        reply = self._client.get(self.base.join("/models"), self._headers, timeout=timeout)
        if reply.status != 200:
            raise self._failure(reply, "")
        data = self._decode(reply).get("data")
        if not isinstance(data, list):
            raise self._bad_reply("no list of models", reply)
        return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    def _decode(self, reply: HttpReply) -> dict[str, Any]:
        return decode(reply.content, self.base.shown, self._client.secrets, reply.status)

    def _bad_reply(self, what: str, reply: HttpReply) -> ProviderError:
        return bad_reply(what, reply.content, self.base.shown, self._client.secrets, reply.status)

    def _failure(self, reply: HttpReply, model: str, status: int | None = None) -> ProviderError:
        return failure_from_status(
            reply.status if status is None else status,
            reply.headers,
            reply.content,
            model,
            self.base.shown,
            secrets=self._client.secrets(),
        )

    def _read(self, reply: HttpReply, model: str) -> Reply:
        payload = self._decode(reply)
        if payload.get("error"):
            raise self._failure(reply, model, _status_of(payload["error"]))
        choices = payload.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise self._bad_reply("the answer has no message", reply)
        if choice.get("error"):
            # OpenRouter's way of saying that the provider behind it broke off.
            broken = HttpReply(reply.status, reply.headers, dumps({"error": choice["error"]}).encode())
            raise self._failure(broken, model, _status_of(choice["error"]))
        finish_reason = finish_reason_of(choice.get("finish_reason"), self._client.redact)
        text, warnings = settle_message(message, finish_reason)
        usage = payload.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Reply(
            text=text,
            finish_reason=finish_reason,
            input_tokens=count(usage.get("prompt_tokens")),
            output_tokens=count(usage.get("completion_tokens")),
            cost_usd=_cost(usage.get("cost")),
            endpoint=self.base.shown,
            warnings=warnings,
            allowance=allowance_of(reply.headers, time.time()),
        )


def settle_message(message: Mapping[str, Any], finish_reason: str | None) -> tuple[str, tuple[str, ...]]:
    """Text and warnings of a chat message, whichever fields its server fills."""
    content = message.get("content")
    if isinstance(content, str) and content.strip() and not message.get("refusal"):
        return settle(content, finish_reason=finish_reason)
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    return settle(
        text_of(content),
        finish_reason=finish_reason,
        reasoning=text_of(message.get("reasoning_content")) or text_of(message.get("reasoning")),
        refusal=text_of(message.get("refusal"))
        or text_of(content if isinstance(content, list) else None, "refusal"),
        tool_calls=calls if isinstance(calls, list) else [],
    )


def _status_of(error: object) -> int:
    """The HTTP status that an error inside a 200 stands for."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and re.fullmatch("[45][0-9]{2}", code):
        code = int(code)
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    words = f"{code} {error.get('type')}".lower() if isinstance(error, dict) else ""
    if "rate_limit" in words:
        return 429
    if "overloaded" in words:
        return 503
    if "server" in words or "timeout" in words:
        return 500
    return 400


def _cost(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        return None
    return float(value)


def _by_name(entries: Sequence[Mapping[str, Any]]) -> dict[str, Listed]:
    known = {str(entry["id"]): listed(entry) for entry in entries}
    if len(entries) == 1 and entries[0].get("owned_by") == "llamacpp":
        # llama.cpp serves its one model under whatever name it is asked for.
        known[_ANY_OTHER] = known[str(entries[0]["id"])]
    return known


class ChatCompletionsProvider:
    """What providers of this API have in common: everything but where they find their settings."""

    _api: ChatCompletions
    _connection: Connection

    def complete(self, request: ChatRequest) -> Reply:
        """See `Provider.complete`."""
        return self._api.complete(request)

    def list_models(self) -> list[ModelInfo]:
        """See `ModelCatalogue.list_models`."""
        return self._api.list_models()

    def context_window(self, model: str) -> int | None:
        """See `ModelCatalogue.context_window`."""
        return self._api.context_window(model)

    def price(self, model: str) -> Price | None:
        """See `PriceList.price`."""
        return self._api.price(model)

    @property
    def endpoint(self) -> str:
        """The base URL, without anything secret."""
        return self._api.base.shown

    def close(self) -> None:
        """Closes the session, if it is the provider's own."""
        self._connection.close()
