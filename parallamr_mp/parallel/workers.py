"""Runs the attempts of a group in worker processes of several threads each, with the engine's slots.

    GroupRun ──start──► WorkerExecutor ──Job──► Slots ──Call──► worker process (`remote.py`)
       ▲                      ▲                                        │
       └── ended, lost ───────┴── the group's event loop, which ◄──────┘
                                  watches the Reactor's descriptor

One event loop uses all of it: no lock. With no process (`procs=0`) the same
slot has its threads in this process, and calls what was added, as it is.

A process that dies takes its tasks with it; each is begun once more, and what
was there `MAX_DEATHS` times is an error. Nobody waits for a process that is
told to end early, by a time-out say: it is killed. Threads cannot be.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import ProcessSeat, Seat, ThreadSeat
from parallamr_mp.engine.slot import Slot
from parallamr_mp.engine.slots import MAX_DEATHS, Slots
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.errors import EngineError, NotPicklable, WorkerDied
from parallamr_mp.parallel.executor import Attempts
from parallamr_mp.parallel.remote import LocalCaller, called, processes_main
from parallamr_mp.parallel.result import message_of
from parallamr_mp.parallel.shipping import Parcel, Shipper, unpack
from parallamr_mp.parallel.streams import Printed
from parallamr_mp.parallel.task import NOTHING, Task, current
from parallamr_mp.policy.job import Job
from parallamr_mp.printers import pass_on

_PATIENCE = 5.0
"""Seconds in which idle workers must have ended before they are killed."""


class WorkerExecutor:
    """`procs` worker processes of `threads` threads each; 0: threads of this process."""

    def __init__(self, procs: int, threads: int) -> None:
        self._procs, self._threads = procs, threads
        self._shipper = Shipper()
        self._context: Context = copy_context()
        """That of the group, for tasks in threads of this process."""
        self._attempts: Attempts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reactor: Reactor | None = None
        self._slots: Slots | None = None
        self._ids = 0
        self._tasks: dict[int, Task] = {}
        """Attempts that are under way, by the id of their job."""
        self._parcels: dict[int, Parcel] = {}
        self._calls: dict[int, Callable[[], Any]] = {}
        self._outcomes: dict[int, tuple[Any, BaseException | None]] = {}
        self._known: dict[Slot, OrderedDict[int, int]] = {}
        """Numbers of the functions that each process keeps."""
        self._again: deque[Job] = deque()
        """Lost with their worker, and not begun once more yet."""
        self._deaths: set[int] = set()
        """Descriptors that tell of the deaths of processes."""
        self._flushing = False
        self._ending = self._closing = self._exiting = False
        self._gone: asyncio.Future[None] | None = None
        """Resolved when no worker is left, once somebody waits for that."""
        self._killer: asyncio.TimerHandle | None = None

    # ── the group's side ─────────────────────────────────────────────────────

    def open(self, attempts: Attempts, tasks: int) -> None:
        self._attempts, self._loop = attempts, asyncio.get_running_loop()
        self._context = copy_context()  # what was set inside the block is there, as on an event loop
        if not tasks:
            return
        self._reactor = Reactor()
        number = min(self._procs or 1, tasks)
        self._slots = Slots(number, self._threads, self._seat, self, self._reactor, time.monotonic)
        self._loop.add_reader(self._reactor.fileno(), self._read)
        try:
            self._slots.start()
        except EngineError as error:
            self._loop.call_soon(attempts.broken, error)

    @property
    def has_room(self) -> bool:
        return self._slots is None or (not self._again and self._slots.room)

    def start(self, task: Task) -> None:
        assert self._slots is not None
        self._ids += 1
        job = Job(self._ids, "", None)
        if self._procs:
            try:
                self._parcels[job.id] = self._shipper.pack(task)
            except NotPicklable as error:
                assert self._attempts is not None
                self._soon(self._attempts.ended, task, None, error, 0.0)
                return
        else:
            job.payload = job.id
            self._calls[job.id] = lambda: self._context.copy().run(_run, task)
        self._tasks[job.id] = task
        self._slots.place(job, time.monotonic())
        self._flush_soon()

    def cancel(self) -> None:
        self._ending = True
        if self._slots is None:
            return
        for job in (*self._again, *self._slots.drop_suspects()):
            self._soon(self._end, job, None, asyncio.CancelledError("cancelled"), 0.0)
        self._again.clear()
        if self._procs:
            self._slots.kill()

    def discard(self, task: Task) -> None:
        task.call, task.args, task.kwargs = None, (), NOTHING

    async def close(self) -> None:
        if self._slots is None or self._loop is None:
            return
        self._ending = self._closing = True
        if self._gone is None:
            self._gone = self._loop.create_future()
            self._slots.stop()
            self._flush()
            self._killer = self._loop.call_later(_PATIENCE, self._slots.kill)
            self._note_gone()
        cancelled = None
        while not self._gone.done():
            try:
                await asyncio.wait([self._gone])
            except asyncio.CancelledError as error:  # nothing may be left, but nobody is needed any more
                cancelled = error
                if self._slots is not None:
                    self._slots.kill()
        if cancelled is not None:
            raise cancelled

    # ── the slots' side ──────────────────────────────────────────────────────

    def leasing(self, slot: Slot, job: Job) -> None:
        if (parcel := self._parcels.get(job.id)) is not None:
            job.payload = parcel.call_for(self._known.setdefault(slot, OrderedDict()), self._threads)

    def begun(self, slot: Slot, job: Job) -> None:
        """No lease of a group goes ahead of threads: it was begun when it left."""

    def returned(self, slot: Slot, job: Job) -> None:  # noqa: ARG002
        if self._ending:
            self._end(job, None, asyncio.CancelledError("cancelled"), 0.0)
        else:
            self._again.append(job)

    def settle(self, slot: Slot, job: Job, outcome: Outcome) -> None:  # noqa: ARG002
        self._begin_again()  # before the group hears of it, and fills the room with others
        task = self._tasks[job.id]
        if outcome.failure is not None:
            self._end(job, None, NotPicklable(f"task {task.name!r}: {outcome.failure.message}"), 0.0)
        elif self._procs:
            self._end(job, *unpack(outcome.value, task), outcome.seconds)
        else:
            value, error = self._outcomes.pop(job.id)
            if error is not None and not isinstance(error, Exception | asyncio.CancelledError):
                ended = f"task {task.name!r} ended itself: {type(error).__qualname__}: {message_of(error)}"
                error = RuntimeError(ended).with_traceback(error.__traceback__)
            self._end(job, value, error, outcome.seconds)

    def said(self, slot: Slot, what: Printed) -> None:  # noqa: ARG002
        with suppress(Exception):  # a stream of the program's own: costs its text, and no task its result
            pass_on(what.text, sys.stdout if what.stream == "stdout" else sys.stderr)

    def slot_ready(self, slot: Slot) -> None:
        self._known[slot] = OrderedDict()
        self._begin_again()
        if self._attempts is not None:
            self._tell(self._attempts.has_room)

    def slot_lost(self, slot: Slot, orphans: list[Job]) -> None:
        how = "" if slot.exit_code is None else f" (exit code {slot.exit_code})"
        for job in orphans:
            job.deaths += 1
            task = self._tasks[job.id]
            if self._ending:
                self._end(job, None, asyncio.CancelledError("cancelled"), 0.0)
            elif job.deaths >= MAX_DEATHS:
                text = (
                    f"the worker process died{how} each of the {job.deaths} times that task {task.name!r} ran"
                )
                self._end(job, None, WorkerDied(text), None)
            else:
                self._again.append(job)
                assert self._attempts is not None
                self._tell(self._attempts.lost, task, WorkerDied(f"the worker process died{how}"))
        self._soon(self._restart)

    def slot_given_up(self, slot: Slot, orphans: list[Job]) -> None:  # noqa: ARG002
        for job in orphans:
            self._end(job, None, asyncio.CancelledError("cancelled"), 0.0)
        self._note_gone()

    def cannot_start(self, error: EngineError) -> None:
        if self._attempts is not None:
            self._soon(self._attempts.broken, error)

    # ── between the two ──────────────────────────────────────────────────────

    def _seat(self, number: int) -> Seat:
        name = f"worker {number}"
        if not self._procs:
            caller = (self._threads, LocalCaller, (self._calls, self._outcomes))
            return ThreadSeat(worker_main, caller, name=name)
        seat = ProcessSeat(processes_main, (self._threads,), name=name, orphan_grace=0.0, leads=True)
        self._watch_death(seat)
        return seat

    def _watch_death(self, seat: ProcessSeat) -> None:
        """The end of its channel tells of a worker's death, unless what a task has forked has a copy."""
        if not hasattr(os, "pidfd_open") or seat.pid is None or self._loop is None:
            return
        try:
            fd, loop = os.pidfd_open(seat.pid), self._loop
        except OSError:  # a kernel before 5.3, a sandbox, no descriptor left: its channel must do
            return

        def died() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._deaths.discard(fd)
            if not self._closing:
                seat.kill()

        self._deaths.add(fd)
        loop.add_reader(fd, died)

    def _end(self, job: Job, value: Any, error: BaseException | None, seconds: float | None) -> None:
        task = self._tasks.pop(job.id)
        self._parcels.pop(job.id, None)
        self._calls.pop(job.id, None)
        assert self._attempts is not None
        self._tell(self._attempts.ended, task, value, error, seconds)

    def _tell(self, tell: Callable[..., None], *args: Any) -> None:
        """A handler may end the program, once: not before all is told that has come together with this."""
        try:
            tell(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            if not self._exiting:
                self._exiting = True
                self._soon(_raise, error)
            assert self._attempts is not None
            with suppress(SystemExit, KeyboardInterrupt):  # of the same handler
                self._attempts.broken(error)

    def _begin_again(self) -> None:
        if self._slots is None or self._ending:
            return
        now = time.monotonic()
        self._slots.lease_suspects(now)
        while self._again and (self._slots.room or self._again[0].deaths == MAX_DEATHS - 1):
            self._slots.place(self._again.popleft(), now)
        self._flush_soon()

    def _restart(self) -> None:
        if self._slots is None or self._loop is None:
            return
        now = time.monotonic()
        self._slots.restart(now)
        self._begin_again()
        if (due := self._slots.restart_at) is not None:
            self._loop.call_later(max(0.0, due - now), self._restart)
        self._note_gone()

    def _read(self) -> None:
        if self._reactor is None:
            return
        try:
            self._reactor.poll(0)
        except Exception as error:  # MemoryError: what has been read is lost, and nobody would tell the group
            assert self._attempts is not None
            broken = EngineError(f"what a worker has sent cannot be read: {message_of(error)}")
            broken.__cause__ = error
            self._attempts.broken(broken)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._reactor is not None:
            self._reactor.flush()

    def _soon(self, call: Callable[..., Any], *args: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon(call, *args)

    def _note_gone(self) -> None:
        """Lets go of everything once nobody is left; several may be waiting for that in `close`."""
        if self._gone is None or self._slots is None or self._slots.seats:
            return
        assert self._loop is not None
        assert self._reactor is not None
        assert self._killer is not None
        self._killer.cancel()
        for fd in self._deaths:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._deaths.clear()
        self._loop.remove_reader(self._reactor.fileno())
        self._reactor.close()
        self._slots = self._reactor = None
        self._known.clear()
        self._shipper = Shipper()
        self._gone.set_result(None)


def _raise(error: BaseException) -> None:
    raise error


def _run(task: Task) -> Any:
    current.set(task)
    assert callable(task.call)
    return called(task.call, task.args, task.kwargs)
