"""Parallel groups while all is well: limits, order, results, and what their users get wrong."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.grouping import Gates, run, settle

from parallamr_mp.parallel import ExecutionResult, ExecutionState, GroupStatus


async def echo(value):
    await asyncio.sleep(0)
    return value


def values(results):
    return [result.unwrap() for result in results]


def test_results_come_in_the_order_of_add_whichever_task_ends_first():
    async def main():
        gates = Gates()
        async with ExecutionState().parallel() as p:
            for key in "abc":
                p.add(gates, key)
            gathering = asyncio.create_task(p.gather())
            for key in "cab":
                await gates.open(key, key.upper())
            results = await gathering
        assert values(results) == ["A", "B", "C"]
        assert [result.index for result in results] == [0, 1, 2]
        assert all(result.ok and result.attempts == 1 and not result.is_replayed for result in results)

    run(main())


@given(st.integers(1, 7), st.integers(0, 20), st.randoms())
def test_never_more_than_max_workers_are_inside_and_all_places_are_used(max_workers, tasks, chance):
    async def main():
        gates = Gates()
        async with ExecutionState().parallel(max_workers=max_workers) as p:
            for key in range(tasks):
                p.add(gates(key))
            gathering = asyncio.create_task(p.gather())
            left = tasks
            while left:
                await settle()
                assert gates.inside == min(max_workers, left)
                open_ = [key for key in gates.seen("began") if not gates._gates[key].done()]
                await gates.open(chance.choice(open_))
                left -= 1
            assert len(await gathering) == tasks
        assert gates.most == min(max_workers, tasks)

    run(main())


def test_no_more_asyncio_tasks_are_alive_than_may_run():
    async def main():
        most = 0

        async def look():
            nonlocal most
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()))

        async with ExecutionState().parallel(max_workers=3) as p:
            for _ in range(500):
                p.add(look)
            await p.gather()
        assert most <= 3 + 2  # and those of the test itself

    run(main())


def test_awaitables_callables_and_plain_functions_can_be_added_with_arguments():
    async def main():
        async with ExecutionState().parallel() as p:
            p.add(echo(1))
            p.add(echo, 2)
            p.add(echo, value=3)
            p.add(lambda: echo(4))
            p.add(lambda: 5)
            p.add(asyncio.create_task(echo(6)))
            p.add(asyncio.to_thread(lambda: 7))
            assert values(await p.gather()) == [1, 2, 3, 4, 5, 6, 7]

    run(main())


def test_leaving_the_block_gathers():
    async def main():
        async with ExecutionState().parallel() as p:
            p.add(echo, "x")
            assert (p.status, p.results) == (GroupStatus.PENDING, [])
        assert values(p.results) == ["x"]
        assert p.status is GroupStatus.COMPLETED
        assert await p.gather() == await p.gather() == p.results
        assert await p.gather_dict() == {"task_0": p.results[0]}
        assert [result async for result in p.stream()] == p.results

    run(main())


def test_an_empty_group_gives_an_empty_list():
    async def main():
        async with ExecutionState().parallel() as p:
            assert await p.gather() == []
            assert await p.gather_dict() == {}
            assert [result async for result in p.stream()] == []

    run(main())


def test_a_stream_yields_each_result_as_it_comes():
    async def main():
        gates, got = Gates(), []
        async with ExecutionState().parallel(timeout=60) as p:
            for key in "abc":
                p.add(gates, key)

            async def read():
                async for result in p.stream():
                    got.append(result.unwrap())  # noqa: PERF401 - one by one is the point

            reading = asyncio.create_task(read())
            for number, key in enumerate("bca", start=1):
                await gates.open(key, key)
                assert got == list("bca"[:number])
            await reading

    run(main())


def test_a_stream_that_is_left_early_leaves_the_tasks_running():
    async def main():
        gates = Gates()
        async with ExecutionState().parallel(max_workers=1) as p:
            for key in "abc":
                p.add(gates, key)

            async def first():
                async for result in p.stream():
                    return result.unwrap()
                raise AssertionError

            reading = asyncio.create_task(first())
            await gates.open("a", 1)
            assert await reading == 1
            gathering = asyncio.create_task(p.gather())
            await gates.open("b", 2)
            await gates.open("c", 3)
            assert values(await gathering) == [1, 2, 3]

    run(main())


def test_two_streams_see_the_same():
    async def main():
        async with ExecutionState().parallel(max_workers=2) as p:
            for number in range(10):
                p.add(echo, number)

            async def read():
                return [result.index async for result in p.stream()]

            one, two = await asyncio.gather(read(), read())
            assert one == two
            assert sorted(one) == list(range(10))

    run(main())


def test_results_by_name():
    async def main():
        async with ExecutionState().parallel() as p:
            p.add(echo("one"), name="first")
            p.add(echo("two"))
            p.add(echo, "three", name="third")
            by_name = await p.gather_dict()
        assert {name: result.unwrap() for name, result in by_name.items()} == {
            "first": "one",
            "task_1": "two",
            "third": "three",
        }

    run(main())


@pytest.mark.parametrize("names", [("a", "a"), (None, "task_0"), ("task_1", None)])
def test_a_name_that_is_taken_is_refused_at_add(names):
    async def main():
        async with ExecutionState().parallel() as p:
            p.add(echo(1), name=names[0])
            with pytest.raises(ValueError, match="already; names must differ"):
                p.add(echo(2), name=names[1])
            assert len(await p.gather()) == 1

    run(main())


def test_nested_groups_have_limits_of_their_own():
    async def main():
        state, gates = ExecutionState(), Gates()

        async def outer(letter):
            async with state.parallel(max_workers=2, name="inner") as p:
                for number in range(3):
                    p.add(gates, f"{letter}{number}")
                return len(await p.gather())

        async with state.parallel(max_workers=2, name="outer") as p:
            for letter in "abc":
                p.add(outer, letter)
            gathering = asyncio.create_task(p.gather())
            await settle()
            assert sorted(gates.seen("began")) == ["a0", "a1", "b0", "b1"]
            for key in ("a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"):
                await gates.open(key)
            assert values(await gathering) == [3, 3, 3]
        assert gates.most == 4

    run(main())


def test_a_nested_group_of_one_place_in_another_of_one_place_does_not_block():
    async def main():
        state = ExecutionState()

        async def outer(number):
            async with state.parallel(max_workers=1) as p:
                p.add(echo, number)
                return values(await p.gather())

        async with state.parallel(max_workers=1) as p:
            for number in range(3):
                p.add(outer, number)
            assert values(await p.gather()) == [[0], [1], [2]]

    run(main())


def test_what_a_task_sets_in_its_context_no_other_task_sees():
    seen = contextvars.ContextVar("seen", default="outside")

    async def main():
        async def look(number):
            before = seen.get()
            seen.set(str(number))
            await asyncio.sleep(0)
            return before, seen.get()

        seen.set("group")
        async with ExecutionState().parallel(max_workers=1) as p:
            for number in range(4):
                p.add(look, number)
            assert values(await p.gather()) == [("group", str(number)) for number in range(4)]
        assert seen.get() == "group"

    run(main())


def test_adding_after_gathering_raises_and_leaves_no_coroutine_behind():
    async def main():
        async with ExecutionState().parallel(name="Late") as p:
            await p.gather()
            with pytest.raises(RuntimeError, match="'Late' is completed: add all tasks before"):
                p.add(echo(1))
            p2 = ExecutionState().parallel()
            with pytest.raises(RuntimeError, match="inside the block"):
                p2.add(echo(1))
            with pytest.raises(RuntimeError, match="async with"):
                await p2.gather()

    run(main())


def test_what_cannot_be_run_is_refused_at_add():
    async def main():
        async with ExecutionState().parallel(max_retries=1) as p:
            with pytest.raises(TypeError, match="an awaitable or a callable, not 3"):
                p.add(3)
            with pytest.raises(TypeError, match="takes no arguments"):
                p.add(echo(1), 2)
            with pytest.raises(TypeError, match="awaited once, and this group retries"):
                p.add(echo(1))

    run(main())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be at least 1, not 0"),
        ({"max_workers": 2.5}, TypeError, "max_workers must be a whole number"),
        ({"max_workers": True}, TypeError, "max_workers"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": 0}, ValueError, "more than 0 seconds; None"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"retry_delay": "1"}, TypeError, "retry_delay must be a number of seconds"),
        ({"retry_on": (ValueError, 3)}, TypeError, "exception classes, not 3"),
        ({"retry_on": KeyboardInterrupt}, TypeError, "exception classes"),
        ({"circuit_breaker_threshold": 0}, ValueError, "circuit_breaker_threshold"),
        ({"circuit_breaker_timeout": float("inf")}, ValueError, "circuit_breaker_timeout"),
        ({"error_strategy": "fail_often"}, ValueError, "fail_often"),
        ({"procs": -1}, ValueError, "procs must be at least 0"),
        ({"procs": 2, "threads": 0}, ValueError, "threads must be at least 1"),
        ({"threads": "2"}, TypeError, "threads must be a whole number"),
    ],
)
def test_an_unusable_option_is_refused_by_its_name(options, error, said):
    with pytest.raises(error, match=said):
        ExecutionState().parallel(**options)


def test_a_group_is_for_one_async_block():
    with pytest.raises(TypeError, match="async with"), ExecutionState().parallel():
        pass

    async def main():
        async with ExecutionState().parallel() as p:
            pass
        with pytest.raises(RuntimeError, match="second block"):
            async with p:
                pass

    run(main())


def test_a_result_unwraps_to_its_value_or_its_error():
    error = ValueError("no")
    assert ExecutionResult(ok=True, result=3).unwrap() == 3
    with pytest.raises(ValueError) as raised:
        ExecutionResult(ok=False, error=error).unwrap()
    assert raised.value is error


def test_ten_thousand_tasks_are_soon_done_and_in_order():
    async def main():
        async with ExecutionState().parallel(max_workers=100) as p:
            for number in range(10_000):
                p.add(echo, number)
            assert values(await p.gather()) == list(range(10_000))

    run(main())
