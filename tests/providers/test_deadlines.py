"""The watchdog: cuts what is late, and nothing else."""

from __future__ import annotations

import threading
import time

import pytest

from parallamr_mp.providers import deadlines
from parallamr_mp.providers.deadlines import Watchdog

WAIT = 5.0


@pytest.fixture
def watchdog():
    made = Watchdog()
    yield made
    made.close()


def test_what_is_late_is_cut_and_marked(watchdog):
    cut = threading.Event()
    call = watchdog.begin(time.monotonic() + 0.05)
    call.on_deadline(cut.set)
    assert not call.expired
    assert cut.wait(WAIT)
    assert call.expired
    watchdog.end(call)


def test_a_socket_that_is_named_after_the_deadline_is_cut_at_once(watchdog):
    first, late = threading.Event(), threading.Event()
    call = watchdog.begin(time.monotonic() - 1)
    call.on_deadline(first.set)
    assert first.wait(WAIT)
    call.on_deadline(late.set)
    assert late.is_set()
    assert call.remaining() == 0.001
    watchdog.end(call)


def test_what_has_ended_is_never_cut(watchdog):
    ended, other = threading.Event(), threading.Event()
    early = watchdog.begin(time.monotonic() + 0.05)
    early.on_deadline(ended.set)
    watchdog.end(early)
    call = watchdog.begin(time.monotonic() + 0.1)
    call.on_deadline(other.set)
    assert other.wait(WAIT)
    assert not ended.is_set()
    watchdog.end(call)


def test_a_cut_that_fails_does_not_stop_the_others(watchdog):
    def fail():
        raise OSError("closed already")

    cut = threading.Event()
    bad = watchdog.begin(time.monotonic() + 0.02)
    bad.on_deadline(fail)
    good = watchdog.begin(time.monotonic() + 0.06)
    good.on_deadline(cut.set)
    assert cut.wait(WAIT)
    assert bad.expired
    watchdog.end(bad)
    watchdog.end(good)


def test_one_thread_serves_all_and_ends_after_the_last_call_when_closed(watchdog):
    first = watchdog.begin(time.monotonic() + 60)
    thread = watchdog._thread
    second = watchdog.begin(time.monotonic() + 30)
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
    call = watchdog.begin(time.monotonic() + 0.02)
    thread = watchdog._thread
    watchdog.end(call)
    thread.join(WAIT)
    assert not thread.is_alive()
    cut = threading.Event()
    call = watchdog.begin(time.monotonic() + 0.02)
    call.on_deadline(cut.set)
    assert cut.wait(WAIT)
    watchdog.end(call)
