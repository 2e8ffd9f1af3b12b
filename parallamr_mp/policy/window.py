"""At most so many requests, or tokens, in any minute: what a provider counts, counted before it does."""

from __future__ import annotations

import math

GRAINS = 240
"""Buckets a period: the window is known to a 240th of it."""
_LARGEST = 1e15
"""A larger limit counts as this one: more than anybody asks, and far from where floats end."""
UNITS = 1000
"""Amounts are counted in whole thousandths, rounded up: whole numbers add up without drift."""


class RateWindow:
    """Never more than `limit` in any `period` as the server sees it, and spread over it rather than at once.

    Two rules, and a charge must obey both. The window: what was charged within
    `period` + `slack` seconds, rounded up to a bucket, is at most `limit`.
    `slack` covers the way from here to the server: requests that were charged
    a window apart may arrive that much closer to each other. The pace: a token
    bucket of `burst` (by default ten seconds' worth, at least 1) that fills at
    the rate of the window. It does not fill up for a burst while the window
    is full, so that the first burst is not repeated a window later, and for ever.

    Pure: `now` is monotonic seconds, given by the caller. Memory is some 250
    numbers, whatever the rate. A call costs O(1), but for a `wait` behind a
    full window, which looks through the buckets.
    """

    def __init__(
        self, limit: float, *, period: float = 60.0, slack: float = 1.0, burst: float | None = None
    ) -> None:
        self._grain = period / GRAINS
        # One bucket more, for a charge at the very end of its own.
        self._life = math.ceil((period + slack) / self._grain) + 1
        self._period, self._slack, self._given_burst = period, slack, burst
        self._allow(limit)
        self._buckets = [0] * self._life
        """Units by bucket, the bucket of index i at i modulo their number."""
        self._newest = 0
        """Index of the newest bucket; the oldest that counts is `_life` - 1 before it."""
        self._total = 0
        """Sum of `_buckets`."""
        self._tokens = self._burst
        """What the pace allows at once; below zero after a charge of more than a burst."""
        self._at: float | None = None
        """The time that `_tokens` holds for; None until the first call."""
        self._last = UNITS
        """Units of the last charge: the next is taken to be like it."""

    def _allow(self, limit: float) -> None:
        if not 0 < limit < math.inf:
            raise ValueError(f"a limit is a positive number, not {limit}")
        limit = min(limit, _LARGEST)
        self.limit = float(limit)
        self._most = max(1, math.floor(limit * UNITS))
        self._rate = limit / (self._period + self._slack)
        given = self._given_burst
        self._burst = max(1.0, limit * 10.0 / self._period) if given is None else given
        self._tolerance = 1e-6 * max(self._rate, self._burst)
        """Of the pace only, for the rounding of times: a microsecond's worth."""

    def change(self, limit: float) -> None:
        """Another limit from now on; what was charged stays charged."""
        self._allow(limit)
        self._tokens = min(self._tokens, self._burst)
        self._last = min(self._last, self._most)

    def fits(self, amount: float) -> bool:
        """Whether the amount can ever be charged without exceeding the limit."""
        return amount <= self.limit

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Seconds until `amount` may be charged, 0.0: now. An amount above the limit waits like the limit."""
        self._advance(now)
        units = min(_units(amount), self._most)
        ready = max(now, self._room_at(units), self._paced_at(min(amount, self._burst)))
        if ready <= now:
            return 0.0
        delay = ready - now
        return delay if now + delay >= ready else delay + math.ulp(ready)

    def charge(self, now: float, amount: float = 1.0) -> None:
        """Counts the amount; whoever charges has seen `wait` return 0.0, or knows better."""
        self._advance(now)
        units = _units(amount)
        self._buckets[self._newest % self._life] += units
        self._total += units
        self._tokens -= amount
        self._last = min(units, self._most)

    def correct(self, charged_at: float, sent_at: float, charged: float, real: float) -> None:
        """Replaces a charge by what it came to: `real` of it, sent at `sent_at`, a time not in the future.

        `charged_at` and `charged` are the arguments of that `charge`. A request
        that never left has `real` 0. Each charge is corrected at most once.
        """
        self._advance(sent_at)
        oldest = self._newest - self._life + 1
        if (index := self._index(charged_at)) >= oldest:
            counted = min(_units(charged), self._buckets[index % self._life])
            self._buckets[index % self._life] -= counted
            self._total -= counted
        if (index := self._index(sent_at)) >= oldest:
            self._buckets[index % self._life] += _units(real)
            self._total += _units(real)
        self._tokens = min(self._burst, self._tokens + charged - real)

    def _index(self, time: float) -> int:
        return math.floor(time / self._grain)

    def _start_of(self, index: int) -> float:
        """The first time whose bucket is `index`, or a later one."""
        start = index * self._grain
        while self._index(start) < index:
            start = math.nextafter(start, math.inf)
        return start

    def _has_room(self) -> bool:
        return self._total + self._last <= self._most

    def _advance(self, now: float) -> None:
        """Forgets the buckets that are too old at `now`, and lets tokens come in until then.

        A time before the last one is taken for that: the clock has been there.
        """
        index = self._index(now)
        if self._at is None:
            self._at, self._newest = now, index
            return
        for new in range(self._newest + 1, min(index, self._newest + self._life) + 1):
            if expired := self._buckets[new % self._life]:
                self._fill(self._start_of(new))
                self._buckets[new % self._life] = 0
                self._total -= expired
        self._newest = max(self._newest, index)
        self._fill(now)

    def _fill(self, now: float) -> None:
        """Tokens for the time until `now`, in which the window did not change."""
        assert self._at is not None
        if now > self._at:
            more = self._tokens + (now - self._at) * self._rate
            self._tokens = max(self._tokens, min(more, self._most_tokens()))
            self._at = now

    def _most_tokens(self) -> float:
        return self._burst if self._has_room() else min(self._last / UNITS, self._burst)

    def _room_at(self, units: int) -> float:
        """When the window has room for so many: in the past if it has it now."""
        excess = self._total + units - self._most
        if excess <= 0:
            return -math.inf
        for index in range(self._newest - self._life + 1, self._newest + 1):
            excess -= self._buckets[index % self._life]
            if excess <= 0:
                return self._start_of(index + self._life)
        raise AssertionError("an empty window has room for its limit")

    def _paced_at(self, tokens: float) -> float:
        """When the pace allows so many, at most a burst."""
        assert self._at is not None
        missing = tokens - self._tokens
        if missing <= self._tolerance:
            return -math.inf
        beyond = tokens - max(self._tokens, self._most_tokens())
        if beyond <= 0:
            return self._at + missing / self._rate
        # The last of them come only when the window has room again.
        return (
            max(self._at + (missing - beyond) / self._rate, self._room_at(self._last)) + beyond / self._rate
        )


def _units(amount: float) -> int:
    return math.ceil(amount * UNITS)
