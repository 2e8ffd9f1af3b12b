"""A group as its user sees it: `add`, `gather`, `gather_dict`, `stream`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from types import CoroutineType, TracebackType
from typing import Any, Self, TypeVar, cast

from parallamr_mp.events import EventBus
from parallamr_mp.parallel.clock import Clock
from parallamr_mp.parallel.enums import GroupStatus
from parallamr_mp.parallel.executor import AsyncioExecutor, Executor
from parallamr_mp.parallel.options import GroupOptions, check_name
from parallamr_mp.parallel.plain import PlainGroup
from parallamr_mp.parallel.portal import Portal
from parallamr_mp.parallel.record import Recorder
from parallamr_mp.parallel.result import ExecutionResult
from parallamr_mp.parallel.run import GroupRun
from parallamr_mp.parallel.saving import Replay
from parallamr_mp.parallel.task import NOTHING, Call, Group, Task, current, label_of
from parallamr_mp.parallel.workers import WorkerExecutor
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.retry import RetryPolicy

T = TypeVar("T")


class ParallelExecutionManager:
    """One group of tasks; made by `ExecutionState.parallel`, used in its `async with` block.

    >>> import asyncio
    >>> from parallamr_mp.parallel import ExecutionState
    >>> async def divide(a, b):
    ...     return a / b
    >>> async def main():
    ...     async with ExecutionState().parallel() as p:
    ...         p.add(divide, 6, 3, name="good")
    ...         p.add(divide, 6, 0, name="bad")
    ...         results = await p.gather_dict()
    ...     return results["good"].unwrap(), results["bad"].error_message
    >>> asyncio.run(main())
    (2.0, 'division by zero')

    Tasks start with the first `gather`, `gather_dict` or `stream`, or at the
    end of the block. However the block is left, nothing of the group is running
    afterwards: an exception in it, or the cancellation of whoever waits for the
    group, cancels all tasks and waits for their end.
    """

    def __init__(
        self,
        group: Group,
        options: GroupOptions,
        *,
        recorder: Recorder,
        replay: Callable[[Sequence[Task]], Replay],
        notify: Callable[[str], None],
        bus: EventBus,
        clock: Clock,
        uniform: Callable[[float, float], float],
        portal: Portal,
    ) -> None:
        self._group, self._options = group, options
        self._recorder, self._replay, self._notify, self._bus = recorder, replay, notify, bus
        self._clock, self._uniform = clock, uniform
        self._tasks: list[Task] = []
        self._names: set[str] = set()
        self._entered = False
        self._run: GroupRun | None = None
        self._executor: Executor = (
            AsyncioExecutor() if options.procs is None else WorkerExecutor(options.procs, options.threads)
        )
        self._portal = portal
        self._plain = False
        """In a plain `with`: what waits, waits in the caller's thread."""
        self._told = False
        """What ended the group early has been raised."""

    @property
    def name(self) -> str:
        return self._group.name

    @property
    def group_id(self) -> str:
        """The same in every run of the same program on the same (loaded) state."""
        return self._group.id

    @property
    def address(self) -> str:
        return self._group.address

    @property
    def status(self) -> GroupStatus:
        return self._group.status

    @property
    def results(self) -> list[ExecutionResult]:
        """What is done so far, in the order of `add`: also after a time-out or an error."""
        finished = () if self._run is None else self._run.finished
        return sorted(finished, key=lambda result: result.index)

    def add(self, call: Call, /, *args: Any, name: str | None = None, **kwargs: Any) -> None:
        """Adds a task: an awaitable, or a callable that is called with `args` and `kwargs`.

        What the callable returns is awaited if it is awaitable. Only callables
        can be tried again: with `max_retries`, an awaitable is a `TypeError`. A
        `name` that is taken is a `ValueError`; after `gather` or `stream`,
        `add` is a `RuntimeError`.
        """
        try:
            self._add(call, args, name, kwargs)
        except BaseException:
            if isinstance(call, CoroutineType):
                call.close()  # refused, which is told: not "never awaited"
            raise

    def gather(self) -> Coroutine[Any, Any, list[ExecutionResult]]:
        """Runs all tasks; their results, in the order of `add`. To be awaited in an `async with` only.

        Raises the first error (`FAIL_FAST`), or a `TimeoutError` after the
        group's time. Again: the same.
        """
        return self._waited(self._gather, lambda: self.results)

    def gather_dict(self) -> Coroutine[Any, Any, dict[str, ExecutionResult]]:
        """As `gather`, by name; tasks without one are called `task_<index>`."""
        return self._waited(self._gather_dict, self._by_name)

    def stream(self) -> AsyncGenerator[ExecutionResult]:
        """Runs all tasks and yields their results as they come; raises what `gather` does, after them.

        For an `async for` in an `async with`, for a `for` in a `with`. Leaving
        the loop early leaves the tasks running until they are gathered or the
        block ends. Again, it begins with the first result once more.
        """
        return cast("Any", self._plain_stream()) if self._plain else self._stream(self._begin())

    async def _gather(self) -> list[ExecutionResult]:
        await self._wait(self._begin())
        self._raise_what_ended_it()
        return self.results

    async def _gather_dict(self) -> dict[str, ExecutionResult]:
        await self._gather()
        return self._by_name()

    def _by_name(self) -> dict[str, ExecutionResult]:
        return {result.name: result for result in self.results}

    def _waited(
        self, wait: Callable[[], Coroutine[Any, Any, T]], done: Callable[[], T]
    ) -> Coroutine[Any, Any, T]:
        """A coroutine for the caller to await; in a plain `with`, what it comes to."""
        if not self._plain:
            return wait()
        if self._run is None or not self._run.over.done():
            value = self._portal.call(wait)
        else:
            self._raise_what_ended_it()  # maybe after the block, when there is nobody left to wait for
            value = done()
        return cast("Coroutine[Any, Any, T]", value)  # see `PlainGroup`

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"group {self.name!r} is used for a second block; open a new one")
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self._wait(self._begin())
            if not self._told:
                self._raise_what_ended_it()
            return
        if self._run is None:  # nothing has started
            self._group.status = GroupStatus.CANCELLED
            self._group.ended_by(error)
            for task in self._tasks:
                self._executor.discard(task)
        else:
            self._run.end(GroupStatus.CANCELLED, error)
        if not _on_a_loop():  # a coroutine that is closed or collected: nothing runs that could be waited for
            return
        if self._run is None:
            await self._close()
        else:
            await self._wait(self._run)

    def __enter__(self) -> PlainGroup:
        if self._options.procs is None:
            raise TypeError(
                "this group runs on an event loop: use `async with`;"
                " or give procs= or threads= for plain functions in a plain `with`"
            )
        if self._entered:
            raise RuntimeError(f"group {self.name!r} is used for a second block; open a new one")
        self._portal.enter()
        self._entered = self._plain = True
        return cast("PlainGroup", self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        begun = False

        async def end(error: BaseException | None) -> None:
            nonlocal begun
            begun = True
            await self.__aexit__(type(error) if error else None, error, None)

        try:
            self._portal.call(partial(end, error))
        except BaseException as interruption:
            if not begun:  # so early was it that nothing of the group has been ended
                self._portal.call(partial(end, interruption))
            raise
        finally:
            self._portal.leave()

    def __repr__(self) -> str:
        return f"<group {self.address!r}: {self.status}, {len(self._tasks)} tasks>"

    def _add(self, call: Call, args: tuple[Any, ...], name: str | None, kwargs: dict[str, Any]) -> None:
        if not self._entered:
            block = "async with" if self._options.procs is None else "with"
            raise RuntimeError(f"tasks are added inside the block of `{block} state.parallel(…) as p:`")
        if self._run is not None or self.status is not GroupStatus.PENDING:
            raise RuntimeError(f"group {self.name!r} is {self.status}: add all tasks before gathering them")
        awaitable = isinstance(call, Awaitable)
        if awaitable:
            if args or kwargs:
                raise TypeError("an awaitable takes no arguments; give the function itself: add(f, x)")
            if self._options.procs is not None:
                raise TypeError(
                    "an awaitable belongs to an event loop, and this group runs its tasks in workers; "
                    "give the function itself: add(f, x), not add(f(x))"
                )
            if self._options.max_retries:
                raise TypeError(
                    "an awaitable can be awaited once, and this group retries; "
                    "give a callable instead: add(f, x) or add(lambda: f(x)), not add(f(x))"
                )
            if isinstance(call, asyncio.Future) and call.get_loop() is not asyncio.get_running_loop():
                raise ValueError("the future belongs to another event loop, and can be awaited there alone")
        elif not callable(call):
            raise TypeError(
                f"add takes an awaitable or a callable, not {call!r};"
                " give it the function itself: add(f, x), not add(f(x))"
            )
        if name is not None:
            check_name(name)
        index = len(self._tasks)
        unique = f"task_{index}" if name is None else name
        if unique in self._names:
            raise ValueError(f"group {self.name!r} has a task {unique!r} already; names must differ")
        self._names.add(unique)
        self._tasks.append(
            Task(
                self._group,
                index,
                unique,
                call,
                args,
                kwargs or NOTHING,
                repeatable=not awaitable,
                label=label_of(call),
            )
        )

    def _begin(self) -> GroupRun:
        """The run of the group, which starts here if nobody has started it."""
        inside = current.get()
        if inside is not None and inside.is_within(self._group):
            raise RuntimeError(f"task {inside.address!r} cannot wait for its own group: neither would end")
        if self._run is not None:
            return self._run
        if not self._entered:
            raise RuntimeError("use the group as `async with state.parallel(…) as p:`")
        if self.status is not GroupStatus.PENDING:
            raise RuntimeError(f"group {self.name!r} was left before it began")
        options = self._options
        replay = self._replay(self._tasks)
        if replay.again:
            self._notify(f"group {self.name!r}: {replay.notice}")
        self._run = GroupRun(
            self._group,
            self._tasks,
            options,
            executor=self._executor,
            retry=RetryPolicy(options.max_retries, options.retry_delay, uniform=self._uniform),
            breaker=_breaker(options),
            recorder=self._recorder,
            replay=replay.results,
            clock=self._clock,
            bus=self._bus,
        )
        self._run.start()
        return self._run

    async def _stream(self, run: GroupRun) -> AsyncGenerator[ExecutionResult]:
        seen = 0
        while True:
            while seen < len(run.finished):
                yield run.finished[seen]
                seen += 1
            if run.over.done():
                break
            await self._wait(run, seen)
        await self._close()
        self._raise_what_ended_it()

    def _plain_stream(self) -> Generator[ExecutionResult]:
        seen = 0
        while self._run is None or not self._run.over.done():
            self._portal.call(lambda seen=seen: self._wait_for_more(seen))  # type: ignore[misc]
            assert self._run is not None
            while seen < len(self._run.finished):  # it only grows, and by one thread
                yield self._run.finished[seen]
                seen += 1
        while seen < len(self._run.finished):
            yield self._run.finished[seen]
            seen += 1
        self._raise_what_ended_it()

    async def _wait_for_more(self, seen: int) -> None:
        await self._wait(self._begin(), seen)

    async def _wait(self, run: GroupRun, seen: int | None = None) -> None:
        """For the end of the group, or for more than `seen` results. Cancelled: for the end all the same."""
        try:
            await (run.wait() if seen is None else run.wait_for_more(seen))
        except asyncio.CancelledError:
            self._told = True
            raise
        finally:
            if run.over.done():
                await self._close()

    async def _close(self) -> None:
        """Nothing is left: neither tasks nor events that async handlers have not seen."""
        await self._executor.close()
        await self._bus.drain()

    def _raise_what_ended_it(self) -> None:
        error = self._group.error
        if error is None:
            return
        told, self._told = self._told, True
        if self.status is GroupStatus.CANCELLED and (told or isinstance(error, asyncio.CancelledError)):
            done, total = len(self.results), len(self._tasks)
            raise RuntimeError(f"group {self.name!r} was cancelled: {done} of {total} tasks were done")
        raise error.with_traceback(self._group.traceback)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _breaker(options: GroupOptions) -> CircuitBreaker | None:
    """The sweep's breaker, opened by failures in a row alone, for a time that is given and not drawn."""
    if options.circuit_breaker_threshold is None:
        return None
    return CircuitBreaker(
        options.circuit_breaker_threshold,
        share=float("inf"),
        base=options.circuit_breaker_timeout,
        cap=options.circuit_breaker_timeout,
        uniform=lambda _low, _high: 1.0,
    )
