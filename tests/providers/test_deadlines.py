"""The watchdog: cuts what is late, and nothing else."""

from __future__ import annotations

import threading

import pytest

from parallamr_mp.providers import deadlines
from parallamr_mp.providers.deadlines import NAP_SECONDS, STOPPED_SECONDS, Watchdog

WAIT = 5.0


@pytest.fixture
def watchdog():
    made = Watchdog()
    yield made
    made.close()


def test_what_is_late_is_cut_and_marked(watchdog):
    cut = threading.Event()
    call = watchdog.begin(0.05)
    call.on_deadline(cut.set)
    assert not call.expired
    assert cut.wait(WAIT)
    assert call.expired
    watchdog.end(call)


def test_a_socket_that_is_named_after_the_deadline_is_cut_at_once(watchdog):
    first, late = threading.Event(), threading.Event()
    call = watchdog.begin(-1)
    call.on_deadline(first.set)
    assert first.wait(WAIT)
    call.on_deadline(late.set)
    assert late.is_set()
    watchdog.end(call)


def test_what_has_ended_is_never_cut(watchdog):
    ended, other = threading.Event(), threading.Event()
    early = watchdog.begin(0.05)
    early.on_deadline(ended.set)
    watchdog.end(early)
    call = watchdog.begin(0.1)
    call.on_deadline(other.set)
    assert other.wait(WAIT)
    assert not ended.is_set()
    watchdog.end(call)


def test_a_cut_that_fails_does_not_stop_the_others(watchdog):
    def fail():
        raise OSError("closed already")

    cut = threading.Event()
    bad = watchdog.begin(0.02)
    bad.on_deadline(fail)
    good = watchdog.begin(0.06)
    good.on_deadline(cut.set)
    assert cut.wait(WAIT)
    assert bad.expired
    watchdog.end(bad)
    watchdog.end(good)


def test_one_thread_serves_all_and_ends_after_the_last_call_when_closed(watchdog):
    first = watchdog.begin(60)
    thread = watchdog._thread
    second = watchdog.begin(30)
    assert watchdog._thread is thread
    watchdog.end(first)
    watchdog.close()
    assert thread.is_alive()  # a call is under way and keeps its deadline
    watchdog.end(second)
    thread.join(WAIT)
    assert not thread.is_alive()
    watchdog.close()


def test_a_watchdog_nobody_closed_ends_by_itself_and_wakes_for_the_next_call(watchdog, monkeypatch):
    monkeypatch.setattr(deadlines, "_IDLE_SECONDS", 0.01)
    call = watchdog.begin(0.02)
    thread = watchdog._thread
    watchdog.end(call)
    thread.join(WAIT)
    assert not thread.is_alive()
    cut = threading.Event()
    call = watchdog.begin(0.02)
    call.on_deadline(cut.set)
    assert cut.wait(WAIT)
    watchdog.end(call)


# Processes that are stopped: the same with a clock of the test's own


class Time:
    """A clock, and a sleep that ends when the test says so."""

    def __init__(self):
        self.now = 1000.0
        self._looks = 0
        self._changed = None

    def clock(self):
        return self.now

    def wait(self, changed, seconds):
        self._changed, self.asked = changed, seconds
        self._looks += 1
        changed.notify_all()
        changed.wait(WAIT)

    def goes_on(self, seconds):
        """Moves the clock and wakes the watchdog; returns when that sleeps again."""
        with self._changed:
            self.now += seconds
            looks = self._looks
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._looks > looks, WAIT)

    def naps(self, count):
        for _ in range(count):
            self.goes_on(self.asked)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def begin(time):
    """Begins a call of a watchdog that lives by `time`, and returns when that has seen it."""
    watchdog = Watchdog(time.clock, time.wait)
    calls = []

    def begin(seconds):
        calls.append(watchdog.begin(seconds))
        with watchdog._changed:
            assert watchdog._changed.wait_for(lambda: time._looks, WAIT)
        return calls[-1]

    begin.watchdog = watchdog
    yield begin
    for call in calls:
        watchdog.end(call)
    watchdog.close()


def test_the_watchdog_looks_up_often_while_a_call_is_under_way(begin, time):
    call = begin(300)
    time.naps(4)
    assert time.now == 1000 + 4 * NAP_SECONDS
    assert call.deadline == 1300


def test_time_in_which_the_process_was_stopped_is_added_to_every_deadline(begin, time):
    calls = [begin(3), begin(300)]
    time.naps(1)
    time.goes_on(3600)
    assert [call.deadline for call in calls] == [1003 + 3600 - NAP_SECONDS, 1300 + 3600 - NAP_SECONDS]
    assert not any(call.expired for call in calls)
    # In all, the first has now had as long as it may take, and no longer.
    time.naps(3)
    assert not calls[0].expired
    time.naps(2)
    assert [call.expired for call in calls] == [True, False]


def test_a_stop_costs_a_call_no_more_than_the_nap_it_fell_into(begin, time):
    call = begin(NAP_SECONDS + 0.1)
    time.goes_on(60)
    assert not call.expired
    time.goes_on(0.1)
    assert call.expired


def test_every_stop_is_forgiven(begin, time):
    call = begin(3)
    for _ in range(5):
        time.goes_on(NAP_SECONDS + 60)
    assert call.deadline == 1003 + 5 * 60


def test_a_thread_that_is_late_for_want_of_a_cpu_is_forgiven_nothing(begin, time):
    call = begin(6)
    for _ in range(2):
        time.goes_on(NAP_SECONDS + STOPPED_SECONDS)
    assert call.deadline == 1006
    time.goes_on(NAP_SECONDS + STOPPED_SECONDS)
    assert call.expired


def test_a_deadline_that_passed_before_the_stop_stays_passed(begin, time):
    call = begin(NAP_SECONDS)
    time.naps(1)
    assert call.expired
    time.goes_on(3600)
    assert call.expired


def test_who_came_after_the_stop_gets_nothing_of_it(begin, time):
    before = begin(300)
    time.now += 3600  # the process goes on, and this thread is quicker than the watchdog
    after = begin(3)
    time.goes_on(0.25)
    assert before.deadline == pytest.approx(1300 + 3600, abs=NAP_SECONDS)
    assert after.deadline == 4603 + 0.25  # what it was there for, as nobody knows better
    time.goes_on(NAP_SECONDS)
    time.naps(6)
    assert after.expired


def test_a_stop_while_nothing_is_under_way_is_none_of_the_next_calls_business(begin, time):
    begin.watchdog.end(begin(3))
    time.naps(1)
    assert time.asked == deadlines._IDLE_SECONDS
    time.now += 3600
    call = begin(3)
    time.goes_on(0)
    assert call.deadline == 4603.5
    time.naps(6)
    assert call.expired
