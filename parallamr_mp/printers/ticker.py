"""A thread that has something drawn again and again while there is something to draw."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Ticker:
    """Calls a method every so many seconds, from a thread of its own, between `start` and `stop`.

    The thread does not keep the method's object alive: it ends with it, and
    before the interpreter does, which a thread that writes must not outlive.
    """

    def __init__(self, method: Callable[[], object], seconds: float) -> None:
        self._method, self._seconds = weakref.WeakMethod(method), seconds
        self._stop: threading.Event | None = None

    def start(self) -> None:
        """Has no effect while it runs."""
        if self._stop is None:
            owner = self._method()
            if owner is None:
                return
            stop = self._stop = threading.Event()
            thread = threading.Thread(
                target=_tick, args=(self._method, self._seconds, stop), name="parallamr-printer", daemon=True
            )
            self._end = weakref.finalize(owner.__self__, _end, stop, thread)  # type: ignore[attr-defined]
            thread.start()

    def stop(self) -> None:
        """The method may be running still; it is not called again."""
        if self._stop is not None:
            self._stop.set()
            self._end.detach()
            self._stop = None


def _tick(method: weakref.WeakMethod[Callable[[], object]], seconds: float, stop: threading.Event) -> None:
    while not stop.wait(seconds):
        call = method()
        if call is None:
            return
        call()
        del call


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join(1.0)
