"""Worker processes that die, at any time: what that costs their tasks, and that others pay nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support import tasks
from support.desk import beside, desk
from support.grouping import run, watched

import parallamr_mp.parallel.workers
from parallamr_mp.errors import EngineError, WorkerDied
from parallamr_mp.parallel import ExecutionState, GroupStatus

STILLBORN = """
import os, sys
if any("spawn_main" in word for word in sys.orig_argv):
    with open({log!r}, "a") as log:
        log.write("x")
    with open({log!r}) as log:
        if len(log.read()) <= {deaths}:
            os._exit(9)
"""


@pytest.fixture
def stillborn(tmp_path, monkeypatch):
    """Has the next worker processes die before they are up."""

    def deaths(number):
        (tmp_path / "path").mkdir()
        code = STILLBORN.format(log=str(tmp_path / "born"), deaths=number)
        (tmp_path / "path" / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))

    return deaths


def kill(visitor):
    os.kill(int(visitor.key.split()[0]), signal.SIGKILL)
    visitor.line.close()


def test_a_task_that_always_kills_its_worker_is_an_error_of_that_task_alone():
    state, events = watched()
    with state.parallel(procs=2, threads=2) as p:
        for number in range(10):
            p.add(tasks.double, number)
        p.add(tasks.die, "kill", name="deadly")
        for number in range(10):
            p.add(tasks.double, number)
        results = p.gather()
    deadly = results.pop(10)
    assert [result.unwrap() for result in results] == [2 * number for number in range(10)] * 2
    assert (deadly.error_type, deadly.attempts) == ("WorkerDied", 3)
    assert deadly.error_message == (
        "the worker process died (exit code -9) each of the 3 times that task 'deadly' ran"
    )
    with pytest.raises(WorkerDied):
        deadly.unwrap()
    assert p.status is GroupStatus.COMPLETED
    told = [event for event in events if event.name == "deadly"]
    assert [str(event.status) for event in told] == ["started", "retrying", "retrying", "failed"]
    assert [event.attempt for event in told] == [1, 1, 2, 3]
    assert "the worker process died (exit code -9)" in told[1].error_message


def test_those_that_share_a_worker_with_a_deadly_task_get_their_results():
    with ExecutionState().parallel(procs=1, threads=4) as p:
        p.add(tasks.die)
        for number in range(3):
            p.add(tasks.double, number)
        results = p.gather()
    assert [result.error_type for result in results] == ["WorkerDied", None, None, None]
    assert max(result.attempts for result in results) == 3


def test_a_worker_killed_in_a_task_costs_what_it_had_in_flight_a_second_try():
    state, events = watched()
    with desk() as door:

        def receptionist():
            visitors = door.come(4)
            victim = visitors[0].key.split()[0]
            kill(visitors[0])
            for visitor in visitors[1:]:
                if visitor.key.split()[0] == victim:
                    visitor.line.close()
                else:
                    visitor.let_go("first")
            for visitor in door.come(2):
                assert visitor.key.split()[0] != victim
                visitor.let_go("second")

        with beside(receptionist), state.parallel(procs=2, threads=2, max_retries=3) as p:
            for number in range(4):
                p.add(tasks.ring_pid, door.address, number)
            results = p.gather()
    assert sorted((result.result, result.attempts) for result in results) == [
        ("first", 1),
        ("first", 1),
        ("second", 2),
        ("second", 2),
    ]
    assert [event.status for event in events].count("retrying") == 2


def test_all_workers_killed_at_once_are_replaced():
    with desk() as door:

        def receptionist():
            for visitor in door.come(2):
                kill(visitor)
            for visitor in door.come(2):
                visitor.let_go("again")

        with beside(receptionist), ExecutionState().parallel(procs=2) as p:
            p.add(tasks.ring_pid, door.address)
            p.add(tasks.ring_pid, door.address)
            p.add(tasks.double, 21)
            results = p.gather()
    assert [result.result for result in results] == ["again", "again", 42]
    assert [result.attempts for result in results] == [2, 2, 1]


def test_an_idle_worker_that_is_killed_costs_nothing():
    with desk() as door:

        def receptionist():
            one, other = door.come(2)
            one.let_go("one")
            assert idle.wait(60)
            os.kill(int(one.key), signal.SIGKILL)
            other.let_go("other")

        idle = threading.Event()
        with beside(receptionist), ExecutionState().parallel(procs=2) as p:
            p.add(tasks.ring_pid, door.address)
            p.add(tasks.ring_pid, door.address)
            results = []
            for result in p.stream():
                results.append((result.result, result.attempts))
                idle.set()
    assert results == [("one", 1), ("other", 1)]


def test_a_worker_that_dies_while_it_sends_a_result_computes_it_once_more(tmp_path):
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.die_sending, str(tmp_path / "mark"), 10_000_000)
        p.add(tasks.double, 21)
        torn, other = p.gather()
    assert (len(torn.unwrap()), torn.attempts) == (10_000_000, 2)
    assert (other.unwrap(), other.attempts) == (42, 1)


def test_a_task_that_closes_the_channel_of_its_worker_is_as_one_that_kills_it():
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.close_everything)
        p.add(tasks.double, 21)
        bad, good = p.gather()
    assert (bad.error_type, good.result) == ("WorkerDied", 42)


def test_workers_that_die_before_they_are_up_are_started_again(stillborn):
    stillborn(2)
    with ExecutionState().parallel(procs=2) as p:
        p.add(tasks.double, 21)
        p.add(tasks.double, 22)
        results = p.gather()
    assert [(result.result, result.attempts) for result in results] == [(42, 1), (44, 1)]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are none")
def test_where_the_kernel_has_no_process_descriptors_groups_work_all_the_same(monkeypatch):
    def refused(pid, flags=0):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refused)
    with ExecutionState().parallel(procs=2) as p:
        p.add(tasks.double, 21)
        p.add(tasks.die)
        good, dead = p.gather()
    assert good.unwrap() == 42
    assert dead.error_type == "WorkerDied"


def test_what_does_not_fit_into_memory_is_an_error_of_the_group(monkeypatch):
    def full(frames, data):
        raise MemoryError

    p = ExecutionState().parallel(procs=2)

    def run():
        with p:
            p.add(tasks.double, 21)
            p.add(tasks.double, 22)
            monkeypatch.setattr("parallamr_mp.engine.channels._Frames.feed", full)
            p.gather()

    with pytest.raises(EngineError, match="cannot be read: MemoryError"):
        run()
    assert p.status is GroupStatus.FAILED


def test_a_group_whose_workers_never_come_up_says_so(stillborn):
    stillborn(1000)
    with ExecutionState().parallel(procs=2) as p:
        for number in range(5):
            p.add(tasks.double, number)
        with pytest.raises(EngineError, match=r"ended 3 times before it was ready \(exit code 9\)"):
            p.gather()
    assert p.status is GroupStatus.FAILED
    assert p.results == []


@pytest.mark.parametrize("last", [tasks.die_at_exit, tasks.leave_a_thread])
def test_a_worker_that_ends_in_its_own_way_keeps_nobody(last):
    with ExecutionState().parallel(procs=1) as p:
        p.add(last)
        p.add(tasks.double, 21)
        assert [result.ok for result in p.gather()] == [True, True]


def test_a_process_that_a_task_has_left_running_ends_with_its_worker():
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.leave_a_process_behind)
        pid = p.gather()[0].unwrap()
    with contextlib.suppress(psutil.NoSuchProcess):
        left = psutil.Process(pid)
        assert psutil.wait_procs([left], 10)[1] == [] or left.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(parallamr_mp.parallel.workers, "_PATIENCE", 0.1)
    with desk() as door:

        def receptionist():
            one, other = door.come(2)
            one.let_go()
            assert gone.wait(60)
            os.kill(int(one.key), signal.SIGSTOP)
            other.let_go()

        gone = threading.Event()
        with beside(receptionist), ExecutionState().parallel(procs=2) as p:
            p.add(tasks.ring_pid, door.address)
            p.add(tasks.ring_pid, door.address)
            for _ in p.stream():
                gone.set()
    assert [result.ok for result in p.gather()] == [True, True]


def test_who_is_in_a_hurry_at_the_end_of_a_group_does_not_wait_for_a_stopped_worker(monkeypatch):
    monkeypatch.setattr(parallamr_mp.parallel.workers, "_PATIENCE", 3600)

    async def main():
        state, over = ExecutionState(), asyncio.Event()
        state.event_bus.subscribe(lambda event: event.event_type == "group_completed" and over.set())
        with desk() as door:
            async with state.parallel(procs=2) as p:
                p.add(tasks.ring_pid, door.address)
                p.add(tasks.ring_pid, door.address)
                gathering = asyncio.create_task(p.gather())
                one, other = await asyncio.to_thread(door.come, 2)
                one.let_go()
                await anext(p.stream())
                os.kill(int(one.key), signal.SIGSTOP)
                other.let_go()
                await over.wait()
                gathering.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gathering

    run(main())


ORPHANING = """
import os, sys
sys.path.insert(0, {tests!r})
from support import tasks
from parallamr_mp.parallel import ExecutionState

with ExecutionState().parallel(procs=2) as p:
    p.add(tasks.ring_pid, {address!r})
    p.add(tasks.ring_pid, {address!r})
    p.gather()
"""


def test_workers_end_with_a_parent_that_is_killed():
    with desk() as door:
        code = ORPHANING.format(tests=str(Path(__file__).parent.parent), address=door.address)
        with subprocess.Popen([sys.executable, "-c", code]) as parent:
            visitors = door.come(2)
            parent.kill()
            for visitor in visitors:
                assert visitor.line.recv(1) == b""
                visitor.line.close()
        psutil.wait_procs([psutil.Process(pid) for pid in _alive(visitors)], timeout=30)
        assert not _alive(visitors)


def _alive(visitors):
    return [pid for visitor in visitors if psutil.pid_exists(pid := int(visitor.key))]
