"""What servers say of their models, asked once a run, in the parent, before the first request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace

from parallamr_mp.config import EndpointSpec
from parallamr_mp.models import ChatRequest, Reply
from parallamr_mp.providers.base import ModelCatalogue, Provider, ProviderSettings, is_free
from parallamr_mp.providers.registry import build_provider

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


def look_up_windows(
    models: Iterable[tuple[str, str]],
    providers: Mapping[str, Provider],
    enough: Callable[[], bool] = lambda: False,
) -> dict[tuple[str, str], int]:
    """Context windows in tokens by (provider, model), asked once a run of the servers that tell.

    Of several endpoints of a provider the first that tells counts. A server that
    does not answer within ten seconds, or before it is `enough`, leaves its
    models out.
    """
    catalogues = {name: _catalogues(provider) for name, provider in providers.items()}
    models = [model for model in models if catalogues.get(model[0])]
    windows: dict[tuple[str, str], int] = {}
    if not models:
        return windows
    # A pool for all that come first, one for all that come second, …: an endpoint that hangs may keep
    # every thread of its pool, and must not keep those of an endpoint that would tell.
    pools = [ThreadPoolExecutor(8, thread_name_prefix="look-up") for _ in range(_SCOUTS)]
    try:
        asked = {
            pool.submit(catalogue.context_window, model): (provider, model)
            for provider, model in models
            for pool, catalogue in zip(pools, catalogues[provider], strict=False)
        }
        deadline = time.monotonic() + _LOOK_UP_SECONDS
        waiting = set(asked)
        while waiting and time.monotonic() < deadline and not enough():
            found = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
            for future in found.done:
                if future.exception() is None and (window := future.result()) is not None:
                    windows.setdefault(asked[future], window)
            waiting = {future for future in found.not_done if asked[future] not in windows}
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    return windows


def _catalogues(provider: Provider) -> list[ModelCatalogue]:
    asked = provider.asked if isinstance(provider, Scouts) else (provider,)
    return [each for each in asked if isinstance(each, ModelCatalogue)]


def close_providers(providers: Mapping[str, Provider]) -> None:
    """Frees what providers built by us hold."""
    for provider in providers.values():
        _close(provider)


def _close(provider: Provider) -> None:
    # No part of the protocol: not all have something to close.
    close: Callable[[], None] | None = getattr(provider, "close", None)
    if close is not None:
        close()
