"""One line an event: for `-v`, and for whoever wants to see everything that happens."""

from __future__ import annotations

from typing import TextIO, cast

from parallamr_mp import events
from parallamr_mp.printers.executions import TaskEvent, line_of
from parallamr_mp.printers.screen import Screen
from parallamr_mp.printers.sentences import of_row, sentence
from parallamr_mp.text import one_line


class LinePrinter:
    """One line for each row, retry and worker, through tqdm so that a bar below stays whole."""

    KINDS = (events.RowDone, events.AttemptFailed, events.WorkerStarted)
    """What it needs to hear of."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._screen = Screen(stream)

    def __call__(self, event: events.Event) -> None:
        text = sentence(event) if isinstance(event, events.WorkerStarted) else of_row(event)
        if text is not None:
            self._screen.write(one_line(text))


class EventPrinter:
    """One line an event, of tasks, groups and sweeps alike: a handler for an `EventBus`.

    >>> import sys
    >>> printer = EventPrinter(sys.stdout)
    >>> printer.print_event(events.Notice("the table has 3 rows"))
    the table has 3 rows

    `stream`: None is the standard error of the moment. Rows whose
    `ExecutionEvent`s are printed have no further lines. For one thread.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._screen = Screen(stream)
        self._said_by_executions = False

    def __call__(self, event: events.Event) -> None:
        self.print_event(event)

    def print_event(self, event: events.Event) -> None:
        """Prints the event's line, if it has one: what only counts has none."""
        if isinstance(event, events.Execution):
            self._said_by_executions = True
            self._screen.write(line_of(cast(TaskEvent, event), self._screen.paint))
            return
        row = isinstance(event, events.RowDone | events.AttemptFailed | events.AttemptStarted)
        if not (row and self._said_by_executions) and (text := sentence(event)) is not None:
            self._screen.write(one_line(text))
        if isinstance(event, events.RunFinished):
            self._said_by_executions = False
