"""One processor for all threads of a worker.

    parent: may_keep ──► worker: keep_to_one_processor ──► its main thread, and all that this starts
    the system's names: a processor's is bound by one worker at a time, of whichever run

An interpreter runs one of its threads at a time. On several processors each
thread that lets go of its lock wakes another one elsewhere, which finds the
lock taken again, or its memory in another cache; on one, the thread that comes
back from the system goes on. It saves a fifth of a worker's CPU.

The price: the scheduler cannot move the worker away from others who are held on
the same processor, and gives each their share. So no two workers hold the same
one. Threads that mostly wait for answers get their share at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from collections.abc import Collection

_NAME = "\0parallamr-mp worker on processor %d"


def may_keep(workers: int) -> bool:
    """Whether each worker may have a processor of its own: there are enough, and it is of use.

    Only processors that this process may use count (taskset, Slurm, cpusets).
    """
    if sys.platform != "linux":
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False  # its threads run at the same time
    return len(os.sched_getaffinity(0)) >= max(2, workers)


def keep_to_one_processor() -> socket.socket | None:
    """Has this thread, and those it starts from here on, run on one processor that no other worker has.

    Returns what holds it until it is closed, or the process has ended; None:
    there is no processor to be had, and threads run where they could before.
    """
    with contextlib.suppress(OSError):  # a sandbox refuses
        allowed = os.sched_getaffinity(0)
        if (claimed := claim(allowed)) is not None:
            processor, holder = claimed
            try:
                os.sched_setaffinity(0, {processor})
            except OSError:  # the same, or it has been taken from us since
                holder.close()
            else:
                return holder
    return None


def claim(allowed: Collection[int]) -> tuple[int, socket.socket] | None:
    """A processor that nobody has claimed, and what holds it; None: there is none. Raises OSError.

    It is held by a name in the system's abstract namespace: one process can bind
    it, and it is free when that ends, however it ends. Source: unix(7).
    """
    for processor in random.sample(sorted(allowed), len(allowed)):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(_NAME % processor)
        except OSError:  # somebody has it
            holder.close()
        else:
            return processor, holder
    return None
