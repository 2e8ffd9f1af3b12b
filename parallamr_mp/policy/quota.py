"""What may be asked of one scope (a provider, a model, an endpoint): at once, and in any minute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parallamr_mp.policy.window import RateWindow


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be asked of a scope; None: as much as one likes."""

    concurrency: int | None = None
    rpm: float | None = None
    """Requests in any minute."""
    tpm: float | None = None
    """Tokens in any minute."""


_NO_LIMITS = Limits()


class Quota:
    """Counts what is asked of one scope against its limits. Pure: time is an argument, in seconds."""

    def __init__(self, limits: Limits) -> None:
        self.in_flight = 0
        self._requests: RateWindow | None = None
        self._tokens: RateWindow | None = None
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """Other limits from now on. What was asked under the old ones counts, as far as it was counted."""
        self.limits = limits
        self.limited = limits != _NO_LIMITS
        """Whether anything is limited: if not, `wait` is always 0."""
        self._requests = _changed(self._requests, limits.rpm)
        self._tokens = _changed(self._tokens, limits.tpm)

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request of so many tokens may be sent; inf: until another one has come back."""
        if self.limits.concurrency is not None and self.in_flight >= self.limits.concurrency:
            return math.inf
        wait = 0.0
        if self._requests is not None:
            wait = self._requests.wait(now)
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(now, tokens))
        return wait

    def charge(self, now: float, tokens: int) -> None:
        """A request leaves."""
        self.in_flight += 1
        if self._requests is not None:
            self._requests.charge(now)
        if self._tokens is not None:
            self._tokens.charge(now, tokens)

    def release(self, leased: float, sent: float, tokens: int, used: int, *, begun: bool = True) -> None:
        """It has come back: it had left at `sent`, if it was `begun`, and has `used` so many tokens."""
        self.in_flight -= 1
        if self._requests is not None:
            self._requests.correct(leased, sent, 1.0, 1.0 if begun else 0.0)
        if self._tokens is not None:
            self._tokens.correct(leased, sent, tokens, used)


def _changed(window: RateWindow | None, limit: float | None) -> RateWindow | None:
    if limit is None:
        return None
    if window is None:
        return RateWindow(limit)
    if limit != window.limit:
        window.change(limit)
    return window
