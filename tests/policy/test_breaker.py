import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallamr_mp.policy.breaker import BreakerState, CircuitBreaker

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def exact(low, high):
    return (low + high) / 2


def breaker(**options):
    return CircuitBreaker(**{"uniform": exact} | options)


def opened(now=0.0, **options):
    made = breaker(**options)
    while made.state(now) is CLOSED:
        made.failed(now, now, made.leased(now))
    return made


def test_it_opens_after_failures_in_a_row_and_a_success_between_starts_over():
    made = breaker(failures=3)
    for outcome in (made.failed, made.failed, made.succeeded, made.failed, made.failed):
        outcome(1.0, 0.5, False)
    assert made.state(1.0) is CLOSED
    assert made.since is None
    made.failed(2.0, 0.5, False)
    assert made.state(2.0) is OPEN
    assert made.wait(2.0) == 1.0
    assert made.since == 2.0


def test_it_opens_when_half_of_the_last_outcomes_are_failures():
    made = breaker(failures=100, share=0.5, of=10)
    for _ in range(5):
        made.failed(1.0, 0.0, False)
        assert made.state(1.0) is CLOSED
        made.succeeded(1.0, 0.0, False)
    assert made.state(1.0) is CLOSED, "the window was filled by a success"
    made.failed(1.0, 0.0, False)
    assert made.state(1.0) is OPEN


def test_one_probe_closes_it_and_forgets_what_was():
    made = opened()
    assert made.state(1.0) is HALF_OPEN
    assert made.wait(1.0) == 0.0
    assert made.leased(1.0)
    assert made.wait(1.0) == math.inf
    with pytest.raises(RuntimeError):
        made.leased(1.0)
    made.succeeded(1.5, 1.0, True)
    assert made.state(1.5) is CLOSED
    assert made.since is None
    for _ in range(4):
        made.failed(2.0, 1.5, made.leased(1.5))
    assert made.state(2.0) is CLOSED
    made.failed(2.0, 1.5, False)
    assert made.wait(2.0) == 1.0, "the back-off starts over"


def test_each_probe_that_fails_doubles_the_wait_up_to_a_cap():
    made, now, waits = opened(cap=10.0), 0.0, []
    for _ in range(6):
        waits.append(made.wait(now))
        now += made.wait(now)
        assert made.leased(now)
        made.failed(now, now, True)
    assert waits == pytest.approx([1, 2, 4, 8, 10, 10])
    assert made.since == 0.0
    for _ in range(2000):
        now += made.wait(now)
        made.failed(now, now, made.leased(now))
    assert made.wait(now) == pytest.approx(10.0)


def test_a_probe_that_says_nothing_makes_room_for_another():
    made = opened()
    assert made.leased(1.0)
    made.abandoned(probe=False)
    assert made.wait(1.0) == math.inf
    made.abandoned(probe=True)
    assert made.wait(1.0) == 0.0
    assert made.leased(1.0)


def test_outcomes_from_before_it_opened_neither_close_nor_prolong_it():
    made = opened(10.0)
    made.failed(10.5, 9.0, False)
    made.succeeded(10.6, 9.0, False)
    assert made.state(10.6) is OPEN
    assert made.wait(10.0) == 1.0
    assert made.leased(11.0)
    made.succeeded(12.0, 11.0, True)
    for _ in range(30):
        made.failed(13.0, 9.0, False)
    assert made.state(13.0) is CLOSED, "time-outs of the outage that is over"


def test_failures_from_before_it_opened_are_forgotten_when_it_closes():
    made = opened(failures=100, share=0.5, of=4)
    made.succeeded(2.0, 1.5, made.leased(1.5))
    for _ in range(3):
        made.failed(3.0, 2.5, made.leased(2.5))
    assert made.state(3.0) is CLOSED, "four are needed for a share of four"


def test_whoever_waits_exactly_as_long_as_told_waits_long_enough():
    chance = random.Random(1)
    for _ in range(2000):
        made = opened(chance.random(), uniform=chance.uniform, base=10 ** chance.uniform(-3, 1))
        now = min(made._until, chance.random())
        assert made.wait(now + made.wait(now)) == 0.0


def test_nothing_is_leased_while_it_is_open():
    with pytest.raises(RuntimeError):
        opened().leased(0.5)


def test_the_wait_is_spread_a_little():
    assert opened(uniform=lambda low, _: low).wait(0.0) == pytest.approx(0.9)
    assert opened(uniform=lambda _, high: high).wait(0.0) == pytest.approx(1.1)


class AServerThatComesAndGoes(RuleBasedStateMachine):
    CAP = 20.0

    @initialize(
        failures=st.integers(1, 6), of=st.integers(1, 12), share=st.floats(0.1, 1.0), jitter=st.floats(0, 1)
    )
    def begin(self, failures, of, share, jitter):
        self.now = 1000.0
        self.breaker = CircuitBreaker(
            failures, share, of, cap=self.CAP, uniform=lambda low, high: low + jitter * (high - low)
        )
        self.out = []
        """Leases that have no outcome yet: when, and whether as the probe."""

    @rule(seconds=st.floats(0, 2) | st.floats(0, 60))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(patient=st.booleans())
    def lease(self, patient):
        wait = self.breaker.wait(self.now)
        if patient and wait < math.inf:
            self.now += wait
            assert self.breaker.wait(self.now) == 0.0
        state = self.breaker.state(self.now)
        if self.breaker.wait(self.now) > 0.0:
            assert state is not CLOSED
            with pytest.raises(RuntimeError):
                self.breaker.leased(self.now)
            return
        probe = self.breaker.leased(self.now)
        assert state is not OPEN
        assert probe == (state is HALF_OPEN)
        self.out.append((self.now, probe))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "failed", "failed", "abandoned"]))
    def an_outcome_comes(self, data, outcome):
        leased_at, probe = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.breaker.state(self.now), self.breaker.wait(self.now)
        if outcome == "abandoned":
            self.breaker.abandoned(probe)
        else:
            getattr(self.breaker, outcome)(self.now, leased_at, probe)
        after = self.breaker.state(self.now), self.breaker.wait(self.now)
        if probe:
            assert after[0] is {"succeeded": CLOSED, "failed": OPEN, "abandoned": HALF_OPEN}[outcome]
        elif before[0] is not CLOSED:
            assert after == before

    @invariant()
    def at_most_one_probe_is_out(self):
        probes = sum(probe for _, probe in self.out)
        assert probes <= 1
        assert (self.breaker.wait(self.now) == math.inf) == (probes == 1)

    @invariant()
    def waits_are_bounded(self):
        if (wait := self.breaker.wait(self.now)) < math.inf:
            assert 0.0 <= wait <= 1.1 * self.CAP + 1e-9

    @invariant()
    def it_says_since_when(self):
        closed = self.breaker.state(self.now) is CLOSED
        assert (self.breaker.since is None) == closed
        assert closed or self.breaker.since <= self.now

    def teardown(self):
        """The server is well again: so is the breaker, as soon as one more request has been answered."""
        if not hasattr(self, "breaker"):
            return
        for _, probe in self.out:
            self.breaker.abandoned(probe)
        self.now += self.breaker.wait(self.now)
        self.breaker.succeeded(self.now, self.now, self.breaker.leased(self.now))
        assert self.breaker.state(self.now) is CLOSED


AServerThatComesAndGoes.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAServerThatComesAndGoes = AServerThatComesAndGoes.TestCase
