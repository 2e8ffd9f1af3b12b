import math
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallamr_mp.models import Allowance
from parallamr_mp.policy.remainder import Remainder


def requests(left, reset):
    return Allowance(requests_left=left, requests_reset=reset)


def tokens(left, reset):
    return Allowance(tokens_left=left, tokens_reset=reset)


def told(said, now=0.0, in_flight=0, out=0):
    made = Remainder()
    made.told(now, said, in_flight, out)
    return made


def leave(made, now, each=1):
    """As many as go. → how many"""
    count = 0
    while made.wait(now) == 0.0 and count < 1000:
        made.leased(each)
        count += 1
    return count


def test_who_was_told_nothing_holds_nobody():
    assert leave(Remainder(), 0.0) == 1000
    assert leave(told(Allowance(requests_limit=1.0, requests_left=0.0)), 0.0) == 1000


def test_no_more_leave_than_are_left_until_it_is_renewed():
    made = told(requests(3, 20.0))
    assert leave(made, 1.0) == 3
    assert made.wait(1.0) == 19.0
    assert leave(made, 19.9) == 0
    assert leave(made, 20.0) > 0


def test_tokens_are_overdrawn_by_the_last_request_at_most():
    made = told(tokens(100, 20.0))
    assert leave(made, 1.0, each=30) == 4
    assert made.wait(1.0) == 19.0


def test_each_of_requests_and_tokens_is_renewed_at_its_own_time():
    said = Allowance(requests_left=0, requests_reset=1.0, tokens_left=100, tokens_reset=40.0)
    made = told(said)
    assert made.wait(0.0) == 1.0
    assert leave(made, 1.0, each=50) == 2, "the tokens of the old allowance are not there twice"
    assert made.wait(1.0) == 39.0
    said = Allowance(requests_left=0, requests_reset=0.0, tokens_left=100, tokens_reset=60.0)
    assert told(said).wait(0.0) == 0.0


def test_what_servers_say_later_counts_what_has_left_since():
    made = told(requests(10, 60.0))
    for _ in range(4):
        made.leased(1)
    made.told(1.0, requests(9, 59.0), 3, 3)
    assert leave(made, 1.0) == 6, "three of the four are under way and not counted yet"


def test_another_user_of_the_same_allowance_is_heeded():
    made = told(requests(10, 60.0))
    made.told(1.0, requests(2, 59.0), 0, 0)
    assert leave(made, 1.0) == 2


def test_an_allowance_that_comes_back_little_by_little_is_used_as_it_comes():
    made = told(requests(0, 60.0))
    made.told(1.0, requests(5, 55.0), 2, 2)
    assert leave(made, 1.0) == 3


allowances = st.builds(
    Allowance,
    requests_left=st.none() | st.floats(-1e6, 1e6),
    requests_reset=st.none() | st.floats(0, 1e9),
    tokens_left=st.none() | st.floats(-1e6, 1e6),
    tokens_reset=st.none() | st.floats(0, 1e9),
)


@given(st.lists(st.tuples(allowances, st.floats(0, 100), st.integers(0, 50), st.integers(0, 50)), max_size=8))
def test_whatever_is_said_nothing_is_held_for_longer_than_a_minute(sayings):
    made, now = Remainder(), 0.0
    for said, passed, in_flight, leases in sayings:
        now += passed
        made.told(now, said, in_flight, 10 * in_flight)
        for _ in range(leases):
            made.leased(10)
        assert 0.0 <= made.wait(now) <= 60.0 + 1e-6  # rounding
    held = made.wait(now)
    assert made.wait(now + held + 1e-6) == 0.0, "time alone ends it"


class FixedWindow(RuleBasedStateMachine):
    """A server with so many requests a minute that counts what arrives, and answers in that order."""

    @initialize(limit=st.integers(1, 20), before=st.integers(0, 10))
    def start(self, limit, before):
        self.limit, self.now, self.began = limit, 0.0, 0.0
        self.made = Remainder()
        self.on_way, self.answers, self.counted = deque(), deque(), 0
        self.first_said = None
        self.left_since = 0
        for _ in range(before):
            self.lease()

    @rule(times=st.integers(1, 5))
    def lease(self, times=1):
        for _ in range(times):
            if self.now < self.began + 60.0 and self.made.wait(self.now) == 0.0:
                self.made.leased(1)
                self.on_way.append(None)
                self.left_since += 1

    @precondition(lambda self: self.on_way)
    @rule()
    def arrive(self):
        self.on_way.popleft()
        self.counted += 1
        said = requests(max(0, self.limit - self.counted), self.began + 60.0 - self.now)
        self.answers.append((said, self.limit - self.counted))

    @precondition(lambda self: self.answers)
    @rule()
    def answer(self):
        said, left = self.answers.popleft()
        in_flight = len(self.answers) + len(self.on_way)
        self.made.told(self.now, said, in_flight, in_flight)
        if self.first_said is None:
            self.first_said, self.left_since = max(0, left), 0

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds):
        self.now = min(self.now + seconds, self.began + 60.0 - 0.1)

    @rule()
    def the_next_minute_comes_when_all_are_back(self):
        while self.on_way:
            self.arrive()
        while self.answers:
            self.answer()
        self.now = self.began = self.began + 60.0
        self.counted, self.first_said, self.left_since = 0, None, 0
        assert self.made.wait(self.now) == pytest.approx(0.0, abs=1e-6), "the new minute is there for use"
        self.now = self.began + 0.01

    @invariant()
    def no_more_leave_than_the_server_said_were_left(self):
        if getattr(self, "first_said", None) is not None:
            assert self.left_since <= self.first_said
        assert getattr(self, "made", Remainder()).wait(getattr(self, "now", 0.0)) < math.inf


TestFixedWindow = FixedWindow.TestCase
TestFixedWindow.settings = settings(max_examples=80, stateful_step_count=40)
