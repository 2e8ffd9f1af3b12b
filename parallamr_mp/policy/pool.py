"""The endpoints of one key, and which of them a job goes to: the least busy that is well.

Jobs that begin alike go where such a job has been before, as long as that one
is not much busier than the others: it has the beginning in its prefix cache
(vLLM, SGLang and llama.cpp keep the attention keys and values of a shared
beginning and skip computing them again).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from parallamr_mp.policy.endpoint import Endpoint
from parallamr_mp.policy.job import Job

_PREFIXES = 4096
"""Beginnings that are remembered: a server's cache does not hold more either."""
_BUSIER = 1.25
"""How much busier than the least busy an endpoint may be and still be preferred."""


class Pool:
    """Pure: time is an argument, in monotonic seconds."""

    def __init__(self, endpoints: Iterable[Endpoint], now: float = 0.0) -> None:
        self.endpoints: Sequence[Endpoint] = ()
        self._warm: OrderedDict[int, set[str]] = OrderedDict()
        """Beginnings, and the endpoints that have had them."""
        self._empty_since: float | None = None
        self.replace(endpoints, now)

    def replace(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """From now on these; what is in flight at others goes on there."""
        self.endpoints = tuple(endpoints)
        if self.endpoints:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now

    def wait(self, now: float) -> float:
        """Seconds until some job may be sent somewhere, at the least; inf: until an outcome."""
        soonest = math.inf
        for endpoint in self.endpoints:
            if (wait := endpoint.wait(now)) <= 0:
                return 0.0
            soonest = min(soonest, wait)
        return soonest

    def choose(self, now: float, job: Job, tokens: int) -> tuple[Endpoint | None, float]:
        """The endpoint for this job, or None and seconds until there may be one; inf: until an outcome."""
        if len(self.endpoints) == 1:
            wait = self.endpoints[0].wait(now, job, tokens)
            return (self.endpoints[0], 0.0) if wait <= 0 else (None, wait)
        soonest, free = math.inf, []
        for endpoint in self.endpoints:
            wait = endpoint.wait(now, job, tokens)
            if wait <= 0:
                free.append(endpoint)
            else:
                soonest = min(soonest, wait)
        if not free:
            return None, soonest
        others: Sequence[Endpoint] = ()
        if job.troubled_since is not None:
            # Where it has failed, it goes only if nobody else is there.
            others = [endpoint for endpoint in free if endpoint.url != job.route]
        return self._best(others or free, job), 0.0

    def _best(self, free: Sequence[Endpoint], job: Job) -> Endpoint:
        least = min(free, key=_load)
        if not job.prefixes:
            return least
        bearable = least.load * _BUSIER + 1 / least.weight
        best = least
        for prefix in job.prefixes:
            warm = self._warm.get(prefix, ())
            known = [endpoint for endpoint in free if endpoint.url in warm and endpoint.load <= bearable]
            if known:
                best = min(known, key=_load)
                break
        return best

    def leased(self, job: Job, endpoint: Endpoint) -> None:
        """The job goes there."""
        for prefix in job.prefixes:
            self._warm.setdefault(prefix, set()).add(endpoint.url)
            self._warm.move_to_end(prefix)
        while len(self._warm) > _PREFIXES:
            self._warm.popitem(last=False)

    def down_since(self, now: float) -> float | None:
        """Since when no endpoint could be used; None: one can, or nobody knows better yet."""
        if not self.endpoints:
            return self._empty_since
        since = 0.0
        for endpoint in self.endpoints:
            if endpoint.down_since is None or not endpoint.blocked(now):
                return None
            since = max(since, endpoint.down_since)
        return since

    @property
    def in_flight(self) -> int:
        return sum(endpoint.in_flight for endpoint in self.endpoints)


def _load(endpoint: Endpoint) -> float:
    return endpoint.load
