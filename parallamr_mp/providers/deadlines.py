"""Total deadlines: a thread that cuts a socket when its request has taken too long.

    calling thread                          watchdog thread (one per `Watchdog`)
    begin(deadline) ── call ──────────────► sleeps until the earliest deadline
    call.attach(socket)                     deadline past: call.expired = True,
    … connect, send, read …   ◄── shutdown(socket) ── every read ends at once
    end(call): from here on nothing is shut down

A socket's own timeout starts anew with every byte, so a server that drips can
hold a thread for ever. `shutdown` from another thread ends the blocked read.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_IDLE_SECONDS = 30.0


class Call:
    """One request under way. Made by `Watchdog.begin`, used by the thread that sends it."""

    __slots__ = ("_cut", "_lock", "deadline", "expired")

    def __init__(self, deadline: float, lock: threading.Condition) -> None:
        self.deadline = deadline
        """When it has to be over, on the clock of `time.monotonic`."""
        self.expired = False
        """True from the moment the deadline passed while the call was under way."""
        self._lock = lock
        self._cut: Callable[[], object] | None = None

    def on_deadline(self, cut: Callable[[], object]) -> None:
        """What to do at the deadline; replaces what was said before; at once if it has passed."""
        with self._lock:
            self._cut = cut
            if self.expired:
                self.cut()

    def remaining(self) -> float:
        """Seconds to the deadline; never below a millisecond, as 0 means non-blocking to a socket."""
        return max(self.deadline - time.monotonic(), 0.001)

    def cut(self) -> None:
        """Ends the call's reads. The caller holds the lock.

        The requesting thread may close its socket in this very moment: a
        Python socket forgets its descriptor before it closes it, so the cut
        fails, harmlessly, and does not hit a successor with the same number.
        A call that is over is not cut at all (see `Watchdog.end`).
        """
        if self._cut is not None:
            # Whatever it is, the thread that watches all other calls must survive it.
            with contextlib.suppress(Exception):
                self._cut()


class Watchdog:
    """Watches the deadlines of many calls with one thread, started when first needed.

    One condition protects the calls, their state, and the thread's own; it is
    held for microseconds. Without it a socket could be cut after its call had
    returned it to the pool, where the next request would die of it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._calls: set[Call] = set()
        self._wake_at = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, deadline: float) -> Call:
        """Starts to watch; to be followed by `end`, whatever happens."""
        call = Call(deadline, self._changed)
        with self._changed:
            self._calls.add(call)
            if self._thread is None:
                self._closed = False
                self._wake_at = deadline
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline < self._wake_at:
                self._changed.notify()
        return call

    def end(self, call: Call) -> None:
        """Stops to watch: once this has returned, the call's socket is never touched again."""
        with self._changed:
            self._calls.discard(call)
            if self._closed and not self._calls:
                self._changed.notify()

    def close(self) -> None:
        """Ends the thread, as soon as no call is under way. A later call would start another."""
        with self._changed:
            self._closed = True
            thread = self._thread if not self._calls else None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1.0)  # a call begun meanwhile would keep it

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for call in self._calls:
                    if not call.expired and call.deadline <= now:
                        call.expired = True
                        call.cut()
                pending = [call.deadline for call in self._calls if not call.expired]
                if not self._calls and (self._closed or self._wake_at == math.inf):
                    # Under the lock: `begin` sees either this thread at work or none at all.
                    self._thread = None
                    return
                self._wake_at = min(pending, default=math.inf)
                # `begin` wakes us only for a deadline before this one. With the same timeout
                # for all calls that never happens, and we wake once per timeout, not per call.
                self._changed.wait(self._wake_at - now if pending else _IDLE_SECONDS)
