"""What the `ExecutionEvent`s of groups say to people.

They are Pydantic models of a higher layer, which a sweep does not load: here
they are known by what is read of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote

from parallamr_mp.text import count, one_line

NAME_WIDTH = 40
_ERROR_WIDTH = 300
_INDENT = "  "

Paint = Callable[[str, str], str]
"""A text in a colour, as `Screen.paint`."""


class Tracker(Protocol):
    """What is read of a `ParallelGroupTracker`, which counts what happens in one group."""

    address: str
    total: int
    started: int
    completed: int
    failed: int
    cancelled: int
    retries: int
    replayed: int
    busy_time: float

    @property
    def elapsed_time(self) -> float:
        """Seconds."""

    @property
    def status(self) -> str:
        """`pending`, `running`, or how it ended."""


class TaskEvent(Protocol):
    """What is read of an `ExecutionEvent`."""

    @property
    def event_type(self) -> str:
        """`execution`, or what of the group's life."""

    @property
    def address(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def group_id(self) -> str | None: ...
    @property
    def parallel_index(self) -> int | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def execution_time(self) -> float | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def delay(self) -> float | None: ...
    @property
    def error_message(self) -> str | None: ...
    @property
    def error_type(self) -> str | None: ...
    @property
    def is_replayed(self) -> bool: ...


_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "retrying": "yellow"}


def plain(text: str, _colour: str) -> str:
    """`Paint` without colours."""
    return text


def is_of_group(event: TaskEvent) -> bool:
    """Whether it is about a group's life, and not about a task."""
    return event.event_type != "execution"


def title_of(address: str, width: int = NAME_WIDTH) -> str:
    """What a group or task is called: `Documents#1` of `Papers#1/paper 7/Documents#1`, cut if it is long."""
    name, mark, number = address.rpartition("/")[2].rpartition("#")
    if not mark:
        name, number = number, ""
    mark += one_line(number, 8)
    return one_line(unquote(name), width - len(mark)) + mark


def depth_of(address: str) -> int:
    """How many groups a group is in: groups and tasks take turns in an address."""
    return address.count("/") // 2


def label_of(address: str, width: int = NAME_WIDTH) -> str:
    """What a group is known by among others: `Documents#1`; `doc2/Pages#1` if the task `doc2` opened it."""
    if not depth_of(address):
        return title_of(address, width)
    task, _, group = address.rpartition("/")
    return f"{title_of(task, width // 2)}/{title_of(group, width // 2)}"


def line_of(event: TaskEvent, paint: Paint = plain) -> str:
    """The event's line, by its full address: for whoever reads it alone."""
    address = "/".join(title_of(part) for part in event.address.split("/"))
    if is_of_group(event):
        address = f"group {address}"
    return f"{address} {what_happened(event, paint)}"


def indented(event: TaskEvent, tracker: Tracker | None, paint: Paint = plain) -> str:
    """The event's line among those of other groups: below its group, which it names.

    Documents#1 started: 5 tasks
      Documents#1 ▸ [2/5] doc2 completed in 1.20 s
    """
    if tracker is None:
        return line_of(event, paint)
    margin = _INDENT * 2 * depth_of(tracker.address)
    title = paint(label_of(tracker.address), "cyan")
    if is_of_group(event):
        if event.status != "started":
            return f"{margin}{summary(tracker, event.error_message, paint)}"
        return f"{margin}{title} started: {count(tracker.total, 'task')}"
    number = "" if event.parallel_index is None else f"[{event.parallel_index + 1}/{tracker.total}] "
    name = title_of(event.address) if event.name is None else one_line(event.name, NAME_WIDTH)
    return f"{margin}{_INDENT}{title} ▸ {number}{name} {what_happened(event, paint)}"


def what_happened(event: TaskEvent, paint: Paint = plain) -> str:
    """`completed in 1.2 s`, `failed after 2.0 s and 3 attempts: ValueError: …`."""
    status = str(event.status)
    word = paint(status, _COLOURS[status]) if status in _COLOURS else status
    time = "" if event.execution_time is None else duration(event.execution_time)
    attempts = count(event.attempt, "attempt") if event.attempt > 1 else ""
    match status:
        case "completed" if event.is_replayed:
            return f"{word} before (replayed)"
        case "completed":
            return " in ".join(filter(None, (word, ", ".join(filter(None, (time, attempts))))))
        case "retrying":
            again = duration(event.delay or 0.0)
            return f"{word} in {again}: attempt {event.attempt} failed: {error_of(event)}"
        case "failed" | "cancelled":
            text = " after ".join(filter(None, (word, " and ".join(filter(None, (time, attempts))))))
            return ": ".join(filter(None, (text, error_of(event))))
    return word


def error_of(event: TaskEvent) -> str:
    """`ValueError: no such document`."""
    return one_line(": ".join(filter(None, (event.error_type, event.error_message))), _ERROR_WIDTH)


def summary(tracker: Tracker, error: str | None = None, paint: Paint = plain) -> str:
    """What a group came to.

        Documents#1 completed: 4 of 5 done · 1 failed · 2 retries · 1.20 s · speed-up 3.9x

    The speed-up is that over the tasks one by one: the sum of their times by the time of the group.
    """
    status = str(tracker.status)
    word = paint(status, "red" if tracker.failed and status == "completed" else _COLOURS.get(status, "cyan"))
    parts = [f"{tracker.completed:,} of {tracker.total:,} done"]
    for number, what in (
        (tracker.failed, paint("failed", "red")),
        (tracker.cancelled, "cancelled"),
        (tracker.replayed, "replayed"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    if tracker.retries:
        parts.append("1 retry" if tracker.retries == 1 else f"{tracker.retries:,} retries")
    seconds = tracker.elapsed_time
    parts.append(duration(seconds))
    if seconds > 0 and tracker.busy_time > 0:
        parts.append(f"speed-up {tracker.busy_time / seconds:.1f}x")
    text = f"{paint(label_of(tracker.address), 'cyan')} {word}: {' · '.join(parts)}"
    return f"{text} · {one_line(error, _ERROR_WIDTH)}" if error else text


def duration(seconds: float) -> str:
    """`0.123 s`, `1.20 s`, `75.3 s`, `2 h 3 min`: as exact as is of use."""
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
