"""A seat runs one actor, in a process of its own or in a thread, behind a pair of private channels.

    parent                                      child
    Outbox ────────── pipe ──────────► Receiver ┐
                                                ├─ main(receiver, sender, *args)
    Inbox  ◄───────── pipe ─────────── Sender   ┘

The parent owns the seat: it alone starts, kills and joins. The actor owns
nothing of the parent's. `ProcessSeat` is a `ProcessPoolExecutor` with exactly
one worker, so that a death breaks nobody else's executor; its start method is
spawn, always: a forked child of a threaded parent may deadlock, and forked
siblings would hold copies of each other's pipes and hide an end of file.

A child learns of its parent's death in two ways: its receiver ends, and a
thread waits on the parent's sentinel, which also covers the time before and
after `main`, when nobody reads the receiver.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection as mp_connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from parallamr_mp.engine.channels import Inbox, Outbox, Receiver, Sender
from parallamr_mp.engine.messages import Crashed
from parallamr_mp.engine.spawning import GROUP_SIGNALS, OneSpawn, Thrift, begin_thrifty, starting
from parallamr_mp.errors import EngineError

ActorMain = Callable[..., None]
"""`main(receiver, sender, *args)`; returns when told to stop or when the receiver ends."""

ORPHAN_SECONDS = 1.0
"""Enough for a writer to write what is still in its pipe."""

_SPAWN = multiprocessing.get_context("spawn")


class Seat(Protocol):
    """Where an actor runs. All methods are the parent's, and none of them blocks but `join`."""

    inbox: Inbox
    outbox: Outbox

    @property
    def pid(self) -> int | None:
        """The child's process id; None where there is no process of its own."""
        ...

    @property
    def exit_code(self) -> int | None:
        """Negative: ended by that signal. None while it runs, or where there is no process."""
        ...

    def kill(self) -> None:
        """Ends the actor at once where that is possible; leaves its channels to be read dry."""
        ...

    def join(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the actor to end, then frees the channels. False: it has not."""
        ...


class ProcessSeat:
    """One actor in one spawned process."""

    def __init__(
        self,
        main: ActorMain,
        args: tuple[Any, ...],
        *,
        name: str,
        orphan_grace: float = ORPHAN_SECONDS,
        leads: bool = False,
        thrift: Thrift | None = None,
    ) -> None:
        """Starts the process; returns before it is up. Raises EngineError when it cannot be created.

        `orphan_grace`: seconds after this process's death at which the child
        ends, come what may. An actor that ends by itself earlier is not waited for.
        `leads`: it has a process group of its own, and whom it starts is killed with it.
        `thrift`: how it gets by with less; not for code of users.
        """
        try:
            # Not left to the executor: it pickles in a thread of its own, which
            # can tell nobody, and the child would wait for its task for ever.
            task = pickle.dumps((main, args), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise EngineError(f"{name}: cannot be sent to a process: {error}") from error
        self.name, self._leads = name, leads
        ends: list[mp_connection.Connection] = []
        context = OneSpawn()
        try:
            ends += _SPAWN.Pipe(duplex=False)
            ends += _SPAWN.Pipe(duplex=False)
            child_reads, parent_writes, parent_reads, child_writes = ends
            with starting(thrift):
                self._executor = ProcessPoolExecutor(
                    1,
                    mp_context=context,
                    initializer=_enter,
                    initargs=(child_reads, child_writes, orphan_grace, leads, thrift),
                )
                self._future = self._executor.submit(_run, task)
                self._process: BaseProcess = context.made[0]
        except (OSError, RuntimeError) as error:
            for end in ends:
                end.close()
            for process in context.made:
                # It is there, but not the executor's thread: it would wait for its task, and this
                # interpreter at its exit for it.
                if process.pid is not None:
                    process.kill()
                    process.join()
            raise EngineError(f"{name}: the process cannot be started: {error}") from error
        # From here on the child's ends live in the child alone, so that its
        # death is an end of file here and ours is one there.
        child_reads.close()
        child_writes.close()
        self.inbox, self.outbox = Inbox(parent_reads), Outbox(parent_writes)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative: ended by that signal. None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._leads and self._process.pid is not None:
                # Until it is joined, nobody else can have its number.
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()

    def join(self, timeout: float) -> bool:
        if not futures.wait([self._future], timeout).done:
            return False
        if self._future.exception() is not None:
            # It is dead, or seems so to the executor, since what ran in it has
            # closed its channels: that would be waited for without end.
            self.kill()
        # Else `_run` has returned. Either way `shutdown` has nothing to wait
        # for but the process's own exit.
        self._executor.shutdown(wait=True)
        self.inbox.close()
        self.outbox.close()
        return True


class ThreadSeat:
    """One actor in a thread of this process: the same actor, the same channels, no process."""

    def __init__(self, main: ActorMain, args: tuple[Any, ...], *, name: str) -> None:
        child_reads, parent_writes = _SPAWN.Pipe(duplex=False)
        parent_reads, child_writes = _SPAWN.Pipe(duplex=False)
        self.name = name
        self.inbox, self.outbox = Inbox(parent_reads), Outbox(parent_writes)
        self._thread = threading.Thread(
            target=_run_actor,
            args=(main, Receiver(child_reads), Sender(child_writes), args),
            name=name,
            # The threads that it starts inherit this. The interpreter waits for
            # an executor's threads in any case; as daemons they would only hide.
            daemon=False,
        )
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return None

    @property
    def exit_code(self) -> int | None:
        return None

    def kill(self) -> None:
        """A thread cannot be killed: its receiver ends, and it stops after what it is doing."""
        self.outbox.cut()

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self.inbox.close()
        self.outbox.close()
        return True


# ── inside the child ─────────────────────────────────────────────────────────

_channels: tuple[Receiver, Sender] | None = None
_acting = threading.Event()
"""Set while an actor runs: until then, and after it, nothing here is worth a grace."""


def _enter(
    reads: mp_connection.Connection,
    writes: mp_connection.Connection,
    orphan_grace: float,
    leads: bool,
    thrift: Thrift | None,
) -> None:
    """Executor initializer: runs once in the child, in its main thread, before any task."""
    global _channels  # noqa: PLW0603  - the only way from an initializer to a task
    if leads:
        os.setpgid(0, 0)
    if thrift is not None:
        begin_thrifty(thrift)
    _be_patient()
    for signum in GROUP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    _channels = Receiver(reads), Sender(writes)
    threading.Thread(
        target=_end_with_parent, args=(orphan_grace, leads), name="parent watch", daemon=True
    ).start()


def _be_patient() -> None:
    """Has threads that are woken here wait for their turn, where the system knows such a thing.

    A thread that answers or lets go of the interpreter's lock wakes the next
    one, which would take the CPU from it at once, only to find the lock still
    held: a third of a worker's context switches. It also leaves the CPU to whoever works
    interactively on the same machine. Threads and processes started from here on inherit it.
    Source: sched(7), SCHED_BATCH.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # refused by some sandboxes
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _end_with_parent(grace: float, leads: bool) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        mp_connection.wait([parent.sentinel])
        if _acting.is_set():
            # An actor sees the end of its channel, and ends in its own way.
            time.sleep(grace)
        if leads:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _run(task: bytes) -> None:
    if _channels is None:
        raise RuntimeError("an actor was started without its channels")
    _acting.set()
    _run_actor(_unpack, *_channels, (task,))
    _acting.clear()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        # The executor's own loop would wait for a task that nobody can send,
        # and the interpreter for threads whose requests have had their grace.
        os._exit(0)


def _unpack(receiver: Receiver, sender: Sender, task: bytes) -> None:
    main, args = pickle.loads(task)
    main(receiver, sender, *args)


def _run_actor(main: ActorMain, receiver: Receiver, sender: Sender, args: tuple[Any, ...]) -> None:
    try:
        main(receiver, sender, *args)
    except BaseException:
        with contextlib.suppress(OSError):
            sender.send(Crashed(traceback.format_exc()))
    finally:
        # The parent reads these ends of file as "this actor is gone".
        sender.close()
        receiver.close()


def wait_for_all(seats: list[Seat], seconds: float) -> list[Seat]:
    """Joins every seat within `seconds` altogether; returns those that have not ended."""
    deadline = time.monotonic() + seconds
    return [seat for seat in seats if not seat.join(max(0.0, deadline - time.monotonic()))]
