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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from parallamr_mp import events
from parallamr_mp.engine.feed import Feed
from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.results import Results
from parallamr_mp.engine.seat import Seat, wait_for_all
from parallamr_mp.engine.settler import MAX_DEATHS, Settler
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.engine.slot import Slot
from parallamr_mp.errors import EngineError, OutputError, ParallamrError
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule
from parallamr_mp.policy.thresholds import StopReason
from parallamr_mp.text import count

MAX_FAILED_STARTS = 3
"""Times in a row that a slot's process may die before it is up."""
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_seat(number)` starts a worker; `drain_timeout` and `lease_timeout` are in seconds.

        `jobs` are read by key, each in the order of its ids. A worker whose
        oldest lease is older than `lease_timeout` is killed: its own deadline
        has failed (a name server that does not answer, say). `stop_when` is
        asked before each round of leases, `housekeep` called about ten times a
        second, both with the time.
        """
        self._feed = Feed(jobs, schedule, self._settled)
        self._stop_when, self._housekeep = stop_when, housekeep
        self._results, self._schedule = results, schedule
        self._bus, self._signals, self._clock = bus, signals, clock
        self._drain_timeout, self._lease_timeout = drain_timeout, lease_timeout
        self._reactor = Reactor()
        self._slots = [
            Slot(number, threads, lambda number=number: make_seat(number), self)  # type: ignore[misc]
            for number in range(slots)
        ]
        self._settler = Settler(schedule, retry, results, bus)
        self._suspects: deque[Job] = deque()
        """Jobs that may have killed their workers; each waits for the reserved slot to be empty."""
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
            for slot in self._slots:
                slot.start()
                self._reactor.watch(slot)
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
            self._restart_slots(now)
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
        while not self._results.congested:
            self._lease_suspect(now)
            slot = max(self._slots, key=_free)
            if slot.free == 0 or (job := self._next_job(now)) is None:
                return
            if job.deaths < MAX_DEATHS - 1:
                self._give(slot, job, now)
                continue
            self._suspects.append(job)
            if not any(slot.reserved for slot in self._slots):
                min(self._slots, key=lambda slot: len(slot.held)).reserved = True

    def _lease_suspect(self, now: float) -> None:
        """Gives a job that was there at all deaths but the last allowed a worker of its own.

        Whoever is in flight with a deadly job shares its deaths. Alone, only the
        deadly one dies a third time; one that happened to be there gets through.
        """
        for slot in self._slots:
            if slot.reserved and slot.ready and not slot.held:
                slot.reserved = bool(self._suspects)
                if self._suspects:
                    self._give(slot, self._suspects.popleft(), now)

    def _give(self, slot: Slot, job: Job, now: float) -> None:
        slot.lease(job, now)
        if self._bus.wants(events.AttemptStarted):
            self._bus.publish(events.AttemptStarted(job.id, job.label, job.attempts, job.payload))

    def _next_job(self, now: float) -> Job | None:
        try:
            return self._feed.next(now)
        except ParallamrError as error:
            self._fail(error)
            return None

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

    def settle(self, slot: Slot, job: Job, outcome: Outcome) -> None:
        """Called by a slot: a lease has come back."""
        self._settler.settle(slot, job, outcome, self._clock(), stopping=self._stop is not None)

    def slot_ready(self, slot: Slot) -> None:
        self._bus.publish(events.WorkerStarted(slot.number, slot.pid))

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        """Called by a slot: its process is gone, and these leases with it."""
        for job in orphans:
            self._settler.died(job, self._clock(), self._stop is not None, counts=not slot.stopping)
        if slot.stopping:
            self._given_up += len(orphans)
            return
        self._bus.publish(events.WorkerLost(slot.number, slot.pid, slot.exit_code, len(orphans), slot.report))
        if slot.failed_starts >= MAX_FAILED_STARTS:
            self._fail(
                EngineError(
                    f"worker {slot.number}: its process ended {slot.failed_starts} times before it was ready"
                    f" (exit code {slot.exit_code})\n{slot.report}".rstrip()
                )
            )
        if self._stop is None:
            slot.restart_at = self._clock() + (0.25 * 2**slot.failed_starts if slot.failed_starts else 0.0)

    def _restart_slots(self, now: float) -> None:
        for slot in self._slots:
            if slot.restart_at is not None and slot.restart_at <= now and self._stop is None:
                try:
                    slot.start()
                except EngineError as error:
                    self._fail(error)
                    return
                self._reactor.watch(slot)

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
            for slot in self._slots:
                for held in slot.held.values():
                    held.since = min(held.since + gap, now)
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
        in_flight, oldest, limit = 0, None, self._schedule.limit(now)
        for slot in self._slots:
            in_flight += len(slot.held)
            # Leases go out in time order and dicts keep it: the first is the oldest.
            held = next(iter(slot.held.values()), None)
            if held is None:
                continue
            if oldest is None or held.since < oldest.since:
                oldest = held
            overdue = self._lease_timeout is not None and now - held.since > self._lease_timeout
            # A thread cannot be killed; to cut its channel would idle its neighbours.
            if overdue and slot.pid is not None:
                slot.kill()
        self._bus.publish(
            events.Pulse(
                in_flight,
                self._schedule.waiting,
                now - oldest.since if oldest is not None else 0.0,
                oldest.job.id if oldest is not None else None,
                oldest.job.label if oldest is not None else "",
                None if limit is None else min(limit, sum(slot.threads for slot in self._slots)),
                self._schedule.hold(now) if not in_flight else "",
            )
        )

    # ── ending ───────────────────────────────────────────────────────────────

    def _fail(self, error: ParallamrError) -> None:
        """The run cannot go on, but what is in flight is being paid for: it may finish."""
        if self._stop is None:
            self._stop = _Stop(self._clock() + self._drain_timeout, error=error)
            if any(slot.held for slot in self._slots):
                reason = str(error).partition("\n")[0]
                self._bus.publish(
                    events.Notice(
                        f"{reason}; requests in flight may finish within {self._drain_timeout:.0f} s"
                    )
                )

    def _stop_for(self, reason: StopReason) -> None:
        """A limit that the user has set is reached."""
        self._stop = _Stop(self._clock() + self._drain_timeout, reason=reason)
        if in_flight := sum(len(slot.held) for slot in self._slots):
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
            self._stop = _Stop(self._clock() + self._drain_timeout, signum)
            in_flight = sum(len(slot.held) for slot in self._slots)
            self._bus.publish(events.Stopping(signum, in_flight, self._drain_timeout))

    def _is_over(self, now: float) -> bool:
        if self._abort:
            return True
        if any(slot.held for slot in self._slots):
            if self._stop is not None and now >= self._stop.deadline:
                self._abort = True
                return True
            return False
        nothing_left = self._feed.exhausted and self._schedule.parked == 0 and not self._suspects
        if self._stop is None and self._schedule.broke and self._schedule.parked:
            self._stop_for(StopReason("budget", self._schedule.broke))
        return self._stop is not None or nothing_left

    def _shut_down(self, *, orderly: bool) -> None:
        """The one way out, whatever happened before.

        1. When requests are to be given up, workers are killed, and what they had
           sent is read: those answers are paid for. So are those that better ones
           were to take the place of.
        2. The results are made safe: the writer gets what is left and closes.
        3. Workers are told to stop. Not before: what is not stored yet they keep, and
           save it if this process is killed while the writer is behind.
        4. Everybody is waited for; who does not come is killed.
        """
        if not orderly:
            for slot in self._slots:
                slot.stop()
                slot.kill()
            self._read_dry()
            self._tell_of_given_up()
        self._settler.accept_fallbacks()
        self._results.finish()
        self._wait_for_results(patient=orderly)
        for slot in self._slots:
            slot.stop()
        self._reactor.flush()
        seats = [slot.seat for slot in self._slots if slot.seat is not None]
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
        number = self._given_up + sum(len(slot.held) for slot in self._slots)
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


def _free(slot: Slot) -> int:
    return slot.free
