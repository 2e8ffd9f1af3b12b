"""Whether something that keeps failing is asked again, and when: a circuit breaker."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """What a circuit breaker lets through: everything, nothing, one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Stops asking after failures in a row, or a share of failures, and finds out when asking is worth it.

    closed → open after `failures` failures in a row, or when of the last `of`
    outcomes a share of `share` or more failed → half-open after
    `base` * 2^k seconds, at most `cap`, k being the openings since the last
    success, ± 10 % → one probe: its success closes the breaker and forgets what
    was, its failure opens it again. A request that was leased before it
    opened says nothing about the time since: its outcome is ignored until the
    breaker has closed, and after that too.

    Pure: `now` is monotonic seconds. `uniform(low, high)` is the jitter's source.
    """

    def __init__(
        self,
        failures: int = 5,
        share: float = 0.5,
        of: int = 20,
        base: float = 1.0,
        cap: float = 30.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._failures = failures
        self._share = share
        self._base = base
        self._cap = cap
        self._uniform = uniform
        self._last: deque[bool] = deque(maxlen=of)
        """Whether each of the last outcomes was a failure."""
        self._row = 0
        """Failures in a row."""
        self._openings = 0
        """Since the last success."""
        self._until: float | None = None
        """When the breaker is half-open; None while it is closed."""
        self._probing = False
        self._closed_at = -math.inf
        self.since: float | None = None
        """When it opened first, without a success since; None while it is closed: all may go."""

    def state(self, now: float) -> BreakerState:
        if self._until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._until else BreakerState.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds until the next lease is allowed: 0.0 now, infinite while the probe is out."""
        if self._until is None:
            return 0.0
        if self._probing:
            return math.inf
        if now >= self._until:
            return 0.0
        delay = self._until - now
        return delay if now + delay >= self._until else delay + math.ulp(self._until)

    def leased(self, now: float) -> bool:
        """Something was leased, which `wait` allowed. True: it is the probe, whose fate must be told."""
        if self._until is None:
            return False
        if self.wait(now) > 0.0:
            raise RuntimeError("nothing is leased while the breaker is open or its probe is out")
        self._probing = True
        return True

    def succeeded(self, now: float, leased_at: float, probe: bool) -> None:
        """The other side has answered; also if it only said that it is too busy."""
        if probe:
            self._close(now)
        elif self._until is None and leased_at >= self._closed_at:
            self._last.append(False)
            self._row = 0

    def failed(self, now: float, leased_at: float, probe: bool) -> None:
        """The other side was not reached, did not answer, or answered that it cannot work."""
        if probe:
            self._open(now)
        elif self._until is None and leased_at >= self._closed_at:
            self._last.append(True)
            self._row += 1
            full = len(self._last) == self._last.maxlen
            if self._row >= self._failures or (full and sum(self._last) >= self._share * len(self._last)):
                self._open(now)

    def abandoned(self, probe: bool) -> None:
        """The lease came to nothing that says anything about the other side: a worker died, say."""
        if probe:
            self._probing = False

    def _close(self, now: float) -> None:
        self._until = None
        self._probing = False
        self._closed_at = now
        self._openings = 0
        self.since = None

    def _open(self, now: float) -> None:
        doublings = min(self._openings, 1000)  # 2.0 ** 1024 is an OverflowError
        self._until = now + min(self._cap, self._base * 2.0**doublings) * self._uniform(0.9, 1.1)
        self._openings += 1
        self._probing = False
        self._last.clear()
        self._row = 0
        if self.since is None:
            self.since = now
