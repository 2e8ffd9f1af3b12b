"""The one display of progress, for sweeps and for groups."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

from parallamr_mp import events
from parallamr_mp.printers.executions import indented
from parallamr_mp.printers.group_view import GroupView
from parallamr_mp.printers.run_view import RunView
from parallamr_mp.printers.screen import Screen
from parallamr_mp.printers.sentences import of_row
from parallamr_mp.printers.tell import Teller
from parallamr_mp.text import one_line

PLAIN_INTERVAL = 5.0
"""Seconds between lines of progress where there are no bars."""


_TROUBLES = (events.Notice, events.EndpointChanged, events.WorkerLost, events.WriterLost, events.Stopping)
_ROWS = (events.RowDone, events.AttemptFailed)


class ParallelEventPrinter:
    """Shows groups and sweeps as they go on: a handler for an `EventBus`.

    >>> import asyncio, sys
    >>> from parallamr_mp.parallel import ExecutionState, ParallelEventPrinter
    >>> async def main():
    ...     state = ExecutionState()
    ...     printer = ParallelEventPrinter("progress", sys.stdout)
    ...     state.event_bus.subscribe(printer)
    ...     async with state.parallel(name="Documents") as p:
    ...         for word in ("one", "two"):
    ...             p.add(asyncio.sleep, 0, word)
    ...     return [(group.name, group.completed, group.total) for group in printer.parallel_groups.values()]
    >>> asyncio.run(main())  # doctest: +ELLIPSIS
    Documents#1 completed: 2 of 2 done · ...
    [('Documents', 2, 2)]

    `parallel_mode`: `realtime`, a line an event, indented below its group; or
    `progress`, a bar a group, drawn ten times a second, and a line when it has
    ended. Without a terminal there are plain lines every `interval` seconds
    instead of bars; `bars` says otherwise. `stream`: None is the standard error
    of the moment; one that is closed takes nothing, which is no error.
    `failures`: tell the first of each kind while there is a bar. `clock` gives
    monotonic seconds, for tests.

    Events are taken in one thread. While groups are shown, a second one draws.
    """

    def __init__(
        self,
        parallel_mode: str = "realtime",
        stream: TextIO | None = None,
        *,
        bars: bool | None = None,
        interval: float = PLAIN_INTERVAL,
        failures: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parallel_mode`: a `ParallelDisplayMode`, or the string."""
        if parallel_mode not in {"realtime", "progress"}:
            raise ValueError(f"parallel_mode is 'realtime' or 'progress', not {parallel_mode!r}")
        self._realtime = parallel_mode == "realtime"
        self.parallel_groups: dict[str, Any] = {}
        """By group id, a `ParallelGroupTracker` of every group that was heard of."""
        self._screen = Screen(stream, bars=bars)
        # A line for each task says it all.
        teller = Teller(failures=failures and not self._realtime)
        self._teller = teller
        self._runs = RunView(self._screen, teller, interval, clock)
        self._groups = GroupView(self._screen, teller, interval)
        self._in_run = False
        """A sweep is on, and is shown by its own events."""
        self._quiet: set[str] = set()
        """Groups of which nothing more is shown: they stand for sweeps that are."""
        self._said_by_executions = False

    @property
    def sweep_kinds(self) -> tuple[type[events.Event], ...]:
        """What it needs to hear of a sweep: of everything, it would be made more than is shown."""
        if self._realtime:
            # Rows have their lines by their own events where nobody publishes them as executions.
            return (events.Execution, *_TROUBLES, *_ROWS)
        return (*_TROUBLES, *_ROWS, events.RunStarted, events.Pulse, events.RunFinished)

    def __call__(self, event: events.Event) -> None:
        self.print_event(event)

    def print_event(self, event: Any) -> None:
        """Shows what happened; an event of a kind that is unknown is none of its business."""
        if isinstance(event, events.Execution):
            self._take_execution(event)
        elif self._realtime:
            self._tell(event)
        else:
            if isinstance(event, (events.RunStarted, events.RunFinished)):
                self._in_run = isinstance(event, events.RunStarted)
                self._quiet |= self._groups.give_up()
            self._runs.show(event)

    def refresh(self) -> None:
        """Draws the groups' bars as things stand; without bars, a line for each."""
        self._groups.refresh()

    def close(self) -> None:
        """Ends bars whose end nobody tells. What comes after it is shown as before."""
        self._runs.close()
        self._groups.close()

    def _take_execution(self, event: Any) -> None:
        group_id, tracker = event.group_id, None
        if group_id is not None:
            tracker = self.parallel_groups.get(group_id)
            if tracker is None:
                tracker = self.parallel_groups[group_id] = event.tracker()
            tracker.update(event)
            if self._in_run:
                self._quiet.add(group_id)
                self._in_run = tracker.status == "running"  # without `RunFinished` if it could not go on
        self._said_by_executions = True
        if self._realtime or tracker is None:
            self._screen.write(indented(event, tracker, self._screen.paint))
        elif group_id not in self._quiet:
            self._groups.show(event, tracker)

    def _tell(self, event: events.Event) -> None:
        text = self._teller.line(event)
        if text is None and not self._said_by_executions:
            text = of_row(event)
        if text is not None:
            self._screen.write(one_line(text))
        if isinstance(event, events.RunFinished):
            self._said_by_executions = False
