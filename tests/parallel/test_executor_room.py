"""What a group does while its executor has no room: it waits to be told, and keeps the loop idle."""

from __future__ import annotations

import asyncio

import pytest
from support.grouping import HandClock, longest, run, settle

from parallamr_mp.parallel import ExecutionState


class Rooms:
    """An executor that has room when the test says so, and whose attempts end when it says so."""

    def __init__(self):
        self.has_room, self.begun, self.attempts = True, [], None

    def open(self, attempts, tasks):
        self.attempts = attempts

    def start(self, task):
        self.begun.append(task)

    def cancel(self):
        for task in self.begun:
            asyncio.get_running_loop().call_soon(
                self.attempts.ended, task, None, asyncio.CancelledError(), 0.0
            )

    def discard(self, task):
        pass

    async def close(self):
        pass


def test_a_retry_that_is_due_waits_for_room_without_keeping_the_loop_busy():
    async def main():
        clock, rooms = HandClock(), Rooms()
        state = ExecutionState(clock=clock, uniform=longest)
        async with state.parallel(2, max_retries=1, retry_delay=1.0) as p:
            p._executor = rooms
            p.add(dict, name="failing")
            p.add(dict, name="other")
            gathering = asyncio.create_task(p.gather())
            await settle()
            failing, other = rooms.begun
            rooms.has_room = False
            rooms.attempts.ended(failing, None, OSError("once"), 0.0)
            await clock.advance(5)  # with a timer for what is due already this would not come to an end
            assert clock.timers == []
            assert rooms.begun == [failing, other]
            rooms.has_room = True
            rooms.attempts.has_room()
            assert rooms.begun == [failing, other, failing]
            rooms.attempts.ended(failing, 1, None, 0.0)
            rooms.attempts.ended(other, 2, None, 0.0)
            assert [result.unwrap() for result in await gathering] == [1, 2]

    run(main())


def test_a_lost_attempt_is_counted_and_told_and_uses_up_no_retry():
    async def main():
        rooms = Rooms()
        state = ExecutionState(clock=HandClock())
        async with state.parallel(1) as p:
            p._executor = rooms
            p.add(dict)
            gathering = asyncio.create_task(p.gather())
            await settle()
            (task,) = rooms.begun
            rooms.attempts.lost(task, OSError("gone"))
            rooms.attempts.ended(task, "value", None, 2.5)
            (result,) = await gathering
        assert (result.result, result.attempts, result.execution_time) == ("value", 2, 2.5)
        retrying = [event for event in state.history if event.status == "retrying"]
        assert [(event.attempt, event.error_message, event.delay) for event in retrying] == [(1, "gone", 0.0)]

    run(main())


def test_an_executor_that_breaks_ends_the_group_with_its_error():
    async def main():
        rooms = Rooms()
        async with ExecutionState().parallel(1, error_strategy="fail_slow") as p:
            p._executor = rooms
            p.add(dict)
            p.add(dict)
            gathering = asyncio.create_task(p.gather())
            await settle()
            rooms.attempts.broken(OSError("no more processes"))
            with pytest.raises(OSError, match="no more processes"):
                await gathering
            assert (p.status, p.results) == ("failed", [])

    run(main())
