"""A run that broke off half-way, and its continuation: what was done is not done again.

It prints, among others:

    first run: 3 of 5 done, then: the network is gone
    second run: asked for d, e
    second run: a, b, c were replayed
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from parallamr_mp.parallel import ErrorStrategy, ExecutionState

asked: list[str] = []
online = False


async def expensive(item: str) -> str:
    await asyncio.sleep(0.02)
    if item == "d" and not online:
        raise ConnectionError("the network is gone")
    asked.append(item)
    return item.upper()


async def work(state: ExecutionState) -> None:
    async with state.parallel(max_workers=1, error_strategy=ErrorStrategy.FAIL_FAST, name="Items") as p:
        for item in "abcde":
            p.add(expensive, item, name=item)
        results = await p.gather()
    replayed = [result.name for result in results if result.is_replayed]
    print(f"second run: {', '.join(replayed)} were replayed")


async def main() -> None:
    global online  # noqa: PLW0603 - the network is global
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.json")

        state = ExecutionState()
        try:
            await work(state)
        except ConnectionError as error:
            print(f"first run: {len(asked)} of 5 done, then: {error}")
        state.save(path)

        asked.clear()
        online = True
        await work(ExecutionState.load(path))
        print(f"second run: asked for {', '.join(asked)}")


asyncio.run(main())
