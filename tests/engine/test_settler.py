import pytest
from support.pools import BROKEN, BUSY, DEAD, GATEWAY, LOST, WRONG, endpoint, later

from parallamr_mp import events
from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.settler import MAX_DEATHS, Settler
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule


class Slot:
    """What a settler needs of a slot."""

    def __init__(self):
        self.stored = []


class Results:
    """Wants each job whose value is "cut" again; what is accepted is safe when the test says so."""

    def __init__(self):
        self.accepted, self.stored = [], []

    def assess(self, job, outcome):
        return Report(outcome.seconds, outcome.failure)

    def again(self, job, outcome):
        return outcome.value == "cut"

    def accept(self, job, outcome):
        self.accepted.append((job.id, outcome.value or outcome.failure.message))

    def take_stored(self):
        stored, self.stored = self.stored, []
        return stored


class Bench:
    """A settler over real policies, in fake time."""

    def __init__(self, *, pool=None, **options):
        self.now = 0.0
        self.schedule = Schedule(pools={"a": pool} if pool is not None else None)
        options.setdefault("uniform", lambda low, high: high)
        self.results, self.events = Results(), []
        bus = events.EventBus()
        bus.subscribe(self.events.append)
        self.settler = Settler(self.schedule, RetryPolicy(**options), self.results, bus)
        self.slot = Slot()

    @property
    def accepted(self):
        return self.results.accepted

    def add(self, id_=0):
        work = Job(id_, "a", None)
        self.schedule.add(work)
        return work

    def take(self):
        """The next job, when it may go."""
        work = self.schedule.take(self.now)
        while work is None:
            due = self.schedule.next_due()
            if due is None:
                return None
            self.now = due
            work = self.schedule.take(self.now)
        work.attempts += 1
        return work

    def bring(self, work, what, slot=None, *, stopping=False, seconds=0.1):
        """The lease comes back with a value or a failure."""
        self.now += seconds
        value, failure = (what, None) if isinstance(what, str) else (None, what)
        outcome = Outcome(work.id, value, failure, seconds)
        self.settler.settle(slot or self.slot, work, outcome, self.now, stopping=stopping)

    def ask(self, what, slot=None, **more):
        """Leases the next job, which comes to that."""
        work = self.take()
        assert work is not None
        self.bring(work, what, slot, **more)
        return work

    def store_all(self):
        self.results.stored = [id_ for id_, _ in self.accepted]
        self.settler.tell_stored()


# Attempts and time


def test_a_refusal_uses_up_no_attempt_but_time():
    bench = Bench(max_retries=0, max_wait=3600.0)
    work = bench.add()
    for _ in range(50):
        bench.ask(later(20.0))
    assert (work.strikes, work.attempts) == (0, 50)
    assert bench.accepted == []
    bench.ask("answer")
    assert bench.accepted == [(0, "answer")]


def test_refusals_end_with_an_error_that_says_for_how_long_they_went_on():
    bench = Bench(max_wait=100.0)
    bench.add()
    while not bench.accepted:
        bench.ask(later(20.0))
    assert 100.0 <= bench.now <= 121.0
    assert "given up 100 s after it first failed (--max-wait)" in bench.accepted[0][1]


def test_a_server_that_is_not_there_uses_up_no_attempt_but_time():
    bench = Bench(max_retries=0, max_wait=600.0)
    work = bench.add()
    while not bench.accepted:
        bench.ask(DEAD)
    assert work.strikes == 0
    assert work.attempts > 10
    assert 540.0 < bench.now <= 670.0, "the last probe may be a minute late"


@pytest.mark.parametrize("failure", [BROKEN, GATEWAY])
def test_a_server_that_fails_uses_up_attempts(failure):
    bench = Bench(max_retries=2)
    work = bench.add()
    for _ in range(3):
        assert bench.accepted == []
        bench.ask(failure)
    assert bench.accepted == [(0, failure.message)]
    assert work.strikes == 3


def test_no_wait_begins_that_would_end_after_the_longest():
    bench = Bench(max_retries=1000, max_wait=30.0)
    bench.add()
    while not bench.accepted:
        bench.ask(BROKEN, seconds=0.0)
    assert bench.now <= 30.0
    assert "--max-wait" in bench.accepted[0][1]


def test_an_unknown_outcome_is_told_as_it_is():
    bench = Bench(max_wait=0.0)
    bench.add()
    bench.ask(LOST)
    assert bench.accepted == [(0, LOST.message)]


def test_an_unknown_outcome_that_time_ends_says_so():
    bench = Bench(max_wait=0.0, retry_unknown=frozenset("a"))
    bench.add()
    bench.ask(LOST)
    assert "--max-wait" in bench.accepted[0][1]


@pytest.mark.parametrize("failure", [GATEWAY, BROKEN])
def test_a_probe_that_finds_nobody_behind_the_proxy_is_not_the_row_s_failure(failure):
    bench = Bench(pool=Pool([endpoint(failures=1)]), max_retries=1)
    work = bench.add()
    for _ in range(2):
        bench.ask(failure)
    assert bench.accepted == ([] if failure is GATEWAY else [(0, failure.message)])
    if failure is GATEWAY:
        assert work.strikes == 1
        bench.ask("answer")
        assert bench.accepted == [(0, "answer")]


def test_what_was_asked_wrongly_is_told_at_once():
    bench = Bench()
    bench.add()
    bench.ask(WRONG)
    assert bench.accepted == [(0, WRONG.message)]
    assert bench.schedule.parked == 0


def test_the_wait_after_a_failure_holds_up_nobody_else():
    bench = Bench()
    bench.add(0)
    bench.add(1)
    bench.ask(BROKEN)
    bench.ask("second")
    bench.ask("first")
    assert bench.accepted == [(1, "second"), (0, "first")]


# Better answers


def test_a_better_answer_takes_the_place_of_the_first():
    bench = Bench()
    bench.add()
    bench.ask("cut")
    assert bench.accepted == []
    bench.ask("whole")
    assert bench.accepted == [(0, "whole")]
    bench.settler.accept_fallbacks()
    assert len(bench.accepted) == 1


@pytest.mark.parametrize("failure", [WRONG, LOST])
def test_what_was_paid_for_is_the_result_when_the_better_answer_does_not_come(failure):
    bench = Bench()
    bench.add()
    bench.ask("cut")
    bench.ask(failure)
    assert bench.accepted == [(0, "cut")]


def test_and_when_its_worker_dies_again_and_again():
    bench = Bench()
    bench.add()
    bench.ask("cut")
    for _ in range(MAX_DEATHS):
        bench.settler.died(bench.take(), bench.now, stopping=False, counts=True)
    assert bench.accepted == [(0, "cut")]


def test_and_when_the_run_stops_meanwhile():
    bench = Bench()
    bench.add()
    bench.ask("cut")
    bench.ask("cut", stopping=True)
    assert bench.accepted == [(0, "cut")]
    for failure in (BROKEN, BUSY):
        bench.add(1)
        bench.ask("cut")
        bench.ask(failure, stopping=True)
        assert len(bench.accepted) == 1
        bench.settler.accept_fallbacks()
        assert bench.accepted.pop() == (1, "cut")


def test_and_when_the_run_is_aborted():
    bench = Bench()
    bench.add()
    bench.ask("cut")
    bench.settler.died(bench.take(), bench.now, stopping=True, counts=False)
    bench.settler.accept_fallbacks()
    bench.settler.accept_fallbacks()
    assert bench.accepted == [(0, "cut")]


def test_and_when_its_endpoint_is_given_up():
    bench = Bench()
    bench.add()
    bench.ask("cut")
    bench.settler.accept(bench.take(), Outcome(0, failure=DEAD))
    assert bench.accepted == [(0, "cut")]


# Deaths


def test_a_job_whose_workers_die_is_tried_again_and_then_told():
    bench = Bench()
    bench.add()
    for _ in range(MAX_DEATHS):
        assert bench.accepted == []
        bench.settler.died(bench.take(), bench.now, stopping=False, counts=True)
    assert "died 3 times" in bench.accepted[0][1]
    assert bench.schedule.parked == 0


def test_what_dies_while_the_run_stops_is_left_to_be_resumed():
    bench = Bench()
    bench.add()
    bench.settler.died(bench.take(), bench.now, stopping=True, counts=True)
    assert bench.accepted == []
    assert bench.schedule.parked == 0


# What workers are told


def test_a_worker_is_told_of_what_is_stored_and_not_before():
    bench = Bench()
    bench.add()
    bench.ask("answer")
    bench.settler.tell_stored()
    assert bench.slot.stored == []
    bench.store_all()
    assert bench.slot.stored == [0]
    bench.store_all()
    assert bench.slot.stored == [0]


def test_a_worker_need_not_keep_what_is_asked_again():
    bench = Bench(retry_unknown=frozenset("a"))
    bench.add()
    bench.ask(LOST)
    assert bench.slot.stored == [0]


@pytest.mark.parametrize("last", ["whole", WRONG])
def test_both_workers_that_keep_an_answer_are_told(last):
    bench, second = Bench(), Slot()
    bench.add()
    bench.ask("cut")
    bench.ask(last, second)
    assert bench.slot.stored == second.stored == []
    bench.store_all()
    assert bench.slot.stored == second.stored == [0]


def test_one_that_only_failed_between_two_answers_is_told_too():
    bench, second = Bench(retry_unknown=frozenset("a")), Slot()
    bench.add()
    bench.ask("cut")
    bench.ask(LOST, second)
    assert second.stored == [0]
    bench.ask(LOST)
    assert bench.slot.stored == [], "it has the answer that counts so far"
    third = Slot()
    bench.ask("whole", third)
    bench.store_all()
    assert [one.stored for one in (bench.slot, second, third)] == [[0]] * 3


def test_of_several_answers_that_are_not_good_enough_the_last_is_kept():
    bench, second, third = Bench(), Slot(), Slot()
    bench.add()
    bench.ask("cut")
    bench.ask("cut", second)
    assert (bench.slot.stored, second.stored) == ([0], [])
    bench.ask("cut", second)
    assert second.stored == []
    bench.ask("whole", third)
    bench.store_all()
    assert (second.stored, third.stored) == ([0], [0])


# What is told


def test_each_request_is_told_with_its_times_and_each_retry_with_its_wait():
    bench = Bench()
    bench.add()
    bench.ask(BROKEN, seconds=2.0)
    bench.ask("answer", seconds=3.0)
    ended = [event for event in bench.events if isinstance(event, events.AttemptEnded)]
    failed = [event for event in bench.events if isinstance(event, events.AttemptFailed)]
    assert [(event.started, event.ended) for event in ended] == [(0.0, 2.0), (3.0, 6.0)]
    assert [event.delay for event in failed] == [1.0]
