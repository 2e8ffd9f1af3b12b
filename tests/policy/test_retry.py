import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.models import Failure
from parallamr_mp.policy.retry import RetryPolicy

BUSY = Failure("rate_limit", "busy", retryable=True)
REFUSED = Failure("auth", "no", retryable=False)


def longest(low, high):
    return high


def shortest(low, high):
    return low


def test_a_failure_that_is_not_retryable_is_final_at_once():
    assert RetryPolicy().delay(REFUSED, 1) is None


def test_as_many_further_attempts_are_made_as_allowed():
    policy = RetryPolicy(max_retries=3)
    assert [policy.delay(BUSY, attempts) is None for attempts in (1, 2, 3, 4, 5)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_no_retries_means_one_attempt():
    assert RetryPolicy(max_retries=0).delay(BUSY, 1) is None


def test_the_longest_wait_doubles_up_to_the_cap():
    policy = RetryPolicy(max_retries=9, base=0.5, cap=6.0, uniform=longest)
    assert [policy.delay(BUSY, attempts) for attempts in range(1, 8)] == [0.5, 1, 2, 4, 6, 6, 6]


def test_the_thousandth_attempt_waits_no_longer_than_the_cap():
    assert RetryPolicy(max_retries=10**6, cap=60.0, uniform=longest).delay(BUSY, 5000) == 60


def test_the_jitter_is_full():
    assert RetryPolicy(uniform=shortest).delay(BUSY, 3) == 0


@pytest.mark.parametrize(("uniform", "wait"), [(shortest, 7.5), (longest, 8.5)])
def test_a_server_s_wish_is_waited_for_in_full_with_the_jitter_on_top(uniform, wait):
    busy = Failure("rate_limit", "busy", retryable=True, retry_after=7.5)
    assert RetryPolicy(uniform=uniform).delay(busy, 1) == wait


def test_a_server_s_wish_is_not_cut_by_the_cap():
    busy = Failure("rate_limit", "busy", retryable=True, retry_after=600)
    assert RetryPolicy(cap=60, uniform=shortest).delay(busy, 1) == 600


def test_a_server_s_wish_does_not_make_a_final_failure_retryable():
    assert RetryPolicy().delay(Failure("auth", "no", retry_after=1), 1) is None


@given(
    st.builds(Failure, st.text(), st.text(), st.booleans(), st.none() | st.floats(0, 1e5)),
    st.integers(1, 2000),
    st.integers(0, 2000),
    st.integers(),
)
def test_a_wait_is_none_or_within_its_bounds(failure, attempts, max_retries, seed):
    policy = RetryPolicy(max_retries, base=1.0, cap=60.0, uniform=random.Random(seed).uniform)
    delay = policy.delay(failure, attempts)
    assert (delay is None) == (not failure.retryable or attempts > max_retries)
    if delay is not None:
        wish = min(failure.retry_after or 0.0, policy.longest)
        assert wish <= delay <= wish + 60.0
