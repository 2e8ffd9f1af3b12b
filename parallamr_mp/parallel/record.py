"""What happened in groups: kept for the state's history, and published.

    GroupRun ──► Recorder ──► History (a small tuple each)
                    └───────► EventBus (an `ExecutionEvent` each, if anybody listens)

Events are models, and cost microseconds to make: nobody pays for one that
nobody looks at. The history keeps what they are made from: about 200 bytes a
task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, overload

from parallamr_mp.events import EventBus
from parallamr_mp.parallel.clock import Clock
from parallamr_mp.parallel.enums import EventType, ExecutionStatus, GroupStatus
from parallamr_mp.parallel.models import ExecutionEvent, ParallelEventGroup
from parallamr_mp.parallel.result import ExecutionResult, message_of
from parallamr_mp.parallel.task import Group, Task


class Retrying(NamedTuple):
    """What an entry says of a failure that is not the last."""

    attempt: int
    seconds: float
    delay: float
    error_message: str
    error_type: str


Entry = tuple[Task, ExecutionStatus, float, ExecutionResult | Retrying | bool]
"""A task, what happened to it, when (wall clock), and more: of a start, whether it is replayed."""


class History(Sequence[ExecutionEvent]):
    """The events of a state, in order; those of a group's tasks are made when they are looked at."""

    def __init__(self, events: Iterable[ExecutionEvent] = ()) -> None:
        self.entries: list[Entry | ExecutionEvent] = list(events)
        """For whoever adds to it, or saves it."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ExecutionEvent]:
        return map(event_of, self.entries)

    @overload
    def __getitem__(self, place: int) -> ExecutionEvent: ...
    @overload
    def __getitem__(self, place: slice) -> list[ExecutionEvent]: ...
    def __getitem__(self, place: int | slice) -> ExecutionEvent | list[ExecutionEvent]:
        if isinstance(place, slice):
            return [event_of(entry) for entry in self.entries[place]]
        return event_of(self.entries[place])

    def __repr__(self) -> str:
        return f"<History of {len(self)} events>"


class Recorder:
    """Used by the event loop of a state's groups. Replayed tasks are published; their history is there."""

    def __init__(self, history: History, bus: EventBus, clock: Clock) -> None:
        self._entries, self._bus, self._clock = history.entries, bus, clock

    def started(self, task: Task, *, replayed: bool = False) -> None:
        self._record((task, ExecutionStatus.STARTED, task.started_at, replayed), replayed)

    def retrying(self, task: Task, delay: float, error: BaseException) -> None:
        more = Retrying(task.attempts, task.seconds, delay, message_of(error), type(error).__name__)
        self._record((task, ExecutionStatus.RETRYING, self._clock.wall(), more))

    def ended(self, task: Task, status: ExecutionStatus, result: ExecutionResult) -> None:
        if result.error is not None:  # its traceback keeps the variables of every frame alive
            result = replace(result, error=None)
        self._record((task, status, self._clock.wall(), result), result.is_replayed)

    def group(self, group: Group) -> None:
        """The group has started, or ended."""
        event = group_event(group, self._clock.wall())
        self._entries.append(event)
        if self._bus.wants(ExecutionEvent):
            self._bus.publish(event)

    def _record(self, entry: Entry, replayed: bool = False) -> None:
        if not replayed:
            self._entries.append(entry)
        if self._bus.wants(ExecutionEvent):
            self._bus.publish(event_of(entry))


def event_of(entry: Entry | ExecutionEvent) -> ExecutionEvent:
    """The event that an entry stands for."""
    if isinstance(entry, ExecutionEvent):
        return entry
    task, status, when, more = entry
    attempt, seconds, delay, message, kind, replayed = 1, None, None, None, None, False
    if isinstance(more, ExecutionResult):
        attempt, seconds, replayed = more.attempts, more.execution_time, more.is_replayed
        message, kind = more.error_message, more.error_type
    elif isinstance(more, Retrying):
        attempt, seconds, delay, message, kind = more
    elif more:
        attempt, replayed = 0, True
    return ExecutionEvent.of_task(
        address=task.address,
        status=status,
        group_id=task.group.id,
        parallel_index=task.index,
        name=task.name,
        timestamp=when,
        started_at=task.started_at or None,
        attempt=attempt,
        execution_time=seconds,
        delay=delay,
        error_message=message,
        error_type=kind,
        is_replayed=replayed,
    )


_TYPES: dict[GroupStatus, tuple[EventType, ExecutionStatus]] = {
    GroupStatus.RUNNING: (EventType.GROUP_STARTED, ExecutionStatus.STARTED),
    GroupStatus.COMPLETED: (EventType.GROUP_COMPLETED, ExecutionStatus.COMPLETED),
    GroupStatus.FAILED: (EventType.GROUP_FAILED, ExecutionStatus.FAILED),
    GroupStatus.CANCELLED: (EventType.GROUP_CANCELLED, ExecutionStatus.CANCELLED),
}


def group_event(group: Group, when: float) -> ExecutionEvent:
    """The event of the group's start or end, by its status."""
    event_type, status = _TYPES[group.status]
    message = kind = None
    if group.error is not None:
        message, kind = message_of(group.error), type(group.error).__name__
    return ExecutionEvent(
        event_type=event_type,
        address=group.address,
        status=status,
        is_parallel=True,
        group_id=group.id,
        name=group.name,
        timestamp=when,
        started_at=group.started_at,
        execution_time=None if group.ended_at is None else group.seconds,
        error_message=message,
        error_type=kind,
        group=ParallelEventGroup(
            group_id=group.id,
            address=group.address,
            name=group.name,
            status=group.status,
            total=group.total,
            max_workers=group.max_workers,
            completed=group.completed,
            failed=group.failed,
            cancelled=group.cancelled,
            replayed=group.replayed,
            started_at=group.started_at,
            ended_at=group.ended_at,
            error_message=message,
            error_type=kind,
        ),
    )
