"""Errors kept beside the results, the first error ending all, and a time limit for a group.

It prints, among others:

    slow: 2 of 3 worked; divide(1, 0) raised ZeroDivisionError: division by zero
    fast: stopped by division by zero
    time: group 'Patience' timed out after 0.2 s: 1 of 2 tasks were done
"""

from __future__ import annotations

import asyncio

from parallamr_mp.parallel import ErrorStrategy, ExecutionState


async def divide(a: float, b: float) -> float:
    await asyncio.sleep(0.05)
    return a / b


async def main() -> None:
    state = ExecutionState()

    async with state.parallel(name="All of them") as p:  # FAIL_SLOW: errors are results
        for number in (2, 1, 0):
            p.add(divide, 1, number, name=f"divide(1, {number})")
        results = await p.gather()
    worked = [result for result in results if result.ok]
    (bad,) = (result for result in results if not result.ok)
    print(
        f"slow: {len(worked)} of {len(results)} worked; "
        f"{bad.name} raised {bad.error_type}: {bad.error_message}"
    )

    try:
        async with state.parallel(error_strategy=ErrorStrategy.FAIL_FAST) as p:
            p.add(divide, 1, 0)
            p.add(asyncio.sleep, 60)  # cancelled
    except ZeroDivisionError as error:
        print(f"fast: stopped by {error}")

    try:
        async with state.parallel(timeout=0.2, name="Patience") as p:
            p.add(divide, 6, 3)
            p.add(asyncio.sleep, 60)  # cancelled
    except TimeoutError as error:
        print(f"time: {error}; what was done: {[result.result for result in p.results]}")


asyncio.run(main())
