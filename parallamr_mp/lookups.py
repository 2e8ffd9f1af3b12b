"""What is known of a run's models before the first request: their context windows and prices.

    settings (--price) ─┐
    free providers ─────┼─► Known: windows and prices by (provider, model)
    the servers' lists ─┤
    genai-prices ───────┘   (imported beside, while the servers are asked)

Once a run, in the parent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.models import ChatRequest, Reply
from parallamr_mp.policy.cost import FREE
from parallamr_mp.prices import PriceTable, Terms, load_table, may_be_listed, table_installed
from parallamr_mp.providers.base import ModelCatalogue, PriceList, Provider, ProviderSettings, is_free
from parallamr_mp.providers.registry import build_provider, is_built_in
from parallamr_mp.tariff import Price

Model = tuple[str, str]
"""Provider and model."""

_SCOUTS = 4
"""So many endpoints of a provider are asked side by side: some may not have started yet."""
_NOWHERE = "http://nowhere.invalid"
"""Stands for an endpoint that is still to come. Never asked (RFC 2606)."""
_LOOK_UP_SECONDS = 10.0
_LOOK_SECONDS = 0.1


class Scouts:
    """A provider as it is before the run: one instance for each of its first endpoints, all of them alike.

    `asked` are those that can be asked; there may be none yet. `first` stands
    for all in everything else.
    """

    def __init__(self, first: Provider, asked: tuple[Provider, ...]) -> None:
        self._first, self.asked = first, asked
        self.free_of_charge = is_free(first)

    def complete(self, request: ChatRequest) -> Reply:
        """See `Provider.complete`. Asks the first endpoint."""
        return self._first.complete(request)

    def close(self) -> None:
        """Closes all of them."""
        for provider in {id(each): each for each in (self._first, *self.asked)}.values():
            _close(provider)


def build_scouts(name: str, endpoints: Sequence[EndpointSpec], settings: ProviderSettings) -> Provider:
    """The provider for look-ups at its endpoints. Raises `MissingKey` and `BadInput` as it does itself.

    Without an endpoint yet it is built all the same: its key is looked for now and not in the night.
    """
    built = [
        build_provider(name, replace(settings, base_url=spec.url or None)) for spec in endpoints[:_SCOUTS]
    ]
    if len(built) == 1:
        return built[0]
    first = built[0] if built else build_provider(name, replace(settings, base_url=_NOWHERE))
    return Scouts(first, tuple(built))


@dataclass(frozen=True, slots=True)
class Known:
    """What could be found out of a run's models; what is not in here is unknown."""

    windows: Mapping[Model, int] = field(default_factory=dict)
    """Tokens."""
    prices: Mapping[Model, Price] = field(default_factory=dict)
    tableless: bool = False
    """A price is unknown that a table might tell, and none is installed."""


def look_up(
    config: RunConfig,
    models: Iterable[Model],
    providers: Mapping[str, Provider],
    enough: Callable[[], bool] = lambda: False,
    *,
    servers: bool = True,
    load: Callable[[], PriceTable | None] = load_table,
) -> Known:
    """Windows and prices, each of the first source that tells: settings, servers, table.

    `servers`: whether these may be asked; see `ask_servers`. Never raises.
    """
    models = tuple(models)
    windows: dict[Model, int] = {}
    prices = dict(_settled_prices(config, models, providers))
    bases = {name: _bases(provider) for name, provider in providers.items()}
    listed = [each for each in models if not is_free(providers[each[0]]) and _may_list(each[0], bases)]
    installed = bool(listed) and table_installed()
    loader = ThreadPoolExecutor(1, thread_name_prefix="price table")
    try:
        # First, so that it is under way while the servers are waited for.
        loading = loader.submit(load) if installed else None
        sources = [ask_servers(models, providers, enough) if servers else {}]
        table = loading.result() if loading is not None and loading.exception() is None else None
    finally:
        loader.shutdown(wait=False)
    if table is not None:
        sources.append({each: table.terms(*each, bases[each[0]]) for each in listed})
    for source in sources:
        for model, terms in source.items():
            if terms.window is not None:
                windows.setdefault(model, terms.window)
            if terms.price is not None:
                prices.setdefault(model, terms.price)
    return Known(windows, prices, not installed and any(each not in prices for each in listed))


def _settled_prices(
    config: RunConfig, models: Sequence[Model], providers: Mapping[str, Provider]
) -> Iterator[tuple[Model, Price]]:
    for provider, model in models:
        given = config.prices.get(f"{provider}/{model}")
        if given is not None:
            yield (provider, model), given
        elif is_free(providers[provider]):
            yield (provider, model), FREE


def _bases(provider: Provider) -> list[str]:
    """The base URLs where it is asked, as far as it tells."""
    told = [getattr(each, "endpoint", None) for each in _asked(provider)]
    return [base for base in told if isinstance(base, str) and base]


def _may_list(name: str, bases: Mapping[str, Sequence[str]]) -> bool:
    """Of one's own servers no table knows anything: their runs are not kept waiting for it."""
    return any(map(may_be_listed, bases[name])) if bases[name] else not is_built_in(name)


def ask_servers(
    models: Iterable[Model],
    providers: Mapping[str, Provider],
    enough: Callable[[], bool] = lambda: False,
) -> dict[Model, Terms]:
    """What the servers tell of these models.

    Of several endpoints of a provider the first that tells counts. A server that
    does not answer within ten seconds, or before it is `enough`, leaves its
    models out.
    """
    told: dict[Model, Terms] = {}
    talking = {
        name: [each for each in _asked(provider) if isinstance(each, ModelCatalogue | PriceList)]
        for name, provider in providers.items()
    }
    models = [model for model in models if talking.get(model[0])]
    if not models:
        return told
    # A pool for all that come first, one for all that come second, …: an endpoint that hangs may keep
    # every thread of its pool, and must not keep those of an endpoint that would tell.
    pools = [ThreadPoolExecutor(8, thread_name_prefix="look-up") for _ in range(_SCOUTS)]
    try:
        asked = {
            pool.submit(_ask, provider, model[1]): model
            for model in models
            for pool, provider in zip(pools, talking[model[0]], strict=False)
        }
        deadline = time.monotonic() + _LOOK_UP_SECONDS
        waiting = set(asked)
        while waiting and time.monotonic() < deadline and not enough():
            found = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
            for future in found.done:
                if future.exception() is None and (terms := future.result()) != Terms():
                    told.setdefault(asked[future], terms)
            waiting = {future for future in found.not_done if asked[future] not in told}
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    return told


def _ask(provider: Provider, model: str) -> Terms:
    return Terms(
        provider.price(model) if isinstance(provider, PriceList) else None,
        provider.context_window(model) if isinstance(provider, ModelCatalogue) else None,
    )


def _asked(provider: Provider) -> tuple[Provider, ...]:
    return provider.asked if isinstance(provider, Scouts) else (provider,)


def close_providers(providers: Mapping[str, Provider]) -> None:
    """Frees what providers built by us hold."""
    for provider in providers.values():
        _close(provider)


def _close(provider: Provider) -> None:
    # No part of the protocol: not all have something to close.
    close: Callable[[], None] | None = getattr(provider, "close", None)
    if close is not None:
        close()
