import math
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parallamr_mp.policy.adaptive import AdaptiveLimit, FixedLimit


def filled_up(limit, now, in_flight=0):
    """Leases as long as there is room. → in flight"""
    while in_flight < limit.limit(now):
        in_flight += 1
        limit.leased(now, in_flight)
    return in_flight


def grown(limit, now, seconds, in_flight=0):
    """Leases whenever there is room, for so long; nothing comes back. → now, in flight"""
    end = now + seconds
    while now < end:
        in_flight = filled_up(limit, now, in_flight)
        change = limit.next_change(now)
        now = end if change is None else min(change, end)
    return now, filled_up(limit, now, in_flight)


def served(limit, now, in_flight, requests, seconds=0.1):
    """That many are answered one by one, and as many leased as there is room for. → now, in flight"""
    for _ in range(requests):
        now += seconds / max(1, in_flight)
        limit.succeeded(now, now - 1e-9, in_flight)
        in_flight = filled_up(limit, now, in_flight - 1)
    return now, in_flight


def settled_at(k, ceiling=1000):
    """A limit that has just found out that the endpoint takes `k` at once. → it, now, in flight"""
    limit = AdaptiveLimit(ceiling, start=k + 1)
    in_flight = filled_up(limit, 0.0)
    assert limit.refused(0.1, 0.0, in_flight)
    limit.succeeded(0.2, 0.0, in_flight - 1)
    now, in_flight = served(limit, 1.0, in_flight - 2, k)
    now, in_flight = grown(limit, now, 1.0, in_flight)
    assert in_flight == limit.limit(now) == k
    return limit, now, in_flight


def test_a_thousand_are_in_flight_within_two_seconds_without_waiting_for_answers():
    assert grown(AdaptiveLimit(1000), 5.0, 2.0)[1] == 1000


def opened():
    """A limit that has had its first answer, at the time 0. → it, in flight"""
    limit = AdaptiveLimit(256)
    in_flight = filled_up(limit, 0.0)
    limit.succeeded(0.0, 0.0, in_flight)
    return limit, filled_up(limit, 0.0, in_flight - 1)


def test_it_opens_to_hundreds_within_the_second_and_no_further_than_it_can_hear_of_refusals():
    limit, in_flight = opened()
    assert grown(limit, 0.0, 0.6, in_flight)[1] == 256
    for seconds, most in ((0.05, 14), (0.1, 26), (0.2, 56)):
        limit, in_flight = opened()
        assert grown(limit, 0.0, seconds, in_flight)[1] <= most


def test_it_is_slow_as_long_as_nothing_has_come_back():
    assert grown(AdaptiveLimit(256), 0.0, 0.3)[1] <= 11


def test_it_opens_fast_only_until_the_first_refusal():
    limit = AdaptiveLimit(256)
    in_flight = filled_up(limit, 0.0)
    for refusal in range(in_flight):
        limit.refused(0.01, 0.0, in_flight - refusal)
    assert limit.limit(0.01) < 4, "nothing was taken: that is no measurement, and the goal is what it was"
    in_flight = filled_up(limit, 1.0)
    limit.succeeded(1.1, 1.0, in_flight)
    assert grown(limit, 1.1, 0.3, in_flight - 1)[1] <= 12


def test_what_the_ramp_after_a_cool_down_alone_holds_back_comes_when_the_ramp_allows_it():
    limit = AdaptiveLimit(1000)
    now, in_flight = grown(limit, 0.0, 0.9)
    assert 60 < in_flight < 256
    limit.cooled_down(now)
    limit.leased(now, in_flight // 4)
    held_back = limit.limit(now)
    change = limit.next_change(now)
    assert change is not None
    assert limit.limit(change) > held_back


def test_it_starts_with_a_few_and_grows_only_as_it_is_used():
    limit = AdaptiveLimit(1000)
    assert limit.limit(0.0) == 4
    limit.leased(0.0, 1)
    assert limit.next_change(0.0) is None
    assert limit.limit(60.0) == 4
    filled_up(limit, 60.0)
    assert limit.limit(1e6) == 6, "a guess only so far beyond what is in use"


def test_what_was_not_refused_is_what_the_endpoint_takes():
    limit = AdaptiveLimit(1000)
    now, in_flight = grown(limit, 0.0, 1.0)
    taken = in_flight - 20
    assert limit.refused(now + 0.1, 0.5, in_flight)
    assert 0.8 * in_flight <= limit.limit(now + 0.1) <= 0.86 * in_flight
    for refusal in range(1, 20):
        assert not limit.refused(now + 0.1, 0.5, in_flight - refusal)
    assert limit.limit(now + 0.1) <= taken
    now, in_flight = served(limit, now + 0.2, taken, taken // 2)
    now, in_flight = grown(limit, now, 1.0, in_flight)
    assert limit.limit(now) == taken


def test_answers_that_come_in_one_batch_with_a_refusal_do_not_make_it_look_like_less():
    limit, now, in_flight = settled_at(100)
    limit.leased(now, in_flight)
    for answer in range(60):
        limit.succeeded(now + 1, now - 1, in_flight - answer)
    assert limit.refused(now + 1, now, in_flight - 60)
    now, in_flight = served(limit, now + 2, in_flight - 61, 40)
    assert grown(limit, now, 1.0, in_flight)[1] >= 98


def test_refusals_of_one_episode_lower_the_limit_once():
    limit, now, in_flight = settled_at(40)
    assert limit.refused(now + 1, now, in_flight)
    lowered = limit.limit(now + 1)
    assert 25 <= lowered < 40
    for refusal in range(1, 5):
        assert not limit.refused(now + 1, now - refusal, in_flight - refusal)
    assert lowered - 4 <= limit.limit(now + 1) <= lowered


def test_it_probes_after_a_hundred_successes_and_not_before():
    limit, now, in_flight = settled_at(8)
    now, in_flight = served(limit, now, in_flight, 60)
    assert limit.limit(now) == 8
    now, in_flight = served(limit, now, in_flight, 50)
    assert limit.limit(now) == 9


def test_a_probe_that_is_refused_costs_one_request():
    limit, now, in_flight = settled_at(8)
    now, in_flight = served(limit, now, in_flight, 110)
    assert limit.refused(now + 0.05, now, in_flight)
    now, in_flight = served(limit, now + 0.05, in_flight - 1, 10)
    now, in_flight = grown(limit, now, 1.0, in_flight)
    assert limit.limit(now) == 8


def test_an_episode_after_a_round_has_held_is_a_first_one():
    limit, now, in_flight = settled_at(40)
    now, in_flight = served(limit, now, in_flight, 110)
    assert limit.refused(now + 0.05, now, in_flight)
    assert limit.limit(now + 0.05) == 34


def test_where_a_refusal_means_a_cool_down_it_probes_seldom():
    limit, now, in_flight = settled_at(40)
    limit.cooled_down(now + 2.0)
    now, in_flight = served(limit, now + 4.0, in_flight, 1000, seconds=1.0)
    assert limit.limit(now) == 40
    now, in_flight = served(limit, now, in_flight, 2000, seconds=1.0)
    assert limit.limit(now) > 40


def test_successes_of_a_limit_that_is_not_used_prove_nothing():
    limit, now, _ = settled_at(40)
    limit.leased(now, 10)
    for _ in range(1000):
        limit.succeeded(now + 1, now + 0.5, 10)
    assert limit.limit(now + 1) == 40


def test_probes_that_hold_become_larger_up_to_an_eighth():
    limit, now, in_flight = settled_at(64)
    now, in_flight = served(limit, now, in_flight, 110)
    seen = [limit.limit(now)]
    while seen[-1] < 120:
        now, in_flight = served(limit, now, in_flight, 1)
        if limit.limit(now) != seen[-1]:
            seen.append(limit.limit(now))
    assert seen == [65, 67, 71, 79, 88, 99, 111, 124]


def test_episodes_in_a_row_go_down_faster_and_the_first_success_brings_it_back():
    limit, now, in_flight = settled_at(100)
    seen = []
    for _ in range(6):
        limit.leased(now, in_flight)
        assert limit.refused(now + 0.1, now, in_flight)
        seen.append(limit.limit(now + 0.1))
        now, in_flight = now + 1.0, limit.limit(now + 0.1)
    assert seen[-1] <= 5
    falls = [after / before for before, after in pairwise(seen[:4])]
    assert falls == sorted(falls, reverse=True)
    in_flight = filled_up(limit, now)
    assert limit.limit(now + 100) == seen[-1], "not by time alone"
    limit.succeeded(now + 1, now, in_flight)
    now, in_flight = grown(limit, now + 1, 3.0, in_flight - 1)
    assert limit.limit(now) >= 98


def test_an_endpoint_that_refuses_everything_at_the_start_does_not_hold_it_down_for_ever():
    limit, now = AdaptiveLimit(500), 0.0
    for _ in range(50):
        in_flight = filled_up(limit, now)
        for refusal in range(in_flight):
            limit.refused(now + 0.1, now, in_flight - refusal)
        limit.cooled_down(now + 3600)
        now += 3600
    assert limit.limit(now) <= 2
    in_flight = filled_up(limit, now)
    limit.succeeded(now + 1, now, in_flight)
    now, in_flight = grown(limit, now + 1, 4.0, in_flight - 1)
    assert limit.limit(now) == 500


def test_a_refusal_after_a_cool_down_while_little_is_in_flight_is_no_measurement_of_little():
    limit, now, _ = settled_at(100)
    limit.cooled_down(now + 60)
    in_flight = filled_up(limit, now + 60)
    assert in_flight == 4
    limit.succeeded(now + 60.1, now + 60, in_flight)
    limit.refused(now + 60.1, now + 60, in_flight - 1)
    assert limit.limit(now + 70) >= 70


@pytest.mark.parametrize("make", [lambda: FixedLimit(300), lambda: AdaptiveLimit(300, start=300)])
def test_after_a_cool_down_it_ramps_up_to_where_it_was(make):
    limit = make()
    filled_up(limit, 0.0)
    limit.cooled_down(10.0)
    limit.cooled_down(5.0)
    assert limit.limit(3.0) == limit.limit(10.0) == 4
    assert limit.next_change(3.0) > 10.0
    assert 4 < limit.limit(11.0) < 60
    assert limit.limit(12.5) == 300
    assert limit.next_change(12.5) is None


def test_a_fixed_limit_learns_nothing_but_tells_episodes_apart():
    limit = FixedLimit(7)
    limit.leased(0.0, 7)
    assert limit.refused(1.0, 0.0, 7)
    assert not limit.refused(1.1, 0.5, 6)
    assert limit.refused(1.5, 1.2, 6)
    limit.succeeded(2.0, 1.7, 7)
    assert limit.limit(2.0) == 7
    limit.ceiling = 9
    assert limit.limit(2.0) == 9


@pytest.mark.parametrize(("ceiling", "expected"), [(200, 200), (50, 50)])
def test_a_ceiling_that_moves_takes_an_untroubled_limit_with_it(ceiling, expected):
    limit = AdaptiveLimit(100)
    now, in_flight = grown(limit, 0.0, 2.0)
    limit.ceiling = ceiling
    assert grown(limit, now, 2.0, min(in_flight, ceiling))[1] == expected


def test_a_ceiling_that_was_low_for_a_while_is_no_reason_to_burst():
    limit = AdaptiveLimit(500)
    now, _ = grown(limit, 0.0, 2.0)
    limit.leased(now, 100)
    limit.ceiling = 10
    limit.ceiling = 500
    assert limit.limit(now) <= 13


class AnEndpointOfMoods(RuleBasedStateMachine):
    """Any order of leases, answers, refusals, cool-downs and ceilings, by an honest caller."""

    @initialize(
        kind=st.sampled_from([AdaptiveLimit, FixedLimit]), ceiling=st.integers(1, 60), start=st.integers(1, 8)
    )
    def begin(self, kind, ceiling, start):
        self.now = 1000.0
        self.adaptive = kind is AdaptiveLimit
        self.limit = AdaptiveLimit(ceiling, start=start) if self.adaptive else FixedLimit(ceiling)
        self.out = []
        """When each request in flight was leased."""
        self.decreased_at = -math.inf

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0]) | st.floats(0, 30))
    def time_passes(self, seconds):
        before = self.limit.limit(self.now)
        change = self.limit.next_change(self.now)
        if change is None or self.now + seconds < change:
            self.now += seconds
            if change is None:
                assert self.limit.limit(self.now) == before
        else:
            self.now = change
            assert self.limit.limit(self.now) > before, "woken up for nothing"

    @rule(most=st.integers(1, 60))
    def lease(self, most):
        for _ in range(most):
            if len(self.out) < self.limit.limit(self.now):
                self.out.append(self.now)
                self.limit.leased(self.now, len(self.out))

    @precondition(lambda self: self.out)
    @rule(share=st.sampled_from([1.0, 0.5]), seconds=st.floats(0.001, 5))
    def answers_come(self, share, seconds):
        self.now += seconds
        for _ in range(math.ceil(share * len(self.out))):
            self.limit.succeeded(self.now, self.out[0], len(self.out))
            self.out.pop(0)

    @precondition(lambda self: self.out)
    @rule(most=st.integers(1, 60), seconds=st.floats(0.001, 0.1))
    def refusals_come(self, most, seconds):
        self.now += seconds
        for _ in range(min(most, len(self.out))):
            before = self.limit.limit(self.now)
            level = self.adaptive and self.limit._level_at(self.now)
            leased_at = self.out[-1]
            new = self.limit.refused(self.now, leased_at, len(self.out))
            self.out.pop()
            assert new == (leased_at > self.decreased_at), "an episode is counted once, and each is"
            assert self.limit.limit(self.now) <= before
            if new:
                self.decreased_at = self.now
                if self.adaptive:
                    assert self.limit._level < level or level == 1

    @rule(seconds=st.floats(0, 100))
    def a_cool_down_ends(self, seconds):
        self.limit.cooled_down(self.now + seconds)
        assert self.limit.limit(self.now + seconds) <= 4

    @rule(ceiling=st.integers(1, 60))
    def the_ceiling_moves(self, ceiling):
        self.limit.ceiling = ceiling

    @invariant()
    def it_is_between_floor_and_ceiling(self):
        assert 1 <= self.limit.limit(self.now) <= self.limit.ceiling

    @invariant()
    def it_never_shrinks_by_time_alone(self):
        limits = [self.limit.limit(self.now + seconds) for seconds in (0.0, 0.1, 1.0, 10.0, 1000.0)]
        assert limits == sorted(limits)

    def teardown(self):
        """Whatever it has been through: an endpoint that takes all of the ceiling is soon given all of it."""
        if not hasattr(self, "limit"):
            return
        self.now += 200
        while self.out:
            self.limit.succeeded(self.now, self.out.pop(), len(self.out) + 1)
        requests = 0
        while self.limit.limit(self.now) < self.limit.ceiling:
            self.lease(60)
            change = self.limit.next_change(self.now)
            self.now = min(self.now + 1.0, math.inf if change is None else change)
            if change is None:
                for _ in range(len(self.out)):
                    self.limit.succeeded(self.now, self.out[0], len(self.out))
                    self.out.pop(0)
                    requests += 1
            assert requests < 3000, "it is pinned"


AnEndpointOfMoods.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnEndpointOfMoods = AnEndpointOfMoods.TestCase
