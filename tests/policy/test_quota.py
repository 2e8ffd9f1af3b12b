import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallamr_mp.policy.quota import Limits, Quota


def test_without_limits_nobody_waits():
    quota = Quota(Limits())
    for _ in range(1000):
        assert quota.wait(0.0, 10**9) == 0.0
        quota.charge(0.0, 10**9)
    assert quota.in_flight == 1000


def test_a_full_scope_waits_for_an_outcome_and_not_for_a_time():
    quota = Quota(Limits(concurrency=1, rpm=1))
    quota.charge(0.0, 1)
    assert quota.wait(0.0, 1) == math.inf
    assert quota.wait(1000.0, 1) == math.inf
    quota.release(0.0, 0.0, 1, 1)
    assert quota.wait(1000.0, 1) == 0.0


def test_of_requests_and_tokens_the_scarcer_decides():
    quota = Quota(Limits(rpm=60, tpm=1000))
    quota.charge(0.0, 1000)
    assert quota.wait(0.0, 1000) > 50.0
    quota.release(0.0, 0.0, 1000, 0)
    assert quota.wait(0.0, 1000) == 0.0, "what it did not use is there for the next"
    assert quota.wait(0.0, 0) == 0.0


def test_a_request_counts_from_when_it_was_sent():
    quota = Quota(Limits(rpm=1))
    quota.charge(0.0, 1)
    quota.release(0.0, 30.0, 1, 1)
    assert quota.wait(85.0, 1) > 0.0
    assert quota.wait(92.0, 1) == 0.0


def test_a_request_that_never_left_does_not_count():
    quota = Quota(Limits(rpm=1, tpm=1000))
    quota.charge(0.0, 1000)
    quota.release(0.0, 2.0, 1000, 0, begun=False)
    assert quota.wait(2.0, 1000) == 0.0


@pytest.mark.parametrize("name", ["concurrency", "rpm", "tpm"])
def test_a_limit_that_is_taken_away_holds_nobody(name):
    quota = Quota(Limits(**{name: 1}))
    quota.charge(0.0, 1)
    assert quota.wait(0.0, 1) > 0.0
    quota.change(Limits())
    assert quota.wait(0.0, 1) == 0.0
    quota.release(0.0, 0.0, 1, 1)
    assert quota.in_flight == 0


class Asking(RuleBasedStateMachine):
    """Requests that leave up to a second after they were charged, under limits that change.

    A server's log says what came when; of each limit counts the loosest that held within the minute.
    """

    @initialize(rpm=st.integers(1, 30), tpm=st.integers(50, 1000), concurrency=st.integers(1, 8))
    def start(self, rpm, tpm, concurrency):
        self.now = 1000.0
        self.limits = Limits(concurrency, rpm, tpm)
        self.most_rpm, self.most_tpm, self.most_flying = rpm, tpm, concurrency
        self.quota = Quota(self.limits)
        self.flying, self.log = [], []

    @rule(tokens=st.integers(0, 50), way=st.floats(0, 1))
    def ask(self, tokens, way):
        if self.quota.wait(self.now, tokens) == 0.0:
            self.quota.charge(self.now, tokens)
            self.flying.append((self.now, way, tokens))
            self.log.append([self.now + way, tokens])

    @rule(tokens=st.integers(0, 50))
    def wait_and_ask(self, tokens):
        wait = self.quota.wait(self.now, tokens)
        if wait < math.inf:
            self.now += wait
            assert self.quota.wait(self.now, tokens) == 0.0
            self.ask(tokens, 0.0)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), share=st.floats(0, 1))
    def answer(self, data, share):
        at, way, tokens = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.now = max(self.now, at + way)
        used = int(tokens * share)
        entry = self.log[self.log.index([at + way, tokens])]
        self.quota.release(at, at + way, tokens, used)
        entry[1] = used

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(rpm=st.integers(1, 30), tpm=st.integers(50, 1000), concurrency=st.integers(1, 8))
    def change(self, rpm, tpm, concurrency):
        self.quota.change(Limits(concurrency, rpm, tpm))
        self.most_rpm, self.most_tpm = max(self.most_rpm, rpm), max(self.most_tpm, tpm)
        self.most_flying = max(self.most_flying, concurrency)

    @invariant()
    def no_limit_is_exceeded(self):
        if not hasattr(self, "log"):
            return
        assert self.quota.in_flight == len(self.flying) <= self.most_flying
        for start, _ in self.log:
            within = [tokens for time, tokens in self.log if start <= time < start + 60.0]
            assert len(within) <= self.most_rpm
            assert sum(within) <= self.most_tpm


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=60, stateful_step_count=50)
