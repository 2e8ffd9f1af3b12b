"""A provider without a network: it echoes what it is asked, always the same way."""

from __future__ import annotations

import hashlib
import os
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING

import orjson

from parallamr_mp.errors import BadInput, ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

    from parallamr_mp.providers.base import ProviderSettings

ENDPOINT = "mock"
_CHARACTERS_A_TOKEN = 4
_PADDING = " lorem ipsum dolor sit amet"


class MockProvider:
    """Echoes prompts, for try-outs and tests: deterministic, and slow or failing on demand.

    `latency` is the seconds an answer takes, `error_rate` the share of
    requests that fail (0..1; which ones depends on model and prompt alone),
    `output_tokens` the length answers are cut or padded to. What is None comes
    from MOCK_LATENCY, MOCK_ERROR_RATE, MOCK_OUTPUT_TOKENS of `env` (None:
    `os.environ`); parameters of a request win over all. Raises `BadInput` for
    unusable values. `session` and `threads` are taken for likeness and not
    used. Knows the model `mock`, and names that start with `mock-` or `mock/`.
    """

    free_of_charge = True

    def __init__(
        self,
        *,
        timeout: float = 300.0,
        session: requests.Session | None = None,
        threads: int = 8,
        latency: float | None = None,
        error_rate: float | None = None,
        output_tokens: int | None = None,
        env: Mapping[str, str] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        del session, threads
        env = os.environ if env is None else env
        given = {"latency": latency, "error_rate": error_rate, "output_tokens": output_tokens}
        self._timeout = timeout
        self._sleep = sleep
        self._settings: dict[str, float] = {}
        for name, value in given.items():
            variable = f"MOCK_{name.upper()}"
            chosen = (env.get(variable, "").strip() or None) if value is None else value
            if chosen is not None:
                try:
                    self._settings[name] = _number(name, chosen)
                except ValueError as error:
                    raise BadInput(f"{name if value is not None else variable} {error}") from None

    @classmethod
    def from_settings(cls, settings: ProviderSettings) -> MockProvider:
        """The factory named by the entry point."""
        return cls(timeout=settings.timeout, threads=settings.threads, env=settings.env)

    def complete(self, request: ChatRequest) -> Reply:
        """See `Provider.complete`."""
        settings = {**self._settings, **_settings_of(request)} if request.params else self._settings
        if request.model != "mock" and not request.model.startswith(("mock-", "mock/")):
            raise _error(
                "model_not_found",
                f"Model {request.model} not found or unavailable",
            )
        latency = settings.get("latency", 0.0)
        if latency:
            self._sleep(min(latency, self._timeout))
        if latency > self._timeout:
            said = f"no complete answer within {self._timeout:g} s (outcome unknown)"
            raise _error("timeout", said, unknown=True)
        if (rate := settings.get("error_rate", 0.0)) and _chance(request) < rate:
            raise _error("mock", "this request was made to fail, as error_rate asks")
        input_tokens = _tokens(request.prompt)
        text = _echo(request, input_tokens)
        if "output_tokens" in settings:
            text = _fit(text, int(settings["output_tokens"]))
        return Reply(
            text=text,
            finish_reason="stop",
            input_tokens=input_tokens,
            output_tokens=_tokens(text),
            endpoint=ENDPOINT,
        )

    def list_models(self) -> list[ModelInfo]:
        """See `ModelCatalogue.list_models`."""
        return [ModelInfo("mock")]

    def context_window(self, model: str) -> int | None:
        """None: the mock has no limit."""
        del model
        return None

    def close(self) -> None:
        """Nothing to close."""

    def __repr__(self) -> str:
        settings = "".join(f" {name}={value:g}" for name, value in self._settings.items())
        return f"<MockProvider{settings}>"


def _settings_of(request: ChatRequest) -> dict[str, float]:
    found = {}
    for name in ("latency", "error_rate", "output_tokens"):
        if request.params.get(name) is not None:
            try:
                found[name] = _number(name, request.params[name])
            except ValueError as error:
                raise _error("bad_request", f"param:{name} {error}") from None
    return found


def _number(name: str, value: object) -> float:
    """The number a setting stands for. Raises `ValueError` that goes on after the setting's name."""
    try:
        number = None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if name == "error_rate":
        if number is None or not 0 <= number <= 1:
            raise ValueError(f"has to be a number from 0 to 1, not {value!r}")
    elif name == "output_tokens":
        if number is None or not 1 <= number <= 10_000_000 or number != int(number):
            raise ValueError(f"has to be a whole number from 1 on, not {value!r}")
    elif number is None or not 0 <= number < float("inf"):
        raise ValueError(f"has to be a number of seconds, not {value!r}")
    return number


def _error(kind: str, message: str, *, unknown: bool = False) -> ProviderError:
    return ProviderError(kind, message, endpoint=ENDPOINT, unknown=unknown)


def _chance(request: ChatRequest) -> float:
    """A number in [0, 1) that model and prompt decide, the same in every process."""
    asked = f"{request.model}\0{request.prompt}".encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(asked).digest()[:6]) / 2**48


def _tokens(text: str) -> int:
    return max(1, len(text) // _CHARACTERS_A_TOKEN)


def _echo(request: ChatRequest, input_tokens: int) -> str:
    variables = dict(request.variables)
    variables.pop("provider", None)
    variables.pop("model", None)
    shown = orjson.dumps(variables, option=orjson.OPT_INDENT_2, default=str).decode()
    return (
        f"MOCK RESPONSE\nInput tokens: {input_tokens}\nModel: {request.model}\n"
        f"Variables: {shown}\n--- Original Input ---\n{request.prompt}"
    )


def _fit(text: str, tokens: int) -> str:
    """`text` cut or padded to `tokens` by our own count of them."""
    length = tokens * _CHARACTERS_A_TOKEN
    missing = length - len(text)
    return text[:length] if missing <= 0 else text + "".join(islice(cycle(_PADDING), missing))
