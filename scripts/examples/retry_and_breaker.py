"""A service that stumbles, tried again until it works; one that is down, left alone after three failures.

It prints, among others:

    stumbling: done at attempt 3
    down: 3 calls were made for 10 tasks
    down: Circuit breaker open
"""

from __future__ import annotations

import asyncio
from itertools import count

from parallamr_mp.parallel import ExecutionEvent, ExecutionState


async def main() -> None:
    state = ExecutionState()

    def tell(event: ExecutionEvent) -> None:
        if event.status == "retrying":
            print(f"  {event.name}: {event.error_message}; once more in {event.delay:.2f} s")

    state.event_bus.subscribe(tell)

    calls = count(1)

    async def stumble() -> str:
        number = next(calls)
        if number < 3:
            raise ConnectionError(f"connection {number} was reset")
        return "done"

    async with state.parallel(max_retries=5, retry_delay=0.1, retry_on=ConnectionError) as p:
        p.add(stumble, name="stumbling")
    (result,) = p.results
    print(f"stumbling: {result.unwrap()} at attempt {result.attempts}")

    made = count()

    async def down() -> None:
        next(made)
        raise ConnectionError("nobody there")

    async with state.parallel(max_workers=1, circuit_breaker_threshold=3) as p:
        for _ in range(10):
            p.add(down)
    print(f"down: {next(made)} calls were made for {len(p.results)} tasks")
    print(f"down: {p.results[-1].error_message}")


asyncio.run(main())
