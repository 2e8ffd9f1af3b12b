"""What servers say of their models, asked once a run, in the parent, before the first request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

from parallamr_mp.providers.base import ModelCatalogue, Provider

_LOOK_UP_SECONDS = 10.0
_LOOK_SECONDS = 0.1


def look_up_windows(
    models: Iterable[tuple[str, str]],
    providers: Mapping[str, Provider],
    enough: Callable[[], bool] = lambda: False,
) -> dict[tuple[str, str], int]:
    """Context windows in tokens by (provider, model), asked once a run of the servers that tell.

    A server that does not answer within ten seconds, or before it is `enough`,
    leaves its models out.
    """
    catalogues: dict[str, ModelCatalogue] = {
        name: provider for name, provider in providers.items() if isinstance(provider, ModelCatalogue)
    }
    models = [model for model in models if model[0] in catalogues]
    windows: dict[tuple[str, str], int] = {}
    if not models:
        return windows
    pool = ThreadPoolExecutor(8, thread_name_prefix="look-up")
    try:
        asked = {
            pool.submit(catalogues[provider].context_window, model): (provider, model)
            for provider, model in models
        }
        deadline = time.monotonic() + _LOOK_UP_SECONDS
        found = wait(asked, 0)
        while found.not_done and time.monotonic() < deadline and not enough():
            found = wait(asked, _LOOK_SECONDS)
        for future in found.done:
            if future.exception() is None and (window := future.result()) is not None:
                windows[asked[future]] = window
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return windows


def close_providers(providers: Mapping[str, Provider]) -> None:
    """Frees what providers built by us hold. `close` is no part of the protocol: not all have something."""
    for provider in providers.values():
        close: Callable[[], None] | None = getattr(provider, "close", None)
        if close is not None:
            close()
