"""What groups publish: order, contents, handlers that are slow or broken; models that go to JSON and back."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.grouping import Gates, HandClock, longest, run, settle, watched

from parallamr_mp import mailbox
from parallamr_mp.events import EventBus
from parallamr_mp.parallel import (
    EventType,
    ExecutionEvent,
    ExecutionState,
    ExecutionStatus,
    GroupStatus,
    ParallelEventGroup,
    ParallelGroupTracker,
)


def fail():
    raise OSError("broken")


def test_a_group_tells_its_life_and_that_of_its_tasks():
    async def main():
        clock = HandClock()
        state, events = watched(clock=clock)
        gates = Gates()
        async with state.parallel(2, name="Documents") as p:
            p.add(gates, "a", name="first")
            p.add(fail)
            gathering = asyncio.create_task(p.gather())
            await clock.advance(3)
            await gates.open("a")
            await gathering
        assert [(event.event_type, event.address, event.status) for event in events] == [
            (EventType.GROUP_STARTED, "Documents#1", "started"),
            (EventType.EXECUTION, "Documents#1/first", "started"),
            (EventType.EXECUTION, "Documents#1/task_1", "started"),
            (EventType.EXECUTION, "Documents#1/task_1", "failed"),
            (EventType.EXECUTION, "Documents#1/first", "completed"),
            (EventType.GROUP_COMPLETED, "Documents#1", "completed"),
        ]
        assert all(event.is_parallel and event.group_id == p.group_id for event in events)
        begun, failed, done = events[1], events[3], events[4]
        assert (begun.name, begun.parallel_index, begun.attempt) == ("first", 0, 1)
        assert begun.execution_time is None
        assert (failed.error_type, failed.error_message) == ("OSError", "broken")
        assert (done.execution_time, done.timestamp - done.started_at) == (3, 3)
        assert events[0].group.total == 2
        assert events[0].group.status is GroupStatus.RUNNING
        last = events[-1].group
        assert (last.completed, last.failed, last.total, last.max_workers) == (1, 1, 2, 2)
        assert (last.ended_at - last.started_at, events[-1].execution_time) == (3, 3)
        assert list(state.history) == events

    run(main())


@pytest.mark.parametrize(
    ("options", "type_", "error"),
    [
        ({"error_strategy": "fail_fast"}, EventType.GROUP_FAILED, "OSError"),
        ({"timeout": 1}, EventType.GROUP_FAILED, "TimeoutError"),
        ({}, EventType.GROUP_CANCELLED, "CancelledError"),
    ],
)
def test_a_group_that_ends_early_says_how_and_its_tasks_were_cancelled(options, type_, error):
    async def main():
        clock = HandClock()
        state, events = watched(clock=clock)
        gates = Gates()

        async def group():
            async with state.parallel(2, **options) as p:
                for key in "abc":
                    p.add(gates(key))

        task = asyncio.create_task(group())
        await clock.advance(0.5)
        if type_ is EventType.GROUP_CANCELLED:
            task.cancel()
        elif "timeout" in options:
            await clock.advance(1)
        else:
            await gates.open("a", OSError("a"))
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), OSError)
        last = events[-1]
        assert (last.event_type, last.error_type) == (type_, error)
        assert last.group.cancelled == len([event for event in events if event.status == "cancelled"]) - (
            type_ is EventType.GROUP_CANCELLED
        )
        assert "group#1/task_2" not in {event.address for event in events}  # it never began

    run(main())


@given(st.lists(st.integers(0, 3), max_size=15), st.integers(1, 4))
def test_the_events_of_each_task_come_in_order(failures, workers):
    async def main():
        clock = HandClock()
        state, events = watched(clock=clock, uniform=longest)

        def flaky(times):
            left = iter(range(times))

            async def call():
                await asyncio.sleep(0)
                if next(left, None) is not None:
                    raise OSError

            return call

        async with state.parallel(workers, max_retries=2) as p:
            for times in failures:
                p.add(flaky(times))
            gathering = asyncio.create_task(p.gather())
            while not gathering.done():
                await clock.advance(1)
            await gathering
        by_task = defaultdict(list)
        for event in events[1:-1]:
            by_task[event.parallel_index].append((event.status, event.attempt))
        tracker = ParallelGroupTracker(group_id=p.group_id)
        for event in events:
            tracker.update(event)
        for index, times in enumerate(failures):
            retries = [("retrying", attempt + 1) for attempt in range(min(times, 2))]
            end = ("failed", 3) if times > 2 else ("completed", times + 1)
            assert by_task[index] == [("started", 1), *retries, end]
        assert (tracker.total, tracker.started) == (len(failures), len(failures))
        assert tracker.failed == sum(times > 2 for times in failures)
        assert tracker.completed == len(failures) - tracker.failed
        assert tracker.retries == sum(min(times, 2) for times in failures)
        assert tracker.is_complete
        assert tracker.completion_percentage == 100

    run(main())


def test_a_group_does_not_end_before_async_handlers_have_seen_it_all():
    async def main():
        state, seen = ExecutionState(), []

        async def slow(event):
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(event.status)

        state.event_bus.subscribe(slow)
        async with state.parallel() as p:
            p.add(fail)
            await p.gather()
            assert seen == ["started", "started", "failed", "completed"]

    run(main())


def test_a_handler_may_open_a_group_of_its_own():
    async def main():
        state, seen = ExecutionState(), []

        async def handler(event):
            if event.event_type == "group_completed" and event.name == "outer":
                async with state.parallel(name="from a handler") as p:
                    p.add(asyncio.sleep, 0, "x")
                seen.append(p.results[0].result)

        state.event_bus.subscribe(handler)
        async with state.parallel(name="outer") as p:
            p.add(asyncio.sleep(0))
        assert seen == ["x"]

    run(main())


def test_a_handler_that_raises_hurts_no_group(caplog):
    async def main():
        state = ExecutionState()

        def bad(event):
            raise ValueError("bad handler")

        async def worse(event):
            raise ValueError("worse handler")

        state.event_bus.subscribe(bad)
        state.event_bus.subscribe(worse)
        async with state.parallel() as p:
            p.add(asyncio.sleep(0, 1))
            assert (await p.gather())[0].result == 1

    run(main())
    assert "bad handler" in caplog.text
    assert "worse handler" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_raises_a_cancelled_error_is_logged_and_sees_what_comes_after(asynchronous, caplog):
    async def main():
        state, seen = ExecutionState(), []
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()

        def look(event):
            seen.append(event)
            cancelled.result()

        async def wait(event):
            seen.append(event)
            await cancelled

        state.event_bus.subscribe(wait if asynchronous else look)
        async with state.parallel() as p:
            p.add(asyncio.sleep(0, 1))
            p.add(asyncio.sleep(0, 2))
        assert p.status is GroupStatus.COMPLETED
        assert seen == list(state.history)

    run(main())
    assert "CancelledError" in caplog.text


def test_a_handler_of_execution_events_alone_gets_them():
    async def main():
        state, seen = ExecutionState(), []
        state.event_bus.subscribe(seen.append, ExecutionEvent)
        async with state.parallel() as p:
            p.add(asyncio.sleep(0))
        assert seen == list(state.history)

    run(main())


def test_a_bus_that_is_given_is_used_and_shared():
    bus, seen = EventBus(), []
    bus.subscribe(lambda event: seen.append((event.group_id, event.address)))

    async def main():
        for state in (ExecutionState(bus), ExecutionState(event_bus=bus)):
            assert state.event_bus is bus
            async with state.parallel() as p:
                p.add(asyncio.sleep(0))

    run(main())
    assert len(seen) == 8
    assert len({group for group, _ in seen}) == 2


optional_floats = st.none() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text()
groups = st.builds(
    ParallelEventGroup,
    group_id=texts,
    address=texts,
    name=texts,
    status=st.sampled_from(GroupStatus),
    total=st.integers(0, 10**9),
    max_workers=st.integers(1, 10**6),
    started_at=optional_floats,
    error_message=st.none() | texts,
)
events_ = st.builds(
    ExecutionEvent,
    event_type=st.sampled_from(EventType),
    address=texts,
    status=st.sampled_from(ExecutionStatus),
    is_parallel=st.booleans(),
    group_id=st.none() | texts,
    parallel_index=st.none() | st.integers(0, 10**9),
    name=st.none() | texts,
    timestamp=st.floats(allow_nan=False, allow_infinity=False),
    delay=optional_floats,
    error_message=st.none() | texts,
    group=st.none() | groups,
)
trackers = st.builds(
    ParallelGroupTracker,
    group_id=texts,
    status=st.sampled_from(GroupStatus),
    total=st.integers(0, 10**9),
    busy_time=st.floats(0, 10**9),
    started_at=optional_floats,
)


@given(groups | events_ | trackers)
def test_models_go_to_json_and_back(model):
    assert type(model).model_validate_json(model.model_dump_json()) == model


def test_a_tracker_of_a_group_met_late_knows_only_what_it_heard_of():
    first = ExecutionEvent(
        address="Papers%231#1/a",
        status=ExecutionStatus.FAILED,
        group_id="g",
        execution_time=2.5,
        parallel_index=0,
    )
    tracker = first.tracker()
    tracker.update(first)
    assert (tracker.name, tracker.address, tracker.status) == (
        "Papers#1",
        "Papers%231#1",
        GroupStatus.RUNNING,
    )
    assert (tracker.failed, tracker.busy_time, tracker.total, tracker.is_complete) == (1, 2.5, 1, False)
    tracker.update(first.model_copy(update={"parallel_index": 3, "status": ExecutionStatus.STARTED}))
    assert (tracker.total, tracker.completion_percentage) == (4, 25.0)
    assert ParallelGroupTracker.model_validate_json(tracker.model_dump_json()) == tracker


@given(
    st.fixed_dictionaries(
        {
            "address": texts,
            "status": st.sampled_from(ExecutionStatus),
            "group_id": st.none() | texts,
            "parallel_index": st.none() | st.integers(0, 10**9),
            "name": st.none() | texts,
            "timestamp": st.floats(allow_nan=False, allow_infinity=False),
            "started_at": optional_floats,
            "attempt": st.integers(0, 10**9),
        },
        optional={
            "execution_time": optional_floats,
            "delay": optional_floats,
            "error_message": st.none() | texts,
            "error_type": st.none() | texts,
            "is_replayed": st.booleans(),
        },
    )
)
def test_the_event_of_a_task_that_was_not_validated_is_no_other_than_one_that_was(fields):
    event = ExecutionEvent.of_task(**fields)
    validated = ExecutionEvent(**fields, is_parallel=True)
    for other in (
        validated,
        ExecutionEvent.model_validate_json(event.model_dump_json()),
        ExecutionEvent.model_validate_json(event.model_dump_json(exclude_unset=True)),
        ExecutionEvent.model_validate_json(event.model_dump_json(exclude_defaults=True)),
        pickle.loads(pickle.dumps(event)),
        copy.deepcopy(event),
    ):
        assert other == event
        assert (repr(other), hash(other)) == (repr(event), hash(event))
    assert list(vars(event)) == list(ExecutionEvent.model_fields)
    assert event.model_fields_set == set(ExecutionEvent.model_fields)
    assert event.model_copy(update={"name": "other"}).name == "other"
    with pytest.raises(ValidationError, match="frozen"):
        event.name = "other"
    assert event == validated


def test_a_tracker_counts_time_and_leaves_other_groups_alone():
    tracker = ParallelGroupTracker(group_id="g", total=3)
    assert (tracker.elapsed_time, tracker.completion_percentage, tracker.is_complete) == (0.0, 0.0, False)
    tracker.update(ExecutionEvent(address="x/1", status=ExecutionStatus.FAILED, group_id="other"))
    assert tracker.failed == 0
    tracker.update(
        ExecutionEvent(
            address="g#1/1",
            status=ExecutionStatus.COMPLETED,
            group_id="g",
            execution_time=2.5,
            is_replayed=True,
        )
    )
    assert (tracker.completed, tracker.replayed, tracker.busy_time) == (1, 1, 0.0), "that was long ago"
    tracker.started_at, tracker.ended_at, tracker.status = 10.0, 14.0, GroupStatus.CANCELLED
    assert (tracker.elapsed_time, tracker.is_complete) == (4.0, True)


def test_a_group_waits_for_an_async_handler_that_is_far_behind(monkeypatch):
    monkeypatch.setattr(mailbox, "FULL", 20)
    behind, most = 0, 0

    async def main():
        state = ExecutionState()
        hold = asyncio.Event()

        async def slow(event):
            nonlocal behind
            await hold.wait()
            behind -= 1

        def note(event):
            nonlocal behind, most
            behind += 1
            most = max(most, behind)

        state.event_bus.subscribe(note)
        state.event_bus.subscribe(slow)
        async with state.parallel(max_workers=4) as p:
            for number in range(200):
                p.add(lambda number=number: number)
            results = asyncio.ensure_future(p.gather())
            await settle()
            begun = most
            hold.set()
            assert [result.unwrap() for result in await results] == list(range(200))
        return begun

    begun = run(main())
    assert 20 <= begun <= most < 40  # of 402: what was under way, but hardly more
    assert behind == 0
