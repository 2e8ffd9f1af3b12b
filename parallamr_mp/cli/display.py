"""Which printers tell how a run goes, by `--display`, `--verbose` and `--quiet`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from parallamr_mp import events
from parallamr_mp.cli.invocation import Invocation
from parallamr_mp.cli.options import Display
from parallamr_mp.printers import PLAIN_INTERVAL, LinePrinter, ParallelEventPrinter

_TROUBLES = (events.Notice, events.EndpointChanged, events.WorkerLost, events.WriterLost, events.Stopping)
_ROWS = (events.RowDone, events.AttemptFailed)
_PROGRESS = (*_TROUBLES, *_ROWS, events.RunStarted, events.Pulse, events.RunFinished)
"""What counts are made of. `ExecutionEvent`s say the same, but cost more to make."""


@contextmanager
def subscribed(given: Invocation) -> Iterator[None]:
    """Has the run told on standard error, for as long as this lasts."""
    if given.quiet:
        yield
        return
    display, bus = _display(given), given.runner.bus
    if display is Display.REALTIME:
        printer = ParallelEventPrinter("realtime", sys.stderr)
        # Rows have their lines by their own events where nobody publishes them as executions.
        bus.subscribe(printer, events.Execution, *_TROUBLES, *_ROWS)
    else:
        # Without progress, notices are still told: only --quiet silences them.
        interval = math.inf if display is Display.NONE else PLAIN_INTERVAL
        bars = display is Display.BAR
        failures = not given.verbose
        printer = ParallelEventPrinter(
            "progress", sys.stderr, bars=bars, interval=interval, failures=failures
        )
        bus.subscribe(printer, *_PROGRESS)
    if given.verbose:
        rows = () if display is Display.REALTIME else _ROWS
        bus.subscribe(LinePrinter(sys.stderr), events.WorkerStarted, *rows)
    try:
        yield
    finally:
        printer.close()


def _display(given: Invocation) -> Display:
    if given.display is not Display.AUTO:
        return given.display
    if not sys.stderr.isatty():
        return Display.PLAIN
    # A bar and rows on one screen would write over each other.
    return Display.NONE if given.output is None and sys.stdout.isatty() else Display.BAR
