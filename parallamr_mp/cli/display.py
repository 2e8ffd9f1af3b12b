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


@contextmanager
def subscribed(given: Invocation) -> Iterator[None]:
    """Has the run told on standard error, for as long as this lasts."""
    if given.quiet:
        yield
        return
    display, bus = _display(given), given.runner.bus
    if display is Display.REALTIME:
        printer = ParallelEventPrinter("realtime", sys.stderr)
    else:
        printer = ParallelEventPrinter(
            "progress",
            sys.stderr,
            bars=display is Display.BAR,
            # Without progress, notices are still told: only --quiet silences them.
            interval=math.inf if display is Display.NONE else PLAIN_INTERVAL,
            failures=not given.verbose,
        )
    bus.subscribe(printer, *printer.sweep_kinds)
    if given.verbose:
        # In real time rows have their lines already.
        kinds = (events.WorkerStarted,) if display is Display.REALTIME else LinePrinter.KINDS
        bus.subscribe(LinePrinter(sys.stderr), *kinds)
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
