"""What happened, published on a bus that anyone may listen to.

All events of a sweep are published and handled in the parent process, in the
dispatcher's thread, in order. Those of parallel groups (`parallel/models.py`)
go the same way. Events are frozen data; times are in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from parallamr_mp.models import Failure, Status

if TYPE_CHECKING:
    from parallamr_mp.mailbox import Mailbox

_log = logging.getLogger(__name__)


class Event:
    """Something that happened."""

    __slots__ = ()


Handler = Callable[[Any], Awaitable[object] | object]
"""Called with each event. An async one is awaited, one event after the other, in the order of publication."""


class EventBus:
    """Hands each event to every handler, in the order of their subscription.

    >>> bus = EventBus()
    >>> unsubscribe = bus.subscribe(lambda event: print(event.text))
    >>> bus.publish(Notice("the table has 3 rows"))
    the table has 3 rows
    >>> unsubscribe()
    >>> bus.publish(Notice("nobody reads this"))

    Not thread-safe: a sweep publishes in the dispatcher's thread, a group in
    that of its event loop. An async handler runs on the loop that is running,
    later; without one, `publish` itself runs it to its end.
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._failed: set[int] = set()
        self._contexts: dict[int, Context] = {}
        """Those in which handlers were subscribed, by their identity."""
        self._mailboxes: dict[int, Mailbox] = {}
        """Of those handlers that have been found to be async."""

    @property
    def listening(self) -> bool:
        """Whether there is anybody to publish for."""
        return bool(self._handlers)

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Adds a handler; the returned function takes it away again."""
        self._handlers.append(handler)
        self._contexts[id(handler)] = copy_context()

        def unsubscribe() -> None:
            for place, other in enumerate(self._handlers):
                if other is handler:
                    del self._handlers[place]
                    self._failed.discard(id(handler))
                    break

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Calls every handler. One that raises is logged, once, and hurts nobody."""
        for handler in tuple(self._handlers):
            try:
                answer = handler(event)
                if answer is not None and isinstance(answer, Awaitable):
                    self._mailbox_of(handler).put(answer, type(event).__name__)
            except Exception as error:
                self._log_failure(handler, error, type(event).__name__)

    async def drain(self) -> None:
        """Returns when the async handlers are through with all that was published before.

        At once in an async handler: groups that it opens do not wait for handlers.
        """
        for mailbox in tuple(self._mailboxes.values()):
            await mailbox.drain()

    def _mailbox_of(self, handler: Handler) -> Mailbox:
        if (mailbox := self._mailboxes.get(id(handler))) is None:
            # A function's import: it brings asyncio, which a sweep does without.
            from parallamr_mp.mailbox import Mailbox  # noqa: PLC0415

            context, failed = self._contexts[id(handler)], partial(self._log_failure, handler)
            mailbox = self._mailboxes[id(handler)] = Mailbox(context, failed)
        return mailbox

    def _log_failure(self, handler: Handler, error: Exception, about: str) -> None:
        if id(handler) not in self._failed:
            self._failed.add(id(handler))
            _log.error("the handler %r failed at %s", handler, about, exc_info=error)


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
