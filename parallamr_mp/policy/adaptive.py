"""How many requests at once an endpoint takes: as told, or as found out."""

from __future__ import annotations

import math
from typing import Protocol

RAMP_START = 4
"""What is allowed at once when a cool-down ends."""
RAMP_TAU = 0.5
"""Seconds in which the ramp after a cool-down grows by a factor of e: to 1000 within 3 s."""


class ConcurrencyLimit(Protocol):
    """How many requests may be in flight at one endpoint. Pure: `now` is monotonic seconds.

    `in_flight` always counts the request that the call is about: after it was
    charged as in flight, and before it is released. A request in flight above
    a limit that fell is not cancelled; nothing is leased until there is room.
    """

    ceiling: int
    """Most that the limit can be; may be set at any time."""

    def limit(self, now: float) -> int:
        """Most requests in flight now, at least 1."""

    def leased(self, now: float, in_flight: int) -> None:
        """A request was leased."""

    def succeeded(self, now: float, leased_at: float, in_flight: int) -> None:
        """A request that the endpoint took has ended, well or not."""

    def refused(self, now: float, leased_at: float, in_flight: int) -> bool:
        """A request was refused because there are too many. True: this is a new episode.

        The refusals of requests that were leased before the limit was lowered
        last belong to the same episode: they say nothing about the new limit.
        """

    def cooled_down(self, until: float) -> None:
        """Nothing is leased until then; from there on the limit comes back in a ramp instead of at once."""

    def next_change(self, now: float) -> float | None:
        """When `limit` will be larger by time alone; None: not before something else happens."""


class _Ramp:
    """What is allowed after a cool-down: grows exponentially in time, from a small value."""

    def __init__(self) -> None:
        self._start = self.over = -math.inf
        """`over`: from when on it allows everything."""

    def begin(self, start: float) -> None:
        """Of cool-downs that overlap the last end counts."""
        self._start = max(self._start, start)
        self.over = self._start + 50 * RAMP_TAU

    def allowed(self, now: float) -> float:
        if now >= self.over:
            return math.inf
        return RAMP_START * math.exp(max(0.0, now - self._start) / RAMP_TAU)

    def reaches(self, level: float) -> float:
        """When so many are allowed."""
        return self._start + RAMP_TAU * math.log(max(1.0, level / RAMP_START))


class FixedLimit:
    """A `ConcurrencyLimit` that stays what it was told, but for the ramp after a cool-down."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._ramp = _Ramp()
        self._episode = -math.inf

    def limit(self, now: float) -> int:
        if now >= self._ramp.over:  # the rule; each lease asks
            return max(1, self.ceiling)
        return max(1, int(min(self.ceiling, self._ramp.allowed(now))))

    def leased(self, now: float, in_flight: int) -> None:
        """Nothing is learnt from it."""

    def succeeded(self, now: float, leased_at: float, in_flight: int) -> None:
        """Nothing is learnt from it."""

    def refused(self, now: float, leased_at: float, in_flight: int) -> bool:  # noqa: ARG002 the Protocol's
        if leased_at <= self._episode:
            return False
        self._episode = now
        return True

    def cooled_down(self, until: float) -> None:
        self._ramp.begin(until)

    def next_change(self, now: float) -> float | None:
        limit = self.limit(now)
        if limit >= self.ceiling:
            return None
        return _soon(now, self._ramp.reaches(min(_step_up(limit), self.ceiling)))


class AdaptiveLimit:
    """A `ConcurrencyLimit` that is found out from refusals alone: additive increase, multiplicative decrease.

    Slower answers are no signal: a server under load is slow, and still takes
    more. There are two numbers: `_goal` is what the endpoint is believed to
    take, and `_level`, the limit, comes back up to it.

    * The level grows exponentially in time (`TAU`), as far as it is used: refusals
      come back quickly even where answers take minutes, so many requests are in
      flight soon, and not many are refused on the way. At first the goal is
      the ceiling. From the first answer to the first refusal, growth begins about
      as steeply as it ends (`OPENING_LEVEL`): what is refused goes by the steepness,
      and the time by the slow beginning. Not before the first answer: connections
      are made then, and refusals take as long as these.
    * An episode of refusals shows what the endpoint took: what was in flight,
      without those that were refused. That is the new goal; the level falls to
      `DOWN` of it, lets requests drain, and comes back.
    * At its goal, the limit probes beyond it by one after `PATIENCE` successes; a
      probe that holds for a round is followed by larger ones (1, 2, 4 … at most an
      eighth), so that it follows a server that takes more than it did.
    * An episode in which all was refused that had been leased since the last one
      is no measurement: the endpoint refuses everything, or takes much less. The
      level falls, faster each time, and the goal stays; the first success lets
      the level come back to it. Thus a minute of refusals pins nothing.
    """

    TAU = 0.3
    """Seconds in which the level grows by a factor of e."""
    OPENING_LEVEL, OPENING_TAU = 64, 0.36
    """From the first answer to the first refusal it grows with this `TAU`, as if larger by so much: from 4
    to 256 within 0.6 s."""
    DOWN = (0.85, 0.7, 0.5)
    """What remains of the level at the first, second, and any further episode before a round has held."""
    PATIENCE = 100
    """Successes before the first probe: about one request in so many is refused."""
    DEAR = 20.0
    """Times the length of a cool-down that it holds still after one: a probe that costs that much is rare."""
    LONGEST_STILL = 60.0
    """Seconds that it holds still at most."""
    ROUND = 16
    """Least successes that make a round; else as many as the limit."""

    def __init__(self, ceiling: int, floor: int = 1, start: int = 4) -> None:
        self._ceiling = ceiling
        self._floor = floor
        self._ramp = _Ramp()
        self._level = float(max(floor, min(start, ceiling)))
        self._growing_since: float | None = None
        """The time of `_level`, from which it grows; None: it does not, for it is not all used."""
        self._used = 0
        """In flight at the last lease."""

        self._opening: bool | None = None
        """Answers have come, and no refusals; None: nothing has come yet."""
        self._goal = math.inf
        self._top: float = max(floor, ceiling)
        """What the level grows up to."""
        self._goal_before = math.inf
        """The goal when the last episode began."""
        self._least_goal = 0.0
        """The episode lowers the goal no further."""
        self._decreased_at = -math.inf
        """When the last episode began."""
        self._leases = 0
        """Since the last episode began."""
        self._taken = 0
        """Of the leases between the last two episodes, those that were not refused."""
        self._blind = False
        """The last episode measured nothing, and nothing has succeeded since."""
        self._episodes = 0
        """Since a round has held."""

        self._now = -math.inf
        """The last time that something happened."""
        self._still_until = -math.inf
        """When a first probe is allowed."""
        self._reached_at = -math.inf
        """When the level came to its present goal."""
        self._held = 0
        """Successes at the goal, of requests leased since it was reached."""
        self._step = 0
        """By how much the goal was raised last; 0: not since the last episode."""

    @property
    def ceiling(self) -> int:
        return self._ceiling

    @ceiling.setter
    def ceiling(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._level = min(self._level, max(ceiling, self._floor))
        self._set_top()

    def limit(self, now: float) -> int:
        level = min(self._level_at(now), self._ceiling)
        if now < self._ramp.over:
            level = min(level, self._ramp.allowed(now))
        return max(self._floor, int(level))

    def leased(self, now: float, in_flight: int) -> None:
        self._settle(now)
        self._used = in_flight
        self._leases += 1
        self._growing_since = now if not self._blind and self._is_used(in_flight) else None

    def succeeded(self, now: float, leased_at: float, in_flight: int) -> None:
        self._settle(now)
        if self._opening is None:
            self._opening = True
        if leased_at > self._decreased_at:
            self._blind = False
        # Several outcomes may come before the next lease: what was in flight before them counts.
        used = self._is_used(max(in_flight, self._used))
        if self._level < self._top or leased_at < self._reached_at or not used:
            return
        self._held += 1
        if self._held < max(self.ROUND, int(self._level), 0 if self._step else self.PATIENCE):
            return
        if self._step or now >= self._still_until:
            self._episodes = 0
            self._held = 0
            self._probe(now)

    def refused(self, now: float, leased_at: float, in_flight: int) -> bool:
        self._settle(now)
        self._opening = False
        new = leased_at > self._decreased_at
        if new:
            self._begin_episode(now, in_flight)
        elif self._taken > 0:
            self._goal = max(self._least_goal, self._goal - 1)
            self._taken -= 1
        if self._taken == 0:
            self._blind = True
            self._growing_since = None
            self._goal = self._goal_before
        self._set_top()
        self._level = max(self._floor, min(self._level, self._goal))
        return new

    def cooled_down(self, until: float) -> None:
        self._ramp.begin(until)
        still = min(self.LONGEST_STILL, self.DEAR * max(0.0, until - self._now))
        self._still_until = max(self._still_until, until + still)

    def next_change(self, now: float) -> float | None:
        limit = self.limit(now)
        most = self._level if self._growing_since is None else self._most()
        wanted = min(_step_up(limit), int(most))
        if wanted <= limit:
            return None
        return _soon(now, max(self._grown_to(wanted, now), self._ramp.reaches(wanted)))

    def _set_top(self) -> None:
        """After a change of goal or ceiling."""
        self._top = max(self._floor, min(self._goal, self._ceiling))

    def _most(self) -> float:
        """What the level grows to without another lease: far from what is in use it would be a guess."""
        return min(self._top, max(self._level, 1.25 * self._used + 1))

    def _level_at(self, now: float) -> float:
        if self._growing_since is None:
            return self._level
        if self._level >= self._top:
            return self._top
        ahead, tau = self._growth()
        since = max(0.0, now - self._growing_since)
        return min(self._most(), (self._level + ahead) * math.exp(min(since / tau, 50.0)) - ahead)

    def _grown_to(self, level: float, now: float) -> float:
        """When it has: the inverse of `_level_at`."""
        if self._growing_since is None or level <= self._level:
            return now
        ahead, tau = self._growth()
        return self._growing_since + tau * math.log((level + ahead) / (self._level + ahead))

    def _growth(self) -> tuple[float, float]:
        """By how much larger it counts while it grows, and the seconds in which that sum grows by e."""
        return (self.OPENING_LEVEL, self.OPENING_TAU) if self._opening else (0.0, self.TAU)

    def _settle(self, now: float) -> None:
        """Makes the level what it has grown to."""
        self._now = now
        if self._growing_since is None:
            return
        level = self._level_at(now)
        if self._level < self._top <= level:
            self._reached_at = now
            self._held = 0
        self._level = level
        self._growing_since = max(now, self._growing_since)

    def _is_used(self, in_flight: int) -> bool:
        return in_flight >= int(self._level) - 1

    def _probe(self, now: float) -> None:
        """Raises the goal, and the level with it: the last one has held."""
        if self._level < self._ceiling:
            self._step = min(2 * self._step, max(1, int(self._level) // 8)) if self._step else 1
            self._goal = self._level = float(min(int(self._level) + self._step, self._ceiling))
            self._set_top()
            self._reached_at = now

    def _begin_episode(self, now: float, in_flight: int) -> None:
        down = self.DOWN[min(self._episodes, len(self.DOWN) - 1)]
        in_flight = max(in_flight, self._used)
        if self._growing_since is not None:
            self._level = min(self._level, in_flight)  # growth that nobody used yet
        self._goal_before = self._goal
        # A refusal while little is in flight, of what was taken before, is none of so many at once.
        self._least_goal = 0.0 if self._is_used(in_flight) else down * self._level
        self._goal = max(self._least_goal, in_flight - 1)
        self._taken = self._leases - 1
        self._level = max(self._least_goal, down * min(self._level, self._goal))
        self._growing_since = None
        self._decreased_at = now
        self._leases = 0
        self._episodes += 1
        self._held = 0
        self._step = 0


def _step_up(limit: int) -> int:
    """The next limit that is worth waking up for."""
    return max(limit + 1, int(limit * 1.02))


def _soon(now: float, at: float) -> float:
    """`at`, and a microsecond for the rounding of logarithms; never in the past."""
    return max(now, at) + 1e-6
