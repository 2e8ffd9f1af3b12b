"""What happened, published on a bus that anyone may listen to.

All events of a sweep are published and handled in the parent process, in the
dispatcher's thread, in order. Events are frozen data; times are in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parallamr_mp.models import Failure, Status

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


Handler = Callable[[Event], None]


class EventBus:
    """Hands each event to every handler, in the order of their subscription."""

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._failed: set[int] = set()

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Adds a handler; the returned function takes it away again."""
        self._handlers.append(handler)

        def unsubscribe() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Calls every handler. One that raises is logged, once, and hurts nobody."""
        for handler in tuple(self._handlers):
            try:
                handler(event)
            except Exception:
                if id(handler) not in self._failed:
                    self._failed.add(id(handler))
                    _log.exception("the handler %r failed at %s", handler, type(event).__name__)


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should read."""

    text: str


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The table has been checked; requests begin."""

    total: int
    """Experiments in this run's part of the table."""
    done: int
    """Of these, already in the results file."""
    done_errors: int
    """Of those done, how many are error rows."""
    procs: int
    threads: int
    output: str
    """Where results go, for reading by people."""


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """A request failed and will be made again after `delay` seconds."""

    job: int
    label: str
    """What the job is called in messages to people."""
    attempts: int
    delay: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """A lease has ended, however: one request, unless its worker did not come to send it."""

    job: int
    label: str
    attempt: int
    started: float
    """Monotonic seconds."""
    ended: float
    route: str
    """The endpoint it went to, with everything secret in it; empty where there was no choice."""
    payload: Any
    value: Any
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class RowDone(Event):
    """An experiment has its result; the record is on its way to the writer."""

    row_number: int
    repeat: int
    provider: str
    model: str
    status: Status
    message: str
    attempts: int
    latency: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Pulse(Event):
    """The engine is alive: about ten times a second while a run is on."""

    in_flight: int
    waiting: int
    """Rows that wait for a retry."""
    oldest: float
    """Age of the oldest request in flight, in seconds."""
    oldest_job: int | None
    oldest_label: str = ""
    limit: int | None = None
    """How many may be in flight, where that is being found out; None: nowhere."""
    hold: str = ""
    """What rows wait for, where nothing can be sent for a while."""


@dataclass(frozen=True, slots=True)
class EndpointChanged(Event):
    """An endpoint is kept away from for a while, or is back."""

    endpoint: str
    state: str
    """`open`: it fails; `cooling`: it asked to come later; `closed`: it is back."""
    seconds: float
    """Until it is asked again."""
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker process is ready."""

    slot: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """A worker process died; what it held is leased again."""

    slot: int
    pid: int | None
    exit_code: int | None
    in_flight: int
    report: str


@dataclass(frozen=True, slots=True)
class WriterLost(Event):
    """The writer process died; another takes over what it had not acknowledged."""

    pid: int | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """A signal came: no new requests."""

    signum: int
    in_flight: int
    deadline: float
    """Seconds that requests in flight are given."""


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The last event of a run."""
