"""Where the attempts of a group's tasks run.

A group decides what runs when (`run.py`); its executor runs it and says what
came of it. Here is the one for coroutines, on the event loop of the caller:
every attempt is an `asyncio.Task` of its own, made when its turn has come, with
its own context variables and its own cancellation.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

from parallamr_mp.parallel.task import NOTHING, Task, current

_log = logging.getLogger(__name__)

_LONG = 0.1
"""Seconds in which an event loop that does nothing else is felt by others."""


class Attempts(Protocol):
    """What an executor tells the group whose attempts it runs: on the group's loop, never inside `start`."""

    def ended(
        self, task: Task, value: Any, error: BaseException | None, seconds: float | None = None
    ) -> None:
        """An attempt has ended: its value, or its error; a `CancelledError` if it was cancelled.

        `seconds` that it took, where that is not the time since its start.
        """

    def lost(self, task: Task, error: Exception) -> None:
        """What ran the attempt is gone, maybe through no fault of the task's; it begins once more."""

    def has_room(self) -> None:
        """More attempts can begin than before."""

    def broken(self, error: BaseException) -> None:
        """Nothing can be run any more; or a handler ends the program, as no `Exception` says."""


class Executor(Protocol):
    """Runs attempts. Used by the group's event loop alone."""

    def open(self, attempts: Attempts, tasks: int) -> None:
        """Makes ready for so many tasks, of one group. Called first, and once."""

    @property
    def has_room(self) -> bool:
        """Whether an attempt could begin now. The group has a limit of its own besides."""

    def start(self, task: Task) -> None:
        """Begins an attempt, for which there is room."""

    def cancel(self) -> None:
        """Has all attempts that are in flight end soon; the group is told of each all the same."""

    def discard(self, task: Task) -> None:
        """Lets go of what the task holds: it is over, or will never be tried (again)."""

    async def close(self) -> None:
        """Returns when nothing of what it started or was given is left running.

        Cancelled: cancels that once more, and goes on waiting.
        """


class AsyncioExecutor:
    """Runs attempts as tasks of the running event loop."""

    has_room = True
    """As many as the group likes."""

    def __init__(self) -> None:
        self._attempts: Attempts | None = None
        self._warned = False
        self._context = Context()
        """That of who starts the group: what one attempt sets in its context, no other sees."""
        self._running: dict[asyncio.Task[Any], None] = {}
        """In the order of their start, which is that of their cancellation."""
        self._given_up: set[asyncio.Future[Any]] = set()
        """Futures of others that nobody will await for their tasks."""

    def open(self, attempts: Attempts, tasks: int) -> None:  # noqa: ARG002
        self._attempts, self._context = attempts, copy_context()

    def start(self, task: Task) -> None:
        loop = asyncio.get_running_loop()
        running = loop.create_task(_attempt(task, self._warn), context=self._context.copy())
        self._running[running] = None
        running.add_done_callback(partial(self._ended, task))

    def cancel(self) -> None:
        for running in self._running:
            with suppress(RuntimeError):  # a loop that is closed: nothing runs on it any more
                running.cancel()

    def _warn(self, task: Task, seconds: float) -> None:
        """Of the first plain function that held up the event loop, and with it all other tasks."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "group %r: %s is no coroutine function, and kept all other tasks from running for %.1f s;"
                " give the group threads= (or procs=), and such functions run at the same time",
                task.group.name,
                task.label,
                seconds,
            )

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
        cancelled = None
        while left := {future for future in (*self._running, *self._given_up) if not future.done()}:
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError as error:
                cancelled = error
                for future in left:
                    future.cancel()
        for future in self._given_up:
            if not future.cancelled():
                future.exception()  # seen: nobody else will
        self._given_up.clear()
        if cancelled is not None:
            raise cancelled

    def _ended(self, task: Task, running: asyncio.Task[Any]) -> None:
        del self._running[running]
        assert self._attempts is not None
        if running.cancelled():
            self._attempts.ended(task, None, asyncio.CancelledError("cancelled"))
        elif (error := running.exception()) is not None:
            self._attempts.ended(task, None, error)
        elif type(value := running.result()) is _Raised:
            self._attempts.ended(task, None, value.error)
        else:
            self._attempts.ended(task, value, None)


class _Raised:
    """An error that an `asyncio.Task` does not pass on as it is.

    KeyboardInterrupt and SystemExit would stop the loop on the spot;
    StopIteration, of a function that is none of a coroutine's, would become a
    RuntimeError.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _attempt(task: Task, too_long: Callable[[Task, float], None]) -> Any:
    current.set(task)
    try:
        call = task.call
        if task.repeatable and callable(call):
            began = time.monotonic()
            value = call(*task.args, **task.kwargs)
            if inspect.isawaitable(value):
                return await value
            if (seconds := time.monotonic() - began) > _LONG:
                too_long(task, seconds)
            return value
        assert isinstance(call, Awaitable)
        return await call
    except (KeyboardInterrupt, SystemExit, StopIteration) as error:
        return _Raised(error)
