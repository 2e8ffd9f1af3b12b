"""What happens meanwhile: a line an event, or a bar a group.

It prints, among others:

    Documents#1 started: 3 tasks
      Documents#1 ▸ [2/3] doc2 started
        doc1/Pages#1 started: 2 tasks
          doc1/Pages#1 ▸ [2/2] page 2 completed in
      Documents#1 ▸ [3/3] doc3 failed after
    Documents#1 completed: 2 of 3 done · 1 failed
    Documents: 2 done, 1 failed, 100 %

At a terminal the second part shows bars; without one, as here, plain lines
every few seconds and a summary of each group.
"""

from __future__ import annotations

import asyncio
import sys

from parallamr_mp.parallel import ExecutionState, ParallelDisplayMode, ParallelEventPrinter


async def read(page: int) -> int:
    await asyncio.sleep(0.1 * page)
    return page


async def digest(state: ExecutionState, number: int) -> int:
    if number == 3:
        raise ValueError("this document is empty")
    async with state.parallel(name="Pages") as p:
        for page in (1, 2):
            p.add(read, page, name=f"page {page}")
        return sum(result.unwrap() for result in await p.gather())


async def work(state: ExecutionState) -> None:
    async with state.parallel(name="Documents") as p:
        for number in (1, 2, 3):
            p.add(digest, state, number, name=f"doc{number}")


async def main() -> None:
    for mode in ParallelDisplayMode:
        print(f"--- {mode}")
        printer = ParallelEventPrinter(mode, sys.stdout)  # standard error, unless told otherwise
        state = ExecutionState()
        state.event_bus.subscribe(printer)
        await work(state)
        group = next(iter(printer.parallel_groups.values()))
        share = group.completion_percentage
        print(f"{group.name}: {group.completed} done, {group.failed} failed, {share:.0f} %")


asyncio.run(main())
