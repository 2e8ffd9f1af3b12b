"""A group and its tasks, as the group's event loop keeps them. One thread uses them: no locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from parallamr_mp.parallel.enums import GroupStatus

NOTHING: Mapping[str, Any] = {}
"""No keyword arguments: one for all tasks."""

Call = Awaitable[Any] | Callable[..., Any]


@dataclass(slots=True, eq=False)
class Group:
    """Who a group is, and how far it has come."""

    id: str
    address: str
    name: str
    max_workers: int
    state: object
    """The `ExecutionState` that it belongs to: groups of its own that a task opens are kept there, too."""
    status: GroupStatus = GroupStatus.PENDING
    total: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    replayed: int = 0
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    seconds: float = 0.0
    """From its start to its end, by the monotonic clock."""
    error: BaseException | None = None
    """What ended it, and is raised."""
    traceback: TracebackType | None = None
    """That of the error as it came: every `raise` of it adds to its own."""

    def ended_by(self, error: BaseException) -> None:
        self.error, self.traceback = error, error.__traceback__


@dataclass(slots=True, eq=False)
class Task:
    """Something to be run, and what is known of its attempts."""

    group: Group
    index: int
    name: str
    call: Call | None
    """None once the task is over: what it holds is let go."""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    repeatable: bool = True
    """A callable; an awaitable can be awaited once."""
    attempts: int = 0
    strikes: int = 0
    """Failures that count for the retry policy: those of attempts, and rejections by the breaker."""
    troubled_since: float | None = None
    """Monotonic seconds, like the times below."""
    began: float = 0.0
    """The attempt in flight."""
    seconds: float = 0.0
    """That its attempts took."""
    started_at: float = 0.0
    """The first attempt, in seconds since the epoch."""
    probe: bool = False
    """The attempt in flight is the one that the half-open breaker let through."""
    label: str = ""
    """What it calls."""

    @property
    def address(self) -> str:
        return f"{self.group.address}/{quoted(self.name)}"

    def is_within(self, group: Group) -> bool:
        """It is one of the group's tasks, or of those of a group inside it."""
        return self.group.state is group.state and self.address.startswith(f"{group.address}/")


def label_of(call: object) -> str:
    """What a task that runs `call` calls, as well as can be told."""
    while isinstance(call, partial):
        call = call.func
    label = getattr(call, "__qualname__", None)
    return label if isinstance(label, str) else type(call).__qualname__


_ESCAPES = str.maketrans({"%": "%25", "/": "%2F", "#": "%23"})


def quoted(name: str) -> str:
    """A name as a part of an address: `/` and `#` have a meaning there.

    >>> quoted("50 % of a/b")
    '50 %25 of a%2Fb'
    """
    return name if name.isidentifier() else name.translate(_ESCAPES)  # most are, and every event asks


current: ContextVar[Task | None] = ContextVar("current", default=None)
"""The task that the code runs in."""
