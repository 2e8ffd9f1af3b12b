"""A seat for one worker process, the leases it holds, and its replacement after a death.

    Slots.place ──► Slot.lease ──Lease──► worker
    owner.settle ◄── Slot.deliver ◄─Outcome─┘
    owner.slot_lost ◄── Slot.lost        (end of file: everything sent in full has been delivered before)

The slot's window is its number of threads, and, where requests take
milliseconds, a few leases more: as many as threads would else be without one
while the parent hears of the last and sends the next. Those wait in the worker,
and which they are is known here exactly: a thread takes the next one only after
it has sent, in full, the outcome of the last. So what a killed worker costs is
what it really had in flight; and what has waited for a second is called back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from parallamr_mp.engine.messages import Crashed, Lease, Outcome, Ready, Recall, Returned, Said, Stop
from parallamr_mp.engine.seat import Seat
from parallamr_mp.policy.job import Job

AHEAD_SECONDS = 0.003
"""How far leases go ahead of threads: a little more than a busy parent takes from an outcome to a lease."""
_MOST_AHEAD = 16
_STALE_SECONDS = 1.0
_FORGETS = 0.1
"""How far one answer draws the average of what answers take towards itself."""


class SlotOwner(Protocol):
    """Whom a slot reports to: the slots of a run."""

    def begun(self, slot: Slot, job: Job) -> None:
        """The worker has a thread for this lease: at once, but for leases that go ahead of threads."""
        ...

    def settle(self, slot: Slot, job: Job, outcome: Outcome) -> None:
        """A lease has come back."""
        ...

    def returned(self, slot: Slot, job: Job) -> None:
        """A lease has come back, or died with its process, without having been begun."""
        ...

    def said(self, slot: Slot, what: Any) -> None:
        """The worker tells something besides."""
        ...

    def slot_ready(self, slot: Slot) -> None:
        """The slot's process takes leases."""
        ...

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        """The slot's process is gone; these leases had been begun and did not come back."""
        ...


class Slot:
    """One seat for a worker. Used by the dispatcher's thread alone."""

    def __init__(
        self,
        number: int,
        threads: int,
        make_seat: Callable[[], Seat],
        owner: SlotOwner,
        *,
        ahead_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ahead_seconds`: for how much work of its threads leases may wait in the worker."""
        self.number, self.threads = number, threads
        self._make_seat, self._owner, self._clock = make_seat, owner, clock
        self.seat: Seat | None = None
        self.held: dict[int, Job] = {}
        """Its leases, by the job's id, the oldest first."""
        self.waiting: dict[int, Job] = {}
        """Those of them that wait in the worker for a thread."""
        self._ahead_seconds = ahead_seconds
        self._ahead = 0
        """How many may wait."""
        self._recalled = False
        """What waits has been asked for."""
        self._pace: float | None = None
        """Seconds that what was answered has taken lately, on average."""
        self.ready = False
        self.stopping = False
        self.reserved = False
        """Its next or only lease is a suspect's: nobody else shall be in flight with that. See `reserve`."""
        self.window = 0
        """How many leases it may hold now, for anybody; what it does hold may be more."""
        self.failed_starts = 0
        """Deaths before `Ready`, in a row."""
        self.stored: list[int] = []
        """Outcomes of this process that are stored: it is told with the next lease."""
        self.report = ""
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.restart_at: float | None = None

    def start(self) -> None:
        """Puts a new process into the seat. Raises EngineError."""
        self.restart_at = None
        self.report = ""
        self.seat = self._make_seat()
        self.pid = self.seat.pid

    def reserve(self, reserved: bool) -> None:
        """Keeps the slot for a suspect, or gives it back to everybody."""
        self.reserved = reserved
        self._set_window()

    def _set_window(self) -> None:
        closed = not self.ready or self.stopping or self.reserved
        self.window = 0 if closed else self.threads + self._ahead

    def lease(self, job: Job, now: float) -> None:
        """Gives the job to the worker and counts the attempt."""
        if self.seat is None:
            raise RuntimeError("a lease for an empty seat")
        job.attempts += 1
        job.since = now
        self.held[job.id] = job
        if len(self.held) > self.threads:
            self.waiting[job.id] = job
            self._recalled = False
        else:
            self._owner.begun(self, job)
        self.seat.outbox.post(Lease(job.id, job.attempts, job.payload, tuple(self.stored), job.route))
        self.stored.clear()

    def recall(self) -> None:
        """Asks the worker for what it has not begun."""
        if self.seat is not None and self.waiting and not self._recalled:
            self._recalled = True
            self.seat.outbox.post(Recall())

    def recall_stale(self, now: float) -> None:
        """The same where leases wait longer than was to be expected: others may have a thread for them."""
        if self.waiting and now - next(iter(self.waiting.values())).since > _STALE_SECONDS:
            self.recall()
            self._forget_pace()

    def stop(self) -> None:
        """Lets the worker finish what it has begun and end."""
        if self.seat is not None and not self.stopping:
            self.stopping = True
            self._set_window()
            self.seat.outbox.post(Stop())

    def kill(self) -> None:
        if self.seat is not None:
            self.seat.kill()

    def deliver(self, message: Any) -> None:
        match message:
            case Outcome():
                job = self.held.pop(message.id, None)
                if job is not None:
                    self._learn(message)
                    self.waiting.pop(job.id, None)
                    if self.waiting:
                        self._begin_next()
                    self._owner.settle(self, job, message)
            case Ready():
                self.ready = True
                self.failed_starts = 0
                self._set_window()
                self._owner.slot_ready(self)
            case Returned():
                self._take_back(message.ids)
            case Said():
                self._owner.said(self, message.what)
            case Crashed():
                self.report = message.report

    def _take_back(self, ids: tuple[int, ...]) -> None:
        """The worker has not begun these and never will, whatever its outcomes since made them seem.

        For each that seemed to have been begun a thread had come too late, and
        takes instead what was leased after the worker had been asked.
        """
        returned = [self.held.pop(id_) for id_ in ids if id_ in self.held]
        late = sum(self.waiting.pop(job.id, None) is None for job in returned)
        for _ in range(min(late, len(self.waiting))):
            self._begin_next()
        for job in returned:
            self._return(job)

    def _begin_next(self) -> None:
        """A thread has become free, and takes what has waited longest."""
        job = self.waiting.pop(next(iter(self.waiting)))
        job.since = self._clock()
        self._owner.begun(self, job)

    def _return(self, job: Job) -> None:
        """Hands on one that is no longer held: it was no attempt."""
        job.attempts -= 1
        self._owner.returned(self, job)

    def _learn(self, outcome: Outcome) -> None:
        if not self._ahead_seconds or outcome.failure is not None:
            return
        pace = self._pace
        self._pace = outcome.seconds if pace is None else pace + (outcome.seconds - pace) * _FORGETS
        most = min(_MOST_AHEAD, self.threads)
        ahead = int(min(most, self.threads * self._ahead_seconds / max(self._pace, 1e-6)))
        if ahead != self._ahead:
            self._ahead = ahead
            self._set_window()

    def _forget_pace(self) -> None:
        """No lease goes ahead until answers have shown anew how fast they come."""
        self._pace, self._ahead = None, 0
        self._set_window()

    def lost(self) -> None:
        dead, self.seat = self.seat, None
        if dead is not None:
            if not dead.join(5.0):  # it goes on without a channel, for nobody
                dead.kill()
                dead.join(5.0)
            self.exit_code = dead.exit_code
        if not self.ready:
            self.failed_starts += 1
        self.ready = False
        self._forget_pace()
        orphans = [job for job in self.held.values() if job.id not in self.waiting]
        unbegun = list(self.waiting.values())
        self.held.clear()
        self.waiting.clear()
        self.stored.clear()
        for job in unbegun:
            self._return(job)
        self._owner.slot_lost(self, orphans)
