"""One processor for all threads of a worker, as long as it has time for them.

    parent: assign ──a processor's number──► worker: Affinity ──► its main thread, and all that this starts
                                                  ▲ watch: how long the main thread had to wait for its turns

An interpreter runs one of its threads at a time. On several processors each
thread that lets go of its lock wakes another one elsewhere, which finds the
lock taken again, or its memory in another cache; on one, the thread that comes
back from the system goes on. It saves a fifth of a worker's CPU.

The price: the scheduler cannot move the worker away from others who are held on
the same processor. So a worker that waits too long for its turns lets go of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable

_LOOK_SECONDS = 1.0
_MOST_WAIT = 0.003
"""Seconds a turn: some ten times what the threads of a busy worker wait for each other."""
_FEW = 20
"""Turns of which there is no average yet."""
_SCHEDSTAT = "/proc/thread-self/schedstat"


def assign(workers: int) -> list[int | None]:
    """A processor of its own for each worker; None for all where that is not to be had, or of no use.

    Only processors that this process may use count (taskset, Slurm, cpusets).
    The first is drawn, so that two runs on one machine need not meet.
    """
    none: list[int | None] = [None] * workers
    if not hasattr(os, "sched_setaffinity") or not os.access(_SCHEDSTAT, os.R_OK):
        return none
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return none  # its threads run at the same time
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < max(2, workers):
        return none
    first = random.randrange(len(allowed))
    return [allowed[(first + worker) % len(allowed)] for worker in range(workers)]


def turns() -> tuple[float, int]:
    """Seconds that the calling thread was ready to run and had to wait, and how often it ran.

    Source: proc_pid_schedstat(5).
    """
    with open(_SCHEDSTAT, encoding="ascii") as file:
        _, waited, count = file.read().split()
    return int(waited) / 1e9, int(count)


class Affinity:
    """Keeps a process on one processor. Made and used by its main thread, before it starts others."""

    def __init__(
        self,
        processor: int | None,
        clock: Callable[[], float] = time.monotonic,
        turns: Callable[[], tuple[float, int]] = turns,
    ) -> None:
        """`processor`: its number; None: wherever the scheduler likes."""
        self._clock, self._turns = clock, turns
        self._others: set[int] | None = None
        """Where it could run before; None: where it can now."""
        if processor is None:
            return
        with contextlib.suppress(OSError):  # taken from us since, or a sandbox refuses
            others = os.sched_getaffinity(0)
            self._last = turns()
            os.sched_setaffinity(0, {processor})
            self._others = others
        self._look_at = clock() + _LOOK_SECONDS

    def watch(self) -> None:
        """Lets go of the processor, for good, when that has too little time. Looks once a second."""
        if self._others is None or (now := self._clock()) < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        waited, count = self._turns()
        ran = count - self._last[1]
        if ran < _FEW:
            return
        average = (waited - self._last[0]) / ran
        self._last = waited, count
        if average > _MOST_WAIT:
            _allow(self._others)
            self._others = None


def _allow(processors: set[int]) -> None:
    """Lets all threads of this process run there; those that start meanwhile have it from who starts them."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread), processors)
