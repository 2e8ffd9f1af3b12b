"""On which processor a worker runs: real affinities, of threads of this process."""

import os
import sys
import threading
import time

import pytest

from parallamr_mp.engine import affinity
from parallamr_mp.engine.affinity import Affinity, claim, may_keep, turns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system has no affinities")


def in_a_thread(call):
    """What the call comes to in a thread of its own, whose affinity dies with it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def allowed(monkeypatch):
    """The processors there are. Nobody else holds one: what holds them has a name that is this test's own."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one processor")
    monkeypatch.setattr(affinity, "_NAME", f"\0{os.getpid()} {time.monotonic_ns()} %d")
    return allowed


@pytest.fixture
def held(allowed):
    """All processors, held by others, but for the least."""
    holders = [claim({processor}) for processor in sorted(allowed)[1:]]
    yield
    for _, holder in holders:
        holder.close()


def test_workers_may_keep_to_a_processor_where_there_are_enough(allowed):
    assert may_keep(len(allowed))
    assert not may_keep(len(allowed) + 1)

    def alone():
        os.sched_setaffinity(0, {min(allowed)})
        return may_keep(1)

    assert not in_a_thread(alone)


def test_threads_that_run_at_the_same_time_are_left_alone(monkeypatch, allowed):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not may_keep(2)


def test_where_nobody_tells_who_waits_nobody_is_held(monkeypatch, allowed):
    monkeypatch.setattr(affinity, "_SCHEDSTAT", "/proc/no such thing")
    assert not may_keep(2)


def test_no_two_hold_the_same_processor_and_who_has_ended_holds_none(allowed):
    claims = [claim(allowed) for _ in allowed]
    assert {processor for processor, _ in claims} == allowed
    assert claim(allowed) is None
    processor, holder = claims[0]
    holder.close()
    again, holder = claim(allowed)
    assert again == processor
    for each in (holder, *(holder for _, holder in claims)):
        each.close()


@pytest.mark.usefixtures("held")
def test_threads_run_on_the_processor_of_who_starts_them_until_it_is_let_go(allowed):
    def worker():
        affinity = Affinity(True)
        found = in_a_thread(lambda: os.sched_getaffinity(0))
        assert claim(allowed) is None
        affinity.let_go()
        return found, os.sched_getaffinity(0)

    assert in_a_thread(worker) == ({min(allowed)}, allowed)
    _, holder = claim(allowed)
    holder.close()


def test_a_worker_for_whom_there_is_none_is_not_held(allowed):
    def worker(keep):
        affinity = Affinity(keep)
        affinity.watch()
        affinity.let_go()
        return os.sched_getaffinity(0)

    assert in_a_thread(lambda: worker(False)) == allowed
    holders = [claim(allowed)[1] for _ in allowed]
    assert in_a_thread(lambda: worker(True)) == allowed
    for holder in holders:
        holder.close()


def test_a_processor_that_is_refused_is_not_held(monkeypatch, allowed):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as sandbox:
        sandbox.setattr(os, "sched_setaffinity", refuse)
        assert in_a_thread(lambda: Affinity(True) and os.sched_getaffinity(0)) == allowed
    holders = [claim(allowed)[1] for _ in allowed]
    for holder in holders:
        holder.close()


@pytest.mark.parametrize(
    ("waits", "keeps"),
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
@pytest.mark.usefixtures("held")
def test_a_worker_that_has_to_wait_for_its_processor_lets_go_of_it(waits, keeps, allowed):
    """`waits`: seconds that were waited, and turns, in each second."""
    now, waited, ran = 100.0, 7.0, 50

    def worker():
        nonlocal now, waited, ran
        affinity = Affinity(True, lambda: now, lambda: (waited, ran))
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
        affinity.let_go()
        return found

    where = {min(allowed)} if keeps else allowed
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
