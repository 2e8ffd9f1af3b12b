"""The slots of one run: who has room, who is replaced, and who gets what may have killed a worker.

    owner ──place(job)──► the slot with most room ──Lease──► worker
      ▲                        │ its process dies
      ├── settle ◄─── Outcome ─┤
      └── slot_lost ◄──────────┴──► a new process, later and later the more often it dies before it is up

Used by the thread of its owner alone: the dispatcher of a sweep, or a group.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import Seat
from parallamr_mp.engine.slot import Slot, SlotOwner
from parallamr_mp.errors import EngineError
from parallamr_mp.policy.job import Job

MAX_DEATHS = 3
"""Workers that may die on one job before it becomes an error."""
MAX_FAILED_STARTS = 3
"""Times in a row that a slot's process may die before it is up."""


class SlotsOwner(SlotOwner, Protocol):
    """Whom the slots report to, in its own thread: all that a slot tells, and more."""

    def leasing(self, slot: Slot, job: Job) -> None:
        """The job is about to go to this worker; its payload can still be made fit for it."""
        ...

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        """As `SlotOwner` has it, of a process that had not been told to end."""
        ...

    def slot_given_up(self, slot: Slot, orphans: list[Job]) -> None:
        """The same of a process that had been told to end."""
        ...

    def cannot_start(self, error: EngineError) -> None:
        """No process can be started, or none comes up. It is not tried again."""
        ...


class Slots:
    """Gives jobs to workers, and keeps the workers alive."""

    def __init__(
        self,
        number: int,
        threads: int,
        make_seat: Callable[[int], Seat],
        owner: SlotsOwner,
        reactor: Reactor,
        clock: Callable[[], float],
        *,
        ahead_seconds: float = 0.0,
    ) -> None:
        """`make_seat(number)` starts a worker of so many threads; raises `EngineError`.

        `ahead_seconds`: see `Slot`.
        """
        self._owner, self._reactor, self._clock = owner, reactor, clock
        # What slots report and this has nothing to add to.
        self.settle, self.said, self.slot_ready = owner.settle, owner.said, owner.slot_ready
        self.begun, self.returned = owner.begun, owner.returned
        self._slots = [
            Slot(
                place,
                threads,
                lambda place=place: make_seat(place),  # type: ignore[misc]
                self,
                ahead_seconds=ahead_seconds,
                clock=clock,
            )
            for place in range(number)
        ]
        self._suspects: deque[Job] = deque()
        """Jobs that may have killed their workers; each waits for the reserved slot to be empty."""
        self.replaces = True
        """Whether who dies is replaced: not while a run ends."""

    def start(self) -> None:
        """Starts all processes, without waiting for them. Raises `EngineError`."""
        for slot in self._slots:
            slot.start()
            self._reactor.watch(slot)

    # ── giving out ───────────────────────────────────────────────────────────

    @property
    def room(self) -> bool:
        """Whether some worker takes a lease: for a thread with nothing to do, or ahead of one."""
        for slot in self._slots:  # noqa: SIM110  - a generator would be a call for each slot, at each lease
            if slot.window > len(slot.held):
                return True
        return False

    def place(self, job: Job, now: float) -> None:
        """Gives the job to the worker with most room, which there must be.

        One that was there at all deaths but the last allowed waits for a worker
        of its own. Whoever is in flight with a deadly job shares its deaths.
        Alone, only the deadly one dies a third time; one that happened to be
        there gets through.
        """
        if job.deaths < MAX_DEATHS - 1:
            roomiest, most = self._slots[0], -math.inf
            for slot in self._slots:
                # By threads and not by windows: while one has nothing to do, no lease goes ahead elsewhere.
                if (free := slot.threads - len(slot.held)) > most and slot.window > len(slot.held):
                    roomiest, most = slot, free
            self._owner.leasing(roomiest, job)
            roomiest.lease(job, now)
            return
        self._suspects.append(job)
        if not any(slot.reserved for slot in self._slots):
            min(self._slots, key=_load).reserve(True)
        self.lease_suspects(now)

    def lease_suspects(self, now: float) -> None:
        """Gives a suspect its worker, if that is empty by now; without suspects it is everybody's again."""
        for slot in self._slots:
            if slot.reserved and slot.ready and not slot.held:
                slot.reserve(bool(self._suspects))
                if self._suspects:
                    job = self._suspects.popleft()
                    self._owner.leasing(slot, job)
                    slot.lease(job, now)

    def drop_suspects(self) -> list[Job]:
        """Takes back the jobs that wait for a worker of their own."""
        dropped = list(self._suspects)
        self._suspects.clear()
        return dropped

    # ── what slots report ────────────────────────────────────────────────────

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        if slot.stopping:
            self._owner.slot_given_up(slot, orphans)
            return
        self._owner.slot_lost(slot, orphans)
        if slot.failed_starts >= MAX_FAILED_STARTS:
            self._owner.cannot_start(
                EngineError(
                    f"worker {slot.number}: its process ended {slot.failed_starts} times before it was ready"
                    f" (exit code {slot.exit_code})\n{slot.report}".rstrip()
                )
            )
        elif self.replaces:
            slot.restart_at = self._clock() + (0.25 * 2**slot.failed_starts if slot.failed_starts else 0.0)

    def restart(self, now: float) -> None:
        """Puts new processes into the slots for which it is time."""
        for slot in self._slots:
            if slot.restart_at is not None and slot.restart_at <= now and self.replaces:
                try:
                    slot.start()
                except EngineError as error:
                    self._owner.cannot_start(error)
                    return
                self._reactor.watch(slot)

    @property
    def restart_at(self) -> float | None:
        """When the next process is to be started; None: none is."""
        times = [slot.restart_at for slot in self._slots if slot.restart_at is not None]
        return min(times, default=None) if self.replaces else None

    # ── what is known of them ────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def threads(self) -> int:
        """Of all workers together: the most that can be in flight."""
        return sum(slot.threads for slot in self._slots)

    @property
    def leased(self) -> int:
        """Leases that are out."""
        return sum(len(slot.held) for slot in self._slots)

    @property
    def in_flight(self) -> int:
        """Those of them that have been begun."""
        return sum(len(slot.held) - len(slot.waiting) for slot in self._slots)

    @property
    def suspects(self) -> int:
        """Jobs that wait for a worker of their own."""
        return len(self._suspects)

    @property
    def oldest(self) -> Job | None:
        """The one whose lease has been out longest."""
        # Leases go out in time order and dicts keep it: the first is a slot's oldest.
        firsts = [job for slot in self._slots if (job := next(iter(slot.held.values()), None)) is not None]
        return min(firsts, key=_since, default=None)

    def forgive(self, gap: float, now: float) -> None:
        """Leases are `gap` seconds younger than they seem: nobody's time has passed."""
        for slot in self._slots:
            for job in slot.held.values():
                job.since = min(job.since + gap, now)

    # ── ending ───────────────────────────────────────────────────────────────

    def kill_overdue(self, now: float, longest: float) -> None:
        """Kills the workers with a lease that has been out for more than `longest` seconds."""
        for slot in self._slots:
            oldest = next(iter(slot.held.values()), None)
            # A thread cannot be killed; to cut its channel would idle its neighbours.
            if oldest is not None and now - oldest.since > longest and slot.pid is not None:
                slot.kill()

    def recall(self) -> None:
        """Asks the workers for what they have not begun."""
        for slot in self._slots:
            slot.recall()

    def level(self) -> None:
        """Asks for what waits at one worker while another has a thread with nothing to do."""
        for slot in self._slots:
            if slot.window and len(slot.held) < slot.threads:
                self.recall()
                return

    def recall_stale(self, now: float) -> None:
        """The same of workers that take longer than was to be expected."""
        for slot in self._slots:
            slot.recall_stale(now)

    def stop(self) -> None:
        """Lets the workers finish what they have begun and end."""
        self.replaces = False
        for slot in self._slots:
            slot.stop()

    def kill(self) -> None:
        """Ends the workers at once. What they had sent is still to be read."""
        self.stop()
        for slot in self._slots:
            slot.kill()

    @property
    def seats(self) -> list[Seat]:
        """Those somebody sits in."""
        return [slot.seat for slot in self._slots if slot.seat is not None]


def _load(slot: Slot) -> int:
    return len(slot.held)


def _since(job: Job) -> float:
    return job.since
