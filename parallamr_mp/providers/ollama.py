"""Ollama's own chat API, which tells and takes more than its OpenAI-compatible one."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parallamr_mp.errors import ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo, Reply
from parallamr_mp.providers.allowance import allowance_of
from parallamr_mp.providers.answers import bad_reply, count, decode, encode, finish_reason_of, settle, text_of
from parallamr_mp.providers.catalogue import LOOKUP_SECONDS, AskedOnce
from parallamr_mp.providers.chat_completions import messages_of
from parallamr_mp.providers.connection import Connection, url_from
from parallamr_mp.providers.endpoints import parse_base_url
from parallamr_mp.providers.http import HttpReply, Target, failure_from_status

if TYPE_CHECKING:
    import requests

    from parallamr_mp.providers.base import ProviderSettings

DEFAULT_BASE_URL = "http://localhost:11434"

_TOP_LEVEL = {"format", "keep_alive", "think", "tools", "logprobs", "top_logprobs", "truncate", "shift"}
_RENAMED = {"max_tokens": "num_predict", "max_completion_tokens": "num_predict"}
_OURS = {"model", "messages", "stream", "options", "response_format"}
_NUM_CTX = re.compile(r"^\s*num_ctx\s+(\d+)\s*$", re.MULTILINE)


class OllamaProvider:
    """Asks an Ollama server; safe from many threads, over one session.

    The server is `base_url`, else the first one of OLLAMA_BASE_URL in `env`
    (None: `os.environ`), else this machine's. Raises `BadInput` for a base URL
    without a scheme. Model names are sent as they are, tags included. Timeout
    and session as in `OpenAIProvider`.
    """

    free_of_charge = True

    def __init__(
        self,
        *,
        timeout: float = 300.0,
        session: requests.Session | None = None,
        base_url: str | None = None,
        threads: int = 8,
        env: Mapping[str, str] | None = None,
    ) -> None:
        env = os.environ if env is None else env
        url = url_from(base_url, env, "OLLAMA_BASE_URL")
        self._base = parse_base_url(url or DEFAULT_BASE_URL, "OLLAMA_BASE_URL")
        basic = self._base.basic_auth()
        self._headers = {} if basic is None else {"Authorization": basic}
        self._connection = Connection(session, threads, timeout, env, secrets=self._base.secrets())
        self._chat, self._show = (
            self._connection.client.target(
                "POST", self._base.join(path), self._headers, endpoint=self._base.shown
            )
            for path in ("/api/chat", "/api/show")
        )
        self._windows: AskedOnce[int | None] = AskedOnce(self._ask_window, None)

    @classmethod
    def from_settings(cls, settings: ProviderSettings) -> OllamaProvider:
        """The factory named by the entry point."""
        return cls(
            timeout=settings.timeout,
            session=settings.session,
            base_url=settings.base_url,
            threads=settings.threads,
            env=settings.env,
        )

    def complete(self, request: ChatRequest) -> Reply:
        """See `Provider.complete`."""
        reply = self._post(self._chat, chat_body(request), request.model)
        payload = self._decode(reply)
        if payload.get("error"):
            raise self._failure(reply, request.model, 500)
        message = payload.get("message")
        if not isinstance(message, dict):
            raise self._bad_reply("the answer has no message", reply)
        finish_reason = finish_reason_of(payload.get("done_reason"), self._connection.client.redact)
        calls = message.get("tool_calls")
        text, warnings = settle(
            text_of(message.get("content")),
            finish_reason=finish_reason,
            reasoning=text_of(message.get("thinking")),
            tool_calls=calls if isinstance(calls, list) else [],
        )
        return Reply(
            text=text,
            finish_reason=finish_reason,
            input_tokens=count(payload.get("prompt_eval_count")),
            output_tokens=count(payload.get("eval_count")),
            endpoint=self._base.shown,
            warnings=warnings,
            allowance=allowance_of(reply.headers, time.time()),
        )

    def list_models(self) -> list[ModelInfo]:
        """See `ModelCatalogue.list_models`. The list tells no context windows: one look-up each would."""
        reply = self._connection.client.get(self._base.join("/api/tags"), self._headers)
        if reply.status != 200:
            raise self._failure(reply, "", any_404_is_the_model=False)
        models = self._decode(reply).get("models")
        if not isinstance(models, list):
            raise self._bad_reply("no list of models", reply)
        entries = [entry for entry in models if isinstance(entry, dict)]
        return [ModelInfo(entry["name"]) for entry in entries if isinstance(entry.get("name"), str)]

    def context_window(self, model: str) -> int | None:
        """See `ModelCatalogue.context_window`. One look-up per model."""
        return self._windows.get(model)

    def close(self) -> None:
        """Closes the session, if it is the provider's own."""
        self._connection.close()

    @property
    def endpoint(self) -> str:
        """The base URL, without anything secret."""
        return self._base.shown

    def __repr__(self) -> str:
        return f"<OllamaProvider {self._base.shown}>"

    def _post(
        self, target: Target, body: dict[str, Any], model: str, timeout: float | None = None
    ) -> HttpReply:
        reply = self._connection.client.ask(target, encode(body), timeout)
        if not 200 <= reply.status < 300:
            raise self._failure(reply, model)
        return reply

    def _decode(self, reply: HttpReply) -> dict[str, Any]:
        return decode(reply.content, self._base.shown, self._connection.client.secrets, reply.status)

    def _bad_reply(self, what: str, reply: HttpReply) -> ProviderError:
        secrets = self._connection.client.secrets
        return bad_reply(what, reply.content, self._base.shown, secrets, reply.status)

    def _failure(
        self, reply: HttpReply, model: str, status: int | None = None, *, any_404_is_the_model: bool = True
    ) -> ProviderError:
        return failure_from_status(
            reply.status if status is None else status,
            reply.headers,
            reply.content,
            model,
            self._base.shown,
            secrets=self._connection.client.secrets(),
            any_404_is_the_model=any_404_is_the_model,
        )

    def _ask_window(self, model: str) -> int | None:
        reply = self._post(self._show, {"model": model}, model, LOOKUP_SECONDS)
        payload = self._decode(reply)
        chosen = _NUM_CTX.search(text_of(payload.get("parameters")))
        if chosen is not None:
            return int(chosen[1])
        info = payload.get("model_info")
        found = (
            count(value)
            for name, value in (info if isinstance(info, dict) else {}).items()
            if name.endswith(".context_length")
        )
        return next((window for window in found if window), None)


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """The body for `/api/chat`: parameters by OpenAI's names or Ollama's, each put where Ollama looks.

    Sampling parameters go into `options` (a parameter named `options` gives
    more of them; a parameter of its own wins), `max_tokens` becomes
    `num_predict`, `response_format` becomes `format`. Raises `ProviderError`
    for an `options` that is no object.
    """
    params = request.params
    given = params.get("options")
    if given and not isinstance(given, Mapping):
        raise ProviderError("bad_request", "the parameter `options` has to be a JSON object")
    options: dict[str, Any] = dict(given or {})
    top: dict[str, Any] = {}
    if params.get("response_format") is not None:
        wanted = _format_of(params["response_format"])
        if wanted is not None:
            top["format"] = wanted
    for name, value in params.items():
        if name in _TOP_LEVEL:
            top[name] = value
        elif name not in _OURS:
            options[_RENAMED.get(name, name)] = value
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]  # Ollama refuses a bare string
    body = {**top, "model": request.model, "messages": messages_of(request), "stream": False}
    return {**body, "options": options} if options else body


def _format_of(response_format: object) -> object:
    """Ollama's `format` for OpenAI's `response_format`: `"json"`, a schema, or None for plain text."""
    if not isinstance(response_format, Mapping):
        return response_format
    kind = response_format.get("type")
    if kind not in {"json_object", "json_schema"}:
        return None
    inner = response_format.get("json_schema")
    # Some servers of OpenAI's API take the schema without an envelope.
    schema = (inner if isinstance(inner, Mapping) else response_format).get("schema")
    return "json" if schema is None and kind == "json_object" else schema
