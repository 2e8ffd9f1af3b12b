"""Groups that are ended from outside: cancelled, interrupted, by an error in the block. Nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys

import pytest
from support.grouping import Gates, run, settle

from parallamr_mp.parallel import ExecutionState, GroupStatus


class Boom(Exception):  # noqa: N818 - it goes off
    pass


async def fail(message):
    await asyncio.sleep(0)
    raise Boom(message)


@pytest.mark.parametrize("how", ["gather", "stream", "leave"])
def test_cancelling_the_surrounding_task_cancels_and_awaits_all(how):
    async def main():
        gates, ended = Gates(), []

        async def tidy(key):
            try:
                await gates(key)
            finally:
                await settle()
                ended.append(key)

        async def group():
            async with ExecutionState().parallel(2) as p:
                groups.append(p)
                for key in "abc":
                    p.add(tidy(key))
                if how == "gather":
                    await p.gather()
                elif how == "stream":
                    async for _ in p.stream():
                        pass

        groups = []
        surrounding = asyncio.create_task(group())
        await settle()
        assert gates.seen("began") == ["a", "b"]
        surrounding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await surrounding
        assert sorted(ended) == ["a", "b"]
        assert groups[0].status is GroupStatus.CANCELLED

    run(main())


def test_cancelling_again_and_again_reaches_tasks_that_hold_out():
    async def main():
        tries = []

        async def stubborn():
            while len(tries) < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    tries.append(len(tries))
            return "at last"

        async def group():
            async with ExecutionState().parallel() as p:
                p.add(stubborn)
                groups.append(p)

        groups = []
        surrounding = asyncio.create_task(group())
        for number in range(3):
            await settle()
            assert len(tries) == number
            surrounding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await surrounding
        assert groups[0].results[0].result == "at last"  # what was done is not thrown away

    run(main())


def test_a_time_out_of_the_caller_ends_the_group_and_the_block_goes_on():
    async def main():
        gates = Gates()
        async with ExecutionState().parallel() as p:
            p.add(gates("a"))
            p.add(asyncio.sleep(0, "done"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await p.gather()
            assert gates.seen("cancelled") == ["a"]
            assert [result.result for result in p.results] == ["done"]
            with pytest.raises(RuntimeError, match="was cancelled: 1 of 2 tasks were done"):
                await p.gather()

    run(main())


def test_an_exception_in_the_block_cancels_and_awaits_what_runs():
    async def main():
        gates = Gates()
        with pytest.raises(Boom, match="body"):  # noqa: PT012 - the block is the point
            async with ExecutionState().parallel(1) as p:
                p.add(gates("a"))
                p.add(gates("b"))
                p.stream()
                await settle()
                raise Boom("body")
        assert gates.log == [("began", "a"), ("cancelled", "a")]
        assert p.status is GroupStatus.CANCELLED

    run(main())


def test_an_exception_in_the_block_before_anything_has_begun_leaves_no_warning():
    async def main():
        gates = Gates()
        other = asyncio.create_task(gates("task"))
        with pytest.raises(Boom):  # noqa: PT012 - the block is the point
            async with ExecutionState().parallel() as p:
                p.add(gates("coroutine"))
                p.add(other)
                p.add(gates, "function")
                raise Boom
        assert gates.log == []
        assert other.cancelled()
        assert p.status is GroupStatus.CANCELLED
        with pytest.raises(RuntimeError, match="was left before it began"):
            await p.gather()

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_raised_by_a_task_ends_the_group_in_good_order(kind):
    async def main():
        gates = Gates()

        async def interrupt():
            await settle()
            raise kind

        async with ExecutionState().parallel(2) as p:
            p.add(gates("a"))
            p.add(interrupt)
            p.add(gates("never begun"))
            with pytest.raises(kind):
                await p.gather()
            assert gates.log == [("began", "a"), ("cancelled", "a")]
        assert p.status is GroupStatus.CANCELLED

    run(main())


def test_a_task_that_cancels_itself_is_an_error_of_its_own():
    async def main():
        async def give_up():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        async with ExecutionState().parallel(1, max_retries=0) as p:
            p.add(give_up)
            p.add(cancelled)
            p.add(asyncio.sleep(0, "fine"))
            results = await p.gather()
        assert [result.error_type for result in results] == ["CancelledError", "CancelledError", None]
        assert results[2].result == "fine"

    run(main())


def test_tasks_of_others_that_were_added_are_cancelled_and_awaited_too():
    async def main():
        gates = Gates()
        others = [asyncio.create_task(gates(key)) for key in "ab"]

        async def group():
            async with ExecutionState().parallel(1) as p:
                for other in others:
                    p.add(other)

        surrounding = asyncio.create_task(group())
        await settle()
        surrounding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await surrounding
        assert all(other.cancelled() for other in others)

    run(main())


def test_a_group_inside_an_async_generator_is_ended_when_that_is_closed():
    async def main():
        gates = Gates()

        async def numbers():
            async with ExecutionState().parallel() as p:
                p.add(gates("a"))
                p.add(asyncio.sleep(0, 1))
                async for result in p.stream():
                    yield result.unwrap()

        source = numbers()
        assert await anext(source) == 1
        await source.aclose()
        assert gates.seen("cancelled") == ["a"]

    run(main())


def test_a_coroutine_that_is_added_twice_is_an_error_of_the_second_task_alone():
    async def main():
        work = asyncio.sleep(0, "once")
        async with ExecutionState().parallel() as p:
            p.add(work)
            p.add(work)
            first, second = await p.gather()
        assert (first.result, second.error_type) == ("once", "RuntimeError")

        gates = Gates()
        with pytest.raises(Boom):  # noqa: PT012 - the block is the point
            async with ExecutionState().parallel(1) as p:
                work = gates("a")
                p.add(work)
                p.add(work)
                p.stream()
                await settle()
                raise Boom

    run(main())


def test_a_cancelled_nested_group_is_ended_before_the_outer_one():
    async def main():
        state, gates = ExecutionState(), Gates()

        async def outer():
            async with state.parallel(name="inner") as p:
                p.add(gates("deep"))
                await p.gather()

        with pytest.raises(Boom):  # noqa: PT012 - the block is the point
            async with state.parallel(error_strategy="fail_fast", name="outer") as p:
                p.add(outer)
                p.add(gates("beside"))
                gathering = asyncio.create_task(p.gather())
                await gates.open("beside", Boom("beside"))
                assert gates.seen("cancelled") == ["deep"]
                await gathering
        ends = [event.address for event in state.history if event.event_type.startswith("group_")][2:]
        assert ends == ["outer#1/task_0/inner#1", "outer#1"]

    run(main())


INTERRUPTED = """
import asyncio, sys, warnings
warnings.simplefilter("error")
from parallamr_mp.parallel import ExecutionState

async def wait(number):
    try:
        if number == 1:
            print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("ended", number, flush=True)

async def main():
    async with ExecutionState().parallel(2) as p:
        for number in range(4):
            p.add(wait(number))

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_group_in_good_order():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        said, complaints = process.communicate(timeout=30)
    assert sorted(said.split("\n")[:2]) == ["ended 0", "ended 1"]
    assert said.endswith("interrupted\n")
    assert complaints == ""


def test_a_block_that_is_closed_without_a_loop_leaves_no_warning():
    class Pause:
        def __await__(self):
            yield

    async def main():
        async with ExecutionState().parallel() as p:
            p.add(fail("never awaited"))
            await Pause()

    coroutine = main()
    coroutine.send(None)
    coroutine.close()
    gc.collect()
