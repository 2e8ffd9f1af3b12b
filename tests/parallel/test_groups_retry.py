"""Retries and the circuit breaker of groups: the sweep's policies, driven by a clock wound by hand."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.grouping import Gates, HandClock, longest, run, settle, watched

from parallamr_mp.errors import CircuitOpen, ProviderError
from parallamr_mp.parallel import ExecutionState, GroupStatus


class Flaky:
    """Raises the errors it was given, one a call, then returns how often it was called."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    async def __call__(self):
        self.calls += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def state_and_clock():
    clock = HandClock()
    return ExecutionState(clock=clock, uniform=longest), clock


def test_a_task_is_tried_again_after_waits_that_double():
    async def main():
        state, clock = state_and_clock()
        flaky = Flaky(OSError("1"), OSError("2"), OSError("3"))
        async with state.parallel(max_retries=3, retry_delay=2) as p:
            p.add(flaky)
            gathering = asyncio.create_task(p.gather())
            await settle()
            for wait, calls in ((2, 1), (4, 2), (8, 3)):
                await clock.advance(wait - 0.01)
                assert flaky.calls == calls
                await clock.advance(0.01)
                assert flaky.calls == calls + 1
            (result,) = await gathering
        assert (result.ok, result.result, result.attempts) == (True, 4, 4)

    run(main())


def test_after_the_last_retry_the_last_error_is_the_result():
    async def main():
        state, clock = state_and_clock()
        async with state.parallel(max_retries=1) as p:
            p.add(Flaky(OSError("first"), OSError("second"), OSError("third")))
            gathering = asyncio.create_task(p.gather())
            await clock.advance(100)
            (result,) = await gathering
        assert (result.ok, result.error_message, result.attempts) == (False, "second", 2)

    run(main())


def test_only_named_errors_are_tried_again():
    async def main():
        state, clock = state_and_clock()
        async with state.parallel(max_retries=5, retry_on=(ConnectionError, TimeoutError)) as p:
            p.add(Flaky(ConnectionResetError(), TimeoutError()), name="named")
            p.add(Flaky(ValueError("mine")), name="other")
            gathering = asyncio.create_task(p.gather())
            await clock.advance(100)
            named, other = await gathering
        assert (named.ok, named.attempts) == (True, 3)
        assert (other.error_type, other.attempts) == ("ValueError", 1)

    run(main())


def test_an_error_of_a_provider_is_tried_again_if_it_says_so_and_when_it_says_so():
    async def main():
        state, clock = state_and_clock()
        busy = Flaky(ProviderError("rate_limit", "busy", retryable=True, retry_after=30))
        async with state.parallel(max_retries=3, retry_delay=1) as p:
            p.add(busy)
            p.add(Flaky(ProviderError("auth", "no such key")))
            gathering = asyncio.create_task(p.gather())
            await clock.advance(30.9)
            assert busy.calls == 1
            await clock.advance(0.1)
            first, second = await gathering
        assert (first.attempts, second.attempts) == (2, 1)
        assert second.error_message == "no such key"

    run(main())


def test_a_task_that_waits_for_its_retry_holds_no_place():
    async def main():
        state, clock = state_and_clock()
        gates = Gates()
        async with state.parallel(1, max_retries=1) as p:
            p.add(Flaky(OSError()))
            p.add(gates, "next")
            gathering = asyncio.create_task(p.gather())
            await settle()
            assert gates.inside == 1
            await clock.advance(5)  # its retry is due, and the only place taken
            assert clock.timers == []
            await gates.open("next", "done")
            assert [result.result for result in await gathering] == [2, "done"]

    run(main())


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_whatever_fails_how_often_each_task_has_its_attempts_and_its_result(failures, workers, retries):
    async def main():
        state, clock = state_and_clock()
        tasks = [Flaky(*[OSError(str(number)) for number in range(times)]) for times in failures]
        async with state.parallel(workers, max_retries=retries) as p:
            for task in tasks:
                p.add(task)
            gathering = asyncio.create_task(p.gather())
            while not gathering.done():
                await clock.advance(1)
            results = await gathering
        assert [result.ok for result in results] == [times <= retries for times in failures]
        assert [result.attempts for result in results] == [min(times, retries) + 1 for times in failures]
        assert [task.calls for task in tasks] == [result.attempts for result in results]

    run(main())


def test_a_time_out_gives_up_tasks_that_wait_for_their_retry():
    async def main():
        clock = HandClock()
        state, events = watched(clock=clock, uniform=longest)
        flaky = Flaky(OSError(), OSError())
        async with state.parallel(max_retries=5, retry_delay=10, timeout=5) as p:
            p.add(flaky)
            gathering = asyncio.create_task(p.gather())
            await clock.advance(5)
            with pytest.raises(TimeoutError, match="0 of 1"):
                await gathering
        assert flaky.calls == 1
        assert clock.timers == []
        assert [event.status for event in events if event.group is None] == [
            "started",
            "retrying",
            "cancelled",
        ]

    run(main())


def test_the_breaker_opens_after_the_threshold_and_rejects_what_comes():
    async def main():
        state, _ = state_and_clock()
        tasks = [Flaky(OSError(str(number))) for number in range(6)]
        async with state.parallel(1, circuit_breaker_threshold=3, circuit_breaker_timeout=10) as p:
            for task in tasks:
                p.add(task)
            results = await p.gather()
        assert [task.calls for task in tasks] == [1, 1, 1, 0, 0, 0]
        assert [result.error_message for result in results[2:]] == ["2"] + 3 * ["Circuit breaker open"]
        assert [result.attempts for result in results] == [1, 1, 1, 0, 0, 0]
        with pytest.raises(CircuitOpen):
            results[5].unwrap()
        assert p.status is GroupStatus.COMPLETED

    run(main())


def test_a_success_in_between_keeps_the_breaker_closed():
    async def main():
        state, _ = state_and_clock()
        tasks = [Flaky(*([] if number % 3 == 2 else [OSError()])) for number in range(30)]
        async with state.parallel(1, circuit_breaker_threshold=3) as p:
            for task in tasks:
                p.add(task)
            await p.gather()
        assert all(task.calls == 1 for task in tasks)

    run(main())


def test_after_its_time_the_breaker_lets_one_probe_through_and_its_success_the_others():
    async def main():
        state, clock = state_and_clock()
        gates = Gates()
        async with state.parallel(
            3, max_retries=2, retry_delay=0, circuit_breaker_threshold=1, circuit_breaker_timeout=10
        ) as p:
            for key in "abc":
                p.add(gates, key)
            gathering = asyncio.create_task(p.gather())
            await gates.open("a", OSError())  # opens it; those in flight say nothing about the time since
            await gates.open("b", 1)
            await gates.open("c", 1)
            await clock.advance(9.9)
            assert gates.seen("began") == ["a", "b", "c"]
            await clock.advance(0.1)
            assert gates.seen("began") == ["a", "b", "c", "a"]
            await gates.open("a", "back")
            results = await gathering
        assert [result.result for result in results] == ["back", 1, 1]
        assert results[0].attempts == 2

    run(main())


def test_while_the_probe_is_out_others_are_rejected_and_its_failure_opens_the_breaker_again():
    async def main():
        state, clock = state_and_clock()
        gates = Gates()
        async with state.parallel(
            2, max_retries=1, retry_delay=0, circuit_breaker_threshold=1, circuit_breaker_timeout=10
        ) as p:
            for key in "ab":
                p.add(gates, key)
            gathering = asyncio.create_task(p.gather())
            await gates.open("a", OSError("a"))
            await gates.open("b", OSError("b"))
            await clock.advance(10)  # both are due: the first is the probe, the other is rejected
            assert gates.seen("began") == ["a", "b", "a"]
            await gates.open("a", OSError("again"))
            results = await gathering
        assert [result.error_message for result in results] == ["again", "Circuit breaker open"]
        assert [result.attempts for result in results] == [2, 1]

    run(main())


def test_while_the_probe_is_out_those_with_retries_left_wait_for_its_outcome():
    async def main():
        state, clock = state_and_clock()
        gates = Gates()
        async with state.parallel(
            2, max_retries=1, retry_delay=0, circuit_breaker_threshold=1, circuit_breaker_timeout=10
        ) as p:
            for key in "abc":
                p.add(gates, key)
            gathering = asyncio.create_task(p.gather())
            await gates.open("a", OSError("a"))
            await gates.open("b", OSError("b"))
            await clock.advance(15)  # the probe takes longer than any wait between retries
            assert gates.seen("began") == ["a", "b", "a"]
            for key in "abc":
                await gates.open(key, "back")
            assert [result.unwrap() for result in await gathering] == ["back"] * 3

    run(main())


def test_who_waits_for_a_probe_when_the_group_is_ended_was_cancelled_if_it_had_begun():
    async def main():
        clock = HandClock()
        state, events = watched(clock=clock, uniform=longest)
        gates = Gates()
        async with state.parallel(
            2, max_retries=9, retry_delay=0, circuit_breaker_threshold=1, timeout=60
        ) as p:
            p.add(gates, "a")
            p.add(gates, "b")
            gathering = asyncio.create_task(p.gather())
            await gates.open("a", OSError("a"))
            await gates.open("b", OSError("b"))
            await clock.advance(61)
            with pytest.raises(TimeoutError, match="0 of 2"):
                await gathering
        assert [event.status for event in events if event.name == "task_1"] == [
            "started",
            "retrying",
            "cancelled",
        ]
        assert events[-1].group.cancelled == 2

    run(main())


def test_failing_fast_raises_what_the_probe_met_and_not_that_others_were_rejected():
    async def main():
        state, clock = state_and_clock()
        async with state.parallel(
            3, error_strategy="fail_fast", max_retries=1, retry_delay=0, circuit_breaker_threshold=1
        ) as p:
            for number in range(5):
                p.add(Flaky(*[OSError(str(number))] * 9))
            gathering = asyncio.create_task(p.gather())
            await clock.advance(100)
            with pytest.raises(OSError, match="0"):
                await gathering

    run(main())


def test_a_rejected_task_comes_back_whatever_errors_are_to_be_tried_again():
    async def main():
        state, clock = state_and_clock()
        async with state.parallel(
            1, max_retries=1, retry_delay=0, retry_on=OSError, circuit_breaker_threshold=1
        ) as p:
            p.add(Flaky(OSError()))
            p.add(Flaky())
            gathering = asyncio.create_task(p.gather())
            await clock.advance(100)
            assert all(result.ok for result in await gathering)

    run(main())


def test_a_rejected_task_with_retries_left_comes_back_when_the_breaker_s_time_is_over():
    async def main():
        state, clock = state_and_clock()
        broken, fine = Flaky(OSError()), Flaky()
        async with state.parallel(
            1, max_retries=1, retry_delay=0, circuit_breaker_threshold=1, circuit_breaker_timeout=10
        ) as p:
            p.add(broken)
            p.add(fine)
            gathering = asyncio.create_task(p.gather())
            await settle()
            assert (broken.calls, fine.calls) == (1, 0)
            await clock.advance(10)
            first, second = await gathering
        assert (first.ok, second.ok) == (True, True)
        assert (first.attempts, second.attempts) == (2, 1)

    run(main())


def test_many_tasks_rejected_at_once_let_the_loop_breathe():
    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        async with ExecutionState().parallel(1, circuit_breaker_threshold=1) as p:
            for _ in range(3000):
                p.add(Flaky(OSError()))
            results = await p.gather()
        beside.cancel()
        await asyncio.wait([beside])
        assert [result.error_type for result in results] == ["OSError", *2999 * ["CircuitOpen"]]
        assert turns > 10

    run(main())
