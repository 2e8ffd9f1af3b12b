"""The three chat APIs on the wire: requests understood, replies and errors in each one's own shape.

Pure functions of a request; the sockets are in `server.py`. Shapes follow the public references of OpenAI
(and vLLM's `max_model_len`), OpenRouter and Ollama; the `openai` and `ollama` clients' own types judge them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Api = Literal["openai", "openrouter", "ollama"]

CREATED: Final = 1_700_000_000
_STAMP: Final = "2023-11-14T22:13:20.000000Z"
_DETAILS: Final = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1B",
    "quantization_level": "Q4_0",
}
_KEY = re.compile(r"\bid=(\S+)")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as the server read it, before any answer; `experiment` is empty unless it is a chat."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names
    body: Any  # parsed JSON, None where there is none
    raw: bytes
    started: float  # time.monotonic() once the last byte was read
    connection: int  # 1, 2, … in the order of accept()
    api: Api
    chat: bool
    experiment: str

    @property
    def model(self) -> str:
        """The model asked for: in the body, or in the path as Azure's deployment."""
        named = self.body.get("model") if isinstance(self.body, dict) else None
        deployment = re.search(r"/deployments/([^/]+)/", self.path)
        return named or (deployment[1] if deployment else "")


def api_of(path: str) -> Api:
    """The API a path belongs to, whatever prefix stands before it."""
    if path.endswith(("/api/chat", "/api/tags", "/api/show")):
        return "ollama"
    return "openrouter" if "/api/v1/" in path else "openai"


def is_chat(method: str, path: str) -> bool:
    """Whether this request asks a model for an answer, and so would cost money."""
    return method == "POST" and path.endswith(("/chat/completions", "/api/chat"))


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or OpenAI's list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _messages(body: Any) -> list[dict[str, Any]]:
    messages = body.get("messages") if isinstance(body, dict) else None
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []


def last_user_message(body: Any) -> str:
    """The text of the last message whose role is `user`, empty where there is none."""
    users = [m for m in _messages(body) if m.get("role") == "user"]
    return text_of(users[-1].get("content")) if users else ""


def experiment_of(body: Any) -> str:
    """The key by which requests are counted: what follows `id=` in the last user message, else all of it."""
    message = last_user_message(body)
    found = _KEY.search(message)
    return found[1] if found else message


def tokens_of(text: str) -> int:
    """The server's notion of tokens: 4 characters each, at least one."""
    return max(1, len(text) // 4)


def prompt_tokens_of(body: Any) -> int:
    """Tokens of all messages of a request, taken as one text."""
    return tokens_of("".join(text_of(m.get("content")) for m in _messages(body)))


def chat_reply(
    request: Recorded,
    content: str | None,
    *,
    finish_reason: str | None,
    usage: tuple[int, int] | Mapping[str, Any] | None,
    message: Mapping[str, Any],
) -> dict[str, Any]:
    """A chat answer in the request's API.

    `usage`: (input, output) tokens in the API's own words; a mapping is sent as it is; None is left out.
    `message`: fields added to the answer's message object.
    """
    said = {"role": "assistant", "content": content, **message}
    if request.api == "ollama":
        if isinstance(usage, tuple):
            usage = {"prompt_eval_count": usage[0], "eval_count": usage[1]}
        return {
            "model": request.model,
            "created_at": _STAMP,
            "message": said,
            "done": True,
            "done_reason": finish_reason,
            "total_duration": 3_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_duration": 1_000_000,
            "eval_duration": 1_000_000,
            **(usage or {}),
        }
    router = request.api == "openrouter"
    if router:
        said = {"refusal": None, "reasoning": None, **said}
    else:
        said = {"refusal": None, "annotations": [], **said}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}
    if router:
        choice["native_finish_reason"] = finish_reason
    reply: dict[str, Any] = {
        "id": f"chatcmpl-{request.connection}-{int(request.started * 1e6)}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.model,
        "choices": [choice],
    }
    if router:
        reply["provider"] = "Fake"
    if isinstance(usage, tuple):
        sent, got = usage
        usage = {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}
        if router:
            usage["cost"] = round((sent + got) * 1e-6, 12)
    if usage is not None:
        reply["usage"] = dict(usage)
    return reply


def ollama_stream(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines Ollama sends unless the request says `"stream": false`, which is not its default."""
    first = {k: reply[k] for k in ("model", "created_at", "message")} | {"done": False}
    return [first, reply | {"message": {"role": "assistant", "content": ""}}]


def error(
    api: Api, code: int, message: str, *, kind: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """An error body in the API's own shape; `kind` and `name` are OpenAI's `type` and `code`."""
    if api == "ollama":
        return {"error": message}
    if api == "openrouter":
        return {"error": {"message": message, "code": code}, "user_id": "user_fake"}
    kind = kind or ("server_error" if code >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": name}}


def model_not_found(request: Recorded) -> dict[str, Any]:
    """What each API says, with 404, of a model it does not have."""
    model = request.model
    if request.api == "ollama":
        return error("ollama", 404, f"model '{model}' not found")
    if request.api == "openrouter":
        return error("openrouter", 404, f"No endpoints found for {model}.")
    text = f"The model `{model}` does not exist or you do not have access to it."
    return error("openai", 404, text, name="model_not_found")


def unauthorized(request: Recorded, key: str) -> dict[str, Any]:
    """What each API says, with 401, of a wrong or missing key; OpenAI shows the key's ends."""
    if request.api == "ollama":
        return error("ollama", 401, "unauthorized")
    if request.api == "openrouter":
        return error("openrouter", 401, "User not found." if key else "No auth credentials found")
    if not key:
        return error("openai", 401, "You didn't provide an API key.")
    text = f"Incorrect API key provided: {key[:3]}***{key[-2:]}."
    return error("openai", 401, text, name="invalid_api_key")


def listing(request: Recorded, models: Mapping[str, int | None]) -> dict[str, Any]:
    """The models known, with context windows where the API and `models` tell them."""
    if request.api == "ollama":
        return {
            "models": [
                {
                    "name": name,
                    "model": name,
                    "modified_at": _STAMP,
                    "size": 1_000_000,
                    "digest": "0" * 64,
                    "details": _DETAILS,
                }
                for name in models
            ]
        }
    data: list[dict[str, Any]] = []
    for name, window in models.items():
        entry: dict[str, Any] = {"id": name, "object": "model", "created": CREATED, "owned_by": "fake"}
        if request.api == "openrouter":
            pricing = {"prompt": "0.000001", "completion": "0.000001"}
            entry = {
                "id": name,
                "name": name,
                "created": CREATED,
                "pricing": pricing,
                "context_length": window,
            }
        elif window is not None:
            entry["max_model_len"] = window
        data.append(entry)
    return {"data": data} if request.api == "openrouter" else {"object": "list", "data": data}


def show(window: int | None) -> dict[str, Any]:
    """Ollama's description of one model; no context length where `window` is None."""
    info: dict[str, Any] = {"general.architecture": "llama", "general.parameter_count": 1_000_000_000}
    if window is not None:
        info["llama.context_length"] = window
    return {
        "license": "MIT",
        "modelfile": "FROM fake",
        "parameters": 'stop "</s>"',
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": info,
        "capabilities": ["completion"],
        "modified_at": _STAMP,
    }
