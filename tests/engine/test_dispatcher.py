"""The parent's loop: outcomes, retries, limits, and how far it reads. Workers are threads of this process."""

import itertools
import threading
from collections import Counter

import pytest
from support.dispatching import Clock, Results, Table, at_once, jobs, of_type, only, run

from parallamr_mp import events
from parallamr_mp.engine import dispatcher as module
from parallamr_mp.engine import feed
from parallamr_mp.engine.dispatcher import Ending
from parallamr_mp.engine.messages import Lease, Outcome, Ready
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.errors import ProviderError
from parallamr_mp.models import Failure
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule

# --- outcomes and retries ----------------------------------------------------------------------


def test_every_job_gets_exactly_one_outcome():
    ending, results = run(jobs(200), lambda payload, attempt: payload * 2)
    assert ending == Ending()
    assert {id_: outcome.value for id_, outcome in only(results).items()} == {i: 2 * i for i in range(200)}


def test_no_jobs_at_all_end_at_once():
    ending, results = run([], lambda payload, attempt: payload)
    assert (ending, results.outcomes, results.finished) == (Ending(), {}, True)


def test_a_retryable_failure_is_asked_again_and_counted():
    def fail_twice(payload, attempt):
        if payload % 2 and attempt < 3:
            raise ProviderError("server", "busy", retryable=True)
        return attempt

    seen = []
    _, results = run(jobs(20), fail_twice, seen=seen)
    assert {id_: outcome.value for id_, outcome in only(results).items()} == {
        i: 3 if i % 2 else 1 for i in range(20)
    }
    again = [(event.job, event.attempts) for event in of_type(events.AttemptFailed, seen)]
    assert sorted(again) == sorted((i, attempt) for i in range(1, 20, 2) for attempt in (1, 2))


def test_retries_that_are_used_up_make_the_last_failure_final():
    def fail(payload, attempt):
        raise ProviderError("server", f"busy {attempt}", retryable=True)

    _, results = run(jobs(3), fail)
    assert {outcome.failure.message for outcome in only(results).values()} == {"busy 3"}
    assert set(results.attempts.values()) == {3}


def test_a_final_failure_is_not_asked_again():
    calls = Counter()

    def refuse(payload, attempt):
        calls[payload] += 1
        raise ProviderError("auth", "no")

    _, results = run(jobs(10), refuse)
    assert {outcome.failure.kind for outcome in only(results).values()} == {"auth"}
    assert set(calls.values()) == {1}


def test_a_retry_waits_for_the_policy_s_delay_and_no_longer_than_that():
    clock = Clock(1.0)
    asked, due = [], []

    def fail_twice(payload, attempt):
        asked.append(clock.now)
        if attempt < 3:
            raise ProviderError("rate_limit", "busy", retryable=True, retry_after=50.0 * attempt)

    def note(event):
        if isinstance(event, events.AttemptFailed):
            due.append(clock.now + event.delay)

    policy = RetryPolicy(uniform=lambda low, high: low)
    run(jobs(1), fail_twice, clock=clock, retry=policy, seen=(note,))
    assert [second - first >= 50 for first, second in itertools.pairwise(asked)] == [True, True]
    assert asked[1] >= due[0]
    assert asked[2] >= due[1] >= asked[1] + 100


def test_a_retry_that_is_due_while_all_threads_are_busy_does_not_make_the_loop_spin(monkeypatch):
    """With one retry waiting and every thread in a long request, the parent must sleep."""
    gate, timeouts, pulses = threading.Event(), [], itertools.count()
    real = module.Reactor.poll
    monkeypatch.setattr(
        module.Reactor, "poll", lambda self, timeout: (timeouts.append(timeout), real(self, timeout))[1]
    )

    def block(payload, attempt):
        if payload == 0 and attempt == 1:
            raise ProviderError("server", "busy", retryable=True)
        if payload == 1:
            gate.wait(10)

    def release(event):
        if isinstance(event, events.Pulse) and event.waiting and next(pulses) == 3:
            gate.set()

    # So late that the other job is leased before, however slow the machine is.
    late = RetryPolicy(base=0.3, uniform=lambda low, high: high)
    run(jobs(2), block, slots=1, threads=1, seen=(release,), retry=late)
    assert gate.is_set()
    assert len(timeouts) < 50


def test_an_overdue_worker_is_killed_and_its_job_asked_again():
    clock, gate, seats = Clock(0.2), threading.Event(), []

    class Killable(ThreadSeat):
        pid = 1  # a process, as far as the dispatcher can tell

        def kill(self):
            super().kill()
            gate.set()  # as SIGKILL would, ends what hangs

    def hang_once(receiver, sender):
        sender.send(Ready(len(seats)))
        for message in receiver.receive():
            if len(seats) == 1:
                gate.wait(10)
                return
            if isinstance(message, Lease):
                sender.send(Outcome(message.id, "late, but there"))
        receiver.receive()

    def make_seat(number):
        seats.append(Killable(hang_once, (), name="w"))
        return seats[-1]

    _, results = run(jobs(1), make_seat=make_seat, slots=1, threads=1, clock=clock, lease_timeout=2.0)
    assert len(seats) == 2
    assert only(results)[0].value == "late, but there"


def test_a_thread_that_hangs_leaves_the_others_of_its_process_at_work():
    """A thread cannot be killed; cutting its worker's channel would end those that can still answer."""
    others, overdue = threading.Semaphore(0), threading.Event()

    def hang(payload, attempt):
        if payload == 0:
            for _ in range(20):
                assert others.acquire(timeout=5)
        else:
            if payload > 5:
                assert overdue.wait(5)
            others.release()

    def note(event):
        if isinstance(event, events.Pulse) and event.oldest > 10:
            overdue.set()

    _, results = run(jobs(21), hang, slots=1, threads=2, clock=Clock(0.2), lease_timeout=5.0, seen=(note,))
    assert [id_ for id_, outcome in only(results).items() if outcome.failure] == []
    assert len(results.outcomes) == 21


# --- limits and what is leased when ------------------------------------------------------------


class Meter:
    """A handler that holds its callers until `full` are inside at once, and records the most by key."""

    def __init__(self, full, key_of):
        self._full, self._key_of = full, key_of
        self._changed = threading.Condition()
        self._inside = Counter()
        self._was_full = False
        self.most, self.most_of_all = Counter(), 0

    def __call__(self, payload, attempt, route=""):
        key = self._key_of(payload)
        with self._changed:
            self._inside[key] += 1
            self.most[key] = max(self.most[key], self._inside[key])
            self.most_of_all = max(self.most_of_all, self._inside.total())
            self._was_full |= self._inside.total() >= self._full
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._was_full, 5)
            assert self._was_full, f"only {self._inside} at once"
        with self._changed:
            self._inside[key] -= 1


@pytest.mark.parametrize(
    ("limits", "total", "most"),
    [
        ({}, None, 6),
        ({"a": 1, "b": 2}, None, 3 + 3),
        ({"a": 1, "b": 2}, 4, 4),
        ({"a": 1, "b": 1, "c": 1}, 6, 3),
    ],
)
def test_as_many_are_in_flight_as_limits_allow_and_never_more(limits, total, most):
    def key_of(payload):
        return "abc"[payload % 3]

    meter = Meter(most, key_of)
    work = [Job(number, key_of(number), number) for number in range(90)]
    _, results = run(work, meter, schedule=Schedule(at_once(limits), total))
    assert all(outcome.failure is None for outcome in only(results).values())
    assert len(results.outcomes) == 90
    assert meter.most_of_all == most
    assert all(meter.most[key] <= limit for key, limit in limits.items())


def test_a_limited_key_does_not_hold_up_another():
    others_done = threading.Semaphore(0)

    def slow_a(payload, attempt):
        if payload < 20:
            for _ in range(30 if payload == 0 else 0):
                assert others_done.acquire(timeout=5)
        else:
            others_done.release()

    work = [Job(number, "a" if number < 20 else "b", number) for number in range(50)]
    _, results = run(work, slow_a, schedule=Schedule(at_once({"a": 1})))
    assert [id_ for id_, outcome in only(results).items() if outcome.failure] == []
    assert len(results.outcomes) == 50


def test_the_table_is_read_no_further_than_there_are_threads_for_and_as_many_again_that_are_fast():
    table, ahead, done = Table(jobs(100)), [], itertools.count()

    def note(payload, attempt):
        ahead.append(table.read - next(done))

    run(table, note, slots=2, threads=3)
    assert max(ahead) <= 2 * 6
    assert table.read == 100


def test_reading_past_a_limited_key_has_an_end(monkeypatch):
    monkeypatch.setattr(feed, "LOOK_AHEAD", 5)
    table, ahead, done = Table(jobs(100)), [], itertools.count()

    def note(payload, attempt):
        ahead.append(table.read - next(done))

    run(table, note, schedule=Schedule(at_once({"a": 1})))
    assert max(ahead) <= 1 + 5
    assert table.read == 100


def test_a_total_limit_that_is_reached_stops_reading():
    table, ahead, done = Table(jobs(100)), [], itertools.count()

    def note(payload, attempt):
        ahead.append(table.read - next(done))

    run(table, note, schedule=Schedule(total=2))
    assert max(ahead) <= 2


def test_a_job_with_a_verdict_is_never_leased():
    asked = []
    work = jobs(10)
    for job in work[::2]:
        job.verdict = Failure("input_file", f"no file {job.id}")
    _, results = run(work, lambda payload, attempt: asked.append(payload))
    assert sorted(asked) == [1, 3, 5, 7, 9]
    assert [only(results)[i].failure.message for i in range(0, 10, 2)] == [
        f"no file {i}" for i in range(0, 10, 2)
    ]
    assert all(results.attempts[i] == 0 for i in range(0, 10, 2))


@pytest.mark.parametrize("verdicts", [False, True])
def test_results_that_are_not_safe_yet_hold_leases_back(verdicts):
    table, results, pulses, most = Table(jobs(30)), Results(hold=3), itertools.count(), []
    if verdicts:
        table = Table([Job(n, "a", n, verdict=Failure("input_file", "")) for n in range(30)])

    def drain_sometimes(event):
        if isinstance(event, events.Pulse) and next(pulses) % 2:
            most.append(results.backlog)
            results.backlog = 0

    clock = Clock(0.05)
    run(
        table, lambda payload, attempt: None, results=results, threads=1, seen=(drain_sometimes,), clock=clock
    )
    assert len(only(results)) == 30
    # When a result made it full, three more leases were out: a thread's and one ahead of it, of two slots.
    assert max(most) <= 3 + 3
