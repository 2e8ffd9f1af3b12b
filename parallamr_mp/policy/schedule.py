"""Which job is leased next, and to which endpoint.

    add, wait ──► lanes: one a (key, model), each a heap by id
                    │ take(now): the earliest job whose lane has room
                    ▼
    budget ─ total ─ key's quota ─ model's quota ─ Pool.choose ─► Grant
                    ▲
    release(job, now, report) gives back, corrects by what was really used, and lets the endpoint learn

A lease is the concurrency token: `take` charges the limits and `release` gives
back, both called by the one loop that owns the leases, so that a killed worker
cannot leak a token and nothing is shared between processes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from parallamr_mp.models import Failure
from parallamr_mp.policy.adaptive import FixedLimit
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.budget import Budget
from parallamr_mp.policy.endpoint import Endpoint, News, is_trouble
from parallamr_mp.policy.estimate import TokenEstimator
from parallamr_mp.policy.job import Grant, Job, Report
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits, Quota
from parallamr_mp.policy.retry import LONGEST_WISH
from parallamr_mp.text import usd

_UNLIMITED = 1 << 30
_ONE_MODEL_COOLS = 5.0
"""Seconds that a model is kept away from where the server did not say how long."""


class _Key:
    """What the lanes of one key share."""

    def __init__(self, quota: Quota, pool: Pool) -> None:
        self.quota, self.pool = quota, pool
        self.lanes: list[_Lane] = []
        self.ready = 0
        """Its jobs that are ready."""
        self.open = 0
        """Its lanes with such jobs."""
        self.parked = 0
        """Its jobs that are ready, or wait for their time."""


class _Lane:
    """The jobs of one model of one key, and what is counted by model."""

    def __init__(self, name: str, key: _Key, quota: Quota) -> None:
        """`name`: the key's."""
        self.name, self.key, self.pool = name, key, key.pool
        self.quotas = tuple(each for each in (key.quota, quota) if each.limited)
        """The key's and the model's, as far as they limit anything."""
        self.ready: list[tuple[int, Job]] = []
        self.cool_until = 0.0
        """When the model is asked again, of which alone a server said that it is too busy."""
        self.failed_at = -math.inf
        """When its last outcome came, if that was a failure that the endpoint may be blamed for."""
        self.estimator = TokenEstimator()

    def push(self, job: Job) -> None:
        """The job is ready."""
        if not self.ready:
            self.key.open += 1
        self.key.ready += 1
        heapq.heappush(self.ready, (job.id, job))

    def pop(self) -> Job:
        """Takes out the earliest."""
        job = heapq.heappop(self.ready)[1]
        self.key.ready -= 1
        if not self.ready:
            self.key.open -= 1
        return job


class Schedule:
    """Ready and waiting jobs under limits. Pure: time is an argument, in monotonic seconds."""

    def __init__(
        self,
        limits: Mapping[str, Limits] | None = None,
        total: int | None = None,
        *,
        pools: Mapping[str, Pool] | None = None,
        budget: Budget | None = None,
        max_wait: float = math.inf,
    ) -> None:
        """`limits` by key (`openai`) or by key and model (`openai/gpt-4o`); `total`: most leases of all keys.

        Jobs of a key without a pool all have the route "". Jobs whose pool is
        out of order for `max_wait` seconds are given up: see `expired`.
        """
        self._limits = dict(limits or {})
        self._total, self._max_wait = total, max_wait
        self._pools = dict(pools or {})
        self._budget = budget or Budget(None)
        self._keys: dict[str, _Key] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._flying = 0
        self._waiting: list[tuple[float, int, Job]] = []
        self._soonest = math.inf
        """When the last `take` might have found something, had it come later."""
        self.broke = ""
        """What the money lacks, if the last `take` found nothing else that keeps the jobs, and none flies."""
        self.parked_bytes = 0
        """Sizes of the jobs that are held here."""

    # ── in ───────────────────────────────────────────────────────────────────

    def add(self, job: Job) -> bool:
        """Makes the job ready now. False: others of its model go first, and what keeps those keeps it."""
        lane = self._park(job)
        lane.push(job)
        return lane.ready[0][1] is job

    def wait(self, job: Job, due: float) -> None:
        """Makes the job ready at the time `due`."""
        self._park(job)
        heapq.heappush(self._waiting, (due, job.id, job))

    def _park(self, job: Job) -> _Lane:
        lane = self._lanes.get((job.key, job.model)) or self._open_lane(job.key, job.model)
        lane.key.parked += 1
        self.parked_bytes += job.size
        return lane

    def _take_out(self, lane: _Lane) -> Job:
        """The lane's first job, which is held here no longer."""
        job = lane.pop()
        lane.key.parked -= 1
        self.parked_bytes -= job.size
        return job

    def _open_lane(self, name: str, model: str) -> _Lane:
        key = self._keys.get(name)
        if key is None:
            pool = self._pools.get(name)
            if pool is None:
                plain = Endpoint("", name, limit=FixedLimit(_UNLIMITED), breaker=CircuitBreaker())
                pool = self._pools[name] = Pool([plain])
            key = self._keys[name] = _Key(Quota(self._limits.get(name, Limits())), pool)
        quota = Quota(self._limits.get(f"{name}/{model}", Limits()))
        lane = self._lanes[name, model] = _Lane(name, key, quota)
        key.lanes.append(lane)
        return lane

    # ── out ──────────────────────────────────────────────────────────────────

    def take(self, now: float) -> Job | None:
        """The earliest job that may go, charged as in flight and with its route; None when there is none."""
        while self._waiting and self._waiting[0][0] <= now:
            job = heapq.heappop(self._waiting)[2]
            self._lanes[job.key, job.model].push(job)
        self._soonest, self.broke = math.inf, ""
        if self._total is not None and self.full:
            return None
        found = self._earliest(now)
        if found is None:
            return None
        lane, endpoint, tokens = found
        if endpoint.breaker.since is not None:  # its next lease is to show if it is back
            lane, endpoint, tokens = self._prober(now, lane, endpoint, tokens)
        job = self._take_out(lane)
        self._flying += 1
        for quota in lane.quotas:
            quota.charge(now, tokens)
        if self._budget.cap is not None:
            self._budget.reserve(job.cost)
        if job.prefixes:
            lane.pool.leased(job, endpoint)
        job.grant = endpoint.lease(now, job, tokens)
        job.route = endpoint.url
        return job

    def _earliest(self, now: float) -> tuple[_Lane, Endpoint, int] | None:
        """Whose first job goes next, where to, and how many tokens it is expected to take."""
        best: tuple[_Lane, Endpoint, int] | None = None
        first: float = math.inf
        limited = self._budget.cap is not None
        only_money = limited and any(key.ready for key in self._keys.values())
        for lane in self._open_lanes(now):
            if not lane.ready or lane.ready[0][0] > first:
                continue
            job = lane.ready[0][1]
            if limited and not self._budget.fits(job.cost):
                only_money = only_money and self._budget.hopeless(job.cost)
                continue
            only_money = False
            tokens = lane.estimator.expect(job.characters, job.max_tokens)
            endpoint, wait = self._place(now, lane, job, tokens)
            if endpoint is None:
                self._soonest = min(self._soonest, now + wait)
            else:
                best, first = (lane, endpoint, tokens), job.id
        if best is None and only_money and not self._flying and not self._waiting:
            self.broke = self._shortage()
        return best

    def _open_lanes(self, now: float) -> list[_Lane]:
        """The lanes of keys that take anything now; thousands of one that does not are not asked each."""
        open_: list[_Lane] = []
        for key in self._keys.values():
            if not key.ready:
                continue
            # Before a run ends for want of money, each job must have told that money alone keeps it.
            if len(key.lanes) > 1 and (self._budget.cap is None or self._flying):
                wait = max(key.quota.wait(now, 1), key.pool.wait(now))
                if wait > 0:
                    self._soonest = min(self._soonest, now + wait)
                    continue
            open_ += key.lanes
        return open_

    def _prober(
        self, now: float, lane: _Lane, endpoint: Endpoint, tokens: int
    ) -> tuple[_Lane, Endpoint, int]:
        """Who goes to see whether an endpoint is back: the first of the model that failed longest ago.

        The earliest job's model may be what the endpoint fails on, each time: all
        others would wait behind it, and be given up as if the endpoint were down.
        """
        lanes = [other for other in lane.key.lanes if other.ready]
        for other in sorted(lanes, key=lambda lane: (lane.failed_at, lane.ready[0][0])):
            job = other.ready[0][1]
            if self._budget.fits(job.cost):
                expected = other.estimator.expect(job.characters, job.max_tokens)
                place, _ = self._place(now, other, job, expected)
                if place is not None:
                    return other, place, expected
        return lane, endpoint, tokens

    def _shortage(self) -> str:
        costs = [lane.ready[0][1].cost for lane in self._lanes.values() if lane.ready]
        cap = self._budget.cap or 0.0
        left = max(0.0, cap - self._budget.spent)
        text = f"the next row may cost {usd(min(costs))} USD, and {usd(left)} are left"
        if self._budget.spent:
            return f"{text} of --max-cost {cap:g}"
        return f"{text} of --max-cost {cap:g}: raise it, or limit answers, as with --param max_tokens=500"

    @staticmethod
    def _place(now: float, lane: _Lane, job: Job, tokens: int) -> tuple[Endpoint | None, float]:
        wait = lane.cool_until - now
        for quota in lane.quotas:
            wait = max(wait, quota.wait(now, tokens))
        return (None, wait) if wait > 0 else lane.pool.choose(now, job, tokens)

    # ── back ─────────────────────────────────────────────────────────────────

    def release(self, job: Job, now: float, report: Report | None = None, *, begun: bool = True) -> None:
        """The lease of this job has ended; without a report nobody knows what became of it.

        Not `begun`: nothing was sent.
        """
        grant = job.grant
        if grant is None:
            raise RuntimeError("a job is released that was not taken")
        job.grant = None
        self._flying -= 1
        lane = self._lanes[job.key, job.model]
        # It left when its worker began with it, which may have been late; of a dead one's nobody knows when.
        sent = max(grant.at, now - report.seconds) if report is not None else now
        used = self._used(lane, job, grant, report) if begun else 0
        for quota in lane.quotas:
            quota.release(grant.at, sent, grant.tokens, used, begun=begun)
        if self._budget.cap is not None:
            self._pay(grant, report, begun=begun)
        grant.endpoint.release(now, job, grant, sent, used, report, begun=begun)
        if report is None:
            return
        failure = report.failure
        lane.failed_at = now if failure is not None and is_trouble(failure) else -math.inf
        if failure is not None and failure.one_model:
            lane.cool_until = max(
                lane.cool_until, now + min(failure.retry_after or _ONE_MODEL_COOLS, LONGEST_WISH)
            )

    def _pay(self, grant: Grant, report: Report | None, *, begun: bool) -> None:
        if not begun:
            self._budget.settle(grant.cost, None)
        elif report is None or (report.failure is not None and report.failure.unknown):
            self._budget.keep(grant.cost)
        elif report.failure is not None and report.failure.kind != "bad_reply":
            self._budget.settle(grant.cost, None)
        elif report.cost is None:
            self._budget.keep(grant.cost)  # it was answered, and nobody knows for how much
        else:
            self._budget.settle(grant.cost, report.cost)

    @staticmethod
    def _used(lane: _Lane, job: Job, grant: Grant, report: Report | None) -> int:
        """Tokens that a server will have counted."""
        if report is None:
            return grant.tokens
        if (failure := report.failure) is not None:
            return 0 if failure.refused or failure.unreached else grant.tokens
        if report.input_tokens is None or report.output_tokens is None:
            return grant.tokens
        lane.estimator.learn(job.characters, report.input_tokens, report.output_tokens)
        return report.input_tokens + report.output_tokens

    # ── what cannot go on ────────────────────────────────────────────────────

    def expired(self, now: float) -> Iterator[tuple[Job, Failure]]:
        """Takes out the jobs of keys whose endpoints are all out of order, and have been for `max_wait`."""
        for lane in self._lanes.values():
            if not lane.ready:
                continue
            since = lane.pool.down_since(now)
            if since is None or now - since <= self._max_wait:
                continue
            last = next((e.last_failure for e in lane.pool.endpoints if e.last_failure is not None), None)
            if last is None:
                last = Failure("unreached", f"there is no endpoint of {lane.name}")
            why = f"out of order for more than {self._max_wait:g} s (--max-wait): {last.message}"
            while lane.ready:
                job = self._take_out(lane)
                if job.attempts:
                    yield job, replace(last, message=why)
                else:
                    yield job, replace(last, message=f"not asked; {why}", endpoint="", status=None)

    # ── what people are told ─────────────────────────────────────────────────

    def news(self) -> list[News]:
        """What has happened to endpoints since the last call."""
        told = []
        for pool in self._pools.values():
            for endpoint in pool.endpoints:
                told += endpoint.news
                endpoint.news.clear()
        return told

    def hold(self, now: float) -> str:
        """What rows wait for where endpoints are the reason and nothing is in flight; else empty."""
        lanes = () if self._flying else self._lanes.values()
        for lane in lanes:
            if not lane.ready:
                continue
            if not lane.pool.endpoints:
                return f"an endpoint of {lane.name}"
            pause, name = min((endpoint.pause(now), endpoint.name) for endpoint in lane.pool.endpoints)
            if pause > 0:
                return f"{name}, asked again in {pause:.0f} s"
        if not self._flying and 1.0 <= self._soonest - now < math.inf:
            return f"what limits leave room for, in {self._soonest - now:.0f} s"
        return ""

    def limit(self, now: float) -> int | None:
        """How many may be in flight at endpoints that find out how much they take; None: none does."""
        limits = [
            endpoint.limit.limit(now)
            for pool in self._pools.values()
            for endpoint in pool.endpoints
            if endpoint.adapts
        ]
        if not limits:
            return None
        return sum(limits) if self._total is None else min(sum(limits), self._total)

    def pool(self, key: str) -> Pool | None:
        """The endpoints of a key, where it has been given some."""
        return self._pools.get(key)

    @property
    def full(self) -> bool:
        """Whether the total limit alone forbids another lease."""
        return self._total is not None and self._flying >= self._total

    @property
    def parked(self) -> int:
        """Jobs that are held here: ready, or waiting for their time."""
        return sum(key.parked for key in self._keys.values())

    def parked_of(self, key: str) -> int:
        """The same, of one key."""
        known = self._keys.get(key)
        return 0 if known is None else known.parked

    def models_ready(self, key: str) -> int:
        """Models of one key that have ready jobs."""
        known = self._keys.get(key)
        return 0 if known is None else known.open

    def ready_of(self, key: str) -> int:
        """Jobs of one key that are ready."""
        known = self._keys.get(key)
        return 0 if known is None else known.ready

    @property
    def waiting(self) -> int:
        """Jobs that wait for their time."""
        return len(self._waiting)

    def next_due(self) -> float | None:
        """When the next `take` may find something by the passing of time alone; None: never."""
        due = min(self._soonest, self._waiting[0][0] if self._waiting else math.inf)
        return None if due == math.inf else due
