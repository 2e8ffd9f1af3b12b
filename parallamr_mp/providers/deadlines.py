"""Total deadlines: a thread that cuts a socket when its request has taken too long.

    calling thread                          watchdog thread (one per `Watchdog`)
    begin(seconds) ── call ───────────────► sleeps until the earliest deadline, in short naps
    call.on_deadline(cut)                   deadline past: call.expired = True,
    … connect, send, read …   ◄── shutdown(socket) ── every read ends at once
    end(call): from here on nothing is shut down

A socket's own timeout starts anew with every byte, so a server that drips can
hold a thread for ever. `shutdown` from another thread ends the blocked read.

A process that is stopped (Ctrl-Z, SIGSTOP, a frozen container) wakes with every
deadline in the past, and the answers it waits for unread in its sockets or
still on their way. The clock cannot tell that from waiting; the naps can: one
that took seconds longer than asked for was not slept but stood still through,
and the excess is added to every deadline. The total stays bounded: a call is
charged for every nap it was under way in, and for lateness up to
`STOPPED_SECONDS`. A process that runs is forgiven nothing; one that was stopped
exceeds its deadlines by the time it stood still, never by more.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAP_SECONDS = 0.5
"""The longest sleep while a call is under way: what a stop may cost a call at most, as the part of the nap
that came before it cannot be told from the rest. Two looks a second cost some 50 µs of CPU."""

STOPPED_SECONDS = 2.0
"""A nap that is late by more was a stop. Below, it was load: on a busy machine a thread waits for a CPU, or
for the interpreter's lock, for tenths of a second, a second at worst. To be wrong is cheap either way. A
shorter stop costs calls less than this; and a machine so loaded that it kept this thread from running for so
long kept the others from reading answers, too."""

_IDLE_SECONDS = 30.0


class Call:
    """One request under way. Made by `Watchdog.begin`, used by the thread that sends it."""

    __slots__ = ("_cut", "_lock", "begun", "deadline", "expired")

    def __init__(
        self, begun: float, seconds: float, lock: threading.Lock, cut: Callable[[], object] | None
    ) -> None:
        self.begun = begun
        """On the watchdog's clock."""
        self.deadline = begun + seconds
        """When it has to be over, on the same; later when the process was stopped meanwhile."""
        self.expired = False
        """True from the moment the deadline passed while the call was under way."""
        self._lock = lock
        self._cut = cut

    def on_deadline(self, cut: Callable[[], object]) -> None:
        """What to do at the deadline; replaces what was said before; at once if it has passed."""
        with self._lock:
            self._cut = cut
            if self.expired:
                self.cut()

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

    One lock protects the calls, their state, and the thread's own; it is
    held for microseconds. Without it a socket could be cut after its call had
    returned it to the pool, where the next request would die of it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        """`wait(condition, seconds)` is how the thread sleeps; it may return early, and late."""
        self._clock, self._wait = clock, wait
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._calls: set[Call] = set()
        self._wake_at = math.inf
        """When the thread is to look again; infinity: when it is woken, or there is none."""
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, seconds: float, cut: Callable[[], object] | None = None) -> Call:
        """Starts to watch a call that may take so long; to be followed by `end`, whatever happens.

        `cut`: what to do at the deadline, where that is known already.
        """
        with self._lock:
            # The clock is read under the lock: a stop between this and the thread's next look
            # is one that the call was under way in, and its deadline moves with the others.
            call = Call(self._clock(), seconds, self._lock, cut)
            self._calls.add(call)
            if call.deadline < self._wake_at:
                self._wake_at = call.begun
                if self._thread is None:
                    self._closed = False
                    self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                    self._thread.start()
                else:
                    self._changed.notify()
        return call

    def end(self, call: Call) -> None:
        """Stops to watch: once this has returned, the call's socket is never touched again."""
        with self._lock:
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
                now = self._clock()
                late = now - self._wake_at
                if late > STOPPED_SECONDS:
                    for call in self._calls:
                        # Who came after the stop, but before this look, gets nothing of it.
                        call.deadline += min(late, now - call.begun)
                for call in self._calls:
                    if not call.expired and call.deadline <= now:
                        call.expired = True
                        call.cut()
                if not self._calls and (self._closed or self._wake_at == math.inf):
                    # Under the lock: `begin` sees either this thread at work or none at all.
                    self._thread, self._wake_at = None, math.inf
                    return
                if self._calls:
                    pending = [call.deadline for call in self._calls if not call.expired]
                    self._wake_at = min([now + NAP_SECONDS, *pending])
                    self._wait(self._changed, self._wake_at - now)
                else:
                    # The next `begin` wakes us. As long as calls follow each other, none has to.
                    self._wake_at = math.inf
                    self._wait(self._changed, _IDLE_SECONDS)
