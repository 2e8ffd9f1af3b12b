"""The parent's loop: owns leases, limits and retries; moves messages; decides nothing by itself.

    jobs (read lazily) ─► Feed ─► Schedule ─take─► Slot ─Lease─► worker
                                     ▲                              │
                                     ├─ release ◄─── assess ◄───Outcome
                                     └─ wait, add ◄─ RetryPolicy ◄──┤
                                                                    └─► Results.accept ─► writer ─► Ack

One thread runs all of it: whoever holds a job, a lease or a record is known at
any moment, and no lock is needed. The policies (`policy/`) are pure; this file
gives them the time and does what they say. How a run ends is `_shut_down`, read
from top to bottom.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parallamr_mp import events
from parallamr_mp.engine.feed import Feed
from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.results import Results
from parallamr_mp.engine.seat import Seat, wait_for_all
from parallamr_mp.engine.settler import Settler
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.engine.slot import AHEAD_SECONDS, Slot
from parallamr_mp.engine.slots import Slots
from parallamr_mp.errors import EngineError, OutputError, ParallamrError
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule
from parallamr_mp.policy.thresholds import StopReason
from parallamr_mp.text import count

_PULSE = 0.1
_IMPATIENT = 5.0
"""Seconds after which a wait for the output is told, or ended where requests were given up anyway."""
_CLOCK_JUMP = 5.0
"""Seconds the loop must have come too late for the process to count as having been stopped."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    signum: int | None = None
    """The signal that stopped it."""
    stop: StopReason | None = None
    """Why it stopped by itself. Neither: all jobs have their outcome."""
    aborted: bool = False
    """Requests in flight were given up."""


@dataclass(slots=True)
class _Stop:
    """No new leases; those that are out may come back until the deadline."""

    deadline: float
    signum: int | None = None
    reason: StopReason | None = None
    error: ParallamrError | None = None
    """Raised when everything that was in flight is safe."""


class Dispatcher:
    """Runs jobs through slots until none is left, or until told to stop."""

    def __init__(
        self,
        *,
        jobs: Mapping[str, Iterator[Job]],
        make_seat: Callable[[int], Seat],
        slots: int,
        threads: int,
        results: Results,
        schedule: Schedule,
        retry: RetryPolicy,
        bus: events.EventBus,
        signals: SignalWatch | None = None,
        drain_timeout: float = 300.0,
        lease_timeout: float | None = None,
        stop_when: Callable[[float], StopReason | None] = lambda now: None,  # noqa: ARG005
        housekeep: Callable[[float], None] = lambda now: None,  # noqa: ARG005
        models: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_seat(number)` starts a worker; `drain_timeout` and `lease_timeout` are in seconds.

        `jobs` are read by key, each in the order of its ids; see `Feed` for `models`. A worker whose
        oldest lease is older than `lease_timeout` is killed: its own deadline
        has failed (a name server that does not answer, say). `stop_when` is
        asked before each round of leases, `housekeep` called about ten times a
        second, both with the time.
        """
        self._feed = Feed(jobs, schedule, self._settled, models)
        self._stop_when, self._housekeep = stop_when, housekeep
        self._results, self._schedule = results, schedule
        self._bus, self._signals, self._clock = bus, signals, clock
        self._drain_timeout, self._lease_timeout = drain_timeout, lease_timeout
        self._reactor = Reactor()
        self._slots = Slots(
            slots, threads, make_seat, self, self._reactor, clock, ahead_seconds=AHEAD_SECONDS
        )
        self._settler = Settler(schedule, retry, results, bus)
        self._stop: _Stop | None = None
        self._abort = False
        self._given_up = 0
        """Requests whose workers were killed in the end."""
        self._next_pulse = 0.0
        self._awake_by = self._clock()
        """When the loop was awake last, or is to be after its present sleep."""

    def run(self) -> Ending:
        """Returns when every job has its outcome or a signal has ended the run.

        Raises `OutputError` when results cannot be stored and `EngineError`
        when processes cannot be started; both leave whole records only.
        """
        orderly = False
        try:
            if self._signals is not None:
                self._reactor.watch_descriptor(self._signals.fileno(), self._heed_signals)
            self._results.start(self._reactor)
            self._slots.start()
            self._loop()
            orderly = not self._abort
        finally:
            self._shut_down(orderly=orderly)
        if self._results.problem is not None:
            raise self._results.problem
        # Who did not wait for the writer's end has lost nothing if it had written all there was.
        if not self._results.finished and self._results.backlog:
            raise OutputError("the output did not take all rows; those that it took are whole")
        if self._stop is not None and self._stop.error is not None:
            raise self._stop.error
        stop = self._stop
        if stop is None:
            return Ending(aborted=self._abort)
        return Ending(stop.signum, stop.reason, aborted=self._abort)

    def _loop(self) -> None:
        while True:
            now = self._wake()
            # Before anything is leased: what is asked once this is known could not be stored.
            if self._results.problem is not None:
                if not self._results.keeps:
                    raise self._results.problem
                self._fail(self._results.problem)
            self._slots.restart(now)
            if self._stop is None and (reason := self._stop_when(now)) is not None:
                self._stop_for(reason)
            if self._stop is None:
                self._lease(now)
            self._reactor.flush()
            if self._is_over(now):
                return
            timeout = self._time_to_wait(now)
            self._awake_by = now + timeout
            self._reactor.poll(timeout)
            self._pulse(self._wake())

    # ── giving out work ──────────────────────────────────────────────────────

    def _lease(self, now: float) -> None:
        self._settler.tell_stored()
        if self._results.congested:
            return
        self._slots.lease_suspects(now)
        while self._slots.room:
            try:
                job = self._feed.next(now)
            except ParallamrError as error:
                self._fail(error)
                return
            if job is None:
                self._slots.level()
                return
            self._slots.place(job, now)

    def _settled(self, job: Job) -> bool:
        """Called by the feed: reading has shown that there is nothing to ask. False: no more of them now."""
        self._results.accept(job, Outcome(job.id, failure=job.verdict))
        return not self._results.congested

    def _give_up_expired(self, now: float) -> None:
        """Rows whose endpoints have all been out of order for too long get what became of the last try."""
        if self._stop is not None:
            return
        for job, failure in self._schedule.expired(now):
            self._settler.accept(job, Outcome(job.id, failure=failure))

    # ── taking work back ─────────────────────────────────────────────────────

    def leasing(self, slot: Slot, job: Job) -> None:
        """Called by the slots: a job is about to leave."""

    def begun(self, slot: Slot, job: Job) -> None:  # noqa: ARG002
        """Called by the slots: a worker begins with a job."""
        if self._bus.wants(events.AttemptStarted):
            self._bus.publish(events.AttemptStarted(job.id, job.label, job.attempts, job.payload))

    def returned(self, slot: Slot, job: Job) -> None:  # noqa: ARG002
        """Called by the slots: nothing was done for this lease."""
        self._schedule.release(job, self._clock(), begun=False)
        # While stopping, the row is left without a result: to be resumed.
        if self._stop is None:
            self._schedule.add(job)

    def said(self, slot: Slot, what: Any) -> None:
        """Called by the slots: workers of a sweep tell nothing besides their outcomes."""

    def settle(self, slot: Slot, job: Job, outcome: Outcome) -> None:
        """Called by the slots: a lease has come back."""
        self._settler.settle(slot, job, outcome, self._clock(), stopping=self._stop is not None)

    def slot_ready(self, slot: Slot) -> None:
        self._bus.publish(events.WorkerStarted(slot.number, slot.pid))

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        """Called by the slots: a process is gone, and these leases with it."""
        for job in orphans:
            self._settler.died(job, self._clock(), self._stop is not None, counts=True)
        self._bus.publish(events.WorkerLost(slot.number, slot.pid, slot.exit_code, len(orphans), slot.report))

    def slot_given_up(self, slot: Slot, orphans: list[Job]) -> None:  # noqa: ARG002
        """Called by the slots: a process has ended, as it was told to, with these leases."""
        for job in orphans:
            self._settler.died(job, self._clock(), self._stop is not None, counts=False)
        self._given_up += len(orphans)

    def cannot_start(self, error: EngineError) -> None:
        """Called by the slots: the run cannot go on."""
        self._fail(error)

    # ── time ─────────────────────────────────────────────────────────────────

    def _time_to_wait(self, now: float) -> float:
        until = self._next_pulse
        # What is due already was not leased for want of room: room, not time, wakes the loop.
        if (due := self._schedule.next_due()) is not None and due > now:
            until = min(until, due)
        if self._stop is not None:
            until = min(until, self._stop.deadline)
        return max(0.0, until - now)

    def _wake(self) -> float:
        """The time. After Ctrl-Z or a frozen container, what nobody had of it does not count against anybody.

        Asked before each decision that may end something, for a process can be
        stopped anywhere: in its sleep, or while it writes to the terminal.
        Retries need nothing: the wait that a server asked for has passed.
        """
        now = self._clock()
        gap = now - self._awake_by
        self._awake_by = now
        if gap > _CLOCK_JUMP:
            self._slots.forgive(gap, now)
            if self._stop is not None:
                # A signal that had waited for the process to go on has its full time already.
                self._stop.deadline = min(self._stop.deadline + gap, now + self._drain_timeout)
        return now

    def _pulse(self, now: float) -> None:
        if now < self._next_pulse:
            return
        self._next_pulse = now + _PULSE
        self._housekeep(now)
        self._give_up_expired(now)
        for news in self._schedule.news():
            self._bus.publish(events.EndpointChanged(news.endpoint, news.state, news.seconds, news.reason))
        self._slots.recall_stale(now)
        if self._lease_timeout is not None:
            self._slots.kill_overdue(now, self._lease_timeout)
        in_flight, oldest, limit = self._slots.in_flight, self._slots.oldest, self._schedule.limit(now)
        self._bus.publish(
            events.Pulse(
                in_flight,
                self._schedule.waiting,
                now - oldest.since if oldest is not None else 0.0,
                oldest.id if oldest is not None else None,
                oldest.label if oldest is not None else "",
                None if limit is None else min(limit, self._slots.threads),
                self._schedule.hold(now) if not in_flight else "",
            )
        )

    # ── ending ───────────────────────────────────────────────────────────────

    def _end_with(self, stop: _Stop) -> None:
        self._stop = stop
        self._slots.replaces = False
        self._slots.recall()

    def _fail(self, error: ParallamrError) -> None:
        """The run cannot go on, but what is in flight is being paid for: it may finish."""
        if self._stop is None:
            self._end_with(_Stop(self._clock() + self._drain_timeout, error=error))
            if self._slots.in_flight:
                reason = str(error).partition("\n")[0]
                self._bus.publish(
                    events.Notice(
                        f"{reason}; requests in flight may finish within {self._drain_timeout:.0f} s"
                    )
                )

    def _stop_for(self, reason: StopReason) -> None:
        """A limit that the user has set is reached."""
        self._end_with(_Stop(self._clock() + self._drain_timeout, reason=reason))
        if in_flight := self._slots.in_flight:
            requests = count(in_flight, "request")
            self._bus.publish(
                events.Notice(
                    f"{reason.text}: no new requests; {requests} in flight may finish"
                    f" within {self._drain_timeout:.0f} s"
                )
            )

    def _heed_signals(self) -> None:
        """First signal: no new requests, those in flight may finish. Second: give them up.

        SIGHUP is never a second one. Of a window that is closed several come, from
        its program, the shell and the kernel; systemd sends one right after SIGTERM.
        """
        for signum in self._signals.take() if self._signals is not None else []:
            if self._stop is not None:
                if signum == signal.SIGHUP:
                    continue
                if self._stop.reason is not None and self._stop.signum is None:
                    self._stop.signum = signum  # it drains already
                    continue
                self._abort = True
                return
            self._end_with(_Stop(self._clock() + self._drain_timeout, signum))
            self._bus.publish(events.Stopping(signum, self._slots.in_flight, self._drain_timeout))

    def _is_over(self, now: float) -> bool:
        if self._abort:
            return True
        if self._slots.leased:
            if self._stop is not None and now >= self._stop.deadline:
                self._abort = True
                return True
            return False
        nothing_left = self._feed.exhausted and self._schedule.parked == 0 and not self._slots.suspects
        if self._stop is None and self._schedule.broke and self._schedule.parked:
            self._stop_for(StopReason("budget", self._schedule.broke))
        return self._stop is not None or nothing_left

    def _shut_down(self, *, orderly: bool) -> None:
        """The one way out, whatever happened before.

        1. When requests are to be given up, workers are killed, and what they had
           sent is read: those answers are paid for. So are those that better ones
           were to take the place of. Then nobody listens to workers any more:
           threads live on, and the writer that closes would not take their answers.
        2. The results are made safe: the writer gets what is left and closes.
        3. Workers are told to stop. Not before: what is not stored yet they keep, and
           save it if this process is killed while the writer is behind.
        4. Everybody is waited for; who does not come is killed.
        """
        if not orderly:
            self._slots.kill()
            self._read_dry()
            for seat in self._slots.seats:
                self._reactor.forget(seat)
            self._tell_of_given_up()
        self._settler.accept_fallbacks()
        self._results.finish()
        self._wait_for_results(patient=orderly)
        self._slots.stop()
        self._reactor.flush()
        seats = self._slots.seats
        if self._results.seat is not None:
            seats.append(self._results.seat)
        for seat in seats:
            self._reactor.forget(seat)
        late = wait_for_all(seats, 5.0 if orderly else 1.0)
        for seat in late:
            seat.kill()
        # A thread that is stuck in a request ends with it, or with this process.
        wait_for_all([seat for seat in late if seat.pid is not None], 5.0)
        if self._signals is not None:
            self._reactor.forget_descriptor(self._signals.fileno())
        self._reactor.close()

    def _tell_of_given_up(self) -> None:
        number = self._given_up + self._slots.in_flight
        if number:
            requests = count(number, "request")
            self._bus.publish(
                events.Notice(f"{requests} in flight given up: the provider may charge for what it was doing")
            )

    def _wait_for_results(self, *, patient: bool) -> None:
        """Until the results are safe, however long the output takes: a reader that pauses, a slow disk.

        A signal says that nobody wants to wait any longer; what is not written
        then is an error, for `run` to tell.
        """
        started = self._clock()
        told = False
        while not self._results.finished and self._results.problem is None:
            waited = self._clock() - started
            if self._abort if patient else waited > _IMPATIENT:
                break
            if waited > _IMPATIENT and not told:
                told = True
                self._bus.publish(
                    events.Notice("waiting for the output to take the last rows; Ctrl-C gives up")
                )
            before = self._stop
            self._reactor.flush()
            self._reactor.poll(0.1)
            if before is None and self._stop is not None:
                self._abort = True
        self._reactor.flush()

    def _read_dry(self) -> None:
        """Takes what killed workers had sent in full. Threads, which live on: what is there now."""
        deadline = self._clock() + 2.0
        while self._clock() < deadline and any(slot.seat and slot.pid is not None for slot in self._slots):
            self._reactor.poll(0.1)
        self._reactor.poll(0)
