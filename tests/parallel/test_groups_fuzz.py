"""Groups of tasks of every kind, ended at any moment in any way: nothing is left of any of them."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from support.grouping import HandClock, run

from parallamr_mp.errors import CircuitOpen
from parallamr_mp.parallel import ErrorStrategy, ExecutionState, GroupStatus


class Boom(Exception):  # noqa: N818 - it goes off
    pass


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
    breaker=st.none() | st.integers(1, 2),
    how=st.sampled_from(["cancel", "cancel twice", "time-out", "body"]),
    way=st.sampled_from(["gather", "stream", "leave"]),
    turns=st.integers(0, 12),
)
def test_whenever_and_however_a_group_is_ended_nothing_is_left_of_it(
    kinds, workers, strategy, retries, breaker, how, way, turns
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
                circuit_breaker_threshold=breaker,
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
            assert isinstance(surrounding.exception(), Boom | TimeoutError | CircuitOpen | None)
        assert endings.running == 0
        assert clock.timers == []
        tasks = {}
        for event in events:
            if event.group is None:
                tasks.setdefault(event.address, []).append(event.status)
        for statuses in tasks.values():
            assert statuses[-1] in {"completed", "failed", "cancelled"}
            if breaker is None:
                assert statuses[0] == "started"
                assert set(statuses[1:-1]) <= {"retrying"}
            else:  # it may be rejected before it starts, and for ever
                assert statuses.count("started") <= 1
                assert set(statuses[:-1]) <= {"started", "retrying"}
        if events:
            last = events[-1].group
            ended = [statuses[-1] for statuses in tasks.values()]
            assert last.status not in {GroupStatus.PENDING, GroupStatus.RUNNING}
            assert (last.completed, last.failed, last.cancelled) == tuple(
                ended.count(status) for status in ("completed", "failed", "cancelled")
            )

    run(main())
