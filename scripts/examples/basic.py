"""Three documents at once, at most two at a time, and their results in order.

It prints, among others:

    a.txt: 5 words
    c.txt: 9 words
    3 documents in one group
"""

from __future__ import annotations

import asyncio

from parallamr_mp.parallel import ExecutionState

DOCUMENTS = {
    "a.txt": "the quick brown fox jumps",
    "b.txt": "over the lazy dog",
    "c.txt": "and what the dog thought of it nobody asked",
}


async def count_words(name: str) -> int:
    await asyncio.sleep(0.1)  # as if it were fetched from somewhere
    return len(DOCUMENTS[name].split())


async def main() -> None:
    state = ExecutionState()
    async with state.parallel(max_workers=2, name="Documents") as p:
        for name in DOCUMENTS:
            p.add(count_words(name))
        results = await p.gather()
    for name, result in zip(DOCUMENTS, results, strict=True):
        print(f"{name}: {result.unwrap()} words")
    print(f"{len(results)} documents in one group")


asyncio.run(main())
