import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dispatching import at_once

from parallamr_mp.engine import feed as feeds
from parallamr_mp.engine.feed import Feed
from parallamr_mp.models import Failure
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.schedule import Schedule

VERDICT = Failure("bad_input", "no such file")


class Source:
    """Jobs of one key, which count how far they have been read."""

    def __init__(self, jobs, error=None):
        self._jobs, self._error, self.read = iter(jobs), error, 0

    def __iter__(self):
        return self

    def __next__(self):
        for job in self._jobs:
            self.read += 1
            return job
        if self._error is not None:
            raise self._error
        raise StopIteration


class Table:
    """A feed of rows that are written as KEY, KEY/MODEL, or KEY/! if settled already."""

    def __init__(self, rows, limits=None, total=None, *, accepts=10**9, error=None, models=None, **more):
        made = {}
        for number, row in enumerate(rows):
            key, _, rest = row.partition("/")
            verdict = VERDICT if rest == "!" else None
            job = Job(number, key, None, model=rest, verdict=verdict, **more)
            made.setdefault(key, []).append(job)
        self.sources = {key: Source(jobs, error if key == "a" else None) for key, jobs in made.items()}
        self.schedule = Schedule(at_once(limits or {}), total)
        self.settled, self.accepts = [], accepts
        self.feed = Feed(self.sources, self.schedule, self.settle, models)

    def settle(self, job):
        self.settled.append(job.id)
        return len(self.settled) < self.accepts

    def next(self, now=0.0):
        return self.feed.next(now)

    def ids(self):
        taken = []
        while (job := self.next()) is not None:
            taken.append(job.id)
        return taken

    def read(self):
        return {key: source.read for key, source in self.sources.items()}


def test_jobs_come_in_the_order_of_the_table_whichever_source_they_are_from():
    assert Table(["a", "b", "b", "a", "c", "b"]).ids() == [0, 1, 2, 3, 4, 5]


def test_it_is_exhausted_when_all_has_been_read():
    table = Table(["a", "b", "a"])
    assert not table.feed.exhausted
    table.ids()
    assert table.feed.exhausted
    assert Table([]).feed.exhausted
    assert table.next() is None


def test_no_more_is_read_than_is_needed():
    table = Table(["a", "b"] * 100)
    for _ in range(10):
        table.next()
    assert sum(table.read().values()) <= 12


def test_nothing_is_read_while_the_total_is_reached():
    table = Table(["a"] * 100, total=2)
    assert table.ids() == [0, 1]
    assert table.read() == {"a": 2}


def test_a_key_without_room_does_not_hold_up_another_however_long_its_part_of_the_table_is(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD", 20)
    table = Table(["a"] * 500 + ["b"] * 500, {"a": 2})
    assert table.ids() == [0, 1, *range(500, 1000)]


def test_a_model_without_room_does_not_hold_up_another_within_the_look_ahead(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD", 20)
    table = Table(["a/slow"] * 15 + ["a/quick"] * 5, {"a/slow": 1})
    assert table.ids() == [0, 15, 16, 17, 18, 19]


def test_nothing_is_read_ahead_where_no_other_model_can_come():
    table = Table(["a/one", "a/two"] * 50 + ["b"] * 50, {"a": 2, "b": 3}, models={"a": 2, "b": 1})
    first = table.next()
    assert table.ids() == [1, 100, 101, 102]
    assert table.read() == {"a": 4, "b": 4}
    table.schedule.release(first, 0.0)
    assert table.ids() == [2]


def test_a_key_is_read_on_while_one_of_its_models_has_not_come():
    table = Table(["a/slow"] * 15 + ["a/quick"] * 5, {"a/slow": 1}, models={"a": 2})
    assert table.ids() == [0, 15, 16, 17, 18, 19]


def test_a_key_whose_row_waits_for_a_retry_is_read_on_before_later_rows_of_another():
    table = Table(["a"] * 5 + ["b"] * 100, total=2)
    failed = table.next()
    table.schedule.release(failed, 0.0)
    table.schedule.wait(failed, 60.0)
    assert table.ids() == [1, 2]


def test_the_look_ahead_is_bounded_by_key_also_of_rows_that_wait(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD", 20)
    table = Table(["a"] * 500)
    while (job := table.next()) is not None and table.schedule.waiting < 400:
        table.schedule.release(job, 0.0)
        table.schedule.wait(job, 60.0)
    assert table.read() == {"a": 20}


def test_thousands_of_models_without_room_are_not_asked_each_for_every_row_that_is_read():
    started = time.process_time()
    table = Table([f"a/{number}" for number in range(4000)], {"a": 1})
    assert table.ids() == [0]
    assert time.process_time() - started < 2.0


def test_the_look_ahead_is_bounded_by_key(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD", 20)
    table = Table(["a"] * 500 + ["b"] * 500, {"a": 1, "b": 1})
    assert table.ids() == [0, 500]
    assert table.read() == {"a": 21, "b": 21}
    assert table.next() is None
    assert table.read() == {"a": 21, "b": 21}


def test_the_look_ahead_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD_BYTES", 1000)
    table = Table(["a"] * 500 + ["b"] * 500, {"a": 1, "b": 1}, size=100)
    assert table.ids() == [0, 500]
    assert table.schedule.parked_bytes <= 1000 + 2 * 100


def test_one_document_that_is_larger_than_the_look_ahead_is_asked_all_the_same(monkeypatch):
    monkeypatch.setattr(feeds, "LOOK_AHEAD_BYTES", 1000)
    assert Table(["a", "b"], size=5000).ids() == [0, 1]


def test_what_needs_no_asking_is_settled_on_the_way():
    table = Table(["a/!", "a", "b/!", "a/!", "b", "b/!"])
    assert table.ids() == [1, 4]
    assert sorted(table.settled) == [0, 2, 3, 5]
    assert table.feed.exhausted
    assert table.schedule.parked == 0


def test_a_table_without_anything_to_ask_is_read_to_its_end():
    table = Table(["a/!"] * 3000)
    assert table.next() is None
    assert len(table.settled) == 3000
    assert table.feed.exhausted


def test_congestion_stops_the_reading_until_the_next_call():
    table = Table(["a/!"] * 50 + ["a"], accepts=10)
    assert table.next() is None
    assert len(table.settled) == 10
    table.accepts = 30
    assert table.next() is None
    assert len(table.settled) == 30
    table.accepts = 100
    assert table.next().id == 50


def test_congestion_while_looking_further_ahead_stops_that_too():
    table = Table(["a"] * 5 + ["a/!"] * 50, {"a": 1}, accepts=10)
    assert table.next().id == 0
    assert table.next() is None
    assert len(table.settled) == 10
    assert not table.feed.exhausted


def test_what_a_source_raises_is_raised_once_and_what_it_gave_before_is_not_lost():
    table = Table(["a", "a", "b", "b"], error=ValueError("row 3 is ragged"))
    assert [table.next().id, table.next().id] == [0, 1]
    with pytest.raises(ValueError, match="ragged"):
        table.next()
    assert table.ids() == [2, 3]
    assert table.feed.exhausted


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["a", "a/x", "b", "b/x", "c", "a/!", "c/!"]), max_size=60),
    st.dictionaries(st.sampled_from(["a", "b", "a/x"]), st.integers(1, 3)),
    st.none() | st.integers(1, 4),
    st.integers(1, 20),
    st.data(),
)
def test_each_job_comes_once_whatever_the_limits(rows, limits, total, ahead, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds, "LOOK_AHEAD", ahead)
        table = Table(rows, limits, total, accepts=1)  # congested at each
        flying, seen = [], []
        while len(seen) + len(table.settled) < len(rows):
            before = len(seen), len(table.settled)
            while (job := table.next()) is not None:
                flying.append(job)
                seen.append(job.id)
            if flying and data.draw(st.booleans()):
                job = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
                table.schedule.release(job, 0.0)
            elif before == (len(seen), len(table.settled)):
                assert flying, "nothing moves although nothing is in flight"
                table.schedule.release(flying.pop(), 0.0)
        for job in flying:
            table.schedule.release(job, 0.0)
        assert table.next() is None
        assert table.feed.exhausted
        assert sorted(seen + table.settled) == list(range(len(rows)))
