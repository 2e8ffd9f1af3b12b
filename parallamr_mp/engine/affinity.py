"""One processor for all threads of a worker, as long as it has time for them.

    parent: may_keep ──► worker: Affinity ──► its main thread, and all that this starts
                                   ▲ watch: how long the main thread had to wait for its turns
    the system's names: a processor's is bound by one worker at a time, of whichever run

An interpreter runs one of its threads at a time. On several processors each
thread that lets go of its lock wakes another one elsewhere, which finds the
lock taken again, or its memory in another cache; on one, the thread that comes
back from the system goes on. It saves a fifth of a worker's CPU.

The price: the scheduler cannot move the worker away from others who are held on
the same processor. So no two workers hold the same one, and one that waits too
long for its turns lets go of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Collection

_LOOK_SECONDS = 1.0
_MOST_WAIT = 0.003
"""Seconds a turn: some ten times what the threads of a busy worker wait for each other."""
_FEW = 20
"""Turns of which there is no average yet."""
_SCHEDSTAT = "/proc/thread-self/schedstat"
_NAME = "\0parallamr-mp worker on processor %d"


def may_keep(workers: int) -> bool:
    """Whether each worker may have a processor of its own: there are enough, and it is of use.

    Only processors that this process may use count (taskset, Slurm, cpusets).
    """
    if sys.platform != "linux" or not os.access(_SCHEDSTAT, os.R_OK):
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False  # its threads run at the same time
    return len(os.sched_getaffinity(0)) >= max(2, workers)


def claim(allowed: Collection[int]) -> tuple[int, socket.socket] | None:
    """A processor that no other worker on this machine holds, and what holds it; None: there is none.

    It is held by a name in the system's abstract namespace: one process can bind
    it, and it is free when that ends, however it ends. Source: unix(7).
    """
    with contextlib.suppress(OSError):  # a sandbox refuses
        for processor in random.sample(sorted(allowed), len(allowed)):
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                holder.bind(_NAME % processor)
            except OSError:  # somebody has it
                holder.close()
            else:
                return processor, holder
    return None


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
        keep: bool,
        clock: Callable[[], float] = time.monotonic,
        turns: Callable[[], tuple[float, int]] = turns,
    ) -> None:
        """`keep`: on one that no other worker keeps to, if there is one; else where the scheduler likes."""
        self._clock, self._turns = clock, turns
        self._holder: socket.socket | None = None
        self._look_at = clock() + _LOOK_SECONDS
        if not keep:
            return
        self._others = os.sched_getaffinity(0)
        if (claimed := claim(self._others)) is None:
            return
        processor, holder = claimed
        try:
            self._last = turns()
            os.sched_setaffinity(0, {processor})
        except OSError:  # taken from us since, or a sandbox refuses
            holder.close()
        else:
            self._holder = holder

    def watch(self) -> None:
        """Lets go of the processor, for good, when that has too little time. Looks once a second."""
        if self._holder is None or (now := self._clock()) < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        waited, count = self._turns()
        ran = count - self._last[1]
        if ran < _FEW:
            return
        average = (waited - self._last[0]) / ran
        self._last = waited, count
        if average > _MOST_WAIT:
            self.let_go()

    def let_go(self) -> None:
        """Gives the processor back: threads run wherever this process could before."""
        if self._holder is not None:
            _allow(self._others)
            self._holder.close()
            self._holder = None


def _allow(processors: set[int]) -> None:
    """Lets all threads of this process run there; those that start meanwhile have it from who starts them."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread), processors)
