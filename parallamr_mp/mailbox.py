"""Events on their way to an async handler.

    EventBus.publish ──put──► Mailbox (a queue) ──► pump (an asyncio.Task while there is any) ──► handler

One mailbox a handler, used by the thread of one event loop: no lock. The handler
gets one event after the other, in the order they were published; several
handlers do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

_pumping: ContextVar[tuple[Mailbox, ...]] = ContextVar("_pumping", default=())
"""Mailboxes whose handlers the current code runs in, outermost first."""


class Mailbox:
    """`failed(error, about)` is told of a handler that raised; the next events still reach it."""

    def __init__(self, failed: Callable[[Exception, str], None]) -> None:
        self._failed = failed
        self._waiting: deque[tuple[Awaitable[Any], str]] = deque()
        self._pump: asyncio.Task[None] | None = None

    def put(self, answer: Awaitable[Any], about: str) -> None:
        """What an async handler returned for an event is awaited: by the running loop, or here and now."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._deliver(answer, about))
            return
        self._waiting.append((answer, about))
        if self._pump is None or self._pump.done() or self._pump.get_loop() is not loop:
            self._pump = loop.create_task(self._run())
            self._pump.add_done_callback(self._stopped)

    async def drain(self) -> None:
        """Returns when all that was put so far has been handled.

        At once inside the handler itself, which would wait for its own end.
        """
        pump = self._pump
        here = pump is not None and pump.get_loop() is asyncio.get_running_loop()
        if pump is not None and here and self not in _pumping.get():
            await asyncio.wait([pump])

    async def _run(self) -> None:
        _pumping.set((*_pumping.get(), self))
        while self._waiting:
            await self._deliver(*self._waiting.popleft())

    def _stopped(self, pump: asyncio.Task[None]) -> None:
        """A pump that is cancelled, as by the end of `asyncio.run`, leaves what it had not come to."""
        if pump is self._pump and pump.cancelled():
            for answer, _ in self._waiting:
                if isinstance(answer, Coroutine):
                    answer.close()
            self._waiting.clear()

    async def _deliver(self, answer: Awaitable[Any], about: str) -> None:
        try:
            await answer
        except Exception as error:
            self._failed(error, about)
