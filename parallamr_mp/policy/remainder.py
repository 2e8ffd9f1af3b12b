"""What servers say is left of an allowance, so that the last of it is not overdrawn."""

from __future__ import annotations

import math

from parallamr_mp.models import Allowance

_LONGEST = 60.0
"""Seconds that a remainder of nothing is believed at most: a refusal will say if it is longer."""
_ANY = math.ulp(0.0)
"""Tokens of which one is enough: how many a request takes is a guess."""


class Remainder:
    """What is left of one server's allowance of requests and tokens. Pure: time is an argument.

    A response counts what had arrived before it was made; what left since then
    may be counted in it or not. So after a response the remainder is at most
    what it says, and at least that less all that is in flight; within these
    bounds our own count goes on. When nothing is left, nothing leaves until the
    allowance is renewed.
    """

    def __init__(self) -> None:
        self._requests, self._tokens = _Count(), _Count()

    def told(self, now: float, said: Allowance, in_flight: int, tokens: float) -> None:
        """A response said so, with so many others in flight that may use so many tokens."""
        self._requests.told(now, said.requests_left, said.requests_reset, in_flight)
        self._tokens.told(now, said.tokens_left, said.tokens_reset, tokens)

    def leased(self, tokens: int) -> None:
        """A request leaves."""
        self._requests.left -= 1
        self._tokens.left -= tokens

    def wait(self, now: float) -> float:
        """Seconds until the next request may leave."""
        return max(self._requests.wait(now, least=1.0), self._tokens.wait(now, least=_ANY))


class _Count:
    """One of the two: requests have another reset than tokens."""

    def __init__(self) -> None:
        self.left = math.inf
        self._until = 0.0
        """When the allowance is renewed."""

    def told(self, now: float, said: float | None, reset: float | None, uncounted: float) -> None:
        if now >= self._until:
            self.left = math.inf
        if said is not None and reset is not None:
            # Of a new allowance the lower bound: what is in flight will be counted in it, and the next
            # responses raise the bound as that comes back.
            ours = -math.inf if self.left == math.inf else self.left
            self.left = min(said, max(ours, said - uncounted))
            self._until = now + min(reset, _LONGEST)

    def wait(self, now: float, least: float) -> float:
        return self._until - now if self.left < least and now < self._until else 0.0
