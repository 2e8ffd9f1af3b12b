"""Groups in groups, in threads of a program, and in a running event loop; what handlers see of them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextvars import ContextVar

import pytest
from support import tasks
from support.desk import beside, desk
from support.grouping import run, watched

from parallamr_mp.parallel import ExecutionState


def group_of_its_own(procs, numbers):
    """What a task does that has a state of its own."""
    state = ExecutionState()
    with state.parallel(procs=procs, threads=2) as p:
        for number in numbers:
            p.add(tasks.double, number)
        p.add(os.getpid)
        return [result.unwrap() for result in p.gather()]


def test_groups_inside_worker_processes():
    with ExecutionState().parallel(procs=1, threads=2) as p:
        p.add(group_of_its_own, 0, [1, 2, 3], name="threads")
        p.add(group_of_its_own, 1, [4, 5, 6], name="processes")
        p.add(os.getpid, name="pid")
        results = {name: result.unwrap() for name, result in p.gather_dict().items()}
    pid = results["pid"]
    assert results["threads"] == [2, 4, 6, pid]
    assert results["processes"][:3] == [8, 10, 12]
    assert results["processes"][3] not in {pid, os.getpid()}


@pytest.mark.parametrize("plain", [True, False])
def test_threads_open_groups_on_the_same_state(plain):
    state, events = watched()

    def outer(number):
        with state.parallel(threads=2, name="inner") as p:
            p.add(tasks.double, number)
            p.add(tasks.double, number + 1)
            return [result.unwrap() for result in p.gather()]

    async def in_a_loop():
        async with state.parallel(threads=3, name="outer") as p:
            for number in range(6):
                p.add(outer, number)
            return await p.gather()

    if plain:
        with state.parallel(threads=3, name="outer") as p:
            for number in range(6):
                p.add(outer, number)
            results = p.gather()
    else:
        results = run(in_a_loop())
    assert [result.unwrap() for result in results] == [[2 * n, 2 * n + 2] for n in range(6)]
    inner = {event.address for event in events if event.event_type == "group_completed"} - {"outer#1"}
    assert inner == {f"outer#1/task_{number}/inner#1" for number in range(6)}


@pytest.mark.parametrize("states", [1, 4])
def test_threads_of_the_caller_run_groups_at_once(states):
    all_states = [ExecutionState() for _ in range(states)]
    before = set(threading.enumerate())
    results = {}

    def group(number):
        with all_states[number % states].parallel(procs=number % 2, threads=2, name="same") as p:
            for item in range(20):
                p.add(tasks.add, 100 * number, item)
            results[number] = [result.unwrap() for result in p.gather()]

    threads = [threading.Thread(target=group, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [100 * number + item for item in range(20)] for number in range(4)}
    assert set(threading.enumerate()) == before
    if states == 1:
        ends = [event for event in all_states[0].history if event.event_type == "group_completed"]
        assert sorted(event.address for event in ends) == ["same#1", "same#2", "same#3", "same#4"]


def test_a_plain_group_in_a_coroutine_as_in_a_notebook():
    async def cell():
        state, seen = ExecutionState(), []

        async def later(event):
            await asyncio.sleep(0)
            seen.append(str(event.event_type))

        state.event_bus.subscribe(later)
        for _ in range(2):
            with state.parallel(procs=0, threads=2) as p:
                p.add(tasks.double, 21)
                assert p.gather()[0].unwrap() == 42
                assert len(list(p.stream())) == 1
        await asyncio.sleep(0)
        return seen

    once = ["group_started", "execution", "execution", "group_completed"]
    assert [kind for kind in run(cell()) if kind.startswith("group")] == [once[0], once[3]] * 2


def test_handlers_hear_of_a_plain_group_in_order_and_in_one_thread():
    state, heard = ExecutionState(), []
    state.event_bus.subscribe(lambda event: heard.append((str(event.status), threading.get_ident())))

    async def later(event):
        await asyncio.sleep(0)
        awaited.append(str(event.status))

    awaited = []
    state.event_bus.subscribe(later)
    with state.parallel(procs=1) as p:
        p.add(tasks.double, 21)
        p.add(tasks.fail, "x")
    assert [status for status, _ in heard] == awaited
    assert awaited[0] == "started"
    assert awaited[-1] == "completed"
    assert sorted(awaited[1:-1]) == ["completed", "failed", "started", "started"]
    threads = {thread for _, thread in heard}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("what", ["gather", "stream", "block"])
def test_a_handler_that_waits_for_its_own_group_is_told_that_it_cannot(what, caplog):
    state = ExecutionState()

    def handler(event):
        if event.status == "completed" and event.name == "task_0":
            if what == "gather":
                groups[0].gather()
            elif what == "stream":
                next(groups[0].stream())
            else:
                with state.parallel(procs=0):
                    pass

    state.event_bus.subscribe(handler)
    with caplog.at_level(logging.ERROR), state.parallel(procs=0) as p:
        groups = [p]
        p.add(tasks.double, 21)
        assert p.gather()[0].unwrap() == 42
    assert "an event handler cannot wait for a group" in caplog.text


def test_groups_over_processes_are_replayed(tmp_path):
    def program(state, error):
        with state.parallel(procs=1, name="scores") as p:
            p.add(tasks.double, 21)
            p.add(tasks.fail if error else tasks.double, 1, name="second")
            return p.gather()

    with pytest.raises(LookupError):
        program(state := ExecutionState(), error=True)[1].unwrap()
    state.save(tmp_path / "state")
    first, second = program(ExecutionState.load(tmp_path / "state"), error=False)
    assert (first.unwrap(), first.is_replayed) == (42, True)
    assert (second.unwrap(), second.is_replayed) == (2, False)
    both = ExecutionState.load(tmp_path / "state")
    with both.parallel(procs=5, name="scores") as p:  # nothing is left to be done: no process is started
        p.add(tasks.double, 21)
        assert p.gather()[0].is_replayed


def test_a_state_stays_in_its_process():
    state = ExecutionState()
    with state.parallel(procs=1) as p:
        p.add(lambda: state.id)
        (result,) = p.gather()
    assert "an ExecutionState stays in its process; a task may make one of its own" in result.error_message


def test_a_task_sees_what_the_caller_has_set_in_its_context_where_they_share_a_process():
    who = ContextVar("who", default="nobody")
    who.set("caller")

    def ask():
        said = who.get()
        who.set("task")
        return said

    with ExecutionState().parallel(threads=1) as p:
        p.add(ask)
        p.add(ask)
        assert [result.unwrap() for result in p.gather()] == ["caller", "caller"]


def test_a_group_left_by_another_thread_than_its_tasks_are_gathered_in():
    with desk() as door:

        def receptionist():
            for visitor in door.come(2):
                visitor.let_go("ok")

        with beside(receptionist), ExecutionState().parallel(procs=1, threads=2) as p:
            p.add(tasks.ring, door.address)
            p.add(tasks.ring, door.address)
            gathered = []
            threads = [threading.Thread(target=lambda: gathered.append(p.gather())) for _ in range(3)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
    assert [[result.unwrap() for result in results] for results in gathered] == [["ok", "ok"]] * 3


def ring_in_a_process_of_its_own(address):
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.ring, address, "inner")
        return p.gather()[0].unwrap()


def test_workers_of_a_worker_that_is_killed_end_with_it():
    with desk() as door:

        def receptionist():
            inner, outer = sorted(door.come(2), key=lambda visitor: visitor.key)
            outer.let_go()
            assert inner.line.recv(1) == b""  # though nobody has told it anything
            inner.line.close()

        with beside(receptionist), ExecutionState().parallel(procs=2, error_strategy="fail_fast") as p:
            p.add(ring_in_a_process_of_its_own, door.address)
            p.add(ring_and_fail, door.address)
            with pytest.raises(LookupError, match="outer"):
                p.gather()


def ring_and_fail(address):
    tasks.ring(address, "outer")
    raise LookupError("outer")
