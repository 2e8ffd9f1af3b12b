"""On which processor a worker runs: real affinities, of threads of this process."""

import os
import sys
import threading

import pytest

from parallamr_mp.engine import affinity
from parallamr_mp.engine.affinity import Affinity, assign, turns

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinities")


def in_a_thread(call):
    """What the call comes to in a thread of its own, whose affinity dies with it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def allowed():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one processor")
    return allowed


def test_each_worker_has_a_processor_of_its_own(allowed):
    drawn = {tuple(assign(len(allowed))) for _ in range(100)}
    assert all(sorted(processors) == sorted(allowed) for processors in drawn)
    assert len(drawn) > 1, "two runs begin with different ones"


def test_workers_for_whom_there_are_too_few_processors_have_none(allowed):
    assert assign(len(allowed) + 1) == [None] * (len(allowed) + 1)

    def alone():
        os.sched_setaffinity(0, {min(allowed)})
        return assign(1)

    assert in_a_thread(alone) == [None]


def test_threads_that_run_at_the_same_time_are_left_alone(monkeypatch, allowed):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert assign(2) == [None, None]


def test_where_nobody_tells_who_waits_nobody_is_held(monkeypatch):
    monkeypatch.setattr(affinity, "_SCHEDSTAT", "/proc/no such thing")
    assert assign(1) == [None]


def test_threads_run_on_the_processor_of_who_starts_them(allowed):
    def held():
        Affinity(max(allowed))
        return in_a_thread(lambda: os.sched_getaffinity(0))

    assert in_a_thread(held) == {max(allowed)}


@pytest.mark.parametrize("processor", [None, 99999])
def test_a_processor_that_cannot_be_had_is_done_without(processor, allowed):
    def held():
        Affinity(processor).watch()
        return os.sched_getaffinity(0)

    assert in_a_thread(held) == allowed


@pytest.mark.parametrize(
    ("waits", "held"),
    [
        ([(0.5, 1000)] * 5, True),
        ([(5.0, 1000)], False),
        ([(0.5, 1000), (5.0, 1000)], False),
        ([(5.0, 10)], True),
        ([(0.01, 10), (0.01, 10)], True),
        ([(0.5, 10), (0.5, 10)], False),
    ],
    ids=["short waits", "long waits", "long waits later", "too few", "few but short", "few but long"],
)
def test_a_worker_that_has_to_wait_for_its_processor_lets_go_of_it(waits, held, allowed):
    """`waits`: seconds that were waited, and turns, in each second."""
    now, waited, ran = 100.0, 7.0, 50

    def worker():
        nonlocal now, waited, ran
        affinity = Affinity(min(allowed), lambda: now, lambda: (waited, ran))
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        for seconds, times in waits:
            waited, ran = waited + seconds, ran + times
            affinity.watch()  # it is not yet time
            now += 1.0
            affinity.watch()
        found = os.sched_getaffinity(0), os.sched_getaffinity(thread.native_id)
        over.set()
        thread.join()
        return found

    where = {min(allowed)} if held else allowed
    assert in_a_thread(worker) == (where, where)


def test_turns_are_counted():
    def sleepy():
        before = turns()
        for _ in range(30):
            threading.Event().wait(0.001)
        return before, turns()

    (waited, ran), (waited_since, ran_since) = in_a_thread(sleepy)
    assert ran_since - ran >= 30
    assert 0.0 <= waited <= waited_since
