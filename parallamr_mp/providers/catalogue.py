"""Context windows and prices: read from what servers list, asked for once a run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from parallamr_mp.providers.answers import count
from parallamr_mp.tariff import Price

T = TypeVar("T")

LOOKUP_SECONDS = 10.0
"""How long a look-up may take: it is a courtesy, and must not hold up a run."""

_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a server's list says of one model."""

    window: int | None = None
    """Tokens."""
    price: Price | None = None


def listed(entry: Mapping[str, Any]) -> Listed:
    """What a model's entry tells."""
    return Listed(window_of(entry), price_of(entry))


def price_of(entry: Mapping[str, Any]) -> Price | None:
    """The price that a model's entry tells of, as OpenRouter writes it: `pricing`, in USD a token.

    None where there is none, and where it is open, which OpenRouter writes as
    -1 for models that choose another one.
    """
    pricing = entry.get("pricing")
    if not isinstance(pricing, Mapping):
        return None
    prompt, completion = _usd(pricing.get("prompt")), _usd(pricing.get("completion"))
    request = _usd(pricing.get("request", 0))
    if prompt is None or completion is None or request is None:
        return None
    return Price(prompt * 1e6, completion * 1e6, request)


def _usd(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    return amount if 0 <= amount < math.inf else None


def window_of(entry: Mapping[str, Any]) -> int | None:
    """The context window that a model's entry tells of, in tokens, by the names servers have for it.

    vLLM `max_model_len`; OpenRouter and others `context_length`; Groq
    `context_window`; llama.cpp `meta.n_ctx` (what runs) or `n_ctx_train`.
    """
    meta = entry.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    for value in (*(entry.get(name) for name in _FIELDS), meta.get("n_ctx"), meta.get("n_ctx_train")):
        window = count(value)
        if window:
            return window
    return None


class AskedOnce(Generic[T]):
    """Answers of `ask`, remembered by key, failures too: these are answered by `otherwise`.

    Safe from many threads: of those that want the same key one asks, the
    others wait for it; different keys are asked side by side.
    """

    def __init__(self, ask: Callable[[str], T], otherwise: T) -> None:
        self._ask, self._otherwise = ask, otherwise
        self._known: dict[str, T] = {}
        self._asking: dict[str, threading.Lock] = {}
        """By key, held while it is asked: without it every thread would ask."""
        self._lock = threading.Lock()
        """Protects the making of those locks: without it two threads might have one each for the same key."""

    def get(self, key: str) -> T:
        """What is known of `key`, asking if need be. Never raises."""
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            if key not in self._known:
                try:
                    self._known[key] = self._ask(key)
                except Exception:
                    # A boundary: a look-up that nobody waits for must not stop a run.
                    self._known[key] = self._otherwise
            return self._known[key]
