"""Metrics of a state: counted from its history, whatever became of its groups."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.grouping import HandClock, run
from support.working import Work, at_work, finish

from parallamr_mp.parallel import ExecutionEvent, ExecutionState, ParallelEventGroup, StateMetrics
from parallamr_mp.parallel.measuring import metrics_of, union


def numbers(metrics, *names):
    return tuple(getattr(metrics, name) for name in names)


def test_a_group_tells_its_counts_times_and_speed_up():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(2, name="Documents") as p:
                for seconds in (4, 1, 2, 1):
                    p.add(work(seconds))
                p.add(asyncio.sleep(0))
                p.add(work(3, failures=1))

        await finish(clock, group(), 1)
        metrics = state.metrics()
        (one,) = metrics.groups
        assert numbers(one, "address", "name", "status", "max_workers") == (
            "Documents#1",
            "Documents",
            "completed",
            2,
        )
        assert metrics.group("Documents#1") is one
        assert numbers(one, "added", "started", "completed", "failed", "cancelled", "running") == (
            *(6, 6, 5, 1),
            *(0, 0),
        )
        assert numbers(one, "attempts", "retries", "replayed", "rejected", "rejections") == (6, 0, 0, 0, 0)
        assert numbers(one, "busy_seconds", "wall_seconds", "speed_up", "peak") == (11, 7, 11 / 7, 2)
        latency = one.latency
        assert numbers(latency, "count", "total", "p50", "p90", "p95", "p99", "max") == (6, 11, 1, 4, 4, 4, 4)
        assert latency.mean == pytest.approx(11 / 6)
        assert dict(latency.buckets)[0.5] == 1
        assert dict(latency.buckets)[1.0] == 3
        assert dict(latency.buckets)[5.0] == 6
        assert metrics.total == type(metrics.total)(
            **{name: getattr(one, name) for name in type(metrics.total).model_fields}
        )
        assert metrics.timestamp == clock.wall()
        with pytest.raises(KeyError, match="Nothing#1"):
            metrics.group("Nothing#1")

    run(main())


def test_percentiles_are_values_that_occurred():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(200) as p:
                for seconds in range(200, 0, -1):
                    p.add(work(seconds))

        await finish(clock, group(), 50)
        latency = state.metrics().total.latency
        assert numbers(latency, "p50", "p90", "p95", "p99", "max") == (100, 180, 190, 198, 200)
        assert latency.mean == 100.5

    run(main())


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=12),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.25, 1.0, 3.0]),
    st.none() | st.integers(1, 3),
)
def test_whatever_is_retried_or_rejected_the_numbers_are_those_that_the_calls_saw(
    tasks, workers, delay, threshold
):
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(
                workers,
                max_retries=2,
                retry_delay=delay,
                circuit_breaker_threshold=threshold,
                circuit_breaker_timeout=2,
            ) as p:
                for seconds, failures in tasks:
                    p.add(work(seconds, failures))
                return await p.gather()

        results = await finish(clock, group())
        metrics = state.metrics()
        total = metrics.total
        assert total.peak == work.most
        assert total.attempts == len(work.spent)
        assert total.busy_seconds == sum(work.spent)
        assert (total.added, total.running) == (len(tasks), 0)
        assert total.completed == sum(result.ok for result in results)
        assert total.failed == len(tasks) - total.completed
        assert total.rejected == sum(result.error_type == "CircuitOpen" for result in results)
        assert total.started == total.latency.count == sum(result.attempts > 0 for result in results)
        assert total.retries == sum(event.status == "retrying" for event in state.history)
        assert total.attempts + total.rejections == len(tasks) + total.retries
        assert state.metrics() == metrics
        assert StateMetrics.model_validate_json(metrics.model_dump_json()) == metrics
        assert metrics_of(list(state.history), state_id=state.id, now=metrics.timestamp) == metrics

    run(main())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 6), st.integers(1, 3), st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)))
        ),
        max_size=4,
    ),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_of_groups_that_overlap_the_peak_is_that_which_the_calls_saw(groups, delay):
    async def main():
        clock, state, work = at_work()

        async def group(later, workers, tasks):
            started = asyncio.get_running_loop().create_future()
            clock.call_later(later, lambda: started.set_result(None))
            await started
            async with state.parallel(workers, max_retries=2, retry_delay=delay) as p:
                for seconds, failures in tasks:
                    p.add(work(seconds, failures))

        async def together():
            await asyncio.gather(*(group(*one) for one in groups))

        await finish(clock, together(), 0.25)
        total = state.metrics().total
        assert (total.peak, total.attempts) == (work.most, len(work.spent))
        assert total.busy_seconds == sum(work.spent)

    run(main())


def told(*happened, workers=1):
    """The events of a group, from (seconds, index, status, attempt, execution time so far)."""
    group = ParallelEventGroup(
        group_id="g", address="g#1", name="g", status="running", total=9, max_workers=workers, started_at=0.0
    )
    yield ExecutionEvent(
        event_type="group_started", address="g#1", status="started", group_id="g", group=group, started_at=0.0
    )
    for when, index, status, attempt, seconds in happened:
        yield ExecutionEvent(
            address=f"g#1/task_{index}",
            status=status,
            group_id="g",
            parallel_index=index,
            timestamp=when,
            attempt=attempt,
            execution_time=seconds,
        )


def peak(*happened, **options):
    return metrics_of(list(told(*happened, **options)), state_id="s", now=100.0).total.peak


def test_a_retry_never_overlaps_the_attempt_before_it_however_its_times_are_rounded():
    first = (1.0, 0, "started", 1, None), (2.0, 0, "retrying", 1, 1.0)
    assert peak(*first, (3.0, 0, "completed", 2, 2.0000002), workers=5) == 1
    assert peak(*first, (2.0, 0, "completed", 2, 1.0), workers=5) == 1


def test_a_clock_that_is_set_back_changes_nothing_in_what_ran_at_once():
    assert (
        peak(
            (10.0, 0, "started", 1, None),
            (11.0, 0, "completed", 1, 1.0),
            (5.0, 1, "started", 1, None),
            (4.0, 2, "started", 1, None),
            (6.0, 1, "completed", 1, 1.0),
            (7.0, 3, "started", 1, None),
            (7.5, 2, "completed", 1, 3.5),
            workers=5,
        )
        == 2
    )
    happened = [
        (11.0, 0, "completed", 1, 1.0),
        (5.0, 1, "started", 1, None),
        (6.0, 1, "retrying", 1, 1.0),
        (7.0, 2, "started", 1, None),
        (8.0, 2, "completed", 1, 1.0),
        (9.0, 1, "completed", 2, 1.5),
    ]
    assert peak((10.0, 0, "started", 1, None), *happened, workers=5) == 1


def test_a_group_never_has_more_in_flight_than_its_workers_though_clocks_drift():
    happened = [
        (1.0, 0, "started", 1, None),
        (2.0, 0, "retrying", 1, 1.0),
        (2.5, 1, "started", 1, None),
        (4.0, 1, "completed", 1, 1.5),
        (5.0, 0, "completed", 2, 2.1),  # 1.1 s by a clock that runs fast
    ]
    assert metrics_of(list(told(*happened)), state_id="s", now=9.0).groups[0].peak == 1


def test_events_of_groups_whose_start_is_not_known_are_left_out():
    events = list(told((1.0, 0, "started", 1, None)))[1:]
    events.append(ExecutionEvent(address="row 1", status="started"))
    assert metrics_of(events, state_id="s", now=9.0).groups == ()


def test_a_task_that_waits_for_its_retry_counts_as_running_and_not_as_in_flight():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(1, max_retries=1, retry_delay=10) as p:
                p.add(work(1, failures=1))
                p.add(work(2))

        task = asyncio.create_task(group())
        await clock.advance(2)
        (one,) = state.metrics().groups
        assert numbers(one, "status", "running", "attempts", "retries", "peak") == ("running", 2, 2, 1, 1)
        assert numbers(one, "busy_seconds", "wall_seconds", "speed_up") == (1, 2, 0.5)
        assert one.latency.count == 0
        await clock.advance(30)
        await task
        (one,) = state.metrics().groups
        assert numbers(one, "status", "running", "attempts", "peak") == ("completed", 0, 3, 1)
        assert (one.busy_seconds, one.wall_seconds) == (4, 12)

    run(main())


def test_rejections_by_the_breaker_are_counted_apart():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(1, circuit_breaker_threshold=2, circuit_breaker_timeout=60) as p:
                for _ in range(5):
                    p.add(work(1, failures=1))

        await finish(clock, group())
        total = state.metrics().total
        assert numbers(total, "started", "failed", "rejected", "rejections", "attempts") == (2, 5, 3, 3, 2)
        assert total.latency.count == 2

    run(main())


def test_an_error_of_a_task_that_is_named_as_the_breakers_is_no_rejection():
    class CircuitOpen(Exception):  # noqa: N818
        pass

    async def refuse():
        raise CircuitOpen

    async def main():
        state = ExecutionState()
        async with state.parallel(max_retries=1, retry_delay=0) as p:
            p.add(refuse)
        total = state.metrics().total
        assert numbers(total, "failed", "attempts", "retries", "rejected", "rejections") == (1, 2, 1, 0, 0)

    run(main())


def test_groups_without_tasks_and_states_without_groups_have_numbers_too():
    async def main():
        state = ExecutionState(clock=HandClock(), state_id="mine")
        nothing = state.metrics()
        assert (nothing.groups, nothing.state_id) == ((), "mine")
        async with state.parallel(name="later"):
            assert state.metrics() == nothing  # it has not started
        metrics = state.metrics()
        assert metrics.groups[0].status == "completed"
        for one in (nothing.total, metrics.total, metrics.groups[0]):
            assert numbers(one, "added", "peak", "wall_seconds", "speed_up") == (0, 0, 0, None)
            assert numbers(one.latency, "count", "mean", "p50", "max") == (0, None, None, None)
        for one in (nothing, metrics):
            assert StateMetrics.model_validate_json(one.model_dump_json()) == one
            assert one.to_prometheus()

    run(main())


def test_tasks_that_were_cancelled_are_counted_and_have_no_latency():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(2, timeout=2) as p:
                for seconds in (1, 5, 5, 5):
                    p.add(work(seconds))

        with pytest.raises(TimeoutError):
            await finish(clock, group())
        (one,) = state.metrics().groups
        assert numbers(one, "status", "added", "started", "completed", "cancelled", "running") == (
            *("failed", 4, 3),
            *(1, 2, 0),
        )
        assert numbers(one, "busy_seconds", "wall_seconds", "peak") == (4, 2, 2)
        assert one.latency.count == 1

    run(main())


def test_of_groups_that_run_at_once_the_time_counts_once():
    async def main():
        clock, state, work = at_work()

        async def group(*times, name):
            async with state.parallel(name=name) as p:
                for seconds in times:
                    p.add(work(seconds))

        first = asyncio.create_task(group(4, 4, name="a"))
        await clock.advance(2)
        second = asyncio.create_task(group(4, 4, 1, name="a"))
        await clock.advance(14)
        await asyncio.gather(first, second)
        await finish(clock, group(3, name="b"), 3)
        metrics = state.metrics()
        assert [numbers(one, "address", "wall_seconds", "peak") for one in metrics.groups] == [
            ("a#1", 4, 2),
            ("a#2", 4, 3),
            ("b#1", 3, 1),
        ]
        assert numbers(metrics.total, "wall_seconds", "busy_seconds", "peak") == (6 + 3, 20, 5)

    run(main())


def test_a_task_and_the_tasks_of_a_group_that_it_opens_are_all_counted():
    async def main():
        clock, state, work = at_work()

        async def outer():
            async with state.parallel(name="inner") as p:
                p.add(work(2))
                p.add(work(2))

        async def group():
            async with state.parallel(name="outer") as p:
                p.add(outer)

        await finish(clock, group())
        metrics = state.metrics()
        assert numbers(metrics.group("outer#1"), "busy_seconds", "wall_seconds", "peak") == (2, 2, 1)
        assert numbers(metrics.group("outer#1/task_0/inner#1"), "busy_seconds", "peak") == (4, 2)
        assert numbers(metrics.total, "busy_seconds", "wall_seconds", "peak") == (6, 2, 3)

    run(main())


def test_replayed_tasks_are_counted_and_their_time_is_not(tmp_path):
    async def main():
        clock, state, _ = at_work()
        keep, again = tmp_path / "state", OSError("again")

        async def group(state, clock, error):
            async with state.parallel(1, name="Documents") as p:
                for seconds in (1, 2):
                    p.add(slow, clock, seconds)
                p.add(fails, error)

        async def slow(clock, seconds):
            await Work(clock)(seconds)()

        async def fails(error):
            if error is not None:
                raise error

        await finish(clock, group(state, clock, again))
        before = state.metrics()
        state.save(keep)
        loaded = ExecutionState.load(keep)
        loaded._clock = clock
        assert loaded.metrics() == before
        await finish(clock, group(loaded, clock, None))
        metrics = loaded.metrics()
        (one,) = metrics.groups
        assert numbers(one, "added", "started", "completed", "replayed", "failed") == (3, 1, 3, 2, 0)
        assert numbers(one, "attempts", "busy_seconds", "speed_up", "peak") == (1, 0, None, 1)
        assert one.latency.count == 1
        loaded.save(keep)
        assert ExecutionState.load(keep).metrics().groups == metrics.groups

    run(main())


def test_a_group_that_was_saved_while_it_ran_does_not_run_for_ever(tmp_path):
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel(2, name="cut") as p:
                for seconds in (1, 2, 9):
                    p.add(work(seconds))

        task = asyncio.create_task(group())
        await clock.advance(4)
        state.save(tmp_path / "s")
        running = state.metrics().groups[0]
        assert numbers(running, "status", "running", "wall_seconds") == ("running", 1, 4)
        await clock.advance(30)
        await task
        loaded = ExecutionState.load(tmp_path / "s")
        (one,) = loaded.metrics().groups
        assert numbers(one, "status", "running", "completed", "started") == ("cancelled", 0, 2, 3)
        assert numbers(one, "wall_seconds", "busy_seconds", "peak") == (2, 3, 2)
        async with loaded.parallel(name="next") as p:
            p.add(asyncio.sleep(0))
            p.add(asyncio.sleep(0))
        metrics = loaded.metrics()
        assert metrics.group("cut#1") == one
        assert metrics.total.peak == 2  # what was cut off is not in flight any more

    run(main())


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=8))
def test_a_union_covers_each_second_once(spans):
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert union((float(start), float(length)) for start, length in spans) == len(seconds)
