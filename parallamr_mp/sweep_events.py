"""A sweep told as a parallel group: each row a task, in the very words of `parallel.models`.

    RunStarted ─────────────────────► GROUP_STARTED
    AttemptStarted, the first ──────► started
    AttemptFailed ──────────────────► retrying
    AttemptEnded, AttemptStarted ───► retrying at once: the worker died, or the answer was cut
    RowDone ────────────────────────► completed (ok, warning), failed (error)
    the end of the run ─────────────► cancelled, for rows that have begun and got no result
                                      GROUP_COMPLETED, GROUP_FAILED or GROUP_CANCELLED

Imported only by a sweep whose bus has somebody who wants execution events: it
brings Pydantic. Runs in the dispatcher's thread, and keeps something only of
rows in flight or waiting to be tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass

from parallamr_mp import events
from parallamr_mp.config import RunConfig
from parallamr_mp.errors import ParallamrError
from parallamr_mp.models import Status
from parallamr_mp.parallel.enums import ExecutionStatus, GroupStatus
from parallamr_mp.parallel.record import Entry, Retrying, event_of, group_event
from parallamr_mp.parallel.result import ExecutionResult
from parallamr_mp.parallel.task import Group, Task
from parallamr_mp.report import RunSummary

_CUT = "the answer was cut at its limit of tokens; asked again with a larger one"
_NO_RESULT = "the run ended before this row had a result"


def group_of(config: RunConfig) -> Group:
    """The group that a sweep is: known by its output, else by its table, so that a resumed one is the same.

    Its name is that file's; its address the path as it was given, `{{column}}`
    included. Its tasks are called `row 17`, or `row 17 repeat 2` after the
    columns of the results file.
    """
    given = config.experiments if config.output is None else config.output
    kind = "output" if config.output is not None else "table"
    at_once = max(1, config.procs) * config.threads
    if given == "-":
        name = path = address = "standard input"
    else:
        name, path, address = os.path.basename(given), os.path.realpath(given), given
    mark = hashlib.sha256(json.dumps([kind, path]).encode()).hexdigest()[:16]
    return Group(
        mark, _fit_for_json(address), _fit_for_json(name), min(at_once, config.total_limit or at_once), None
    )


def _fit_for_json(text: str) -> str:
    """Without lone surrogates, as file names, cells and servers may hold them."""
    return text.encode(errors="replace").decode()


@dataclass(slots=True)
class _Row:
    """A row that has begun and has no result."""

    task: Task
    untold: tuple[str, str] | None = None
    """Why its last attempt did not bring its result, unless that was told: (message, kind)."""


class SweepEvents:
    """A handler of the events of one sweep, which publishes them as execution events on the same bus.

    The group's `total` counts the rows that this run has to ask: those that a
    resumed run finds done are no tasks of it. They would be told one by one
    only to be called replayed, and shares, rates and speed-ups are of use only
    for what is done now. `RunStarted` has their number.

    `parallel_index` is the experiment's place in this run's part of the table,
    repeats and finished ones counted; `execution_time` the seconds of all its
    attempts; `error_message` of a `completed` one why it is a warning. A row
    that was never leased (an input file is missing, say) has no `started`.

    `end` or `fail` publishes the group's end; only the first counts.
    """

    KINDS = (
        events.RunStarted,
        events.AttemptStarted,
        events.AttemptFailed,
        events.AttemptEnded,
        events.RowDone,
    )

    def __init__(
        self,
        group: Group,
        bus: events.EventBus,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group, self._bus, self._wall, self._monotonic = group, bus, wall, monotonic
        self._rows: dict[int, _Row] = {}
        """By job."""
        self._began = 0.0
        """The group, in monotonic seconds."""

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.AttemptStarted():
                self._attempt_started(event)
            case events.AttemptEnded():
                self._attempt_ended(event)
            case events.AttemptFailed():
                self._attempt_failed(event)
            case events.RowDone():
                self._done(event)
            case events.RunStarted():
                self._start(event.total - event.done)

    # ── rows ─────────────────────────────────────────────────────────────────

    def _attempt_started(self, event: events.AttemptStarted) -> None:
        row = self._rows.get(event.job)
        if row is None:
            task = self._task(event.job, event.payload.row_number, event.payload.repeat)
            task.started_at = self._wall()
            self._rows[event.job] = _Row(task)
            self._tell((task, ExecutionStatus.STARTED, task.started_at, False))
        else:
            task = row.task
            if row.untold is not None:
                self._retrying(task, 0.0, *row.untold)
                row.untold = None
        task.attempts, task.began = event.attempt, self._monotonic()

    def _attempt_ended(self, event: events.AttemptEnded) -> None:
        """Noted only: whether there will be another attempt shows later, if at all."""
        row = self._rows.get(event.job)
        if row is not None:
            row.task.seconds += event.ended - event.started
            row.task.began = 0.0
            failure = event.failure
            row.untold = (_CUT, "truncated") if failure is None else (failure.message, failure.kind)

    def _attempt_failed(self, event: events.AttemptFailed) -> None:
        row = self._rows.get(event.job)
        if row is not None:
            row.untold = None
            self._retrying(row.task, event.delay, event.failure.message, event.failure.kind)

    def _retrying(self, task: Task, delay: float, message: str, kind: str) -> None:
        more = Retrying(task.attempts, task.seconds, delay, _fit_for_json(message), kind)
        self._tell((task, ExecutionStatus.RETRYING, self._wall(), more))

    def _done(self, event: events.RowDone) -> None:
        if event.job is None:
            return
        row = self._rows.pop(event.job, None)
        task = self._task(event.job, event.row_number, event.repeat) if row is None else row.task
        task.attempts = event.attempts
        if event.status is Status.ERROR:
            self._group.failed += 1
            self._end_task(task, ExecutionStatus.FAILED, event.message, event.failure or None)
        else:
            self._group.completed += 1
            self._end_task(task, ExecutionStatus.COMPLETED, event.message, None)

    def _cancel_rows(self) -> None:
        now = self._monotonic()
        for job in sorted(self._rows):
            task = self._rows.pop(job).task
            if task.began:  # its request is still out
                task.seconds += now - task.began
            self._group.cancelled += 1
            self._end_task(task, ExecutionStatus.CANCELLED, _NO_RESULT, CancelledError.__name__)

    def _end_task(self, task: Task, status: ExecutionStatus, message: str, kind: str | None) -> None:
        result = ExecutionResult(
            status is ExecutionStatus.COMPLETED,
            None,
            _fit_for_json(message) if message else None,
            kind,
            task.seconds,
            task.attempts,
            task.index,
            task.name,
        )
        self._tell((task, status, self._wall(), result))

    def _task(self, job: int, row_number: int, repeat: int) -> Task:
        name = f"row {row_number} repeat {repeat}" if repeat else f"row {row_number}"
        return Task(self._group, job, name, None)

    def _tell(self, entry: Entry) -> None:
        if self._bus.wants(events.Execution):  # who wanted them may have left
            self._bus.publish(event_of(entry))

    # ── the group ────────────────────────────────────────────────────────────

    def end(self, summary: RunSummary) -> None:
        """The run has come to its end, or was stopped.

        One that was stopped at too many error rows has failed, as a group that
        fails fast; at another limit, or by a signal, it is cancelled. A limit
        that was reached with the last row has stopped nothing.
        """
        if summary.signum is not None:
            name = signal.Signals(summary.signum).name
            self._finish(GroupStatus.CANCELLED, CancelledError(f"stopped by {name}"))
        elif summary.stop is None or not summary.missing:
            self._finish(GroupStatus.COMPLETED, None)
        elif summary.stop.kind == "errors":
            self._finish(GroupStatus.FAILED, ParallamrError(summary.stop.text))
        else:
            self._finish(GroupStatus.CANCELLED, CancelledError(summary.stop.text))

    def fail(self, error: BaseException) -> None:
        """The run could not go on."""
        status = GroupStatus.FAILED if isinstance(error, Exception) else GroupStatus.CANCELLED
        self._finish(status, error)

    def _start(self, total: int) -> None:
        group = self._group
        group.total, group.status = total, GroupStatus.RUNNING
        group.started_at, self._began = self._wall(), self._monotonic()
        self._tell_group()

    def _finish(self, status: GroupStatus, error: BaseException | None) -> None:
        group = self._group
        if group.status is not GroupStatus.RUNNING:
            return
        self._cancel_rows()
        group.status, group.error = status, error
        group.ended_at, group.seconds = self._wall(), self._monotonic() - self._began
        self._tell_group()
        group.error = None  # its traceback keeps the variables of every frame alive

    def _tell_group(self) -> None:
        if self._bus.wants(events.Execution):
            self._bus.publish(group_event(self._group, self._wall()))
