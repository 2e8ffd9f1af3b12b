"""Parallel groups in tests: a clock wound by hand, gates instead of sleeps, loops that are left empty."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from parallamr_mp.parallel import ExecutionState


class HandClock:
    """Time that passes only by `advance`. Its timers come when they are due, in order."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.timers: list[HandTimer] = []

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000.0 + self.time

    def call_later(self, delay: float, callback: Callable[[], Any]) -> HandTimer:
        timer = HandTimer(self, self.time + delay, callback)
        self.timers.append(timer)
        return timer

    async def advance(self, seconds: float) -> None:
        end = self.time + seconds
        await settle()
        while self.timers and min(timer.due for timer in self.timers) <= end:
            timer = min(self.timers, key=lambda timer: timer.due)
            self.time = max(self.time, timer.due)
            self.timers.remove(timer)
            timer.callback()
            await settle()
        self.time = end


class HandTimer:
    def __init__(self, clock: HandClock, due: float, callback: Callable[[], Any]) -> None:
        self.clock, self.due, self.callback = clock, due, callback

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


def longest(_low: float, high: float) -> float:
    """Jitter that always draws the longest wait."""
    return high


async def settle() -> None:
    """Lets everything run that can run without time or news from outside."""
    for _ in range(30):
        await asyncio.sleep(0)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`; fails if tasks are left when `main` has ended, or coroutines were never awaited."""

    async def checked() -> Any:
        before = asyncio.all_tasks()
        try:
            return await main
        finally:
            left = asyncio.all_tasks() - before
            assert not left, f"left running: {left}"

    try:
        return asyncio.run(checked())
    finally:
        gc.collect()  # "was never awaited" is said when a coroutine is collected


class Gates:
    """Calls that end when they are told to, and what they went through."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.inside = 0
        self.most = 0
        self._gates: dict[Any, asyncio.Future[Any]] = {}

    async def __call__(self, key: Any) -> Any:
        self._gates[key] = asyncio.get_running_loop().create_future()
        self.log.append(("began", key))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return await self._gates[key]
        except asyncio.CancelledError:
            self.log.append(("cancelled", key))
            raise
        finally:
            self.inside -= 1

    async def open(self, key: Any, value: Any = None) -> None:
        """The call of this key returns the value, or raises it if it is an exception."""
        await settle()
        if isinstance(value, BaseException):
            self._gates[key].set_exception(value)
        else:
            self._gates[key].set_result(value)
        await settle()

    def seen(self, what: str) -> list[Any]:
        return [key for said, key in self.log if said == what]


def watched(**options: Any) -> tuple[ExecutionState, list[Any]]:
    """A state and the list of all events that it publishes."""
    state, events = ExecutionState(**options), []
    state.event_bus.subscribe(events.append)
    return state, events
