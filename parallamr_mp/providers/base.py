"""The seam between a sweep and the kinds of API it can ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import requests

    from parallamr_mp.models import ChatRequest, ModelInfo, Reply
    from parallamr_mp.tariff import Price


class Provider(Protocol):
    """A kind of API that answers one chat request at a time.

    Called from many threads of one worker process at once: an implementation
    keeps no per-request state on itself. A third party adds one by naming a
    `ProviderFactory` as an entry point of the group `parallamr_mp.providers`.

    It may have an attribute `free_of_charge = True`, on the class or on the
    instance: see `is_free`.
    """

    def complete(self, request: ChatRequest) -> Reply:
        """Asks once and returns the answer.

        Raises `ProviderError` when there is none. Must not retry and must not
        sleep for a retry: the dispatcher decides about both.
        """
        ...


def is_free(provider: Provider) -> bool:
    """Whether to ask twice costs nothing but time, so that a request whose outcome is unknown is sent again.

    A provider says so itself, by `free_of_charge = True`; who says nothing may
    cost money. A base URL tells nothing: on localhost may be a proxy to an API
    that is paid for.
    """
    return getattr(provider, "free_of_charge", False) is True


@runtime_checkable
class ModelCatalogue(Protocol):
    """What a provider may offer besides: which models it has. Called in the parent, once a run."""

    def list_models(self) -> list[ModelInfo]:
        """All models on offer, in the server's order. Raises `ProviderError`."""
        ...

    def context_window(self, model: str) -> int | None:
        """The model's context window in tokens, or None when the server does not tell. Never raises."""
        ...


@runtime_checkable
class PriceList(Protocol):
    """What a provider may offer besides: what its models cost. Called in the parent, once a run."""

    def price(self, model: str) -> Price | None:
        """The model's price, or None when the server does not tell. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What a factory is given to build a provider in the process that will use it."""

    timeout: float = 300.0
    """Total seconds one request may take, from sending to the last byte."""
    session: requests.Session | None = None
    """The session to use for every request, or None: make one."""
    threads: int = 8
    """How many threads will call at once."""
    base_url: str | None = field(default=None, repr=False)
    """The endpoint to ask, where the run names one: instead of what the environment says. A secret."""
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    """Holds keys, and is not shown for that reason."""


ProviderFactory = Callable[[ProviderSettings], Provider]
"""Builds a provider. Raises `MissingKey` or `BadInput` when the environment does not allow it."""
