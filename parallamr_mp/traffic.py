"""The rules of the road for one run: its configuration made into policies, kept up to date while it runs.

    RunConfig ─► limits, thresholds ──┐
    Fleet ─────► pools of endpoints ──┼─► Schedule, RetryPolicy, Thresholds ─► Dispatcher
       ▲ endpoints file, re-read      │
       └──── housekeep ◄──────────────┘

Used in the parent, by the dispatcher's thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from parallamr_mp import events
from parallamr_mp.config import DEFAULT_LIMITS, EndpointSpec, RunConfig
from parallamr_mp.fleet import Fleet
from parallamr_mp.models import Status
from parallamr_mp.policy.adaptive import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.budget import Budget
from parallamr_mp.policy.endpoint import Endpoint
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule
from parallamr_mp.policy.thresholds import Thresholds
from parallamr_mp.providers.base import Provider, is_free
from parallamr_mp.providers.endpoints import shown_url


class Traffic:
    """One run's policies."""

    def __init__(
        self,
        config: RunConfig,
        providers: Mapping[str, Provider],
        fleet: Fleet,
        bus: events.EventBus,
        *,
        stop_at: float | None = None,
        stop_words: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`providers`: those that the table names; `stop_at`: when no request is sent any more, and why."""
        self._config, self._providers, self._fleet, self._bus = config, providers, fleet, bus
        self._capacity = max(1, config.procs) * config.threads
        if config.total_limit is not None:
            self._capacity = min(self._capacity, config.total_limit)
        self.retry = RetryPolicy(
            config.max_retries, max_wait=config.max_wait, retry_unknown=self._asked_again()
        )
        self.thresholds = Thresholds(
            fail_fast=config.fail_fast,
            max_errors=config.max_errors,
            max_error_share=config.max_error_share,
            stop_at=stop_at,
            stop_words=stop_words,
        )
        self._known: dict[tuple[str, str], Endpoint] = {}
        """Every endpoint there has been, by provider and URL: one that comes back may still be at work."""
        pools = {name: Pool(self._endpoints(name, ()), clock()) for name in providers}
        self.schedule = Schedule(
            self._limits(),
            config.total_limit,
            pools=pools,
            budget=Budget(config.max_cost),
            max_wait=config.max_wait,
        )

    def note(self, event: events.Event) -> None:
        """A handler for the bus: counts what thresholds are about."""
        if isinstance(event, events.RowDone):
            self.thresholds.note(event.status is Status.ERROR)

    def housekeep(self, now: float) -> None:
        """Looks after what may change while the run is on: the endpoints file."""
        changed = self._fleet.reread(now)
        for notice in self._fleet.take_notices():
            self._bus.publish(events.Notice(notice))
        for name in self._providers if changed else ():
            pool = self.schedule.pool(name)
            if pool is not None:
                pool.replace(self._endpoints(name, pool.endpoints), now)

    def _asked_again(self) -> frozenset[str]:
        """The providers that are sent a request again whose outcome is unknown."""
        if self._config.retry_unknown is None:
            return frozenset(name for name, provider in self._providers.items() if is_free(provider))
        return frozenset(self._providers if self._config.retry_unknown else ())

    def _limits(self) -> dict[str, Limits]:
        config = self._config
        scopes = {*config.limits, *config.rpm, *config.tpm}
        return {
            scope: Limits(config.limits.get(scope), config.rpm.get(scope), config.tpm.get(scope))
            for scope in scopes
        }

    def _endpoints(self, provider: str, present: Sequence[Endpoint]) -> list[Endpoint]:
        """The provider's endpoints as they are now; those that it had keep what they have learnt."""
        endpoints = []
        for spec in self._fleet.of(provider):
            limits = Limits(self._concurrency(spec), spec.rpm, spec.tpm)
            endpoint = self._known.get((provider, spec.url))
            if endpoint is None:
                endpoint = self._known[provider, spec.url] = self._endpoint(spec, limits)
            elif endpoint not in present:
                endpoint.revive(self._breaker())
            endpoint.weight, endpoint.limits = spec.weight, limits
            endpoint.limit.ceiling = self._ceiling(limits)
            endpoints.append(endpoint)
        return endpoints

    def _concurrency(self, spec: EndpointSpec) -> int | None:
        if spec.concurrency is None and spec.provider not in self._config.limits:
            return DEFAULT_LIMITS.get(spec.provider)
        return spec.concurrency

    def _ceiling(self, limits: Limits) -> int:
        return min(self._capacity, limits.concurrency or self._capacity)

    def _breaker(self) -> CircuitBreaker:
        return CircuitBreaker(self._config.breaker_failures)

    def _endpoint(self, spec: EndpointSpec, limits: Limits) -> Endpoint:
        ceiling = self._ceiling(limits)
        adaptive = self._config.adaptive
        if adaptive is None:
            adaptive = not is_free(self._providers[spec.provider])
        limit: ConcurrencyLimit = AdaptiveLimit(ceiling) if adaptive else FixedLimit(ceiling)
        return Endpoint(
            spec.url,
            shown_url(spec.url) or spec.provider,
            limit=limit,
            breaker=self._breaker(),
            limits=limits,
            weight=spec.weight,
        )
