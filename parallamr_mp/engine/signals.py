"""How a user, a terminal or a batch system ends a run.

    kernel ──signal──► C handler ──byte──► wakeup pipe ──► Reactor.poll ──► the dispatcher decides

The Python-level handlers do nothing; they are there so that Python writes the
signal's number into the wakeup pipe. Nothing runs at a random place of the
program, and no KeyboardInterrupt tears a half-done step.
"""

from __future__ import annotations

import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


def _noted(signum: int, frame: FrameType | None) -> None:
    """The wakeup descriptor has it."""


class SignalWatch:
    """While entered, collects the stop signals of this process. Does nothing outside the main thread."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            for signum in STOP_SIGNALS:
                # nohup has set SIGHUP to be ignored: that is the user's wish.
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._handlers[signum] = signal.signal(signum, _noted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        if self._handlers:
            signal.set_wakeup_fd(self._wakeup)
        self._read.close()
        self._write.close()

    def fileno(self) -> int:
        return self._read.fileno()

    def pending(self) -> bool:
        """Whether `take` has something to give."""
        try:
            return bool(self._read.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def take(self) -> list[int]:
        """The stop signals that have come since the last call, in order."""
        try:
            data = self._read.recv(4096)
        except BlockingIOError:
            return []
        return [number for number in data if number in self._handlers]
