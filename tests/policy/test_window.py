import math
import random
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallamr_mp.policy.window import RateWindow

START = 12345.6
"""Monotonic clocks start anywhere."""


def charge_when_allowed(window, now, amount=1.0):
    """Waits exactly as long as told, and charges. → when that was"""
    now += window.wait(now, amount)
    assert window.wait(now, amount) == 0.0
    window.charge(now, amount)
    return now


def busiest(seen, period=60.0):
    """The most of all windows [t, t + period) over pairs of time and amount."""
    seen = sorted(seen)
    most = total = 0.0
    first = 0
    for time, amount in seen:
        total += amount
        while seen[first][0] <= time - period + 1e-6:  # the clock's own rounding
            total -= seen[first][1]
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize(
    ("limit", "amount"),
    [(1, 1), (7, 1), (60, 1), (500, 1), (10_000, 1), (200_000, 1500), (1000, 500), (60.5, 1)],
)
@pytest.mark.parametrize("slack", [0.0, 1.0])
def test_demand_that_never_ends_uses_the_allowance_and_no_more(limit, amount, slack):
    window = RateWindow(limit, slack=slack)
    now, seen = START, []
    while now < START + 600:
        now = charge_when_allowed(window, now, amount)
        seen.append((now, amount))
    assert busiest(seen) <= limit
    used = sum(amount for time, amount in seen if time < START + 600)
    possible = (limit // amount) * amount * 10
    assert used >= 0.95 * possible


def test_requests_that_dawdle_on_their_way_by_the_slack_do_not_cost_the_allowance():
    window = RateWindow(100, slack=1.0)
    now, seen, late = START, [], deque()
    while now < START + 600:
        while late and late[0] + 1.0 <= now + window.wait(now):
            now = max(now, late[0] + 1.0)
            window.correct(late.popleft(), now, 1, 1)
        now = charge_when_allowed(window, now)
        late.append(now)
        seen.append((now + 1.0, 1))
    assert busiest(seen) <= 100
    assert len(seen) >= 0.95 * 1000


def test_the_allowance_is_spread_over_the_minute():
    window = RateWindow(600)
    now, seen = START, []
    while now < START + 300:
        now = charge_when_allowed(window, now)
        seen.append((now, 1))
    assert busiest([pair for pair in seen if pair[0] < START + 61], 5.0) <= 100 + 50 + 1
    assert busiest([pair for pair in seen if pair[0] > START + 61], 5.0) <= 1.2 * 50, "the burst is repeated"


def test_a_burst_is_what_was_asked_for():
    window = RateWindow(600, burst=3)
    for _ in range(3):
        assert window.wait(START) == 0.0
        window.charge(START)
    assert window.wait(START) == pytest.approx(0.1, rel=0.02)


def test_what_was_not_used_is_given_back_at_once():
    window = RateWindow(1000)
    window.charge(START, 1000)
    assert window.wait(START, 500) > 50
    window.correct(START, START, 1000, 10)
    assert window.wait(START, 100) == 0.0


def test_what_was_used_beyond_the_estimate_is_paid_for_later():
    window = RateWindow(1000, burst=1000)
    window.charge(START, 10)
    window.correct(START, START, 10, 990)
    assert window.wait(START, 10) == 0.0
    assert window.wait(START, 11) > 60


def test_a_request_that_leaves_late_counts_from_then_on():
    window = RateWindow(10, burst=10)
    window.charge(START, 10)
    window.correct(START, START + 50, 10, 10)
    assert 60 <= window.wait(START + 50, 1) <= 62


def test_an_answer_that_comes_after_its_minute_changes_nothing():
    window = RateWindow(10, burst=10)
    window.charge(START, 10)
    window.charge(START + 100, 10)
    window.correct(START, START + 0.5, 10, 0)
    assert window.wait(START + 100, 1) > 60


def test_more_than_the_limit_waits_like_the_limit():
    window = RateWindow(100)
    assert window.fits(100)
    assert not window.fits(100.5)
    assert window.wait(START, 250) == 0.0
    window.charge(START, 250)
    assert charge_when_allowed(window, START, 250) <= START + 180


def test_less_than_one_a_minute_is_kept_over_hours():
    window = RateWindow(0.5)
    now = START
    for _ in range(30):
        now = charge_when_allowed(window, now)
    assert now - START >= 29 * 120


def test_a_clock_reading_from_before_the_last_one_is_no_harm():
    window = RateWindow(2, burst=2)
    window.charge(START)
    window.correct(START, START + 0.7, 1, 1)
    assert window.wait(START + 0.3) == 0.0
    window.charge(START + 0.3)
    assert 60 <= window.wait(START + 0.3) <= 63


def test_memory_does_not_grow_with_the_rate():
    window = RateWindow(1e6)
    for number in range(2000):
        window.charge(START + number / 100)
    assert len(window._buckets) < 300


def test_whoever_waits_exactly_as_long_as_told_waits_long_enough():
    chance = random.Random(1)
    for _ in range(300):
        burst = chance.choice([None, 1e9])
        window = RateWindow(10 ** chance.uniform(0, 6), slack=chance.random(), burst=burst)
        now = chance.random()
        for _ in range(5):
            now = charge_when_allowed(window, now, chance.random() * window.limit)


@pytest.mark.parametrize("limit", [1e15, 1e306, 1.7e308])
def test_a_limit_at_the_end_of_all_numbers_is_one_that_nobody_reaches(limit):
    window = RateWindow(limit)
    for _ in range(100):
        assert window.wait(5.0, 1e9) == 0.0
        window.charge(5.0, 1e9)


@pytest.mark.parametrize("limit", [0, -1, math.inf, math.nan])
def test_a_limit_is_a_positive_number(limit):
    with pytest.raises(ValueError, match="positive"):
        RateWindow(limit)


class AMinuteAtTheServer(RuleBasedStateMachine):
    """Charges, delays within the slack and corrections, in any order: the server's log decides."""

    @initialize(
        limit=st.sampled_from([1, 3, 10, 60, 1000]),
        slack=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
        burst=st.sampled_from([None, 1.0, 1e6]),
    )
    def begin(self, limit, slack, burst):
        self.now = START
        self.limit, self.slack = limit, slack
        self.window = RateWindow(limit, slack=slack, burst=burst)
        self.log = []
        """When the server saw it, and how much it was."""
        self.unsettled = []

    @rule(seconds=st.floats(0, 3) | st.floats(0, 130))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(
        share=st.sampled_from([1.0, 0.5]) | st.floats(0.0, 1.0),
        used=st.sampled_from([1.0]) | st.floats(0, 1),
        left=st.floats(0, 1),
        travelled=st.floats(0, 1),
        patient=st.booleans(),
    )
    def charge(self, share, used, left, travelled, patient):
        amount = share * self.limit
        if patient:
            wait = self.window.wait(self.now, amount)
            assert 0 <= wait < 1000
            self.now += wait
            assert self.window.wait(self.now, amount) == 0.0, (
                "waited exactly as long as told, and for nothing"
            )
        elif self.window.wait(self.now, amount) > 0:
            return
        self.window.charge(self.now, amount)
        sent_at = self.now + left * self.slack
        self.log.append((sent_at + travelled * (1 - left) * self.slack, used * amount))
        self.unsettled.append((self.now, sent_at, amount, used * amount))

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def an_answer_comes(self, data):
        outcome = self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1)))
        self.now = max(self.now, outcome[1])
        self.window.correct(*outcome)

    @invariant()
    def the_limit_is_kept(self):
        assert busiest(self.log) <= self.limit * (1 + 1e-9)


AMinuteAtTheServer.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAMinuteAtTheServer = AMinuteAtTheServer.TestCase


@pytest.mark.parametrize(("before", "after"), [(60, 20), (20, 60), (1, 60), (60, 1), (7.5, 3000)])
def test_a_limit_that_changes_holds_from_then_on_and_counts_what_was_before(before, after):
    window = RateWindow(before)
    now, seen = START, []
    while now < START + 45:
        now = charge_when_allowed(window, now)
        seen.append((now, 1.0))
    window.change(after)
    start = now
    while now < start + 300:
        now = charge_when_allowed(window, now)
        seen.append((now, 1.0))
    assert busiest(seen) <= max(before, after)
    assert busiest([(time, amount) for time, amount in seen if time > start]) <= after
    assert len([time for time, _ in seen if time > start + 60]) >= 0.9 * after * 4
