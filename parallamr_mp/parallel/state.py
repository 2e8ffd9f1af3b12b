"""The home of parallel groups: their event bus, their history, and what replays it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from parallamr_mp.events import EventBus, Notice
from parallamr_mp.parallel import saving
from parallamr_mp.parallel.clock import Clock, LoopClock
from parallamr_mp.parallel.enums import ErrorStrategy
from parallamr_mp.parallel.manager import ParallelExecutionManager
from parallamr_mp.parallel.measuring import metrics_of
from parallamr_mp.parallel.metrics import StateMetrics
from parallamr_mp.parallel.options import GroupOptions, check, check_name, strategy_of
from parallamr_mp.parallel.portal import Portal
from parallamr_mp.parallel.record import History, Recorder
from parallamr_mp.parallel.task import Group, current, quoted

_log = logging.getLogger(__name__)


class ExecutionState:
    """Opens groups, keeps what happened in them, and can be saved and gone on with.

    >>> import asyncio
    >>> async def double(number):
    ...     return 2 * number
    >>> async def main():
    ...     state = ExecutionState()
    ...     async with state.parallel(name="Numbers") as p:
    ...         for number in range(3):
    ...             p.add(double, number)
    ...     print([result.unwrap() for result in await p.gather()])
    ...     print([event.address for event in state.history if event.status == "completed"])
    >>> asyncio.run(main())
    [0, 2, 4]
    ['Numbers#1/task_0', 'Numbers#1/task_1', 'Numbers#1/task_2', 'Numbers#1']

    Used by one event loop at a time. It holds the results of its groups for as
    long as it lives.

    `state_id` makes the ids of groups the same in every run of a program; one
    that is loaded has that of the one that was saved. `clock` and `uniform`
    (the jitter's source) are for tests.
    """

    def __init__(
        self,
        event_bus: EventBus | None = None,
        *,
        state_id: str | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.event_bus = EventBus() if event_bus is None else event_bus
        self.history = History()
        """Every event of every group so far, in order. A replayed task keeps its old ones."""
        self._file = saving.new_file(state_id or uuid.uuid4().hex)
        """What was loaded."""
        self._told: set[str] = set()
        """The addresses of those whose results could not be saved, which is said once."""
        self._clock: Clock = LoopClock() if clock is None else clock
        self._uniform = uniform
        self._portal = Portal()
        # Tasks in threads may open groups of their own at the same time.
        self._lock = threading.Lock()
        self._groups: Counter[str] = Counter()
        """How many groups have been opened so far, by their address without its number."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ExecutionState stays in its process; a task may make one of its own")

    @property
    def id(self) -> str:
        return self._file.state_id

    def parallel(
        self,
        max_workers: int = 5,
        *,
        error_strategy: ErrorStrategy | str = ErrorStrategy.FAIL_SLOW,
        timeout: float | None = None,
        name: str | None = None,
        max_retries: int = 0,
        retry_delay: float = 1.0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        circuit_breaker_threshold: int | None = None,
        circuit_breaker_timeout: float = 30.0,
        procs: int | None = None,
        threads: int | None = None,
    ) -> ParallelExecutionManager:
        """A group for an `async with`: at most `max_workers` of its tasks run at once, on the event loop.

        With `procs` or `threads`, its tasks are plain functions that run in
        `procs` worker processes of `threads` threads each (1 if not given);
        that is the limit then, in place of `max_workers`. `procs=0`, or
        `threads` alone, means threads of this process. Such a group is for a
        plain `with`, or an `async with`. Functions and arguments cross to
        worker processes by cloudpickle, so they may be of a notebook or script;
        what tasks print is printed here, in whole lines. A task that kills its
        process is tried again, twice at most, as are others that were running
        there. A process does not outlive the group, however that ends; threads
        cannot be killed, and are waited for.

        `error_strategy`: whether the first error ends the group. `timeout`:
        seconds for the whole group, from the first task's start on.
        `max_retries`: how often a task that raised one of `retry_on` is tried
        again; the wait after its n-th failure is drawn from 0 to `retry_delay`
        · 2^(n-1) seconds, at most 60 (`policy.retry`). It holds no worker while
        it waits.

        `circuit_breaker_threshold`: after so many failures in a row (None:
        never) nothing is tried for `circuit_breaker_timeout` seconds; then one
        task is, and its success lets the others go on (`policy.breaker`).
        Meanwhile tasks fail with `CircuitOpen`; those with retries left use one
        up and come back when the time is over, and wait for the outcome of the
        one that is tried.

        A group that a task opens on the same state has a limit of its own: the
        task that waits for it keeps its place in the outer group, so both
        limits hold, and they cannot block each other.
        """
        if procs is None and threads is not None:
            procs = 0
        threads = 1 if threads is None else threads
        options = GroupOptions(
            max_workers=max_workers,
            error_strategy=strategy_of(error_strategy),
            timeout=timeout,
            max_retries=max_retries,
            retry_delay=retry_delay,
            retry_on=(retry_on,) if isinstance(retry_on, type | str) else tuple(retry_on),
            circuit_breaker_threshold=circuit_breaker_threshold,
            circuit_breaker_timeout=circuit_breaker_timeout,
            procs=procs,
            threads=threads,
        )
        check(options)
        if name is not None:
            check_name(name)
        if procs is not None:
            options = replace(options, max_workers=max(1, procs) * threads)
        return ParallelExecutionManager(
            self._new_group(name or "group", options.max_workers),
            options,
            recorder=Recorder(self.history, self.event_bus, self._clock),
            replay=lambda tasks: saving.replay_of(tasks, self._file),
            notify=self._notify,
            bus=self.event_bus,
            clock=self._clock,
            uniform=self._uniform,
            portal=self._portal,
        )

    def metrics(self) -> StateMetrics:
        """The numbers of all groups so far, each and together; also good while groups are running.

        They are read from the history when asked for, which takes some 7 µs a
        task, and go to JSON (`model_dump_json`) and to Prometheus (`to_prometheus`).

        >>> import asyncio
        >>> async def main():
        ...     state = ExecutionState()
        ...     async with state.parallel(max_workers=2, name="Naps") as p:
        ...         for _ in range(4):
        ...             p.add(asyncio.sleep, 0.01)
        ...     return state.metrics()
        >>> naps = asyncio.run(main()).group("Naps#1")
        >>> naps.completed, naps.peak, naps.latency.count
        (4, 2, 4)
        """
        return metrics_of(
            self.history.entries,
            state_id=self.id,
            now=self._clock.wall(),
            loaded=len(self._file.events),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes history and results as JSON; the file is replaced whole or not at all.

        Results that JSON would not bring back as they are (see
        `parallel.codec`) are left out, which is told: their tasks run again.
        Also good while groups are running.
        """
        file = saving.written(self.history.entries, self._file)
        new = file.unsaved.keys() - self._file.unsaved.keys() - self._told
        self._told |= new
        if new:
            self._notify(
                saving.Replay(
                    {}, tuple(f"{address} ({file.unsaved[address]})" for address in sorted(new))
                ).notice.replace("must run again", "will have to run again, for want of a result to save")
            )
        saving.write(path, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str], event_bus: EventBus | None = None) -> ExecutionState:
        """The state that was saved. Its groups, opened again, run only what was not completed.

        A group is known by its name and by how many of that name were opened
        before it (in the same task, if it is a task that opens it); a task by
        its name, or its index if it has none, and by the function that it
        calls. Name tasks whose order may change.

        Raises `BadInput` if the file is something else.
        """
        state = cls(event_bus)
        state._file = saving.read(path)
        state.history = History(state._file.events)
        return state

    def _new_group(self, name: str, max_workers: int) -> Group:
        parent = current.get()
        inside = parent is not None and parent.group.state is self
        address = f"{parent.address}/{quoted(name)}" if inside and parent is not None else quoted(name)
        with self._lock:
            self._groups[address] += 1
            address = f"{address}#{self._groups[address]}"
        digest = hashlib.sha256(json.dumps([self.id, address]).encode())
        return Group(digest.hexdigest()[:16], address, name, max_workers, self)

    def _notify(self, text: str) -> None:
        _log.warning("%s", text)
        self.event_bus.publish(Notice(text))
