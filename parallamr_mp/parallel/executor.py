"""Where the attempts of a group's tasks run.

A group decides what runs when (`run.py`); its executor runs it and says what
came of it. Here is the one for coroutines, on the event loop of the caller:
every attempt is an `asyncio.Task` of its own, made when its turn has come, with
its own context variables and its own cancellation.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

from parallamr_mp.parallel.task import NOTHING, Task, current

Done = Callable[[Task, Any, BaseException | None], None]
"""Told of the end of an attempt: its value, or its error. A `CancelledError` if it was cancelled."""


class Executor(Protocol):
    """Runs attempts. Used by the group's event loop alone."""

    def start(self, task: Task, done: Done) -> None:
        """Begins an attempt. `done` is called once, later, on the group's loop."""

    def cancel(self) -> None:
        """Has all attempts that are in flight end soon; `done` is still called for each."""

    def discard(self, task: Task) -> None:
        """Lets go of what the task holds: it is over, or will never be tried (again)."""

    async def close(self) -> None:
        """Returns when nothing of what it started or was given is left running."""


class AsyncioExecutor:
    """Runs attempts as tasks of the running event loop."""

    def __init__(self) -> None:
        self._context = copy_context()
        """That of the group: what one attempt sets in its context, no other sees."""
        self._running: dict[asyncio.Task[Any], None] = {}
        """In the order of their start, which is that of their cancellation."""
        self._given_up: set[asyncio.Future[Any]] = set()
        """Futures of others that nobody will await for their tasks."""

    def start(self, task: Task, done: Done) -> None:
        loop = asyncio.get_running_loop()
        running = loop.create_task(_attempt(task), context=self._context.copy())
        self._running[running] = None
        running.add_done_callback(partial(self._ended, task, done))

    def cancel(self) -> None:
        for running in self._running:
            with suppress(RuntimeError):  # a loop that is closed: nothing runs on it any more
                running.cancel()

    def discard(self, task: Task) -> None:
        call, task.call, task.args, task.kwargs = task.call, None, (), NOTHING
        if isinstance(call, CoroutineType):
            with suppress(Exception):  # the same one was added twice, and runs for the other task
                call.close()  # no effect on one that has ended; without it, "was never awaited"
        elif isinstance(call, asyncio.Future) and not call.done():
            with suppress(RuntimeError):
                call.cancel()
            self._given_up.add(call)

    async def close(self) -> None:
        left = {*self._running, *self._given_up}
        if left:
            await asyncio.wait(left)
        for future in self._given_up:
            if not future.cancelled():
                future.exception()  # seen: nobody else will
        self._given_up.clear()

    def _ended(self, task: Task, done: Done, running: asyncio.Task[Any]) -> None:
        del self._running[running]
        if running.cancelled():
            done(task, None, asyncio.CancelledError("cancelled"))
        elif (error := running.exception()) is not None:
            done(task, None, error)
        elif type(value := running.result()) is _Fatal:
            done(task, None, value.error)
        else:
            done(task, value, None)


class _Fatal:
    """KeyboardInterrupt or SystemExit: raised by an `asyncio.Task`, they would stop the loop on the spot."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _attempt(task: Task) -> Any:
    current.set(task)
    try:
        call = task.call
        if task.repeatable and callable(call):
            value = call(*task.args, **task.kwargs)
            return await value if inspect.isawaitable(value) else value
        assert isinstance(call, Awaitable)
        return await call
    except (KeyboardInterrupt, SystemExit) as error:
        return _Fatal(error)
