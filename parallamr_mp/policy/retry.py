"""Whether a failed attempt is made again, and when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from parallamr_mp.models import Failure

LONGEST_WISH = 3600.0
"""Seconds of a `Retry-After` that are believed: a date in 9999 must not hold a run for ever."""
_GATEWAY = (502, 503)
"""What a proxy says for a server that is not there."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter, on failures that deserve it only, bounded in number and time.

    Those are the retryable ones, for every provider, and those whose outcome is
    unknown for the providers in `retry_unknown`: asking these again may pay for
    the same work twice.

    The wait after the n-th failure is uniform in [0, min(cap, base * 2^(n-1))]
    seconds ("full jitter", Marc Brooker, AWS Architecture Blog, 2015); a
    server's `Retry-After` is waited for in full, and the jitter comes on top so
    that all rows it was said to do not come back in the same instant.

    A refusal (429, overload) needs no wait of its own: the whole endpoint cools
    down. Like a server that is not there, it costs time only, not an attempt.
    """

    max_retries: int = 5
    base: float = 1.0
    """Seconds."""
    cap: float = 60.0
    """Seconds."""
    longest: float = LONGEST_WISH
    max_wait: float = math.inf
    """Seconds after its first failure that a job is tried again."""
    retry_unknown: frozenset[str] = frozenset()
    """Providers that are asked again when nobody knows what became of the last request."""
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failure: Failure, strikes: int, provider: str, waited: float = 0.0) -> float | None:
        """Seconds to wait before the next attempt at `provider`, or None: this failure is final.

        `strikes` are the failures so far that count (see `counts_against`), this
        one included if it does; `waited` the seconds since the first failure.
        """
        if not self.deserves(failure, strikes, provider):
            return None
        if failure.refused:
            return 0.0 if waited <= self.max_wait else None
        doublings = min(max(strikes - 1, 0), 1000)  # 2.0 ** 1024 is an OverflowError
        jitter = self.uniform(0.0, min(self.cap, self.base * 2.0**doublings))
        delay = min(failure.retry_after or 0.0, self.longest) + jitter
        return delay if waited + delay <= self.max_wait else None

    def deserves(self, failure: Failure, strikes: int, provider: str) -> bool:
        """Whether another attempt is made if there is time for it."""
        again = provider in self.retry_unknown if failure.unknown else failure.retryable
        return again and strikes <= self.max_retries


def counts_against(failure: Failure, *, probe: bool) -> bool:
    """Whether a failure uses up one of the attempts.

    Not one of a server that was not there or turned the request away. Nor one
    that was sent to see whether the server is back, when a proxy says it is not.
    """
    return not (failure.refused or failure.unreached or (probe and failure.status in _GATEWAY))
