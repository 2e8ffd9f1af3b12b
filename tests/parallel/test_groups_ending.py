"""Groups that end early: errors, time-outs, cancellation, interrupts. Nothing is left of any of them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.grouping import Gates, HandClock, run, settle

from parallamr_mp.parallel import ErrorStrategy, ExecutionState, GroupStatus


class Boom(Exception):  # noqa: N818 - it goes off
    pass


async def fail(message):
    await asyncio.sleep(0)
    raise Boom(message)


def test_failing_slowly_keeps_every_error_in_its_result():
    async def main():
        async with ExecutionState().parallel() as p:
            p.add(fail("one"))
            p.add(asyncio.sleep, 0, "two")
            p.add(lambda: 1 / 0)
            results = await p.gather()
        assert [result.ok for result in results] == [False, True, False]
        assert (results[0].error_type, results[0].error_message) == ("Boom", "one")
        assert results[2].error_type == "ZeroDivisionError"
        assert p.status is GroupStatus.COMPLETED
        with pytest.raises(Boom, match="one") as raised:
            results[0].unwrap()
        assert "fail" in {frame.name for frame in traceback.extract_tb(raised.value.__traceback__)}

    run(main())


def test_failing_fast_cancels_the_rest_waits_for_them_and_raises_the_first_error():
    async def main():
        gates, left = Gates(), []

        async def tidy(key):
            try:
                await gates(key)
            finally:
                await asyncio.sleep(0)
                left.append(key)

        async with ExecutionState().parallel(2, error_strategy=ErrorStrategy.FAIL_FAST) as p:
            p.add(tidy("a"))
            p.add(tidy("b"))
            p.add(tidy("never begun"))
            gathering = asyncio.create_task(p.gather())
            await gates.open("b", Boom("b"))
            with pytest.raises(Boom, match="b") as raised:
                await gathering
            assert left == ["b", "a"]
            assert gates.seen("began") == ["a", "b"]
            with pytest.raises(Boom) as again:
                await p.gather()
            assert again.value is raised.value
        assert [(result.name, result.error_type) for result in p.results] == [("task_1", "Boom")]
        assert p.status is GroupStatus.FAILED

    run(main())


def test_an_error_that_nobody_gathered_is_raised_at_the_end_of_the_block():
    async def main():
        with pytest.raises(Boom):
            async with ExecutionState().parallel(error_strategy="fail_fast") as p:
                p.add(fail("x"))

    run(main())


def test_an_error_that_was_caught_inside_the_block_is_not_raised_again_at_its_end():
    async def main():
        async with ExecutionState().parallel(error_strategy="fail_fast") as p:
            p.add(fail("x"))
            with pytest.raises(Boom):
                await p.gather()

    run(main())


def test_a_stream_of_a_group_that_fails_fast_raises_after_what_was_done():
    async def main():
        gates, got = Gates(), []
        async with ExecutionState().parallel(error_strategy="fail_fast") as p:
            for key in "abc":
                p.add(gates, key)

            async def read():
                async for result in p.stream():
                    got.append((result.name, result.ok))  # noqa: PERF401 - one by one is the point

            reading = asyncio.create_task(read())
            await gates.open("b", 1)
            await gates.open("a", Boom("a"))
            with pytest.raises(Boom):
                await reading
        assert got == [("task_1", True), ("task_0", False)]

    run(main())


def test_a_time_out_says_how_many_of_how_many_were_done_and_keeps_them():
    async def main():
        clock, gates = HandClock(), Gates()
        async with ExecutionState(clock=clock).parallel(2, timeout=5, name="Slow") as p:
            for key in "abcd":
                p.add(gates(key))
            gathering = asyncio.create_task(p.gather())
            await gates.open("a", 1)
            await clock.advance(5)
            with pytest.raises(TimeoutError, match=r"'Slow' timed out after 5 s: 1 of 4 tasks were done"):
                await gathering
        assert [(result.name, result.result) for result in p.results] == [("task_0", 1)]
        assert gates.seen("cancelled") == ["b", "c"]
        assert p.status is GroupStatus.FAILED
        assert clock.timers == []

    run(main())


def test_a_time_out_in_a_stream_comes_after_what_was_done():
    async def main():
        clock, gates, got = HandClock(), Gates(), []
        async with ExecutionState(clock=clock).parallel(timeout=5) as p:
            p.add(gates, "a")
            p.add(gates, "b")

            async def read():
                async for result in p.stream():
                    got.append(result.name)  # noqa: PERF401 - one by one is the point

            reading = asyncio.create_task(read())
            await gates.open("b")
            await clock.advance(6)
            with pytest.raises(TimeoutError, match="1 of 2"):
                await reading
        assert got == ["task_1"]

    run(main())


def test_a_group_that_is_in_time_leaves_no_timer():
    async def main():
        clock = HandClock()
        async with ExecutionState(clock=clock).parallel(timeout=5) as p:
            p.add(asyncio.sleep(0))
        assert clock.timers == []

    run(main())


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


class Endings:
    """Tasks of every kind, and what each of them came to."""

    def __init__(self, clock):
        self.clock, self.running = clock, 0

    async def quick(self):
        return "quick"

    async def broken(self):
        await asyncio.sleep(0)
        raise Boom

    async def endless(self):
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(0)  # a second cancellation ends this, too
            finally:
                self.running -= 1

    async def stubborn(self):
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "all the same"
        finally:
            self.running -= 1

    async def unhappy(self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise Boom from error

    async def nested(self):
        async with ExecutionState(clock=self.clock).parallel(1, max_retries=1) as p:
            for kind in (self.quick, self.broken, self.endless):
                p.add(kind)

    KINDS = ("quick", "broken", "endless", "stubborn", "unhappy", "nested")


@given(
    kinds=st.lists(st.sampled_from(Endings.KINDS), max_size=8),
    workers=st.integers(1, 4),
    strategy=st.sampled_from(ErrorStrategy),
    retries=st.integers(0, 2),
    how=st.sampled_from(["cancel", "cancel twice", "time-out", "body"]),
    way=st.sampled_from(["gather", "stream", "leave"]),
    turns=st.integers(0, 12),
)
def test_whenever_and_however_a_group_is_ended_nothing_is_left_of_it(
    kinds, workers, strategy, retries, how, way, turns
):
    async def main():
        clock = HandClock()
        endings, state, events = Endings(clock), ExecutionState(clock=clock), []
        state.event_bus.subscribe(events.append)
        strike = asyncio.Event()

        async def group():
            async with state.parallel(
                workers,
                error_strategy=strategy,
                max_retries=retries,
                timeout=1000 if how == "time-out" else None,
            ) as p:
                for kind in kinds:
                    task = getattr(endings, kind)
                    p.add(task if retries else task())
                if way == "gather":
                    await p.gather()
                elif way == "stream":
                    async for _ in p.stream():
                        pass
                if how == "body":
                    p.stream()
                    await strike.wait()
                    raise Boom

        surrounding = asyncio.create_task(group())
        for _ in range(turns):
            await asyncio.sleep(0)
        strike.set()
        while not surrounding.done():
            if how.startswith("cancel") or (how == "body" and way != "leave"):
                surrounding.cancel()
                await asyncio.sleep(0)
                if how == "cancel twice":
                    surrounding.cancel()
            await clock.advance(1000)
        await asyncio.wait([surrounding])
        if not surrounding.cancelled():
            assert isinstance(surrounding.exception(), Boom | TimeoutError | None)
        assert endings.running == 0
        assert clock.timers == []
        tasks = {}
        for event in events:
            if event.group is None:
                tasks.setdefault(event.address, []).append(event.status)
        for statuses in tasks.values():
            assert statuses[0] == "started"
            assert statuses[-1] in {"completed", "failed", "cancelled"}
            assert set(statuses[1:-1]) <= {"retrying"}
        if events:
            last = events[-1].group
            ended = [statuses[-1] for statuses in tasks.values()]
            assert last.status not in {GroupStatus.PENDING, GroupStatus.RUNNING}
            assert (last.completed, last.failed, last.cancelled) == tuple(
                ended.count(status) for status in ("completed", "failed", "cancelled")
            )

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
