"""The events of groups and what is made of them: Pydantic models that go to JSON and back.

Nothing that a worker process imports may import this module: Pydantic costs a
spawned process 40 ms and 10 MB.
"""

from __future__ import annotations

import time
from typing import Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field

from parallamr_mp.events import Execution
from parallamr_mp.parallel.enums import EventType, ExecutionStatus, GroupStatus


class ParallelEventGroup(BaseModel):
    """A group as it was when its event was published."""

    model_config = ConfigDict(frozen=True)

    group_id: str
    address: str
    name: str
    status: GroupStatus
    total: int = Field(ge=0)
    """Tasks that were added."""
    max_workers: int = Field(ge=1)
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    """Those that were running when the group was ended."""
    replayed: int = 0
    """Of the completed ones, those taken from history."""
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    error_message: str | None = None
    """Why it failed or was cancelled."""
    error_type: str | None = None


class ExecutionEvent(BaseModel, Execution):
    """Something that happened to a task, or (`event_type`) in the life of a group.

    The events of one task come in order: `started`, `retrying` as often as it
    is tried again, then one of `completed`, `failed` and `cancelled`. One whose
    start a circuit breaker forbids has no `started`.

    >>> event = ExecutionEvent(address="Documents#1/task_0", status=ExecutionStatus.STARTED)
    >>> ExecutionEvent.model_validate_json(event.model_dump_json()) == event
    True
    """

    model_config = ConfigDict(frozen=True)

    event_type: EventType = EventType.EXECUTION
    address: str
    """Of the task or group: unique in its state, and the same in every run."""
    status: ExecutionStatus
    is_parallel: bool = False
    """It belongs to a group."""
    group_id: str | None = None
    parallel_index: int | None = None
    """The task's place in its group; None for the group itself."""
    name: str | None = None
    timestamp: float = 0.0
    """When it happened, in seconds since the epoch."""
    started_at: float | None = None
    """When the task's first attempt, or the group, started."""
    execution_time: float | None = None
    """Seconds that the task's attempts took so far, or the group; None at its start."""
    attempt: int = 0
    """Attempts made so far, the one that starts included."""
    delay: float | None = None
    """`retrying`: seconds until the next attempt."""
    error_message: str | None = None
    error_type: str | None = None
    is_replayed: bool = False
    group: ParallelEventGroup | None = None
    """In the events of a group's life."""

    def tracker(self) -> ParallelGroupTracker:
        """A new one for the group that this is about, which has counted nothing yet."""
        if self.group_id is None:
            raise ValueError(f"{self.address!r} is in no group")
        address = self.address
        if self.event_type is EventType.EXECUTION:
            address = address.rpartition("/")[0]
        name = unquote(address.rpartition("/")[2].partition("#")[0])
        return ParallelGroupTracker(group_id=self.group_id, address=address, name=name, total_is_known=False)

    @classmethod
    def of_task(
        cls,
        *,
        address: str,
        status: ExecutionStatus,
        group_id: str | None,
        parallel_index: int | None,
        name: str | None,
        timestamp: float,
        started_at: float | None,
        attempt: int,
        execution_time: float | None = None,
        delay: float | None = None,
        error_message: str | None = None,
        error_type: str | None = None,
        is_replayed: bool = False,
    ) -> Self:
        """What happened to a task of a group, from values whose types are known: they are not validated.

        It equals the event that the constructor makes, at half its cost; every
        field counts as set. It is made as `model_construct` makes one, which
        would go through the fields one by one.
        """
        event = cls.__new__(cls)
        set_ = object.__setattr__
        set_(
            event,
            "__dict__",
            {
                "event_type": _EXECUTION,
                "address": address,
                "status": status,
                "is_parallel": True,
                "group_id": group_id,
                "parallel_index": parallel_index,
                "name": name,
                "timestamp": timestamp,
                "started_at": started_at,
                "execution_time": execution_time,
                "attempt": attempt,
                "delay": delay,
                "error_message": error_message,
                "error_type": error_type,
                "is_replayed": is_replayed,
                "group": None,
            },
        )
        set_(event, "__pydantic_fields_set__", _ALL_FIELDS)
        set_(event, "__pydantic_extra__", None)
        set_(event, "__pydantic_private__", None)
        return event


_EXECUTION = EventType.EXECUTION
"""Looked up once: members of an enum are slow to find."""
_ALL_FIELDS = set(ExecutionEvent.model_fields)
"""Shared by all events that `of_task` makes; nobody changes it, for they are frozen."""


class ParallelGroupTracker(BaseModel):
    """Counts what happens in one group, by its events; for printers and metrics.

    >>> tracker = ParallelGroupTracker(group_id="g", total=4, completed=2, failed=1)
    >>> tracker.completion_percentage, tracker.is_complete
    (75.0, False)
    """

    group_id: str
    address: str = ""
    name: str = ""
    status: GroupStatus = GroupStatus.PENDING
    total: int = 0
    """Tasks that were added; of a group whose start was not seen, those that were heard of."""
    total_is_known: bool = True
    """False until such a group says how many there are."""
    started: int = 0
    """Tasks that have started, however often they were tried."""
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retries: int = 0
    replayed: int = 0
    busy_time: float = 0.0
    """Seconds that all ended tasks took together, without those that were replayed."""
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def completion_percentage(self) -> float:
        """Tasks that have their result, of 100; an empty group is complete."""
        return 100.0 * (self.completed + self.failed) / self.total if self.total else 100.0

    @property
    def elapsed_time(self) -> float:
        """Seconds from the group's start to its end, or until now; 0.0 before."""
        if self.started_at is None:
            return 0.0
        return max(0.0, (time.time() if self.ended_at is None else self.ended_at) - self.started_at)

    @property
    def is_complete(self) -> bool:
        """The group has ended, however, or every task has its result."""
        ended = self.status not in {GroupStatus.PENDING, GroupStatus.RUNNING}
        all_there = self.total_is_known and self.completed + self.failed >= self.total > 0
        return ended or all_there

    def update(self, event: ExecutionEvent) -> None:
        """Takes an event of its group into account; those of others are none of its business."""
        if event.group_id != self.group_id:
            return
        if event.event_type is not EventType.EXECUTION:
            self._update_life(event)
            return
        if self.status is GroupStatus.PENDING:
            self.status = GroupStatus.RUNNING
        if event.parallel_index is not None and not self.total_is_known:
            self.total = max(self.total, event.parallel_index + 1)
        if self.started_at is None:
            self.started_at = event.started_at
        match event.status:
            case ExecutionStatus.STARTED:
                self.started += 1
                return
            case ExecutionStatus.RETRYING:
                self.retries += 1
                return
            case ExecutionStatus.COMPLETED:
                self.completed += 1
                if event.is_replayed:  # what it took is long ago
                    self.replayed += 1
                    return
            case ExecutionStatus.FAILED:
                self.failed += 1
            case ExecutionStatus.CANCELLED:
                self.cancelled += 1
        self.busy_time += event.execution_time or 0.0

    def _update_life(self, event: ExecutionEvent) -> None:
        """Takes over what the group says of itself: if its start was not seen, it knows more."""
        self.status = _STATUS[event.event_type]
        if event.event_type is EventType.GROUP_STARTED:  # perhaps once more, in a state that was loaded
            self.started = self.completed = self.failed = self.cancelled = 0
            self.retries = self.replayed = 0
            self.busy_time, self.started_at, self.ended_at = 0.0, event.timestamp, None
        else:
            self.ended_at = event.timestamp
        if (group := event.group) is not None:
            self.address, self.name, self.total = group.address, group.name, group.total
            self.total_is_known = True
            self.started_at, self.ended_at = group.started_at, group.ended_at
            self.completed = max(self.completed, group.completed)
            self.failed = max(self.failed, group.failed)
            self.cancelled = max(self.cancelled, group.cancelled)
            self.replayed = max(self.replayed, group.replayed)


_STATUS = {
    EventType.GROUP_STARTED: GroupStatus.RUNNING,
    EventType.GROUP_COMPLETED: GroupStatus.COMPLETED,
    EventType.GROUP_FAILED: GroupStatus.FAILED,
    EventType.GROUP_CANCELLED: GroupStatus.CANCELLED,
}
