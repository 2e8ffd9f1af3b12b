"""Times parallel groups; see `scripts/bench_groups`, which makes the environment for it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

from parallamr_mp.parallel import ExecutionState

LONG = 0.01
"""Seconds of the one task whose group is timed."""


async def task(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def task_group(tasks: int, workers: int) -> list[int]:
    """What one would write without us."""
    semaphore = asyncio.Semaphore(workers)

    async def bounded(number: int) -> int:
        async with semaphore:
            return await task(number)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(bounded(number)) for number in range(tasks)]
    return [one.result() for one in running]


async def our_group(tasks: int, workers: int) -> list[int]:
    async with ExecutionState().parallel(workers) as p:
        for number in range(tasks):
            p.add(task(number))
        return [result.unwrap() for result in await p.gather()]


async def our_group_with_events(tasks: int, workers: int) -> list[int]:
    """As above, with a handler that looks at every event."""
    state, seen = ExecutionState(), 0

    def handler(event: Any) -> None:
        nonlocal seen
        seen += event.is_parallel

    state.event_bus.subscribe(handler)
    async with state.parallel(workers) as p:
        for number in range(tasks):
            p.add(task, number)
        return [result.unwrap() for result in await p.gather()]


def timed(main: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    gc.collect()
    started = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - started


def overhead_of_one(rounds: int) -> float:
    """Seconds of processor time that a group of one task costs on top of the task."""

    async def main() -> float:
        best = float("inf")
        for _ in range(rounds * 20):
            started = time.thread_time()
            await asyncio.sleep(LONG)
            alone = time.thread_time() - started
            started = time.thread_time()
            async with ExecutionState().parallel() as p:
                p.add(asyncio.sleep(LONG))
            best = min(best, time.thread_time() - started - alone)
        return best

    return asyncio.run(main())


def bytes_a_task(tasks: int, workers: int) -> float:
    """What results and history hold once all is done."""

    async def main() -> float:
        state = ExecutionState()
        before = tracemalloc.get_traced_memory()[0]
        async with state.parallel(workers) as p:
            for number in range(tasks):
                p.add(task, number)
        return (tracemalloc.get_traced_memory()[0] - before) / tasks

    tracemalloc.start()
    try:
        return asyncio.run(main())
    finally:
        tracemalloc.stop()


def burn(rounds: int) -> int:
    """Keeps one core busy."""
    value = 1
    for _ in range(rounds):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return value


def same(number: int) -> int:
    return number


def rounds_for(seconds: float) -> int:
    """How many of `burn` take about as long, alone."""
    rounds, took = 10_000, 0.0
    while took < 0.05:
        rounds *= 2
        started = time.perf_counter()
        burn(rounds)
        took = time.perf_counter() - started
    return int(rounds * seconds / took)


def seconds_over(call: Callable[[int], int], arguments: list[int], procs: int, threads: int) -> float:
    """What a group over workers takes, the start and the end of its processes included."""
    gc.collect()
    started = time.perf_counter()
    with ExecutionState().parallel(procs=procs, threads=threads) as p:
        for argument in arguments:
            p.add(call, argument)
        for result in p.gather():
            result.unwrap()
    return time.perf_counter() - started


def over_workers(procs: int, seconds: float, tasks: int, rounds: int) -> dict[str, float]:
    """`procs` tasks that keep a core busy for so long, one by one and at once; and tasks of nothing."""
    work = [rounds_for(seconds)] * procs
    best: dict[str, float] = {}
    for _ in range(rounds):
        started = time.perf_counter()
        for one in work:
            burn(one)
        took = {
            "one_by_one_s": time.perf_counter() - started,
            "processes_s": seconds_over(burn, work, procs, 1),
            "process_task_us": seconds_over(same, list(range(tasks)), 2, 4) / tasks * 1e6,
            "thread_task_us": seconds_over(same, list(range(tasks)), 0, 8) / tasks * 1e6,
        }
        best = {name: min(best.get(name, value), value) for name, value in took.items()}
    return {**best, "speed_up": best["one_by_one_s"] / best["processes_s"]}


def tell_over_workers(procs: int, tasks: int, figures: dict[str, float]) -> None:
    print(f"{procs} tasks that keep a core busy (this machine has {os.cpu_count()})")
    print(f"  one after the other  {figures['one_by_one_s']:7.2f} s")
    print(f"  over {procs} processes     {figures['processes_s']:7.2f} s  x {figures['speed_up']:.2f}")
    print(f"{tasks:,} tasks of nothing, start and end of the workers included")
    print(f"  over 2 processes of 4 threads  {figures['process_task_us']:7.0f} µs a task")
    print(f"  over 8 threads                 {figures['thread_task_us']:7.0f} µs a task")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench_groups", description="Times parallel groups.")
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N", help="tasks of a group")
    parser.add_argument("--workers", type=int, default=100, metavar="N", help="how many of them at once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="the best of so many counts")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--procs", type=int, metavar="N", help="time workers instead, with N busy tasks")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each of these")
    options = parser.parse_args()
    if options.procs is not None:
        tasks = min(options.tasks, 10_000)
        figures = over_workers(options.procs, options.seconds, tasks, options.rounds)
        if options.json:
            print(json.dumps(figures))
        else:
            tell_over_workers(options.procs, tasks, figures)
        return
    best = {}
    for _ in range(options.rounds):  # in turns: a machine that is busy is so for all of them
        for way in (task_group, our_group, our_group_with_events):
            seconds = timed(lambda way=way: way(options.tasks, options.workers))  # type: ignore[misc]
            best[way.__name__] = min(best.get(way.__name__, seconds), seconds)
    figures = {
        "tasks": options.tasks,
        "workers": options.workers,
        "task_group_s": best["task_group"],
        "our_group_s": best["our_group"],
        "ratio": best["our_group"] / best["task_group"],
        "ratio_with_handler": best["our_group_with_events"] / best["task_group"],
        "one_task_us": overhead_of_one(options.rounds) * 1e6,
        "bytes_a_task": bytes_a_task(options.tasks, options.workers),
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.tasks:,} tasks, {options.workers} at once, best of {options.rounds}")
    print(f"  asyncio.TaskGroup with a semaphore  {figures['task_group_s']:7.2f} s")
    print(f"  parallel group                      {figures['our_group_s']:7.2f} s  x {figures['ratio']:.2f}")
    print(f"  … with a handler for every event    {'':7}    x {figures['ratio_with_handler']:.2f}")
    print(f"  memory, results and history         {figures['bytes_a_task']:7.0f} bytes a task")
    share = figures["one_task_us"] / (LONG * 1e6)
    print(f"a group of one task costs {figures['one_task_us']:.0f} µs: {share:.1%} of a task of 10 ms")


if __name__ == "__main__":
    main()
