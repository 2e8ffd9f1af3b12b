"""How a sweep is shown: one bar, drawn at every pulse of its engine, or a plain line every few seconds."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from parallamr_mp import events
from parallamr_mp.models import Status
from parallamr_mp.printers.counts import RunCounts
from parallamr_mp.printers.screen import Bar, Screen
from parallamr_mp.printers.tell import Teller
from parallamr_mp.text import one_line

_RATE_WINDOW = 30.0


class RunView:
    """Shows one sweep after another. Used by one thread."""

    def __init__(self, screen: Screen, teller: Teller, interval: float, clock: Callable[[], float]) -> None:
        self._screen, self._teller, self._interval, self._clock = screen, teller, interval, clock
        self._bar: Bar | None = None
        self._counts = RunCounts(clock)
        self._next = clock() + interval
        """When a plain line is due."""
        self._recent: list[tuple[float, int]] = []
        """Times, and how many rows were done: of the last half-minute."""

    def show(self, event: events.Event) -> None:
        """Counts, tells what is to be told, and draws if this is a pulse."""
        if isinstance(event, events.RunStarted):  # perhaps one more
            self.close()
            self._counts = RunCounts(self._clock)
            self._next = self._clock() + self._interval
            self._recent.clear()
        self._counts.count(event)
        if isinstance(event, events.RowDone) and event.status is not Status.ERROR:
            return  # the rule, and nothing to tell
        if (text := self._teller.line(event)) is not None:
            self._screen.write(one_line(text))
        match event:
            case events.RunStarted() if self._screen.bars:
                self._bar = self._screen.bar(event.total, "row", done=event.done)
            case events.Pulse() if self._bar is not None:
                self._draw(self._bar)
            case events.Pulse() if not self._screen.bars and self._clock() >= self._next:
                self._next = self._clock() + self._interval
                self._report()
            case events.RunFinished():
                self.close()

    def close(self) -> None:
        """Leaves the bar as it stands; the next line starts below it."""
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.close()
            self._bar = None

    def _draw(self, bar: Bar) -> None:
        bar.show(self._counts.done, self._counts.details(terse=True))

    def _report(self) -> None:
        counts, now = self._counts, self._clock()
        self._recent.append((now, counts.done))
        while self._recent[0][0] < now - _RATE_WINDOW:
            self._recent.pop(0)
        since, before = self._recent[0] if len(self._recent) > 1 else (counts.started, counts.initial)
        rate = (counts.done - before) / max(1e-3, now - since)
        left = tqdm.format_interval((counts.total - counts.done) / rate) if rate > 0 else "?"
        share = 100 * counts.done / max(1, counts.total)
        self._screen.write(
            one_line(
                f"{counts.done}/{counts.total} rows ({share:.0f}%) · {rate:.1f} rows/s · {left} left"
                f" · {counts.details()}"
            )
        )
