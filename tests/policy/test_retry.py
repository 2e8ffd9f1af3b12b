import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.models import Failure
from parallamr_mp.policy.retry import RetryPolicy, counts_against

BUSY = Failure("rate_limit", "busy", retryable=True)
REFUSED = Failure("auth", "no", retryable=False)
UNKNOWN = Failure("timeout", "no answer", unknown=True)


def longest(low, high):
    return high


def shortest(low, high):
    return low


def test_a_failure_that_is_not_retryable_is_final_at_once():
    assert RetryPolicy().delay(REFUSED, 1, "openai") is None


def test_as_many_further_attempts_are_made_as_allowed():
    policy = RetryPolicy(max_retries=3)
    assert [policy.delay(BUSY, attempts, "openai") is None for attempts in (1, 2, 3, 4, 5)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_no_retries_means_one_attempt():
    assert RetryPolicy(max_retries=0).delay(BUSY, 1, "openai") is None


def test_the_longest_wait_doubles_up_to_the_cap():
    policy = RetryPolicy(max_retries=9, base=0.5, cap=6.0, uniform=longest)
    assert [policy.delay(BUSY, attempts, "openai") for attempts in range(1, 8)] == [0.5, 1, 2, 4, 6, 6, 6]


def test_the_thousandth_attempt_waits_no_longer_than_the_cap():
    assert RetryPolicy(max_retries=10**6, cap=60.0, uniform=longest).delay(BUSY, 5000, "openai") == 60


def test_the_jitter_is_full():
    assert RetryPolicy(uniform=shortest).delay(BUSY, 3, "openai") == 0


@pytest.mark.parametrize(("uniform", "wait"), [(shortest, 7.5), (longest, 8.5)])
def test_a_server_s_wish_is_waited_for_in_full_with_the_jitter_on_top(uniform, wait):
    busy = Failure("rate_limit", "busy", retryable=True, retry_after=7.5)
    assert RetryPolicy(uniform=uniform).delay(busy, 1, "openai") == wait


def test_a_server_s_wish_is_not_cut_by_the_cap():
    busy = Failure("rate_limit", "busy", retryable=True, retry_after=600)
    assert RetryPolicy(cap=60, uniform=shortest).delay(busy, 1, "openai") == 600


def test_a_server_s_wish_does_not_make_a_final_failure_retryable():
    assert RetryPolicy().delay(Failure("auth", "no", retry_after=1), 1, "openai") is None


def test_what_became_of_a_request_is_unknown_and_nobody_is_asked_again_unless_named():
    assert RetryPolicy().delay(UNKNOWN, 1, "openai") is None
    policy = RetryPolicy(retry_unknown=frozenset({"ollama", "mock"}), uniform=longest)
    assert [policy.delay(UNKNOWN, 1, name) for name in ("openai", "ollama", "mock")] == [None, 1.0, 1.0]


def test_unknown_outcomes_are_asked_again_as_often_as_others_and_wait_as_long():
    policy = RetryPolicy(max_retries=2, retry_unknown=frozenset({"ollama"}), uniform=longest)
    assert [policy.delay(UNKNOWN, attempts, "ollama") for attempts in (1, 2, 3)] == [1.0, 2.0, None]


def test_an_unknown_outcome_that_calls_itself_retryable_is_unknown_all_the_same():
    both = Failure("timeout", "no answer", retryable=True, unknown=True)
    assert RetryPolicy().delay(both, 1, "openai") is None
    assert RetryPolicy(retry_unknown=frozenset({"openai"})).delay(both, 1, "openai") is not None


def test_naming_a_provider_makes_its_final_failures_no_less_final():
    policy = RetryPolicy(retry_unknown=frozenset({"ollama"}))
    assert policy.delay(REFUSED, 1, "ollama") is None
    assert policy.delay(BUSY, 1, "openai") is not None


@given(
    st.builds(
        Failure,
        st.text(),
        st.text(),
        st.booleans(),
        st.none() | st.floats(0, 1e5),
        st.just(""),
        st.booleans(),
    ),
    st.sets(st.sampled_from(["openai", "ollama"])).map(frozenset),
    st.integers(1, 2000),
    st.integers(0, 2000),
    st.integers(),
)
def test_a_wait_is_none_or_within_its_bounds(failure, named, attempts, max_retries, seed):
    uniform = random.Random(seed).uniform
    policy = RetryPolicy(max_retries, base=1.0, cap=60.0, retry_unknown=named, uniform=uniform)
    delay = policy.delay(failure, attempts, "openai")
    again = "openai" in named if failure.unknown else failure.retryable
    assert (delay is None) == (not again or attempts > max_retries)
    if delay is not None:
        wish = min(failure.retry_after or 0.0, policy.longest)
        assert wish <= delay <= wish + 60.0


TURNED_AWAY = Failure("rate_limit", "busy", retryable=True, refused=True, status=429)
NOBODY = Failure("connection", "refused", retryable=True, unreached=True)
GATEWAY = Failure("server_error", "bad gateway", retryable=True, status=502)


def test_a_refusal_waits_for_nothing_of_its_own_and_for_the_longest_wait_at_most():
    policy = RetryPolicy(max_retries=0, max_wait=100.0, uniform=longest)
    assert policy.delay(TURNED_AWAY, 0, "openai", 0.0) == 0.0
    assert policy.delay(TURNED_AWAY, 0, "openai", 100.0) == 0.0
    assert policy.delay(TURNED_AWAY, 0, "openai", 100.1) is None


def test_a_wait_that_would_end_too_late_does_not_begin():
    policy = RetryPolicy(max_wait=100.0, uniform=longest)
    assert policy.delay(BUSY, 1, "openai", 99.0) == 1.0
    assert policy.delay(BUSY, 1, "openai", 99.5) is None
    assert policy.delay(Failure("x", "", retryable=True, retry_after=500), 1, "openai") is None


def test_a_wish_for_next_year_is_cut():
    busy = Failure("server_error", "busy", retryable=True, retry_after=3e7)
    assert RetryPolicy(uniform=shortest).delay(busy, 1, "openai") == 3600


def test_what_does_not_count_waits_as_after_the_first_failure():
    assert RetryPolicy(uniform=longest).delay(NOBODY, 0, "openai") == 1.0


@pytest.mark.parametrize(
    ("failure", "probe", "counts"),
    [
        (TURNED_AWAY, False, False),
        (NOBODY, False, False),
        (GATEWAY, False, True),
        (GATEWAY, True, False),
        (replace(GATEWAY, status=503), True, False),
        (replace(GATEWAY, status=500), True, True),
        (replace(GATEWAY, status=None), True, True),
        (UNKNOWN, False, True),
        (UNKNOWN, True, True),
        (REFUSED, True, True),
    ],
)
def test_what_uses_up_an_attempt(failure, probe, counts):
    assert counts_against(failure, probe=probe) is counts
