"""On which processor a worker runs: real affinities, of threads of this process."""

import os
import socket
import sys
import threading
import time

import pytest

from parallamr_mp.engine import affinity
from parallamr_mp.engine.affinity import claim, keep_to_one_processor, may_keep

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
def test_threads_run_on_the_processor_of_who_starts_them(allowed):
    def worker():
        holder = keep_to_one_processor()
        found = in_a_thread(lambda: os.sched_getaffinity(0))
        assert claim(allowed) is None
        holder.close()
        return found

    assert in_a_thread(worker) == {min(allowed)}
    _, holder = claim(allowed)
    holder.close()


def test_a_worker_for_whom_there_is_none_runs_anywhere(allowed):
    holders = [claim(allowed)[1] for _ in allowed]
    assert in_a_thread(lambda: (keep_to_one_processor(), os.sched_getaffinity(0))) == (None, allowed)
    for holder in holders:
        holder.close()


@pytest.mark.parametrize(
    ("where", "what"), [(os, "sched_setaffinity"), (os, "sched_getaffinity"), (socket, "socket")]
)
def test_what_is_refused_is_done_without(monkeypatch, allowed, where, what):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as sandbox:
        sandbox.setattr(where, what, refuse)
        assert in_a_thread(keep_to_one_processor) is None
    holders = [claim(allowed)[1] for _ in allowed]  # none is left claimed
    for holder in holders:
        holder.close()
