"""Work of groups in tests: calls that take time by a clock wound by hand, and note what they saw."""

from __future__ import annotations

import asyncio

from parallamr_mp.parallel import ExecutionState
from support.grouping import HandClock, longest, settle


class Work:
    """Calls that take so many seconds of a clock wound by hand; each fails so often before it succeeds."""

    def __init__(self, clock):
        self.clock, self.inside, self.most, self.spent = clock, 0, 0, []

    def __call__(self, seconds, failures=0):
        left = iter(range(failures))

        async def call():
            self.inside += 1
            self.most = max(self.most, self.inside)
            began, due = self.clock.time, asyncio.get_running_loop().create_future()
            self.clock.call_later(seconds, lambda: due.done() or due.set_result(None))
            try:
                await due
            finally:
                self.inside -= 1
                self.spent.append(self.clock.time - began)
            if next(left, None) is not None:
                raise OSError("not yet")

        return call


def at_work(**options):
    clock = HandClock()
    return clock, ExecutionState(clock=clock, uniform=longest, **options), Work(clock)


async def finish(clock, group, step=0.5):
    """Lets time pass until the group is over."""
    task = asyncio.create_task(group)
    await settle()
    while not task.done():
        await clock.advance(step)
    return await task
