"""Servers that take only so much: so many requests at a time, so many in a window of time.

    moody = AtMost(16, 0.02)              takes 16 at a time and answers 429 beyond
    server.behave(moody)
    moody.most = 48                       from now on
    assert moody.peak() <= 48

What they count is guarded by one lock each: every request is played in its connection's own thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .behaviours import Behaviour, Exchange, answer, rate_limited, status

if TYPE_CHECKING:
    from .shapes import Recorded


def most_within(times: Iterable[float], seconds: float) -> int:
    """The most of these moments that lie in any window of so many seconds."""
    window: deque[float] = deque()
    most = 0
    for moment in sorted(times):
        window.append(moment)
        while window[0] <= moment - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


class AtMost:
    """Takes `most` requests at a time, each for `seconds`, then plays `then`; 429 beyond.

    `most` and `seconds` may be changed at any time; inf: whatever comes is taken, and only counted. `key`
    tells apart what is counted apart, such as models; `most` holds for each.
    """

    def __init__(
        self,
        most: float = math.inf,
        seconds: float = 0.0,
        *,
        key: Callable[[Recorded], str] = lambda request: "",
        then: Behaviour | None = None,
        refusal: Behaviour | None = None,
    ) -> None:
        self.most, self.seconds = most, seconds
        self.refusals: list[float] = []
        """When there were too many; monotonic seconds."""
        self._key, self._then, self._refusal = key, then or answer(), refusal or status(429)
        self._busy: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def peak(self, key: str = "") -> int:
        """The most that were there at a time since the last `forget`, without those that were refused."""
        return self._peaks[key]

    def taken(self, key: str = "") -> int:
        return self._taken[key]

    def forget(self) -> None:
        with self._lock:
            self._peaks = Counter(self._busy)
            self._taken.clear()
            self.refusals.clear()

    def play(self, exchange: Exchange) -> None:
        key = self._key(exchange.recorded)
        with self._lock:
            taken = self._busy[key] < self.most
            if taken:
                self._busy[key] += 1
                self._taken[key] += 1
                self._peaks[key] = max(self._peaks[key], self._busy[key])
            else:
                self.refusals.append(time.monotonic())
        if not taken:
            self._refusal.play(exchange)
            return
        try:
            exchange.pause(self.seconds)
        finally:
            # Before the answer leaves: the client's next request must not be counted together with this one.
            with self._lock:
                self._busy[key] -= 1
        self._then.play(exchange)


class PerWindow:
    """Takes so many requests in each window of `seconds`; beyond, 429 that says when the next one begins.

    A window begins with the first request after the last one. With `told`, every answer has the headers of
    an allowance, as OpenAI's. `taken` and `refusals` are moments, in monotonic seconds. `each`: seconds that
    a request takes, one after the other.
    """

    def __init__(self, most: int, seconds: float, *, told: bool = False, each: float = 0.0) -> None:
        self.most, self.seconds, self._told, self._each = most, seconds, told, each
        self.taken: list[float] = []
        self.refusals: list[tuple[float, float]] = []
        """When, and until when the server has asked to stay away."""
        self._ends = -math.inf
        self._left = 0
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def play(self, exchange: Exchange) -> None:
        if self._each:
            with self._turn:
                exchange.pause(self._each)
                self._play(exchange)
        else:
            self._play(exchange)

    def _play(self, exchange: Exchange) -> None:
        with self._lock:
            now = time.monotonic()
            if now >= self._ends:
                self._ends, self._left = now + self.seconds, self.most
            taken = self._left > 0
            reset = self._ends - now
            if taken:
                self._left -= 1
                self.taken.append(now)
            else:
                self.refusals.append((now, self._ends))
            headers = self._headers(self._left, reset)
        if taken:
            answer(headers=headers).play(exchange)
        else:
            rate_limited(f"{reset:.3f}").play(exchange)

    def _headers(self, left: int, reset: float) -> Mapping[str, str]:
        if not self._told:
            return {}
        return {
            "x-ratelimit-limit-requests": str(self.most),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": f"{math.ceil(reset * 1000)}ms",
        }
