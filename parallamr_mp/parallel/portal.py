"""An event loop in a thread of its own, for groups of programs that have none: those of a plain `with`.

    the caller's thread ──call(coroutine)──► the portal's loop: group, executor, events
                        ◄──── its result ────

So the same group serves both kinds of programs; workers get their next task
while the caller is busy with the last result; and Ctrl-C, which only ever
strikes the main thread, finds it waiting and nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_SLOW = 60.0
"""Seconds: development mode is not to complain that the start or end of a process keeps this loop busy."""


class _Call:
    """One for which a thread waits."""

    def __init__(self) -> None:
        self.done: Future[Any] = Future()
        self.running: list[asyncio.Task[Any]] = []
        self.exit: BaseException | None = None
        """To be raised in place of what it comes to."""

    def cancel(self) -> None:
        """On the loop."""
        for task in self.running:
            # Not at once: one that is cancelled before its first step never comes to its `finally`.
            task.get_loop().call_soon(task.cancel)
        if not self.running:  # the interruption came before it was begun
            self.done.cancel()


class Portal:
    """One for all plain groups of a state: their events are published by one thread. Used from any thread."""

    def __init__(self) -> None:
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        """Those that somebody waits for."""
        self._exit: BaseException | None = None
        """Raised by a handler when nobody was waiting: for whoever does next."""

    def enter(self) -> None:
        """Starts the loop for its first user."""
        self._refuse_its_own_thread()
        with self._lock:
            if self._users == 0:
                loop = asyncio.new_event_loop()
                # A daemon: a program can end that has left a group open, or waits for a thread in vain.
                thread = threading.Thread(
                    target=self._serve, args=(loop,), name="parallel groups", daemon=True
                )
                try:
                    thread.start()
                except Exception:
                    loop.close()
                    raise
                except BaseException:  # Ctrl-C, with the thread on its way: it closes the loop
                    loop.call_soon_threadsafe(loop.stop)
                    raise
                self._exit = None
                self._loop, self._thread = loop, thread
            self._users += 1

    def leave(self) -> None:
        """Ends the loop with its last user."""
        with self._lock:
            self._users -= 1
            loop, thread = self._loop, self._thread
            if self._users == 0 and loop is not None and thread is not None:
                self._loop = self._thread = None
                loop.call_soon_threadsafe(loop.stop)
                thread.join()

    def call(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the coroutine that `begin` makes on the loop; returns or raises what it does.

        The loop lasts as long as the call. Interrupted (Ctrl-C, say), it
        cancels the coroutine, and waits for its end, before it raises that. A
        second interruption does not wait. So it does if an event handler raises
        SystemExit or KeyboardInterrupt, which are for this thread, not the loop's.
        """
        self._refuse_its_own_thread()
        call = _Call()
        done: Future[T] = call.done
        joined: list[asyncio.AbstractEventLoop] = []
        try:
            loop = self._join(joined, call)

            def start() -> None:
                if done.done():
                    return
                task = loop.create_task(begin())
                call.running.append(task)
                task.add_done_callback(lambda task: _pass_on(task, done))

            loop.call_soon_threadsafe(start)
            try:
                return done.result()
            finally:
                self._forget(call)
                if call.exit is not None:
                    raise call.exit
        except BaseException:
            if joined and not done.done():
                joined[0].call_soon_threadsafe(call.cancel)
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    done.result()
            raise
        finally:
            if joined:
                self._forget(call)
                self.leave()

    def _join(self, joined: list[asyncio.AbstractEventLoop], call: _Call) -> asyncio.AbstractEventLoop:
        """The loop, with one user more."""
        with self._lock:
            if self._loop is None:
                raise RuntimeError("this group has been left: there is nothing to wait for")
            if self._exit is not None:
                error, self._exit = self._exit, None
                raise error
            self._calls.add(call)
            self._users += 1
            joined.append(self._loop)  # an interruption comes after a call: never between these two lines
            return self._loop

    def _forget(self, call: _Call) -> None:
        with self._lock:
            self._calls.discard(call)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """What the thread does."""
        asyncio.set_event_loop(loop)
        loop.slow_callback_duration = _SLOW
        try:
            while True:
                try:
                    loop.run_forever()
                    break
                except (SystemExit, KeyboardInterrupt) as error:  # of a handler
                    self._pass_exit_on(error)
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _pass_exit_on(self, error: BaseException) -> None:
        """Every thread that waits is to end; without one, the first that comes to wait."""
        with self._lock:
            if not self._calls:
                self._exit = error
            for call in self._calls:
                call.exit = error
                call.cancel()

    def _refuse_its_own_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise RuntimeError(
                "an event handler cannot wait for a group of a plain `with`:"
                " the group and its events need the thread that it runs in"
            )


def _pass_on(task: asyncio.Task[T], done: Future[T]) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
