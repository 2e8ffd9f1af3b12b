"""Prices and windows from the offline table of `genai-prices`, where it is installed (extra `cost`).

In the parent alone, and only when a paid provider's model has no price yet:
the import takes 0.1 to 0.7 s, a look-up 0.1 ms. Nothing is sent. What the table
does not have is unknown, and never guessed from a similar name.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from parallamr_mp.tariff import Price, PriceTier

EXTRA = "pip install 'parallamr-mp[cost]'"
"""What makes a table known."""
_LOCAL_DOMAINS = (".local", ".localhost", ".internal", ".lan", ".home", ".cluster", ".test", ".invalid")


@dataclass(frozen=True, slots=True)
class Terms:
    """What is known of a model before it is asked."""

    price: Price | None = None
    window: int | None = None
    """Tokens."""


class PriceTable(Protocol):
    """A source of terms that works offline. Called by one thread at a time."""

    def terms(self, provider: str, model: str, bases: Sequence[str]) -> Terms:
        """Of a model asked at these base URLs (none: at the provider's own). Never raises."""
        ...


def table_installed() -> bool:
    """Whether `load_table` may find one. Imports nothing."""
    return importlib.util.find_spec("genai_prices") is not None


def load_table() -> PriceTable | None:
    """The table of `genai-prices`; None where it is not installed, or has changed beyond recognition."""
    try:
        snapshot = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
    except Exception:
        # A boundary: an extra that is broken must not stop a run that goes without it.
        return None
    return _GenaiPrices(snapshot)


class _GenaiPrices:
    """Terms by the names of `genai-prices`."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot
        self._known: dict[tuple[str, str, tuple[str, ...]], Terms] = {}

    def terms(self, provider: str, model: str, bases: Sequence[str]) -> Terms:
        key = provider, model, tuple(bases)
        if key not in self._known:
            self._known[key] = self._look_up(*key)
        return self._known[key]

    def _look_up(self, provider: str, model: str, bases: tuple[str, ...]) -> Terms:
        """The dearest price and the smallest window of all places it may be asked at."""
        found = [self._find(model, *place) for place in self._places(provider, bases)]
        if not found or any(terms is None for terms in found):
            return Terms()
        every = [terms for terms in found if terms is not None]
        prices = [terms.price for terms in every if terms.price is not None]
        windows = [terms.window for terms in every if terms.window is not None]
        return Terms(
            max(prices, key=_dearness) if len(prices) == len(every) else None,
            min(windows) if len(windows) == len(every) else None,
        )

    def _places(self, provider: str, bases: tuple[str, ...]) -> Iterator[tuple[str | None, str | None]]:
        """Where it may be asked: name or base URL.

        `openai` is whoever answers at its base URL: OpenAI, Azure, Groq … Any other
        provider goes by its name, and has to have just that name in the table.
        """
        if provider == "openai":
            yield from ((None, base) for base in bases)
        elif any(known.id == provider for known in self._snapshot.providers):
            yield provider, None

    def _find(self, model: str, name: str | None, base: str | None) -> Terms | None:
        try:
            found = self._snapshot.find_provider_model(model, None, name, base)[1]
            window = found.context_window
            return Terms(_price(found), window if isinstance(window, int) and window > 0 else None)
        except Exception:
            # A boundary: LookupError is what it does not have; its types may change with any version.
            return None


def _price(model: Any) -> Price | None:
    """The price of today; where it depends on the time of day, the dearest of it."""
    now = datetime.now(UTC)
    prices = [_plain(model.get_prices(now.replace(hour=hour))) for hour in range(24)]
    known = [price for price in prices if price is not None]
    return max(known, key=_dearness) if len(known) == len(prices) else None


def _plain(prices: Any) -> Price | None:
    """None where the model is not paid by tokens of text."""
    given, asked = getattr(prices, "input_mtok", None), getattr(prices, "output_mtok", None)
    if given is None or asked is None:
        return None
    # Tiers of input and output need not begin at the same size.
    starts = {tier.start for each in (given, asked) for tier in getattr(each, "tiers", ())}
    return Price(
        _rate(given, 0),
        _rate(asked, 0),
        _rate(getattr(prices, "requests_kcount", None) or 0, 0) / 1000,
        tuple(PriceTier(start, _rate(given, start + 1), _rate(asked, start + 1)) for start in sorted(starts)),
    )


def _rate(price: Any, input_tokens: int) -> float:
    """A number, or that of the tier that so many input tokens reach."""
    reached = [tier.price for tier in getattr(price, "tiers", ()) if input_tokens > tier.start]
    return float(reached[-1] if reached else getattr(price, "base", price))


def _dearness(price: Price) -> tuple[float, float]:
    return price.output + price.input, price.request


def may_be_listed(base: str) -> bool:
    """Whether a table of public prices may know a base URL: no bare host name, private domain or address."""
    try:
        host = urlsplit(base).hostname or ""
    except ValueError:
        return False
    if "." not in host.strip(".") or f".{host}".endswith(_LOCAL_DOMAINS):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
