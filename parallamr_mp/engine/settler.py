"""What becomes of a job whose lease has ended: stored, tried again, or asked for something better.

    Outcome ─► Schedule.release (limits, breaker, budget learn from it)
       ├─ a value ──────────► Results.accept, or, not good enough: leased again, the value kept meanwhile
       ├─ a failure ────────► RetryPolicy: wait and lease again, or Results.accept
       └─ its worker died ──► leased again, up to `MAX_DEATHS` times

Used by the dispatcher's thread alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from parallamr_mp import events
from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.results import Results
from parallamr_mp.engine.slot import Slot
from parallamr_mp.engine.slots import MAX_DEATHS
from parallamr_mp.models import Failure
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.retry import RetryPolicy, counts_against
from parallamr_mp.policy.schedule import Schedule


@dataclass(frozen=True, slots=True)
class _Fallback:
    """An answer that is paid for, while a better one is being asked for."""

    job: Job
    slot: Slot
    outcome: Outcome


class Settler:
    """Times are monotonic seconds; `stopping`: nothing is leased any more."""

    def __init__(
        self, schedule: Schedule, retry: RetryPolicy, results: Results, bus: events.EventBus
    ) -> None:
        self._schedule, self._retry, self._results, self._bus = schedule, retry, results, bus
        self._kept_by: dict[int, tuple[Slot, ...]] = {}
        """Accepted outcomes that are not safe yet, which their workers keep a copy of until they are told."""
        self._fallbacks: dict[int, _Fallback] = {}

    def settle(self, slot: Slot, job: Job, outcome: Outcome, now: float, *, stopping: bool) -> None:
        """A lease has come back to its slot."""
        probe = job.grant is not None and job.grant.probe
        if self._bus.wants(events.AttemptEnded):
            self._tell_of_end(job, outcome, now)
        self._schedule.release(job, now, self._results.assess(job, outcome))
        failure = outcome.failure
        if failure is not None:
            self._failed(slot, job, outcome, failure, now, probe=probe, stopping=stopping)
        elif not stopping and self._results.again(job, outcome):
            before = self._fallbacks.get(job.id)
            if before is not None and before.slot is not slot:
                before.slot.stored.append(job.id)  # the newer answer, and who keeps it, take its place
            self._fallbacks[job.id] = _Fallback(job, slot, outcome)
            self._schedule.add(job)
        else:
            self.accept(job, outcome, slot)

    def _failed(
        self,
        slot: Slot,
        job: Job,
        outcome: Outcome,
        failure: Failure,
        now: float,
        *,
        probe: bool,
        stopping: bool,
    ) -> None:
        if job.troubled_since is None:
            job.troubled_since = now
        if counts_against(failure, probe=probe):
            job.strikes += 1
        waited = now - job.troubled_since
        delay = self._retry.delay(failure, job.strikes, job.key, waited)
        if delay is None:
            if self._retry.deserves(failure, job.strikes, job.key):
                text = f"{failure.message}; given up {waited:.0f} s after it first failed (--max-wait)"
                outcome = replace(outcome, failure=replace(failure, message=text))
            self.accept(job, outcome, slot)
            return
        fallback = self._fallbacks.get(job.id)
        if fallback is None or fallback.slot is not slot:
            slot.stored.append(job.id)  # it goes on from here: the worker need not keep what it had
        # While stopping, the row is left without a result: to be resumed.
        if not stopping:
            if delay > 0:
                self._schedule.wait(job, now + delay)
            else:
                self._schedule.add(job)
            self._bus.publish(events.AttemptFailed(job.id, job.label, job.attempts, delay, failure))

    def died(self, job: Job, now: float, stopping: bool, *, counts: bool) -> None:
        """The job's worker is gone; `counts`: not because it was told to go."""
        kind, text = "worker_died", "its worker process died while this row was in flight"
        if not counts:
            kind, text = "given_up", "given up while in flight, as the run was to end"
        if self._bus.wants(events.AttemptEnded):
            self._tell_of_end(job, Outcome(job.id, failure=Failure(kind, text, unknown=True)), now)
        self._schedule.release(job, now)
        if not counts:
            return
        job.deaths += 1
        if job.deaths >= MAX_DEATHS:
            text = f"its worker process died {job.deaths} times while this row was in flight"
            self.accept(job, Outcome(job.id, failure=Failure("worker_died", text)))
        elif not stopping:
            self._schedule.add(job)

    def accept(self, job: Job, outcome: Outcome, slot: Slot | None = None) -> None:
        """The job is over, with this or, if this is a failure, with the answer that it had before."""
        keepers: tuple[Slot, ...] = () if slot is None else (slot,)
        if (fallback := self._fallbacks.pop(job.id, None)) is not None:
            keepers += (fallback.slot,)
            if outcome.failure is not None:
                outcome = fallback.outcome
        self._kept_by[job.id] = keepers
        self._results.accept(job, outcome)

    def accept_fallbacks(self) -> None:
        """Nothing better will come: what jobs had before is their result."""
        for fallback in tuple(self._fallbacks.values()):
            self.accept(fallback.job, fallback.outcome)

    def tell_stored(self) -> None:
        """Notes for the workers which of their outcomes they need not keep any longer."""
        for id_ in self._results.take_stored():
            for slot in self._kept_by.pop(id_, ()):
                slot.stored.append(id_)

    def _tell_of_end(self, job: Job, outcome: Outcome, now: float) -> None:
        leased = job.grant.at if job.grant is not None else now
        self._bus.publish(
            events.AttemptEnded(
                job.id,
                job.label,
                job.attempts,
                max(leased, now - outcome.seconds) if outcome.seconds else leased,
                now,
                job.route,
                job.payload,
                outcome.value,
                outcome.failure,
            )
        )
