"""Groups given what nobody thinks of: odd calls and names, errors that misbehave, futures of other loops."""

from __future__ import annotations

import asyncio
import contextvars
import time
from contextlib import suppress
from functools import partial

import pytest
from support.grouping import Gates, run, settle, watched

from parallamr_mp.errors import ProviderError
from parallamr_mp.parallel import ExecutionState


async def fail():
    raise OSError("broken")


def test_a_future_of_another_loop_is_refused_at_add_and_left_alone():
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def main():
        async with ExecutionState().parallel() as p:
            with pytest.raises(ValueError, match="another event loop"):
                p.add(future)
            p.add(asyncio.sleep(0, "fine"))
        assert [result.result for result in p.results] == ["fine"]

    run(main())
    assert not future.done()
    other.close()


@pytest.mark.parametrize(("name", "error"), [(5, TypeError), ("caf\udce9", ValueError)])
def test_a_name_that_events_and_files_cannot_tell_is_refused(name, error):
    async def main():
        with pytest.raises(error, match="name must be"):
            ExecutionState().parallel(name=name)
        async with ExecutionState().parallel() as p:
            with pytest.raises(error, match="name must be"):
                p.add(asyncio.sleep(0), name=name)

    run(main())


@pytest.mark.parametrize("way", ["gather", "gather_dict", "stream"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_task_that_would_wait_for_its_own_group_is_told_so(way, nested):
    async def main():
        state = ExecutionState()

        async def wait():
            if way == "stream":
                return [result async for result in p.stream()]
            return await getattr(p, way)()

        async def group():
            async with state.parallel(name="inner") as inner:
                inner.add(wait)
            return inner.results[0].unwrap()

        async with state.parallel() as p:
            p.add(group if nested else wait)
        assert "cannot wait for its own group" in p.results[0].error_message

    run(main())


def test_a_function_that_raises_stop_iteration_has_raised_just_that():
    async def main():
        empty = iter(())
        async with ExecutionState().parallel() as p:
            p.add(next, empty)
            p.add(lambda: next(empty))
        assert [result.error_type for result in p.results] == ["StopIteration"] * 2

    run(main())


class UnpreparedError(ProviderError):
    """Leaves out what its base class sets."""

    def __init__(self):
        pass


def test_an_error_that_cannot_be_looked_at_ends_the_group_and_does_not_hang_it():
    async def main():
        gates = Gates()

        def raise_it():
            raise UnpreparedError

        async with ExecutionState().parallel(max_retries=1) as p:
            p.add(gates, "beside")
            p.add(raise_it)
            gathering = asyncio.create_task(p.gather())
            with pytest.raises(AttributeError, match="retryable"):
                await gathering
        assert gates.seen("cancelled") == ["beside"]

    run(main())


def test_an_error_about_a_file_whose_name_is_no_unicode_can_be_told_and_saved(tmp_path):
    async def main():
        def raise_it():
            raise OSError("no file caf\udce9")

        state, events = watched()
        async with state.parallel() as p:
            p.add(raise_it)
        assert p.results[0].error_message == "no file caf\\udce9"
        for event in events:
            assert type(event).model_validate_json(event.model_dump_json()) == event
        state.save(tmp_path / "state.json")
        assert list(ExecutionState.load(tmp_path / "state.json").history) == events

    run(main())


def test_partials_are_known_by_what_they_call(tmp_path):
    async def main():
        async def one(value):
            return "one"

        async def two(value):
            return "two"

        state = ExecutionState()
        for function, replayed in ((one, False), (one, True), (two, False)):
            async with state.parallel() as p:
                p.add(partial(partial(function, 1)))
            assert (p.results[0].result, p.results[0].is_replayed) == (function.__name__, replayed)
            state.save(tmp_path / "s")
            state = ExecutionState.load(tmp_path / "s")

    run(main())


def test_tasks_see_what_was_set_in_the_context_before_they_start():
    variable = contextvars.ContextVar("variable", default="outside")

    async def look():
        return variable.get()

    async def main():
        async with ExecutionState().parallel() as p:
            variable.set("inside")
            p.add(look)
            p.add(look())
        assert [result.result for result in p.results] == ["inside", "inside"]

    run(main())


@pytest.mark.parametrize("cancels", [1, 2])
def test_who_is_cancelled_while_a_group_tidies_up_still_waits_for_a_task_it_was_given(cancels):
    async def main():
        go_on = asyncio.Event()

        async def tidies_up_long():
            try:
                await asyncio.Event().wait()
            finally:
                while not go_on.is_set():
                    with suppress(asyncio.CancelledError):
                        await go_on.wait()

        given = asyncio.create_task(tidies_up_long())

        async def group():
            async with ExecutionState().parallel(1, error_strategy="fail_fast") as p:
                p.add(fail)
                p.add(given)

        surrounding = asyncio.create_task(group())
        await settle()
        for _ in range(cancels):
            surrounding.cancel()
            await settle()
        assert not surrounding.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await surrounding
        assert given.done()

    run(main())


@pytest.mark.parametrize("at", ["group_started", "execution", "group_completed"])
def test_a_handler_that_ends_the_program_ends_it_and_the_group_once(at):
    ends = []

    async def main():
        state = ExecutionState()

        def leave(event):
            if event.event_type != "group_started" and event.group is not None:
                ends.append(event)
            if event.event_type == at:
                raise SystemExit(3)

        state.event_bus.subscribe(leave)
        async with state.parallel() as p:
            p.add(asyncio.sleep, 0)
            p.add(asyncio.sleep, 0)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert len(ends) == 1


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has the first one")
def test_an_eager_loop_gives_a_handler_one_event_after_the_other():
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        state, inside, order = ExecutionState(), [], []

        async def handler(event):
            assert inside == []
            inside.append(event)
            if event.address == "outer#1" and event.status == "started":
                async with state.parallel(name="of the handler") as p:
                    p.add(asyncio.sleep, 0)
            await asyncio.sleep(0)
            order.append(inside.pop())

        state.event_bus.subscribe(handler)
        async with state.parallel(name="outer") as p:
            p.add(asyncio.sleep, 0)
        assert order == list(state.history)

    run(main())


def test_a_plain_function_that_holds_up_the_event_loop_is_told_of_once(caplog):
    def busy(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    async def main():
        async with ExecutionState().parallel(name="Slow") as p:
            for seconds in (0.0, 0.15, 0.15):
                p.add(busy, seconds)
            p.add(asyncio.sleep, 0.15)

    run(main())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("group 'Slow': ")
    assert "busy is no coroutine function, and kept all other tasks from running for 0." in record.message
    assert "threads=" in record.message
