import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.policy.thresholds import RATE_ROWS, StopReason, Thresholds

GOOD, BAD = False, True


def first_stop(thresholds, rows):
    """After how many rows it stops; None: never."""
    for number, is_error in enumerate(rows, 1):
        thresholds.note(is_error)
        if thresholds.reason(0.0) is not None:
            return number
    return None


@given(st.lists(st.booleans()))
def test_by_default_no_number_of_errors_stops_a_run(rows):
    assert first_stop(Thresholds(), rows) is None


@pytest.mark.parametrize(
    "thresholds", [{"fail_fast": True}, {"max_errors": 0}, {"max_error_share": 0.0}], ids=repr
)
def test_the_first_error_stops_a_run_that_may_have_none(thresholds):
    assert first_stop(Thresholds(**thresholds), [GOOD, GOOD, BAD, GOOD]) == 3


@given(st.lists(st.booleans()), st.integers(1, 10))
def test_a_number_of_errors_stops_when_it_is_exceeded(rows, most):
    expected = [number for number in range(1, len(rows) + 1) if sum(rows[:number]) == most + 1]
    assert first_stop(Thresholds(max_errors=most), rows) == next(iter(expected), None)


@given(st.lists(st.booleans(), max_size=80), st.sampled_from([5, 10, 29, 50, 100]))
def test_a_share_of_errors_stops_when_it_is_exceeded_but_not_before_twenty_rows(rows, share):
    expected = [n for n in range(RATE_ROWS, len(rows) + 1) if 100 * sum(rows[:n]) > share * n]
    assert first_stop(Thresholds(max_error_share=share / 100), rows) == next(iter(expected), None)


@given(st.integers(1, 100))
def test_a_share_that_is_just_reached_does_not_stop(share):
    rows = [GOOD] * (100 - share) + [BAD] * share
    assert first_stop(Thresholds(max_error_share=share / 100), rows) is None


def test_a_share_that_was_exceeded_is_not_taken_back():
    thresholds = Thresholds(max_error_share=0.1)
    for is_error in [BAD] * 3 + [GOOD] * 100:
        thresholds.note(is_error)
    assert thresholds.reason(0.0) == StopReason("errors", "3 of 20 rows are errors (--fail-on-error 10%)")


def test_time_stops_a_run_and_says_when_it_will():
    thresholds = Thresholds(stop_at=100.0, stop_words="it is late")
    assert (thresholds.reason(99.9), thresholds.next_due(99.9)) == (None, 100.0)
    assert (thresholds.reason(100.0), thresholds.next_due(100.0)) == (StopReason("time", "it is late"), None)
    assert Thresholds().next_due(0.0) is None


def test_errors_are_told_before_time():
    thresholds = Thresholds(fail_fast=True, stop_at=1.0)
    thresholds.note(BAD)
    assert thresholds.reason(2.0) == StopReason("errors", "a row is an error (--fail-fast)")


def test_reasons_name_the_option_and_the_numbers():
    thresholds = Thresholds(max_errors=1)
    thresholds.note(BAD)
    thresholds.note(BAD)
    assert thresholds.reason(0.0) == StopReason("errors", "2 rows are errors (--fail-on-error 1)")
