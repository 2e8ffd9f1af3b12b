"""A seat for one worker process, the leases it holds, and its replacement after a death.

    Dispatcher.lease ──► Slot.lease ──Lease──► worker
    Dispatcher.settle ◄── Slot.deliver ◄─Outcome─┘
    Dispatcher.orphaned ◄── Slot.lost     (end of file: everything sent in full has been delivered before)

The slot's window is its number of threads: no lease ever waits inside a worker,
so what a killed worker costs is what it really had in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from parallamr_mp.engine.messages import Crashed, Lease, Outcome, Ready, Said, Stop
from parallamr_mp.engine.seat import Seat
from parallamr_mp.policy.job import Job


@dataclass(slots=True)
class Held:
    """A lease that is out."""

    job: Job
    since: float
    """Monotonic seconds."""


class SlotOwner(Protocol):
    """Whom a slot reports to: the slots of a run."""

    def settle(self, slot: Slot, job: Job, outcome: Outcome) -> None:
        """A lease has come back."""
        ...

    def said(self, slot: Slot, what: Any) -> None:
        """The worker tells something besides."""
        ...

    def slot_ready(self, slot: Slot) -> None:
        """The slot's process takes leases."""
        ...

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        """The slot's process is gone; these leases did not come back."""
        ...


class Slot:
    """One seat for a worker. Used by the dispatcher's thread alone."""

    def __init__(self, number: int, threads: int, make_seat: Callable[[], Seat], owner: SlotOwner) -> None:
        self.number, self.threads = number, threads
        self._make_seat, self._owner = make_seat, owner
        self.seat: Seat | None = None
        self.held: dict[int, Held] = {}
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

    @property
    def free(self) -> int:
        """Threads that have nothing to do."""
        return max(0, self.window - len(self.held))

    def reserve(self, reserved: bool) -> None:
        """Keeps the slot for a suspect, or gives it back to everybody."""
        self.reserved = reserved
        self._set_window()

    def _set_window(self) -> None:
        closed = not self.ready or self.stopping or self.reserved
        self.window = 0 if closed else self.threads

    def lease(self, job: Job, now: float) -> None:
        """Gives the job to the worker and counts the attempt."""
        if self.seat is None:
            raise RuntimeError("a lease for an empty seat")
        job.attempts += 1
        self.held[job.id] = Held(job, now)
        self.seat.outbox.post(Lease(job.id, job.attempts, job.payload, tuple(self.stored), job.route))
        self.stored.clear()

    def stop(self) -> None:
        """Lets the worker finish what it holds and end."""
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
                held = self.held.pop(message.id, None)
                if held is not None:
                    self._owner.settle(self, held.job, message)
            case Ready():
                self.ready = True
                self.failed_starts = 0
                self._set_window()
                self._owner.slot_ready(self)
            case Said():
                self._owner.said(self, message.what)
            case Crashed():
                self.report = message.report

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
        self._set_window()
        orphans = [held.job for held in self.held.values()]
        self.held.clear()
        self.stored.clear()
        self._owner.slot_lost(self, orphans)
