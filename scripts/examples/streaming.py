"""Results as they come, the quickest first.

It prints, among others:

    1/4: the tortoise needed 0.1 s
    4/4: the hare needed 0.4 s
"""

from __future__ import annotations

import asyncio

from parallamr_mp.parallel import ExecutionState

RUNNERS = {"hare": 0.4, "horse": 0.2, "goat": 0.3, "tortoise": 0.1}  # the hare sleeps on the way


async def race(name: str) -> str:
    await asyncio.sleep(RUNNERS[name])
    return name


async def main() -> None:
    async with ExecutionState().parallel(timeout=5) as p:
        for name in RUNNERS:
            p.add(race(name), name=name)
        place = 0
        async for result in p.stream():
            place += 1
            print(f"{place}/{len(RUNNERS)}: the {result.name} needed {result.execution_time:.1f} s")


asyncio.run(main())
