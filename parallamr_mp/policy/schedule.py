"""Which job is leased next.

A lease is the concurrency token: `take` charges the limits and `release` gives
back, both called by the one loop that owns the leases, so that a killed worker
cannot leak a token and nothing is shared between processes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallamr_mp.models import Failure


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work and what has happened to it so far. Owned by the dispatcher."""

    id: int
    """Ordinal: earlier input has a smaller one, and goes first."""
    key: str
    """What limits are counted by: the provider."""
    payload: Any
    attempts: int = 0
    """Leases so far."""
    deaths: int = 0
    """Workers that died while they held this job."""
    size: int = 0
    """About how many bytes it keeps in memory while it waits here."""
    label: str = ""
    """What it is called in messages to people."""
    route: str = ""
    """Where it goes, set when it is taken: one of its key's endpoints; empty where there is no choice."""
    verdict: Failure | None = None
    """Set when reading already showed that there is nothing to ask: the job is never leased."""


class Schedule:
    """Ready and waiting jobs under limits of how many may be in flight. Pure: time is an argument."""

    def __init__(self, limits: Mapping[str, int] | None = None, total: int | None = None) -> None:
        """`limits`: most leases at once by key, where there is one; `total`: most of all keys."""
        self._limits = dict(limits or {})
        self._total = total
        self._in_flight: dict[str, int] = {}
        self._flying = 0
        self._ready: dict[str, list[tuple[int, Job]]] = {}
        self._ready_count = 0
        self._waiting: list[tuple[float, int, Job]] = []
        self.parked_bytes = 0
        """Sizes of the jobs that are held here."""

    def add(self, job: Job) -> None:
        """Makes the job ready now."""
        self.parked_bytes += job.size
        self._make_ready(job)

    def _make_ready(self, job: Job) -> None:
        heapq.heappush(self._ready.setdefault(job.key, []), (job.id, job))
        self._ready_count += 1

    def wait(self, job: Job, due: float) -> None:
        """Makes the job ready at the time `due`."""
        self.parked_bytes += job.size
        heapq.heappush(self._waiting, (due, job.id, job))

    def take(self, now: float) -> Job | None:
        """The earliest job whose key has room, charged as in flight; None when there is none."""
        while self._waiting and self._waiting[0][0] <= now:
            self._make_ready(heapq.heappop(self._waiting)[2])
        if self._total is not None and self._flying >= self._total:
            return None
        best: list[tuple[int, Job]] | None = None
        for key, queue in self._ready.items():
            if queue and self._has_room(key) and (best is None or queue[0][0] < best[0][0]):
                best = queue
        if best is None:
            return None
        job = heapq.heappop(best)[1]
        self._ready_count -= 1
        self.parked_bytes -= job.size
        self._flying += 1
        self._in_flight[job.key] = self._in_flight.get(job.key, 0) + 1
        return job

    def release(self, job: Job) -> None:
        """The lease of this job has ended."""
        self._flying -= 1
        self._in_flight[job.key] -= 1

    def _has_room(self, key: str) -> bool:
        limit = self._limits.get(key)
        return limit is None or self._in_flight.get(key, 0) < limit

    @property
    def full(self) -> bool:
        """Whether the total limit alone forbids another lease."""
        return self._total is not None and self._flying >= self._total

    @property
    def parked(self) -> int:
        """Jobs that are held here: ready, or waiting for their time."""
        return self._ready_count + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Jobs that wait for their time."""
        return len(self._waiting)

    def next_due(self) -> float | None:
        """When the next waiting job becomes ready."""
        return self._waiting[0][0] if self._waiting else None
