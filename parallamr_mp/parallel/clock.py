"""Where a group takes the time from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """It is not made any more."""


class Clock(Protocol):
    """The time, and calls at a later one; tests bring one that they wind by hand."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Timer:
        """Has `callback` called by the running event loop, `delay` seconds from now."""


class LoopClock:
    """The real time, by the running event loop."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)
