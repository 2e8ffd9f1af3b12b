"""Groups that end early: errors and time-outs. Nothing is left of any of them."""

from __future__ import annotations

import asyncio
import pickle
import traceback

import pytest
from support.grouping import Gates, HandClock, run

from parallamr_mp.errors import ParallamrError
from parallamr_mp.parallel import ErrorStrategy, ExecutionResult, ExecutionState, GroupStatus


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


def length(error):
    return len(traceback.extract_tb(error.__traceback__))


def test_an_error_that_is_raised_again_and_again_keeps_the_length_of_its_traceback():
    async def main():
        lengths = []
        async with ExecutionState().parallel(error_strategy="fail_fast") as p:
            p.add(fail("x"))
            for _ in range(3):
                with pytest.raises(Boom) as raised:
                    await p.gather()
                lengths.append(length(raised.value))
                with pytest.raises(Boom) as raised:
                    p.results[0].unwrap()
                lengths.append(length(raised.value))
        assert lengths[:2] == lengths[2:4] == lengths[4:]
        assert "fail" in {frame.name for frame in traceback.extract_tb(raised.value.__traceback__)}

    run(main())


def test_a_result_whose_error_is_lost_raises_what_is_known_of_it():
    with pytest.raises(ParallamrError, match="OSError: disk full"):
        ExecutionResult(ok=False, error_type="OSError", error_message="disk full").unwrap()


def test_a_result_with_an_error_that_was_raised_can_still_be_pickled():
    result = ExecutionResult(ok=False, error=OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        result.unwrap()
    with pytest.raises(OSError, match="disk full"):
        pickle.loads(pickle.dumps(result)).unwrap()
