"""What happened, published on a bus that anyone may listen to.

All events of a sweep are published and handled in the parent process, in the
dispatcher's thread, in order. Those of parallel groups (`parallel/models.py`)
go the same way; a sweep publishes such ones, too (`sweep_events.py`). Events
are frozen data; times are in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallamr_mp.models import Failure, Status
from parallamr_mp.values import value

if TYPE_CHECKING:
    from parallamr_mp.mailbox import Mailbox

_log = logging.getLogger(__name__)


class Event:
    """Something that happened."""

    __slots__ = ()


class Execution(Event):
    """What an `ExecutionEvent` is known by where its module, which brings Pydantic, is not loaded.

    It is made only if somebody wants it.
    """

    __slots__ = ()


Handler = Callable[[Any], Awaitable[object] | object]
"""Called with each event. An async one is awaited, one event after the other, in the order of publication."""


class _Subscription:
    """A handler, and what belongs to it."""

    __slots__ = ("context", "failed", "handler", "kinds", "mailbox")

    def __init__(self, handler: Handler, kinds: tuple[type[Event], ...]) -> None:
        self.handler, self.kinds = handler, kinds
        self.context = copy_context()
        self.mailbox: Mailbox | None = None
        """Once it has been found to be async."""
        self.failed = False
        """Has raised, and that is logged."""

    def log_failure(self, error: BaseException, about: str) -> None:
        if not self.failed:
            self.failed = True
            _log.error("the handler %r failed at %s", self.handler, about, exc_info=error)


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
        self._subscriptions: list[_Subscription] = []
        self._wanting: dict[type[Event], tuple[_Subscription, ...]] = {}
        """By the class of an event, found out when the first of it comes."""
        self._left: list[_Subscription] = []
        """Unsubscribed, with events on their way."""

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody would be handed an event of this class: if not, it need not be made."""
        wanting = self._wanting.get(kind)
        return bool(self._find_wanting(kind) if wanting is None else wanting)

    def subscribe(self, handler: Handler, *kinds: type[Event]) -> Callable[[], None]:
        """Adds a handler of these kinds of events, else of all; what is returned takes it away again."""
        subscription = _Subscription(handler, kinds)
        self._subscriptions.append(subscription)
        self._wanting.clear()

        def unsubscribe() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                self._wanting.clear()
                if subscription.mailbox is not None:
                    self._left.append(subscription)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Calls every handler that wants it. One that raises is logged, once, and hurts nobody."""
        wanting = self._wanting.get(type(event))
        for subscription in self._find_wanting(type(event)) if wanting is None else wanting:
            try:
                answer = subscription.handler(event)
                if answer is not None and isinstance(answer, Awaitable):
                    self._mailbox_of(subscription).put(answer, type(event).__name__)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # also the CancelledError of a future that it has looked at
                subscription.log_failure(error, type(event).__name__)

    @property
    def congested(self) -> bool:
        """Whether an async handler is far behind (`mailbox.FULL`).

        Publishing goes on working: no event is dropped, and none waits. But who
        is about to cause many more should wait for `when_room`. Never so in an
        async handler, for it would wait for itself.
        """
        return any(
            subscription.mailbox is not None and subscription.mailbox.full
            for subscription in self._subscriptions
        )

    def when_room(self, callback: Callable[[], object]) -> None:
        """On a congested bus: has the event loop call it, once, when a handler that is behind catches up.

        Once, however often it is asked for meanwhile. Look again then: another
        may be behind. Without congestion it is never called.
        """
        for subscription in self._subscriptions:
            if subscription.mailbox is not None and subscription.mailbox.full:
                subscription.mailbox.when_room(callback)
                return

    async def drain(self) -> None:
        """Returns when the async handlers are through with all that was published before.

        At once in an async handler: groups that it opens do not wait for handlers.
        """
        left, self._left = self._left, []
        for subscription in (*self._subscriptions, *left):
            if subscription.mailbox is not None:
                await subscription.mailbox.drain()

    def _find_wanting(self, kind: type[Event]) -> tuple[_Subscription, ...]:
        self._wanting[kind] = tuple(
            subscription
            for subscription in self._subscriptions
            if not subscription.kinds or issubclass(kind, subscription.kinds)
        )
        return self._wanting[kind]

    def _mailbox_of(self, subscription: _Subscription) -> Mailbox:
        if subscription.mailbox is None:
            # A function's import: it brings asyncio, which a sweep does without.
            from parallamr_mp.mailbox import Mailbox  # noqa: PLC0415

            subscription.mailbox = Mailbox(subscription.context, subscription.log_failure)
        return subscription.mailbox


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
class AttemptStarted(Event):
    """A job has been leased: its request is on its way to a worker. Made for who wants it."""

    job: int
    label: str
    attempt: int
    """1 for the first."""
    payload: Any


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
    """A lease has ended, however: one request, unless its worker did not come to send it.

    Made only if somebody wants it.
    """

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


@value
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
    job: int | None = None
    """As in the events of its attempts."""
    failure: str = ""
    """Of an error row: what kind of `Failure` it ended in."""


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
