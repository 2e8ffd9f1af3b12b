"""One endpoint as its driver sees it: how much it takes, whether it is well, when to come back.

    wait ──► lease ──► release(report)
               │          ├─ answered: the limit may rise, the breaker closes, troubles are forgotten
               │          ├─ refused (429, overload): the limit falls; a cool-down for everybody, then a ramp
               │          └─ failed (no connection, time-out, 5xx): the breaker counts
               └─ charged against its own quota and what the server said is left

Whom it lets through when, its parts decide; here is what an ended lease means to each of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from parallamr_mp.models import Failure
from parallamr_mp.policy.adaptive import AdaptiveLimit, ConcurrencyLimit
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.job import Grant, Job, Report
from parallamr_mp.policy.quota import Limits, Quota
from parallamr_mp.policy.remainder import Remainder
from parallamr_mp.policy.retry import LONGEST_WISH

BACK_OFF = 1.0
"""Seconds of the first cool-down where the server asked to come later and did not say when."""
_LONGEST_BACK_OFF = 60.0


@dataclass(frozen=True, slots=True)
class News:
    """That an endpoint's state has changed, for people."""

    endpoint: str
    state: str
    """`open`: kept away from for a while; `cooling`: it asked to come later; `closed`: it is back."""
    seconds: float
    """Until it is asked again."""
    reason: str


class Endpoint:
    """One base URL of a key. Pure: time is an argument, in monotonic seconds."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        limit: ConcurrencyLimit,
        breaker: CircuitBreaker,
        limits: Limits | None = None,
        weight: float = 1.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`name` is how people are told of it: `url` may hold a password."""
        self.url, self.name, self.weight = url, name, weight
        self.limit, self.breaker = limit, breaker
        self._quota = Quota(limits or Limits())
        self._remainders: dict[str, Remainder] = {}
        self._uniform = uniform
        self.cool_until = 0.0
        self._refusals = 0
        """Episodes of refusals in a row without a wish of the server's."""
        self.down_since: float | None = None
        """When it failed or refused first without an answer since."""
        self.last_failure: Failure | None = None
        self._tokens_out = 0
        self.news: list[News] = []

    @property
    def in_flight(self) -> int:
        return self._quota.in_flight

    @property
    def limits(self) -> Limits:
        return self._quota.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._quota.change(limits)

    @property
    def load(self) -> float:
        """How busy it is for its weight, were it given one request more."""
        return (self._quota.in_flight + 1) / self.weight

    def wait(self, now: float, job: Job | None = None, tokens: int = 1) -> float:
        """Seconds until the job may be sent here; inf: until another one has come back. None: any job."""
        if now < self.cool_until:
            return self.cool_until - now
        wait = 0.0
        if self.breaker.since is not None and (wait := self.breaker.wait(now)) == math.inf:
            return wait
        if self._quota.in_flight >= self.limit.limit(now):
            change = self.limit.next_change(now)
            if change is None:
                return math.inf
            wait = max(wait, change - now)
        if self._quota.limited:
            wait = max(wait, self._quota.wait(now, tokens))
        remainder = self._remainders.get(job.model) if job is not None else None
        return wait if remainder is None else max(wait, remainder.wait(now))

    def lease(self, now: float, job: Job, tokens: int) -> Grant:
        """The job leaves."""
        probe = self.breaker.since is not None and self.breaker.leased(now)
        self._quota.charge(now, tokens)
        self.limit.leased(now, self._quota.in_flight)
        self._tokens_out += tokens
        if (remainder := self._remainders.get(job.model)) is not None:
            remainder.leased(tokens)
        return Grant(now, self, tokens, job.cost, probe)

    def release(
        self,
        now: float,
        job: Job,
        grant: Grant,
        sent: float,
        used: int,
        report: Report | None,
        *,
        begun: bool = True,
    ) -> None:
        """Its lease has ended; without a report nobody knows what became of it.

        Not `begun`: nothing was sent.
        """
        self._quota.release(grant.at, sent, grant.tokens, used, begun=begun)
        self._tokens_out -= grant.tokens
        if report is None:
            self.breaker.abandoned(grant.probe)
            return
        failure = report.failure
        said = report.allowance or (failure.allowance if failure is not None else None)
        if said is not None:
            remainder = self._remainders.setdefault(job.model, Remainder())
            remainder.told(now, said, self._quota.in_flight, self._tokens_out)
        if failure is None or not is_trouble(failure):
            self._well(now, grant)
        elif failure.refused:
            self._refused(now, grant, failure)
        elif failure.one_model:
            self._trouble(now, failure)
            self._alive(now, grant)  # the schedule keeps that model away
        else:
            self._failed(now, grant, failure)

    def revive(self, breaker: CircuitBreaker) -> None:
        """It was taken out and is there again: that it was in trouble before says nothing any more."""
        self.breaker = breaker
        self.down_since = self.last_failure = None
        self.news.clear()

    def blocked(self, now: float) -> bool:
        """Whether nothing may be sent here now, for it is in trouble."""
        return now < self.cool_until or self.breaker.since is not None

    def pause(self, now: float) -> float:
        """Seconds until it is asked again, where it is in trouble; else 0."""
        return max(0.0, self.cool_until - now, self.breaker.wait(now))

    @property
    def adapts(self) -> bool:
        return isinstance(self.limit, AdaptiveLimit)

    def _well(self, now: float, grant: Grant) -> None:
        self._alive(now, grant)
        self.limit.succeeded(now, grant.at, self._quota.in_flight + 1)
        self._refusals = 0
        self.down_since = None

    def _alive(self, now: float, grant: Grant) -> None:
        """It has answered, if only that it is too busy."""
        was_open = self.breaker.since is not None
        self.breaker.succeeded(now, grant.at, grant.probe)
        if was_open and self.breaker.since is None:
            # Those who waited must not all come at once to a server that has just come up.
            self.limit.cooled_down(now)
            self.news.append(News(self.name, "closed", 0.0, ""))

    def _refused(self, now: float, grant: Grant, failure: Failure) -> None:
        self._trouble(now, failure)
        self._alive(now, grant)
        if failure.one_model:
            return  # the schedule keeps that model away
        episode = self.limit.refused(now, grant.at, self._quota.in_flight + 1)
        if failure.retry_after:  # not 0: at once is what it has just refused
            self._cool(now, now + min(failure.retry_after, LONGEST_WISH), failure)
        elif episode and not (self.adapts and self.limit.limit(now) > 1):
            # Less at once does not help, or nobody asked for less: come later.
            span = min(_LONGEST_BACK_OFF, BACK_OFF * 2.0 ** min(self._refusals, 10))
            self._refusals += 1
            self._cool(now, now + span * self._uniform(0.5, 1.0), failure)

    def _cool(self, now: float, until: float, failure: Failure) -> None:
        if until > self.cool_until:
            self.cool_until = until
            self.limit.cooled_down(until)
            self.news.append(News(self.name, "cooling", until - now, failure.message))

    def _failed(self, now: float, grant: Grant, failure: Failure) -> None:
        self._trouble(now, failure)
        was_open = self.breaker.since is not None
        self.breaker.failed(now, grant.at, grant.probe)
        if not was_open and self.breaker.since is not None:
            self.news.append(News(self.name, "open", self.breaker.wait(now), failure.message))

    def _trouble(self, now: float, failure: Failure) -> None:
        self.last_failure = failure
        if self.down_since is None:
            self.down_since = now


def is_trouble(failure: Failure) -> bool:
    """Whether the endpoint is to blame, rather than what it was asked."""
    return failure.retryable or failure.unknown or failure.refused or failure.unreached
