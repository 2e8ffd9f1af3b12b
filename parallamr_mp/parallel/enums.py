"""The words of parallel groups: strings, so that they go to JSON and back."""

from __future__ import annotations

from enum import StrEnum


class ErrorStrategy(StrEnum):
    """What a group does when one of its tasks has failed for good."""

    FAIL_SLOW = "fail_slow"
    """Goes on; the error is in that task's `ExecutionResult`."""
    FAIL_FAST = "fail_fast"
    """Cancels the other tasks, waits for them to end, and raises the error."""


class ExecutionStatus(StrEnum):
    """What has just happened to a task, or to a group."""

    STARTED = "started"
    RETRYING = "retrying"
    """It failed and will be tried again."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class GroupStatus(StrEnum):
    """Where a group is in its life."""

    PENDING = "pending"
    """Tasks are being added."""
    RUNNING = "running"
    COMPLETED = "completed"
    """Every task has its result; with `FAIL_SLOW`, results may be errors."""
    FAILED = "failed"
    """Ended before that: by the first error (`FAIL_FAST`) or by its time-out."""
    CANCELLED = "cancelled"
    """Ended from outside: cancelled, interrupted, or by an exception in the block."""


class EventType(StrEnum):
    """What an `ExecutionEvent` is about: one task, or the life of a group."""

    EXECUTION = "execution"
    GROUP_STARTED = "group_started"
    GROUP_COMPLETED = "group_completed"
    GROUP_FAILED = "group_failed"
    GROUP_CANCELLED = "group_cancelled"


class ParallelDisplayMode(StrEnum):
    """How a printer shows groups: a line an event, or a bar a group."""

    REALTIME = "realtime"
    PROGRESS = "progress"
