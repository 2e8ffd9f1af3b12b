import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.dispatching import at_once
from support.pools import BROKEN, DEAD, LOST, later, pool
from support.pools import job as a_job

from parallamr_mp.policy.budget import Budget
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.schedule import Schedule


def jobs(*keys):
    return [Job(number, key, None) for number, key in enumerate(keys)]


def filled(jobs_, **limits):
    schedule = Schedule(at_once(limits.pop("limits", {})), **limits)
    for job in jobs_:
        schedule.add(job)
    return schedule


def take_all(schedule, now=0.0):
    taken = []
    while (job := schedule.take(now)) is not None:
        taken.append(job.id)
    return taken


def test_jobs_go_in_the_order_of_the_table_whatever_their_key():
    assert take_all(filled(reversed(jobs("a", "b", "a", "c", "b")))) == [0, 1, 2, 3, 4]


def test_a_full_key_lets_others_pass():
    assert take_all(filled(jobs("a", "a", "a", "b", "b"), limits={"a": 1})) == [0, 3, 4]


def test_a_released_lease_makes_room_for_the_next_of_its_key():
    all_ = jobs("a", "a", "b")
    schedule = filled(all_, limits={"a": 1})
    assert take_all(schedule) == [0, 2]
    schedule.release(all_[2], 0.0)
    assert take_all(schedule) == []
    schedule.release(all_[0], 0.0)
    assert take_all(schedule) == [1]


def test_what_comes_back_unasked_is_no_request_of_the_minute():
    endpoints = {"a": pool("here", limits=Limits(rpm=1))}
    for schedule in (
        Schedule({"a": Limits(rpm=1)}),
        Schedule({"a/": Limits(rpm=1)}),
        Schedule(pools=endpoints),
    ):
        schedule.add(jobs("a")[0])
        job = schedule.take(0.0)
        schedule.release(job, 2.0, begun=False)
        schedule.add(job)
        assert schedule.take(2.0) is job


def test_the_total_limits_all_keys_together():
    all_ = jobs("a", "b", "c")
    schedule = filled(all_, total=2)
    assert not schedule.full
    assert take_all(schedule) == [0, 1]
    assert schedule.full
    schedule.release(all_[0], 0.0)
    assert take_all(schedule) == [2]


def test_a_waiting_job_comes_when_it_is_due_and_before_later_rows():
    first, second, third = jobs("a", "a", "a")
    schedule = filled([second])
    schedule.wait(first, 10.0)
    schedule.wait(third, 5.0)
    assert schedule.next_due() == 5.0
    assert take_all(schedule, 4.9) == [1]
    assert (schedule.waiting, schedule.parked) == (2, 2)
    schedule.add(second)
    assert take_all(schedule, 10.0) == [0, 1, 2]
    assert schedule.next_due() is None
    assert schedule.parked == 0


def test_a_job_that_was_retried_before_others_of_the_same_time_keeps_its_place():
    all_ = jobs("a", "a", "a")
    schedule = Schedule()
    for job in reversed(all_):
        schedule.wait(job, 1.0)
    assert take_all(schedule, 1.0) == [0, 1, 2]


def take(schedule, now):
    work = schedule.take(now)
    return None if work is None else work.id


def test_a_wrong_endpoint_of_one_key_or_model_holds_up_no_other():
    work = [
        a_job(0, "a", "x"),
        a_job(1, "a", "y"),
        a_job(2, "b", "x"),
        a_job(3, "a", "x"),
        a_job(4, "a", "y"),
    ]
    schedule = filled(work, pools={"a": pool("http://1"), "b": pool("http://1")})
    assert take_all(schedule) == [0, 1, 2, 3, 4]
    schedule.release(work[0], 1.0, Report(1.0, later(30.0, one_model=True)))
    for one in (work[0], a_job(5, "a", "y"), a_job(6, "b", "x")):
        schedule.add(one)
    assert take_all(schedule, 1.0) == [5, 6]
    schedule.release(work[2], 2.0, Report(1.0, later(30.0)))
    for one in (work[2], a_job(7, "a", "y")):
        schedule.add(one)
    assert take_all(schedule, 2.0) == [7]
    assert schedule.next_due() == 31.0
    assert take_all(schedule, 31.0) == [0]
    assert take_all(schedule, 32.0) == [2]


def test_a_dead_endpoint_costs_a_few_failures_and_its_jobs_go_to_the_other():
    schedule = Schedule(pools={"a": pool("http://dead", "http://alive", failures=3)})
    for number in range(100):
        schedule.add(a_job(number))
    failed, answered, now = 0, set(), 0.0
    while len(answered) < 100:
        work = schedule.take(now)
        if work.route == "http://dead":
            failed += 1
            work.troubled_since = now
            schedule.release(work, now, Report(0.0, DEAD))
            schedule.add(work)
            assert schedule.take(now).id == work.id
            assert work.route == "http://alive"
        schedule.release(work, now, Report(0.0))
        answered.add(work.id)
        now += 0.1
    assert failed <= 7


def test_when_no_endpoint_is_left_jobs_wait_and_are_given_up_with_the_last_cause():
    schedule = Schedule(pools={"a": pool("http://1", "http://2", failures=1)}, max_wait=100.0)
    for number in range(5):
        schedule.add(a_job(number))
    now = 0.0
    while now <= 90.0:
        if (work := schedule.take(now)) is not None:
            schedule.release(work, now, Report(0.0, DEAD))
            schedule.add(work)
        else:
            now = schedule.next_due()
            assert list(schedule.expired(min(now, 100.0))) == []
    given_up = {one.id: failure for one, failure in schedule.expired(101.0)}
    assert sorted(given_up) == [0, 1, 2, 3, 4]
    assert given_up[0].message.startswith("not asked; out of order for more than ")
    assert schedule.parked == schedule.parked_bytes == 0


def test_when_the_server_comes_back_all_go_through():
    schedule = Schedule(pools={"a": pool("http://1", failures=2)}, max_wait=100.0)
    for number in range(50):
        schedule.add(a_job(number))
    for _ in range(2):
        work = schedule.take(0.0)
        schedule.release(work, 0.0, Report(0.0, DEAD))
        schedule.add(work)
    assert schedule.take(0.0) is None
    now, done = schedule.next_due(), []
    probe = schedule.take(now)
    assert schedule.take(now) is None, "one at a time"
    schedule.release(probe, now, Report(0.0))
    while (id_ := take(schedule, now)) is not None or (due := schedule.next_due()) is not None:
        done += [id_] if id_ is not None else []
        now = now if id_ is not None else due
    assert sorted([probe.id, *done]) == list(range(50))
    assert list(schedule.expired(1e6)) == []


def paid(cap, *costs):
    return filled([a_job(number, cost=cost) for number, cost in enumerate(costs)], budget=Budget(cap))


def test_money_that_may_come_back_is_waited_for_and_what_cannot_is_told():
    schedule = paid(1.0, 0.6, 0.6)
    first = schedule.take(0.0)
    assert schedule.take(0.0) is None
    assert not schedule.broke
    schedule.release(first, 1.0, Report(1.0, cost=0.4))
    assert take(schedule, 1.0) == 1
    assert not schedule.broke


@pytest.mark.parametrize(
    ("report", "broke"),
    [
        (None, True),
        (Report(1.0, LOST), True),
        (Report(1.0), True),
        (Report(1.0, cost=0.6), True),
        (Report(1.0, BROKEN), False),
        (Report(1.0, cost=0.0), False),
    ],
)
def test_what_nobody_knows_the_cost_of_counts_in_full(report, broke):
    schedule = paid(1.0, 0.6, 0.6)
    schedule.release(schedule.take(0.0), 1.0, report)
    assert (schedule.take(1.0) is None) is bool(schedule.broke) is broke


def test_jobs_that_cost_nothing_go_on_without_money():
    schedule = paid(0.0, 0.0, 0.0)
    assert take_all(schedule) == [0, 1]
    schedule = filled([a_job(0, "paid", cost=2.0), a_job(1, "free")], budget=Budget(1.0))
    assert take_all(schedule) == [1]
    assert not schedule.broke, "something is in flight"


def test_who_waits_for_something_else_than_money_is_not_broke():
    schedule = paid(1.0, 2.0)
    assert schedule.take(0.0) is None
    assert schedule.broke
    schedule.wait(a_job(1, model="free"), 10.0)
    assert schedule.take(0.0) is None
    assert not schedule.broke
    assert take(schedule, 10.0) == 1


KEYS = ("a", "b", "c")


class Scheduling(RuleBasedStateMachine):
    """Any order of reading, leasing, settling, retrying and losing jobs, beside a plain model."""

    @initialize(
        limits=st.dictionaries(st.sampled_from(KEYS), st.integers(1, 3)),
        total=st.none() | st.integers(1, 4),
    )
    def start(self, limits, total):
        self.limits, self.total = limits, total
        self.schedule = Schedule(at_once(limits), total)
        self.now = 0.0
        self.fresh = 0
        self.ready, self.waiting, self.flying, self.done = {}, {}, {}, set()

    @rule(key=st.sampled_from(KEYS))
    def read(self, key):
        job = Job(self.fresh, key, None)
        self.fresh += 1
        self.schedule.add(job)
        self.ready[job.id] = job

    @rule()
    def lease(self):
        for id_, (job, due) in list(self.waiting.items()):
            if due <= self.now:
                self.ready[id_] = job
                del self.waiting[id_]
        allowed = [job.id for job in self.ready.values() if self.may_fly(job.key)]
        taken = self.schedule.take(self.now)
        assert (taken.id if taken is not None else None) == min(allowed, default=None)
        if taken is not None:
            self.flying[taken.id] = self.ready.pop(taken.id)

    def may_fly(self, key):
        of_key = sum(job.key == key for job in self.flying.values())
        room = self.total is None or len(self.flying) < self.total
        return room and of_key < self.limits.get(key, of_key + 1)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), end=st.sampled_from(["done", "lost"]) | st.floats(0, 5))
    def settle(self, data, end):
        job = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        self.schedule.release(job, self.now, Report())
        if end == "done":
            self.done.add(job.id)
        elif end == "lost":
            self.schedule.add(job)
            self.ready[job.id] = job
        else:
            self.schedule.wait(job, self.now + end)
            self.waiting[job.id] = job, self.now + end

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def limits_hold_and_nothing_is_lost(self):
        assert self.total is None or len(self.flying) <= self.total
        for key, limit in self.limits.items():
            assert sum(job.key == key for job in self.flying.values()) <= limit
        assert self.schedule.full == (self.total is not None and len(self.flying) >= self.total)
        assert self.schedule.parked == len(self.ready) + len(self.waiting)
        assert self.schedule.parked + len(self.flying) + len(self.done) == self.fresh

    def teardown(self):
        """Whatever happened: once all have come back, all that is left can be had, each once."""
        for job in getattr(self, "flying", {}).values():
            self.schedule.release(job, self.now)
            self.schedule.add(job)
            self.ready[job.id] = job
        left = {*getattr(self, "ready", ()), *getattr(self, "waiting", ())}
        while left:
            job = self.schedule.take(float("inf"))
            left.remove(job.id)
            self.schedule.release(job, self.now)


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=40)


def test_without_a_cap_it_is_never_money_that_is_missing():
    schedule = Schedule(pools={"a": pool()})
    schedule.add(a_job())
    assert schedule.take(0.0) is None
    assert not schedule.broke


# Probes


def broken(*models):
    """Rows of these models, at an endpoint that has failed on the first of them, five times, until 1 s."""
    schedule = Schedule(pools={"a": pool("http://n1")})
    rows = [a_job(number, model=model) for number, model in enumerate(models)]
    for row in rows:
        schedule.add(row)
    failing = [schedule.take(0.0) for _ in range(5)]
    for row in failing:
        row.attempts += 1
        schedule.release(row, 0.0, Report(0.0, BROKEN))
        schedule.add(row)
    assert schedule.take(0.5) is None
    return schedule


def test_a_model_that_an_endpoint_fails_on_does_not_keep_the_others_from_it():
    schedule = broken(*["bad"] * 10, "good", "good")
    probe = schedule.take(2.0)
    assert (probe.model, probe.id, probe.grant.probe) == ("good", 10, True)
    schedule.release(probe, 2.0, Report(0.0))
    assert take(schedule, 2.0) == 0


def test_models_take_turns_at_probes():
    schedule = broken(*["x"] * 10, *["y"] * 10)
    now, asked = 0.0, []
    for _ in range(4):
        now += 50.0
        probe = schedule.take(now)
        asked.append(probe.model)
        schedule.release(probe, now, Report(0.0, BROKEN))
    assert asked == ["y", "x", "y", "x"]


def test_within_a_model_the_earliest_row_probes_also_if_it_has_failed():
    # Where each row fails once, one that was not tried yet would keep the breaker open.
    assert broken(*["m"] * 7).take(2.0).id == 0


def test_a_model_that_may_not_go_leaves_the_probe_to_another():
    rows = [a_job(number, model="good" if number > 7 else "bad") for number in range(10)]
    schedule = Schedule({"a/good": Limits(rpm=0.001)}, pools={"a": pool("http://n1")})
    schedule.add(rows[8])
    schedule.release(schedule.take(0.0), 0.0, Report(0.0))
    for row in (*rows[:8], rows[9]):
        schedule.add(row)
    for _ in range(5):
        schedule.release(schedule.take(0.0), 0.0, Report(0.0, BROKEN))
    assert schedule.take(2.0).model == "bad"
