"""A moody server and its traffic, simulated: the real schedule and its policies, with a clock that jumps.

    Mood, Mood … ─► MoodyServer ◄── request ── drive ◄── take, next_due ── Schedule ── Endpoint ── policies
                        └─ answer, refusal, failure ─► release ──────────────┘

Nothing sleeps and nothing is sent: minutes take a second, and the same seed gives the same traffic.
`tests/test_simulate_traffic.py` asks how well it is driven, `scripts/simulate_traffic` draws it.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from parallamr_mp.models import Failure
from parallamr_mp.policy.adaptive import AdaptiveLimit
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.endpoint import Endpoint
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.retry import RetryPolicy, counts_against
from parallamr_mp.policy.schedule import Schedule

KEY = "sim"
Latency = Callable[[random.Random], float]


def lognormal(median: float, sigma: float) -> Latency:
    """Seconds that an answer takes: most about the median, some much longer."""
    return lambda chance: chance.lognormvariate(math.log(median), sigma)


# ── the server ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Mood:
    """What the server is like from a time on."""

    since: float
    at_once: int
    """More than so many at once are refused."""
    rpm: int | None = None
    """More than so many in the last minute are refused, with a `Retry-After`."""
    retry_after: float | None = None
    """What a refusal of too many at once says."""
    down: bool = False
    """Connections are refused, and those that were open are reset."""


@dataclass
class MoodyServer:
    """Takes requests at times that never go back, and says when the parent hears what."""

    moods: Sequence[Mood]
    latency: Latency
    chance: random.Random
    refusal: tuple[float, float] = (0.05, 0.1)
    """Seconds in which a refusal comes back, at least and at most."""
    _until: list[float] = field(default_factory=list)
    """Heap of when requests in work will be done."""
    _minute: deque[float] = field(default_factory=deque)
    """When requests of the last minute were taken."""

    def mood(self, now: float) -> Mood:
        return self.moods[bisect_right(self.moods, now, key=lambda mood: mood.since) - 1]

    def request(self, now: float) -> tuple[float, Failure | None]:
        """→ when it comes back, and why it failed if it did"""
        while self._until and self._until[0] <= now:
            heapq.heappop(self._until)
        while self._minute and self._minute[0] <= now - 60:
            self._minute.popleft()
        mood = self.mood(now)
        back = now + self.chance.uniform(*self.refusal)
        if mood.down:
            return now + 0.01, Failure("connection", "connection refused", retryable=True, unreached=True)
        if mood.rpm is not None and len(self._minute) >= mood.rpm:
            wish = math.ceil(self._minute[-mood.rpm] + 60 - now)
            return back, _refused(wish)
        if len(self._until) >= mood.at_once:
            return back, _refused(mood.retry_after)
        self._minute.append(now)
        done = now + self.latency(self.chance)
        outage = next((later.since for later in self.moods if later.down and now < later.since <= done), None)
        if outage is not None:
            return outage, Failure("connection", "connection reset", retryable=True, unknown=True)
        heapq.heappush(self._until, done)
        return done, None


def _refused(retry_after: float | None) -> Failure:
    return Failure(
        "http", "429 Too Many Requests", retryable=True, retry_after=retry_after, refused=True, status=429
    )


# ── the driver ───────────────────────────────────────────────────────────────


@dataclass
class Record:
    """What has happened: times in seconds since the start."""

    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    limits: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, limit, in flight: after each change."""
    lost: int = 0
    """Jobs that were given up."""

    @property
    def waste(self) -> float:
        """Share of the requests that were refused."""
        return len(self.refused) / max(1, len(self.sent))

    def limit(self, start: float, end: float) -> float:
        """Median over the time."""
        held: list[tuple[int, float]] = []
        for (time, limit, _), (until, _, _) in zip(self.limits, self.limits[1:], strict=False):
            if (span := min(end, until) - max(start, time)) > 0:
                held.append((limit, span))
        half = sum(span for _, span in held) / 2
        for limit, span in sorted(held):
            half -= span
            if half <= 0:
                return limit
        return math.nan


def endpoint(
    chance: random.Random, *, ceiling: int = 1000, rpm: float | None = None, start: int = 4
) -> Endpoint:
    return Endpoint(
        "http://sim",
        "sim",
        limit=AdaptiveLimit(ceiling, start=start),
        breaker=CircuitBreaker(uniform=chance.uniform),
        limits=Limits(rpm=rpm),
        uniform=chance.uniform,
    )


def drive(
    server: MoodyServer, driven: Endpoint, *, requests: float = math.inf, seconds: float = math.inf
) -> Record:
    """Does what the dispatcher does, until so many jobs have ended or so much time is over."""
    chance = server.chance
    schedule = Schedule(pools={KEY: Pool([driven])})
    retry = RetryPolicy(retry_unknown=frozenset({KEY}), uniform=chance.uniform)
    record = Record()
    coming: list[tuple[float, int, Job, Failure | None]] = []
    now, added, ended = 0.0, 0, 0
    while ended < requests and now < seconds:
        while schedule.parked < 10 and added < requests:
            schedule.add(Job(added, KEY, None))
            added += 1
        if (job := schedule.take(now)) is not None:
            job.attempts += 1
            record.sent.append(now)
            back, failure = server.request(now)
            heapq.heappush(coming, (back, len(record.sent), job, failure))
            _note(record, now, driven)
            continue
        due = schedule.next_due()
        if coming and (due is None or coming[0][0] <= due):
            now, _, job, failure = heapq.heappop(coming)
            ended += _ended(schedule, retry, record, now, job, failure)
        elif due is None:
            raise AssertionError(
                "nothing is in flight, and nothing is due: the traffic stands still for ever"
            )
        else:
            assert due > now, "woken up for nothing"
            now = due
        _note(record, now, driven)
    return record


def _ended(
    schedule: Schedule, retry: RetryPolicy, record: Record, now: float, job: Job, failure: Failure | None
) -> bool:
    """One request has come back. → whether its job has ended"""
    grant = job.grant
    assert grant is not None
    schedule.release(job, now, Report(now - grant.at, failure))
    if failure is None:
        record.answered.append(now)
        return True
    (record.refused if failure.refused else record.failed).append(now)
    job.strikes += counts_against(failure, probe=grant.probe)
    if job.troubled_since is None:
        job.troubled_since = now
    delay = retry.delay(failure, job.strikes, KEY, now - job.troubled_since)
    if delay is None:
        record.lost += 1
        return True
    schedule.wait(job, now + delay)
    return False


def _note(record: Record, now: float, driven: Endpoint) -> None:
    record.limits.append((now, driven.limit.limit(now), driven.in_flight))


def counted(times: Iterable[float], seconds: int) -> list[int]:
    """How many in each second."""
    counts = [0] * seconds
    for time in times:
        if time < seconds:
            counts[int(time)] += 1
    return counts
