"""Different questions about one text, and their answers by name.

It prints, among others:

    words: 17
    longest: everything
    task_2: 2
"""

from __future__ import annotations

import asyncio

from parallamr_mp.parallel import ExecutionState

TEXT = "A group needs a name, a task may have one, and everything else is a number. Indeed."


async def ask(question: object) -> object:
    await asyncio.sleep(0.05)
    return question(TEXT) if callable(question) else question


async def main() -> None:
    async with ExecutionState().parallel(name="Questions") as p:
        p.add(ask, lambda text: len(text.split()), name="words")
        p.add(ask, lambda text: max(text.split(), key=len), name="longest")
        p.add(ask, lambda text: text.count(","))  # without a name: task_2
        answers = await p.gather_dict()
    for name, answer in answers.items():
        print(f"{name}: {answer.unwrap()}")


asyncio.run(main())
