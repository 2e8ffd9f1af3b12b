"""Events on their way to an async handler.

    EventBus.publish ──put──► Mailbox (a queue) ──► pump (an asyncio.Task while there is any) ──► handler

One mailbox a handler, used by the thread of one event loop: no lock. The handler
gets one event after the other, in the order they were published; several
handlers do not wait for each other.

Publishing waits for nobody, and no event is dropped: a mailbox has no bound of
its own. It says when it is `full`, and who makes events by the thousand stops
until there is room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

FULL = 10_000
"""So many events wait for a handler: its mailbox is full."""

_in_handler: ContextVar[bool] = ContextVar("_in_handler", default=False)
"""Whether the current code runs in an async handler, or in a task that one has started."""


class Mailbox:
    """`failed(error, about)` is told of a handler that raised; the next events still reach it.

    `context` holds the context variables of whoever subscribed the handler: not
    those of the task that happens to be the first to publish something.
    """

    def __init__(self, context: Context, failed: Callable[[BaseException, str], None]) -> None:
        self._context, self._failed = context, failed
        self._waiting: deque[tuple[Awaitable[Any], str]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._for_room: dict[Callable[[], object], Context] = {}

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should be made. Never in a handler: it would wait for itself."""
        return len(self._waiting) >= FULL and not _in_handler.get()

    def when_room(self, callback: Callable[[], object]) -> None:
        """Has it called by the event loop, in the present context, when at most half of `FULL` waits.

        Once, however often it is asked for meanwhile.
        """
        self._for_room.setdefault(callback, copy_context())

    def put(self, answer: Awaitable[Any], about: str) -> None:
        """What an async handler returned for an event is awaited: by the running loop, or here and now."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._deliver(answer, about))
            return
        self._waiting.append((answer, about))
        if self._pump is None or self._pump.done() or self._pump.get_loop() is not loop:
            # Not by the loop's factory: an eager one would call the handler before there is a pump to see.
            self._pump = asyncio.Task(self._run(), loop=loop, context=self._context.copy())
            self._pump.add_done_callback(self._stopped)

    async def drain(self) -> None:
        """Returns when all that was put so far has been handled.

        At once in a handler: it would wait for its own end, or two of them for each other's.
        """
        pump = self._pump
        here = pump is not None and pump.get_loop() is asyncio.get_running_loop()
        if pump is not None and here and not _in_handler.get():
            await asyncio.wait([pump])

    async def _run(self) -> None:
        _in_handler.set(True)
        while self._waiting:
            answer, about = self._waiting.popleft()
            if self._for_room and len(self._waiting) <= FULL // 2:
                self._tell_room()
            await self._deliver(answer, about)

    def _tell_room(self) -> None:
        loop, told = asyncio.get_running_loop(), self._for_room
        self._for_room = {}
        for callback, context in told.items():
            loop.call_soon(callback, context=context)

    def _stopped(self, pump: asyncio.Task[None]) -> None:
        """A pump that is cancelled, as by the end of `asyncio.run`, leaves what it had not come to."""
        if pump is self._pump and pump.cancelled():
            for answer, _ in self._waiting:
                if isinstance(answer, Coroutine):
                    answer.close()
            self._waiting.clear()
            self._tell_room()

    async def _deliver(self, answer: Awaitable[Any], about: str) -> None:
        try:
            await answer
        except asyncio.CancelledError as error:
            pump = asyncio.current_task()
            if pump is None or pump.cancelling():
                raise
            self._failed(error, about)  # of something that the handler has awaited
        except Exception as error:
            self._failed(error, about)
