"""Whether a failed attempt is made again, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from parallamr_mp.models import Failure


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter, on failures that deserve it only, bounded in number.

    Those are the retryable ones, for every provider, and those whose outcome is
    unknown for the providers in `retry_unknown`: asking these again may pay for
    the same work twice.

    The wait before attempt n+1 is uniform in [0, min(cap, base * 2^(n-1))]
    seconds ("full jitter", Marc Brooker, AWS Architecture Blog, 2015); a
    server's `Retry-After` is waited for in full, and the jitter comes on top so
    that all rows it was said to do not come back in the same instant.
    """

    max_retries: int = 5
    base: float = 1.0
    """Seconds."""
    cap: float = 60.0
    """Seconds."""
    longest: float = 3600.0
    """Seconds of a `Retry-After` that are believed: a date in 9999 must not hold a run for ever."""
    retry_unknown: frozenset[str] = frozenset()
    """Providers that are asked again when nobody knows what became of the last request."""
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failure: Failure, attempts: int, provider: str) -> float | None:
        """Seconds to wait before the next attempt at `provider`, or None: this failure is final.

        `attempts` counts the requests made so far, the failed one included.
        """
        again = provider in self.retry_unknown if failure.unknown else failure.retryable
        if not again or attempts > self.max_retries:
            return None
        doublings = min(attempts - 1, 1000)  # 2.0 ** 1024 is an OverflowError
        jitter = self.uniform(0.0, min(self.cap, self.base * 2.0**doublings))
        return min(failure.retry_after or 0.0, self.longest) + jitter
