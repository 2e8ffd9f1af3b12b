"""What a group does, from its first task to its end.

    tasks ─► _next ─► (replayed? rejected?) ─► Executor.start ─► attempt
               ▲                                                   │
               └── waiting, until due ◄── RetryPolicy ◄── error ◄──┤
                                              │                    │ value
                                              └──► ExecutionResult ◄┘ ─► finished ─► gather, stream

All of it happens in callbacks of the group's event loop: no lock, and no
asyncio task but those of the attempts in flight. A task that waits for its
retry holds none of the group's places. Whatever ends a group goes through
`end`: nothing starts any more, what is in flight is cancelled; when the last of
it is back, `_check_over` sets `over`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from parallamr_mp.errors import CircuitOpen, NotPicklable, ProviderError, WorkerDied
from parallamr_mp.events import EventBus
from parallamr_mp.models import Failure
from parallamr_mp.parallel.clock import Clock, Timer
from parallamr_mp.parallel.enums import ErrorStrategy, ExecutionStatus, GroupStatus
from parallamr_mp.parallel.executor import Executor
from parallamr_mp.parallel.options import GroupOptions
from parallamr_mp.parallel.record import Recorder
from parallamr_mp.parallel.result import ExecutionResult, failed, message_of
from parallamr_mp.parallel.task import Group, Task
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.retry import RetryPolicy

_BATCH = 256
"""Tasks that are over at once (replayed, rejected) before the event loop gets its turn."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """Why a group ends before all its tasks have their results."""

    status: GroupStatus
    error: BaseException | None
    """None: its time is over."""


class GroupRun:
    """Runs `tasks`; `replay` has, by index, the results of those that an earlier run completed."""

    def __init__(
        self,
        group: Group,
        tasks: Sequence[Task],
        options: GroupOptions,
        *,
        executor: Executor,
        retry: RetryPolicy,
        breaker: CircuitBreaker | None,
        recorder: Recorder,
        replay: Mapping[int, ExecutionResult],
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self._group, self._tasks, self._options = group, tasks, options
        self._executor, self._retry, self._breaker = executor, retry, breaker
        self._recorder, self._replay, self._clock = recorder, replay, clock
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._position = 0
        """Of the next task that has not been looked at."""
        self._waiting: list[tuple[float, int, Task]] = []
        """A heap: when they are due for their retry, in monotonic seconds."""
        self._held: list[Task] = []
        """Those with retries left that came while the breaker's probe was out: its fate is theirs."""
        self._order = count()
        self._in_flight = 0
        self._ending: _Ending | None = None
        self._retry_timer: Timer | None = None
        self._armed_for = 0.0
        self._deadline: Timer | None = None
        self._started = 0.0
        self._watchers: list[asyncio.Future[None]] = []
        """Those who wait for the next result."""
        self.finished: list[ExecutionResult] = []
        """In the order of completion."""
        self.over = self._loop.create_future()

    def start(self) -> None:
        """Lets as many tasks begin as may run at once."""
        try:
            self._start()
        except BaseException as error:  # what handlers may raise: nobody would wait for this group any more
            self.end(GroupStatus.CANCELLED, error)
            raise

    def _start(self) -> None:
        group = self._group
        group.total, group.status = len(self._tasks), GroupStatus.RUNNING
        group.started_at, self._started = self._clock.wall(), self._clock.now()
        self._recorder.group(group)
        self._executor.open(self, len(self._tasks) - len(self._replay))
        if self._options.timeout is not None:
            self._deadline = self._clock.call_later(self._options.timeout, self._time_is_over)
        self._fill()

    def end(self, status: GroupStatus, error: BaseException | None) -> None:
        """Starts nothing more and cancels what is in flight. Again: only cancels again."""
        if self._ending is None and not self.over.done():
            self._ending = _Ending(status, error)
            waiting = [*self._held, *(task for _, _, task in self._waiting)]
            for task in sorted(waiting, key=lambda task: task.index):
                if task.strikes:
                    self._cancelled(task)
                else:  # held back before its first attempt
                    self._executor.discard(task)
            self._held.clear()
            self._waiting.clear()
            for task in self._tasks[self._position :]:
                self._executor.discard(task)
            self._position = len(self._tasks)
        self._executor.cancel()
        self._check_over()

    async def wait(self) -> None:
        """Returns when the group is over. Cancelled: ends the group first, whatever it takes."""
        cancelled = None
        while not self.over.done():
            try:
                await asyncio.wait([self.over])
            except asyncio.CancelledError as error:
                cancelled = error
                self.end(GroupStatus.CANCELLED, error)
        if cancelled is not None:
            raise cancelled

    async def wait_for_more(self, seen: int) -> None:
        """Returns when there are more than `seen` results, or the group is over. Cancelled: as `wait`."""
        while len(self.finished) <= seen and not self.over.done():
            watcher = self._loop.create_future()
            self._watchers.append(watcher)
            try:
                await watcher
            except asyncio.CancelledError as error:
                self.end(GroupStatus.CANCELLED, error)
                await self.wait()
                raise

    def _fill(self) -> None:
        if self._ending is None and self._bus.congested:
            self._bus.when_room(self._fill)
            self._check_over()
            return
        at_once = 0
        while (
            self._ending is None and self._in_flight < self._options.max_workers and self._executor.has_room
        ):
            if (task := self._next()) is None:
                break
            if not self._begin(task):
                at_once += 1
                if at_once == _BATCH:
                    self._loop.call_soon(self._fill)
                    return
        if self._waiting:
            self._arm()
        self._check_over()

    def _next(self) -> Task | None:
        if self._waiting and self._waiting[0][0] <= self._clock.now():
            return heappop(self._waiting)[2]
        if self._position < len(self._tasks):
            self._position += 1
            return self._tasks[self._position - 1]
        return None

    def _begin(self, task: Task) -> bool:
        """Whether an attempt is in flight now; else the task is over or waits."""
        if self._replay and task.strikes == 0 and (result := self._replay.get(task.index)) is not None:
            task.started_at = self._clock.wall()
            self._recorder.started(task, replayed=True)
            self._executor.discard(task)
            self._completed(task, result)
            return False
        now = self._clock.now()
        if self._breaker is not None:
            wait = self._breaker.wait(now)
            if wait == math.inf and task.repeatable and self._options.max_retries:
                self._held.append(task)
                return False
            if wait > 0:
                self._failed(task, CircuitOpen(), now, wait, rejected=True)
                return False
            task.probe = self._breaker.leased(now)
        task.attempts += 1
        if task.attempts == 1:
            task.started_at = self._clock.wall()
            self._recorder.started(task)
        task.began = now
        self._in_flight += 1
        self._executor.start(task)
        return True

    def ended(
        self, task: Task, value: Any, error: BaseException | None, seconds: float | None = None
    ) -> None:
        """Called by the executor: an attempt has ended."""
        self._in_flight -= 1
        now = self._clock.now()
        task.seconds += now - task.began if seconds is None else seconds
        try:
            self._judge(task, value, error, now)
        except Exception as trouble:
            # An error that cannot even be looked at; without this, no end would come.
            self.end(GroupStatus.FAILED, trouble)
        if task.probe:
            for held in self._held:
                heappush(self._waiting, (now, next(self._order), held))
            self._held.clear()
        self._fill()

    def _judge(self, task: Task, value: Any, error: BaseException | None, now: float) -> None:
        """Whether the task has its result now, or is tried again."""
        if error is None:
            if self._breaker is not None:
                self._breaker.succeeded(now, task.began, task.probe)
            self._executor.discard(task)
            self._completed(
                task,
                ExecutionResult(True, value, None, None, task.seconds, task.attempts, task.index, task.name),
            )
        elif isinstance(error, Exception):
            if self._breaker is not None:
                self._breaker.failed(now, task.began, task.probe)
            # To come back while the breaker is open would only use up a retry.
            self._failed(task, error, now, 0.0 if self._breaker is None else self._breaker.wait(now))
        else:
            if self._breaker is not None:
                self._breaker.abandoned(task.probe)
            if isinstance(error, asyncio.CancelledError):
                if self._ending is not None:
                    self._cancelled(task)
                else:  # by itself, or by one it awaited: an error of this task alone
                    self._failed(task, error, now)
            else:
                self._failed(task, error, now)
                self.end(GroupStatus.CANCELLED, error)

    def lost(self, task: Task, error: Exception) -> None:
        """Called by the executor: the attempt begins once more. No retry is used up."""
        now = self._clock.now()
        task.seconds += now - task.began
        task.began = now
        self._recorder.retrying(task, 0.0, error)
        task.attempts += 1

    def has_room(self) -> None:
        """Called by the executor: more can begin."""
        self._fill()

    def broken(self, error: BaseException) -> None:
        """Called by the executor: nothing can be run any more, or shall be."""
        self.end(GroupStatus.FAILED if isinstance(error, Exception) else GroupStatus.CANCELLED, error)

    def _failed(
        self,
        task: Task,
        error: BaseException,
        now: float,
        retry_after: float = 0.0,
        *,
        rejected: bool = False,
    ) -> None:
        task.strikes += 1
        if task.troubled_since is None:
            task.troubled_since = now
        if task.repeatable and self._ending is None:
            # To be rejected is no error of the task's: `retry_on` does not speak of it.
            retry_on = (CircuitOpen,) if rejected else self._options.retry_on
            failure = failure_of(error, retry_on, retry_after)
            delay = self._retry.delay(failure, task.strikes, "", now - task.troubled_since)
            if delay is not None:
                self._recorder.retrying(task, delay, error)
                heappush(self._waiting, (now + delay, next(self._order), task))
                return
        self._executor.discard(task)
        result = failed(
            error,
            index=task.index,
            name=task.name,
            attempts=task.attempts,
            execution_time=task.seconds,
        )
        self._group.failed += 1
        self._recorder.ended(task, ExecutionStatus.FAILED, result)
        self._finish(result)
        if self._options.error_strategy is ErrorStrategy.FAIL_FAST and self._ending is None:
            self.end(GroupStatus.FAILED, error)

    def _completed(self, task: Task, result: ExecutionResult) -> None:
        self._group.completed += 1
        self._group.replayed += result.is_replayed
        self._recorder.ended(task, ExecutionStatus.COMPLETED, result)
        self._finish(result)

    def _cancelled(self, task: Task) -> None:
        """It had begun when the group was ended, and has no result."""
        self._executor.discard(task)
        self._group.cancelled += 1
        error = asyncio.CancelledError("its group was ended")
        result = failed(
            error, index=task.index, name=task.name, attempts=task.attempts, execution_time=task.seconds
        )
        self._recorder.ended(task, ExecutionStatus.CANCELLED, result)

    def _finish(self, result: ExecutionResult) -> None:
        self.finished.append(result)
        if self._watchers:
            self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    def _arm(self) -> None:
        """Sees to it that the next retry comes when it is due.

        With all places taken, the attempt that ends first sees to it, or the executor that has room again.
        """
        due = self._waiting[0][0]
        if self._in_flight >= self._options.max_workers or not self._executor.has_room:
            return
        if self._retry_timer is not None and self._armed_for == due:
            return
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._armed_for = due
        self._retry_timer = self._clock.call_later(max(0.0, due - self._clock.now()), self._retry_is_due)

    def _retry_is_due(self) -> None:
        self._retry_timer = None
        self._fill()

    def _time_is_over(self) -> None:
        self.end(GroupStatus.FAILED, None)

    def _check_over(self) -> None:
        left = self._position < len(self._tasks) or self._waiting
        if self._in_flight or (left and self._ending is None) or self.over.done():
            return
        for timer in (self._retry_timer, self._deadline):
            if timer is not None:
                timer.cancel()
        group, ending = self._group, self._ending
        group.ended_at, group.seconds = self._clock.wall(), self._clock.now() - self._started
        if ending is None:
            group.status = GroupStatus.COMPLETED
        else:
            group.status = ending.status
            group.ended_by(
                ending.error
                or TimeoutError(
                    f"group {group.name!r} timed out after {self._options.timeout:g} s: "
                    f"{len(self.finished)} of {len(self._tasks)} tasks were done"
                )
            )
        try:
            self._recorder.group(group)
        finally:  # a handler may end the program; the group is over all the same
            self.over.set_result(None)
            self._wake()


def failure_of(
    error: BaseException, retry_on: tuple[type[BaseException], ...], retry_after: float = 0.0
) -> Failure:
    """An error as the policies see it; those of providers know best whether to be tried again, and when."""
    retryable = isinstance(error, retry_on)
    wait = retry_after if math.isfinite(retry_after) else 0.0  # the breaker's probe is out: who knows
    if isinstance(error, NotPicklable | WorkerDied):
        retryable = False  # the same again, or has been tried often enough
    if isinstance(error, ProviderError):
        retryable = retryable and error.retryable
        wait = max(wait, error.retry_after or 0.0)
    return Failure(type(error).__name__, message_of(error), retryable=retryable, retry_after=wait)
