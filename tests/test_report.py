import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp import events
from parallamr_mp.cli.summary import format_summary
from parallamr_mp.models import Failure, Status
from parallamr_mp.report import Percentiles, Tally
from parallamr_mp.text import usd

seconds = st.floats(0.001, 100_000)


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_within_one_percent_of_the_sorted_values(values, share):
    found = Percentiles()
    for value in values:
        found.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert found.at(share) == pytest.approx(exact, rel=0.0101)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 500), (0.95, 950), (0.99, 990), (1, 1000), (0, 1)])
def test_percentiles_of_a_thousand_different_values(share, expected):
    found = Percentiles()
    for value in range(1000, 0, -1):
        found.add(value)
    assert found.at(share) == pytest.approx(expected, rel=0.0101)


def test_percentiles_of_nothing_are_none_and_nothing_takes_no_time():
    assert Percentiles().at(0.5) is None
    found = Percentiles()
    found.add(0.0)
    assert found.at(0.5) == pytest.approx(0, abs=0.001)


def test_a_million_values_take_no_more_room_than_a_thousand():
    found = Percentiles()
    for number in range(100_000):
        found.add(0.001 + number % 9973)
    assert len(found._counts) < 1000


# --- tally -------------------------------------------------------------------------------------


def done(status=Status.OK, *, latency=1.0, cost=None) -> events.RowDone:
    return events.RowDone(1, 0, "mock", "m", status, "", 1, latency, 10, 3, cost)


def tally(*happened, signum=None):
    clock = iter([100.0, 107.5])
    counted = Tally(clock=lambda: next(clock))
    for event in happened:
        counted(event)
    return counted.summary(("r.csv",), signum)


def test_a_run_is_counted_from_its_events():
    failure = Failure("rate_limit", "slow down", retryable=True)
    summary = tally(
        events.RunStarted(total=10, done=4, done_errors=1, procs=2, threads=8, output="r.csv"),
        events.Notice("look here"),
        events.AttemptFailed(1, "row 1", 1, 0.5, failure),
        events.AttemptFailed(1, "row 1", 2, 0.5, failure),
        done(latency=1.0, cost=0.25),
        done(latency=1.0, cost=0.5),
        events.Pulse(1, 0, 0.1, 3),
        events.WorkerLost(0, 123, -9, 3, ""),
        done(Status.WARNING, latency=2.0),
        done(Status.ERROR, latency=300.0),
        events.RunFinished(),
        signum=2,
    )
    assert (summary.total, summary.resumed, summary.resumed_errors) == (10, 4, 1)
    assert (summary.ok, summary.warning, summary.error) == (2, 1, 1)
    assert (summary.written, summary.missing) == (4, 2)
    assert (summary.input_tokens, summary.output_tokens) == (40, 12)
    assert summary.cost_usd == pytest.approx(0.75)
    assert (summary.retries, summary.workers_lost) == (2, 1)
    assert summary.seconds == 7.5
    assert summary.latency_p50 == pytest.approx(1, rel=0.01)
    assert summary.latency_p95 == pytest.approx(2, rel=0.01)  # errors are no answers, and do not count
    assert summary.outputs == ("r.csv",)
    assert summary.signum == 2
    assert summary.notices == ("look here",)


def test_a_run_without_rows_has_no_latency_and_no_cost():
    summary = tally(events.RunStarted(3, 3, 0, 1, 1, "r.csv"), events.RunFinished())
    assert (summary.latency_p50, summary.latency_p95, summary.cost_usd) == (None, None, None)
    assert (summary.written, summary.missing) == (0, 0)


def test_a_cost_of_nothing_is_a_cost():
    assert tally(done(cost=0.0), done()).cost_usd == 0.0


def test_answers_of_unknown_cost_are_counted_apart():
    summary = tally(done(cost=0.5), done(), done(Status.WARNING), done(Status.ERROR))
    assert (summary.cost_usd, summary.unpriced) == (0.5, 2)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([done(cost=0.5)], "cost     0.500000 USD"),
        ([done(cost=0.5), done(), done()], "cost     0.500000 USD · unknown of 2 answers"),
        ([done()], "cost     unknown of 1 answer"),
        ([done(cost=0.0)], None),
        ([done(Status.ERROR)], None),
    ],
)
def test_the_summary_says_what_is_known_of_the_cost_and_of_how_much_nothing_is(rows, line):
    told = [text for text in format_summary(tally(*rows)).splitlines() if text.startswith("cost")]
    assert told == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.0000"), (0.0000123, "0.000012"), (0.0123, "0.0123"), (12.3456, "12.3456"), (1234.5, "1,234.50")],
)
def test_sums_have_the_digits_that_matter(amount, text):
    assert usd(amount) == text
