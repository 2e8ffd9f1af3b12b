"""What the `ExecutionEvent`s of groups say to people.

They are Pydantic models of a higher layer, which a sweep does not load: here
they are known by what is read of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote

from parallamr_mp.text import count, one_line

NAME_WIDTH = 40
_ERROR_WIDTH = 300
_INDENT = "  "
_NUMBERED = re.compile(r"#\d+\Z")
"""So end the addresses of groups."""

Paint = Callable[[str, str], str]
"""A text in a colour, as `Screen.paint`."""


class Tracker(Protocol):
    """What is read of a `ParallelGroupTracker`, which counts what happens in one group."""

    address: str
    name: str
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


def title_of(part: str, width: int = NAME_WIDTH) -> str:
    """What a part of an address says, cut if it is long; the number of a group is kept."""
    name, mark, number = part.rpartition("#")
    if not mark:
        name, number = number, ""
    mark += one_line(number, 8)
    return one_line(unquote(name), width - len(mark)) + mark


def parts_of(tracker: Tracker) -> list[str]:
    """A group's address, in which groups and tasks take turns: `Papers#1`, `doc2`, `Pages#1`.

    Empty of a sweep: its address is the path of a file.
    """
    parts = tracker.address.split("/")
    ours = len(parts) % 2 and all(_NUMBERED.search(group) for group in parts[::2])
    return parts if ours else []


def depth_of(tracker: Tracker) -> int:
    """How many groups a group is in."""
    return len(parts_of(tracker)) // 2


def label_of(tracker: Tracker, width: int = NAME_WIDTH) -> str:
    """What a group is known by among others: `Documents#1`; `doc2/Pages#1` if the task `doc2` opened it."""
    match parts_of(tracker):
        case []:
            return one_line(tracker.name, width)
        case [group]:
            return title_of(group, width)
        case [*_, task, group]:
            return f"{title_of(task, width // 2)}/{title_of(group, width // 2)}"
    raise AssertionError


def done_of(tracker: Tracker) -> int:
    """How many tasks have ended."""
    return tracker.completed + tracker.failed + tracker.cancelled


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
    margin = _INDENT * 2 * depth_of(tracker)
    title = paint(label_of(tracker), "cyan")
    if is_of_group(event):
        if event.status != "started":
            return f"{margin}{summary(tracker, event.error_message, paint)}"
        return f"{margin}{title} started: {count(tracker.total, 'task')}"
    # A row's name has its number; of rows it is of interest how many are done.
    number = event.parallel_index + 1 if event.parallel_index is not None else done_of(tracker)
    place = f"[{number if parts_of(tracker) else done_of(tracker)}/{tracker.total or '?'}]"
    last = event.address.rpartition("/")[2]
    name = title_of(last) if event.name is None else one_line(event.name, NAME_WIDTH)
    return f"{margin}{_INDENT}{title} ▸ {place} {name} {what_happened(event, paint)}"


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
            text = " in ".join(filter(None, (word, ", ".join(filter(None, (time, attempts))))))
            return ": ".join(filter(None, (text, error_of(event))))  # of a row: what to look at in it
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
    text = f"{paint(label_of(tracker), 'cyan')} {word}: {' · '.join(parts)}"
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
