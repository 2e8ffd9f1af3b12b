"""What servers say is left of an allowance, so that the last of it is not overdrawn."""

from __future__ import annotations

from parallamr_mp.models import Allowance

_LONGEST = 60.0
"""Seconds that a remainder of nothing is believed at most: a refusal will say if it is longer."""


class Remainder:
    """What is left of one server's allowance of requests and tokens. Pure: time is an argument.

    A response counts what had arrived before it was made; what left since then
    may be counted in it or not. So after a response the remainder is at most
    what it says, and at least that less all that is in flight; within these
    bounds our own count goes on. When nothing is left, nothing leaves until the
    allowance is renewed.
    """

    def __init__(self) -> None:
        self._left: float | None = None
        self._tokens: float | None = None
        self._until = 0.0

    def told(self, now: float, said: Allowance, in_flight: int, tokens: float) -> None:
        """A response said so, with so many others in flight that may use so many tokens."""
        if now >= self._until:
            self._left = self._tokens = None
        renewed = 0.0
        if said.requests_left is not None and said.requests_reset is not None:
            self._left = _bounded(self._left, said.requests_left, in_flight)
            if self._left < 1:
                renewed = said.requests_reset
        if said.tokens_left is not None and said.tokens_reset is not None:
            self._tokens = _bounded(self._tokens, said.tokens_left, tokens)
            if self._tokens <= 0:
                renewed = max(renewed, said.tokens_reset)
        longest = max(said.requests_reset or 0.0, said.tokens_reset or 0.0)
        self._until = now + min(renewed or longest, _LONGEST)

    def leased(self, tokens: int) -> None:
        """A request leaves."""
        if self._left is not None:
            self._left -= 1
        if self._tokens is not None:
            self._tokens -= tokens

    def wait(self, now: float) -> float:
        """Seconds until the next request may leave."""
        if now >= self._until:
            return 0.0
        spent = (self._left is not None and self._left < 1) or (
            self._tokens is not None and self._tokens <= 0
        )
        return self._until - now if spent else 0.0


def _bounded(ours: float | None, said: float, uncounted: float) -> float:
    return said if ours is None else min(said, max(ours, said - uncounted))
