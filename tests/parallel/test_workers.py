"""Groups over worker processes: what runs there, what comes back, and where."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from contextvars import ContextVar

import pytest
from support import tasks
from support.desk import beside, desk
from support.grouping import run

from parallamr_mp.parallel import ErrorStrategy, ExecutionState, GroupStatus
from parallamr_mp.parallel.clock import LoopClock

HEAVY = ["asyncio", "pydantic", "tqdm", "typer", "requests", "urllib3"]


def test_whatever_can_be_called_runs_in_a_worker_process():
    base, here = 40, os.getpid()

    def closure(number):
        return base + number

    async def coroutine(number):
        await asyncio.sleep(0)
        return base + number

    state = ExecutionState()
    with state.parallel(procs=2) as p:
        p.add(tasks.modules, *HEAVY, name="modules")
        p.add(os.getpid, name="pid")
        p.add(tasks.double, 21, name="function")
        p.add(tasks.add, 1, 2, 3, 4, times=10, name="arguments")
        p.add(lambda: base + 2, name="lambda")
        p.add(closure, 2, name="closure")
        p.add(tasks.Scale(6).of, 7, name="bound method")
        p.add(tasks.Scale.one, 42, name="class method")
        p.add(tasks.Scale(6), 7, name="instance")
        p.add(functools.partial(tasks.triple, 10), b=4, name="partial")
        p.add(len, "forty-two", name="builtin")
        p.add(str.upper, "a", name="method of a type")
        p.add(dict, {"a": 1}, b=2, name="class")
        p.add(tasks.double_later, 21, name="coroutine function")
        p.add(coroutine, 2, name="coroutine closure")
        by_name = {name: result.unwrap() for name, result in p.gather_dict().items()}
    assert by_name.pop("modules") == []
    assert by_name.pop("pid") != here
    assert by_name == {
        "function": 42,
        "arguments": 100,
        "lambda": 42,
        "closure": 42,
        "bound method": 42,
        "class method": 42,
        "instance": 42,
        "partial": 42,
        "builtin": 9,
        "method of a type": "A",
        "class": {"a": 1, "b": 2},
        "coroutine function": 42,
        "coroutine closure": 42,
    }


def test_as_many_tasks_as_processes_times_threads_run_at_once_and_never_more():
    procs, threads, number = 2, 3, 20
    with desk() as door:
        finished = []

        def receptionist():
            inside = door.come(procs * threads)  # they wait for each other: fewer at once, and nobody goes on
            places = {visitor.key for visitor in inside}
            assert len(places) == procs * threads
            for _ in range(number - procs * threads):
                inside.pop(0).let_go()
                (more,) = door.come(1)  # only for one that has left
                inside.append(more)
                finished.append(more.key)
            for visitor in inside:
                visitor.let_go()

        with beside(receptionist), ExecutionState().parallel(procs=procs, threads=threads) as p:
            for key in range(number):
                p.add(tasks.where, door.address, key)
            results = p.gather()
        places = [result.unwrap()[:2] for result in results]
    assert len({pid for pid, _ in places}) == procs
    assert len(set(places)) == procs * threads
    assert len(finished) == number - procs * threads


def test_no_more_processes_are_started_than_there_are_tasks():
    with desk() as door:

        def receptionist():
            for visitor in door.come(2):
                visitor.let_go()

        with beside(receptionist), ExecutionState().parallel(procs=50) as p:
            p.add(tasks.where, door.address)
            p.add(tasks.where, door.address)
            results = p.gather()
    assert len({result.unwrap()[0] for result in results}) == 2


def test_results_in_order_as_they_come_by_name_again_and_after_the_block():
    with desk() as door:
        order = []

        def receptionist():
            visitors = {visitor.key: visitor for visitor in door.come(3)}
            for key in "cab":
                visitors[key].let_go(key)
                assert came.acquire(timeout=60)

        came = threading.Semaphore(0)
        with beside(receptionist), ExecutionState().parallel(procs=1, threads=3, name="three") as p:
            for key in "abc":
                p.add(tasks.where, door.address, key, name=key)
            for result in p.stream():
                order.append(result.name)
                came.release()
            first = p.gather()
            assert [result.name for result in p.stream()] == order == ["c", "a", "b"]
    assert [result.name for result in first] == ["a", "b", "c"]
    assert p.gather() == first == p.results
    assert list(p.gather_dict()) == ["a", "b", "c"]
    assert [result.name for result in p.stream()] == order
    assert p.status is GroupStatus.COMPLETED
    with pytest.raises(RuntimeError, match="is completed"):
        p.add(tasks.double, 1)


def test_a_block_that_is_left_gathers_and_one_without_tasks_starts_no_process():
    state = ExecutionState()
    with state.parallel(procs=1) as p:
        p.add(tasks.double, 21)
    assert [result.unwrap() for result in p.gather()] == [42]
    with state.parallel(procs=4) as p:
        assert p.gather() == []
        assert list(p.stream()) == []
        assert p.gather_dict() == {}


def test_the_same_group_in_an_async_with():
    async def main():
        async with ExecutionState().parallel(procs=1, threads=2) as p:
            for number in range(5):
                p.add(tasks.double, number)
            streamed = [result.result async for result in p.stream()]
            # Two that wait at once wait for one end.
            first, second = await asyncio.gather(p.gather(), p.gather_dict())
        assert sorted(streamed) == [result.unwrap() for result in first] == [0, 2, 4, 6, 8]
        assert [result.unwrap() for result in second.values()] == [0, 2, 4, 6, 8]
        assert (await p.gather()) == first

    run(main())


def test_two_that_gather_at_once_both_get_all():
    async def main():
        with desk() as door:
            async with ExecutionState().parallel(procs=1) as p:
                p.add(tasks.where, door.address)
                waiting = [asyncio.create_task(p.gather()) for _ in range(3)]
                (visitor,) = await asyncio.to_thread(door.come, 1)
                visitor.let_go()
                one, two, three = await asyncio.gather(*waiting)
            assert one == two == three

    run(main())


def test_threads_of_the_calling_process_share_its_memory():
    seen = []

    class Local:
        """Of no use elsewhere: cannot be pickled."""

        def __init__(self):
            self.lock = threading.Lock()

    thing = Local()
    state = ExecutionState()
    with state.parallel(procs=0, threads=3) as p:
        p.add(seen.append, 1, name="method")
        p.add(lambda: thing, name="lambda")
        p.add(os.getpid, name="pid")
        p.add(tasks.double_later, 21, name="coroutine")
        p.add(tasks.fail, "no such thing", name="error")
        p.add(tasks.raise_made, SystemExit, 3, name="exit")
        p.add(tasks.raise_made, tasks.Secretive, name="secretive")
        p.add(tasks.raise_made, KeyboardInterrupt, name="interrupt")
        results = p.gather_dict()
    assert seen == [1]
    assert results["lambda"].unwrap() is thing
    assert results["pid"].unwrap() == os.getpid()
    assert results["coroutine"].unwrap() == 42
    assert (results["error"].error_type, results["error"].error_message) == ("LookupError", "no such thing")
    assert results["exit"].error_message == "task 'exit' ended itself: SystemExit: 3"
    assert results["secretive"].error_type == "Secretive"
    assert "KeyboardInterrupt" in results["interrupt"].error_message
    with state.parallel(threads=2) as p:  # the same
        p.add(os.getpid)
        assert p.gather()[0].unwrap() == os.getpid()


def test_what_a_group_over_workers_does_not_take_is_said():
    state = ExecutionState()
    with state.parallel(procs=0) as p:
        with pytest.raises(TypeError, match="belongs to an event loop"):
            p.add(tasks.double_later(1))
        with pytest.raises(TypeError, match="not 3"):
            p.add(3)
        p.add(tasks.double, 1, name="a")
        with pytest.raises(ValueError, match="has a task 'a' already"):
            p.add(tasks.double, 1, name="a")
    with pytest.raises(TypeError, match="use `async with`"), state.parallel() as p:
        pass
    with pytest.raises(RuntimeError, match="second block"), p:
        pass
    with pytest.raises(ValueError, match="procs must be at least 0"):
        state.parallel(procs=-1)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        state.parallel(procs=1, threads=0)


def test_one_error_that_ends_the_group_kills_what_runs_elsewhere():
    with desk() as door:

        def receptionist():
            a, b = sorted(door.come(2), key=lambda visitor: visitor.key)
            b.let_go()
            assert a.line.recv(1) == b""  # its process is gone
            a.line.close()

        with (
            beside(receptionist),
            ExecutionState().parallel(procs=2, error_strategy=ErrorStrategy.FAIL_FAST) as p,
        ):
            p.add(tasks.where, door.address, "a")
            p.add(_ring_and_fail, door.address)
            p.add(tasks.double, 1)
            with pytest.raises(LookupError, match="b"):
                p.gather()
    assert p.status is GroupStatus.FAILED
    assert [result.error_type for result in p.results] == ["LookupError"]


def _ring_and_fail(address):
    tasks.where(address, "b")
    raise LookupError("b")


class TimeToStop(LoopClock):
    """Its timers come when the test says so, from whatever thread."""

    def __init__(self):
        self.due = []

    def call_later(self, delay, callback):
        loop = asyncio.get_running_loop()
        self.due.append(lambda: loop.call_soon_threadsafe(callback))
        return super().call_later(3600, callback)


def test_a_group_whose_time_is_over_says_how_far_it_came_and_kills_the_rest():
    clock = TimeToStop()
    with desk() as door:

        def receptionist():
            (visitor,) = door.come(1)
            (time_is_over,) = clock.due
            time_is_over()
            assert visitor.line.recv(1) == b""
            visitor.line.close()

        state = ExecutionState(clock=clock)
        with beside(receptionist), state.parallel(procs=1, timeout=1.5, name="slow") as p:
            p.add(tasks.double, 21)
            p.add(tasks.where, door.address)
            p.add(tasks.double, 22)
            stream = p.stream()
            assert next(stream).unwrap() == 42
            with pytest.raises(TimeoutError, match=r"'slow' timed out after 1.5 s: 1 of 3 tasks were done"):
                next(stream)


def test_an_error_in_the_block_kills_what_runs():
    with desk() as door:
        running = threading.Event()
        groups = []

        def receptionist():
            (visitor,) = door.come(1)
            running.set()
            assert visitor.line.recv(1) == b""
            visitor.line.close()

        def group():
            with ExecutionState().parallel(procs=1, threads=2) as p:
                groups.append(p)
                p.add(tasks.double, 21)
                p.add(tasks.where, door.address)
                for result in p.stream():
                    assert running.wait(60)
                    assert result.unwrap() / 0

        with beside(receptionist), pytest.raises(ZeroDivisionError):
            group()
    assert groups[0].status is GroupStatus.CANCELLED


def test_leaving_a_stream_early_leaves_its_tasks_running_until_the_block_ends():
    with desk() as door:
        go = threading.Event()

        def receptionist():
            (visitor,) = door.come(1)
            assert go.wait(60)
            visitor.let_go("late")

        with beside(receptionist), ExecutionState().parallel(procs=1, threads=2) as p:
            p.add(tasks.double, 21)
            p.add(tasks.where, door.address)
            for _ in p.stream():
                break
            go.set()
        assert p.results[1].unwrap()[2] == "late"


def test_cancelling_the_task_around_a_group_kills_its_workers():
    async def main():
        with desk() as door:

            async def group():
                async with ExecutionState().parallel(procs=2) as p:
                    for _ in range(5):
                        p.add(tasks.where, door.address)

            surrounding = asyncio.create_task(group())
            visitors = await asyncio.to_thread(door.come, 2)
            surrounding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await surrounding
            for visitor in visitors:
                assert visitor.line.recv(1) == b""
                visitor.line.close()

    run(main())


def test_tasks_in_threads_of_this_process_see_what_was_set_inside_the_block_and_keep_what_they_set():
    colour = ContextVar("colour", default="none")

    def paint(new):
        before = colour.get()
        colour.set(new)
        return before

    with ExecutionState().parallel(threads=1) as p:
        colour.set("blue")
        p.add(paint, "red")
        p.add(paint, "green")
        assert [result.unwrap() for result in p.gather()] == ["blue", "blue"]
    assert colour.get() == "blue"
