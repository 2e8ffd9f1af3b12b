"""Event handlers that tell people how a run goes. They write to standard error and keep only counters.

    EventBus ──► BarPrinter (terminal) │ PlainPrinter (log file) │ LinePrinter (-v)

All run in the dispatcher's thread of the parent, which owns the terminal.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TextIO

from tqdm import tqdm

from parallamr_mp import events
from parallamr_mp.models import Status
from parallamr_mp.text import count, kind_of, one_line, usd

PLAIN_INTERVAL = 5.0
_RATE_WINDOW = 30.0

_MAX_TOLD = 10
_LONG_COOL_DOWN = 10.0
"""Seconds from which on a cool-down is worth a line."""
_WIDE = 110
"""Columns of a terminal from which on there is room for a bar beside the figures."""
_FIGURES = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_BAR = "{percentage:3.0f}%|{bar:12}| " + _FIGURES
_NARROW_BAR = "{percentage:3.0f}% " + _FIGURES

# tqdm's default lock is a multiprocessing one, which would start a resource
# tracker; only this process draws.
tqdm.set_lock(threading.RLock())


class _Counters:
    """What both progress displays count."""

    KINDS = (events.RunStarted, events.RowDone, events.Pulse, events.RunFinished)

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.total = self.done = self.initial = self.tokens = 0
        self.by_status = dict.fromkeys(Status, 0)
        self.cost = 0.0
        self.started = clock()
        self.pulse = events.Pulse(0, 0, 0.0, None)

    def count(self, event: events.Event) -> None:
        match event:
            case events.RunStarted():
                self.total, self.done, self.initial = event.total, event.done, event.done
                self.started = self._clock()
            case events.RowDone():
                self.done += 1
                self.tokens += event.input_tokens + event.output_tokens
                self.by_status[event.status] += 1
                self.cost += event.cost_usd or 0.0
            case events.Pulse():
                self.pulse = event
            case events.RunFinished():
                self.pulse = events.Pulse(0, 0, 0.0, None)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-3, self._clock() - self.started)

    def details(self, *, terse: bool = False) -> str:
        """Counts by status, in flight and its limit, the oldest request, retries, cost, tokens a second.

        `terse`: as fits a terminal, where what comes last is cut; without what goes without saying.
        """
        counts = {status: count for status, count in self.by_status.items() if count or not terse}
        if terse and counts.keys() <= {Status.OK}:
            counts = {}
        parts = [f"{status.value} {count}" for status, count in counts.items()]
        if self.pulse.hold:
            return " · ".join([*parts, f"waiting for {self.pulse.hold}"])
        limit = "" if self.pulse.limit is None else f"/{self.pulse.limit}"
        parts.append(f"in flight {self.pulse.in_flight}{limit}")
        if self.pulse.in_flight:
            label = self.pulse.oldest_label and f" ({self.pulse.oldest_label})"
            parts.append(f"oldest {self.pulse.oldest:.1f}s{label}")
        if self.pulse.waiting:
            parts.append(f"retrying {self.pulse.waiting}")
        if self.cost:
            parts.append(f"${usd(self.cost)}")
        parts.append(f"{self.tokens_per_second:,.0f} tok/s")
        return " · ".join(parts)


class _Teller:
    """The lines that every display shows, besides what it counts.

    Of failures, the first of each kind: whoever watches a dead server or a
    wrong key should not have to wait for the end to read why.
    """

    KINDS = (
        events.Notice,
        events.AttemptFailed,
        events.RowDone,
        events.EndpointChanged,
        events.WorkerLost,
        events.WriterLost,
        events.Stopping,
    )

    def __init__(self, *, failures: bool) -> None:
        self._failures = failures
        self._told: set[str] = set()
        self._away: dict[str, bool] = {}
        """Endpoints of which was told that they are out of order."""
        self._troubles: dict[str, int] = {}
        """How often there was something to tell, by endpoint."""

    def line(self, event: events.Event) -> str | None:
        """The line for this event; None for those that only count."""
        match event:
            case events.Notice():
                return event.text
            case events.AttemptFailed() if self._is_new(event.failure.message):
                return f"{event.label}: {event.failure.message}; trying again (told once for all rows)"
            case events.RowDone(status=Status.ERROR) if self._is_new(event.message):
                return f"row {event.row_number}: error: {event.message} (told once for all rows)"
            case events.EndpointChanged():
                return self._of_endpoint(event)
            case events.WorkerLost():
                how = "" if event.exit_code is None else f" ({_exit_text(event.exit_code)})"
                return (
                    f"worker {event.slot} (pid {event.pid}) died{how} with"
                    f" {count(event.in_flight, 'request')} in flight; it is replaced, and they are sent again"
                )
            case events.WriterLost():
                how = "" if event.exit_code is None else f" ({_exit_text(event.exit_code)})"
                return f"the writer (pid {event.pid}) died{how}; it is replaced, and no row is lost"
            case events.Stopping():
                name = signal.Signals(event.signum).name
                if not event.in_flight:
                    return f"{name}: ending; nothing is in flight."
                return (
                    f"{name}: no new requests; {event.in_flight} in flight"
                    f" may finish within {event.deadline:.0f} s. Again: end at once."
                )
        return None

    def _of_endpoint(self, event: events.EndpointChanged) -> str | None:
        """What to tell of an endpoint: less and less often, for some ask for a break every minute."""
        if event.state == "closed":
            told = self._away.pop(event.endpoint, False)
            return f"{event.endpoint}: is back" if told else None
        if event.state == "cooling" and event.seconds < _LONG_COOL_DOWN:
            return None
        times = self._troubles[event.endpoint] = self._troubles.get(event.endpoint, 0) + 1
        if times & (times - 1) == 0:  # the first, second, fourth, eighth …
            again = f", for the {times}th time" if times > 2 else ""
            if event.state == "cooling":
                return f"{event.endpoint}: asks to come back in {event.seconds:.0f} s{again} ({event.reason})"
            self._away[event.endpoint] = True
            return (
                f"{event.endpoint}: out of order{again} ({event.reason}); rows wait, for --max-wait at"
                " most, or go elsewhere; it is tried from time to time"
            )
        return None

    def _is_new(self, message: str) -> bool:
        if not self._failures or len(self._told) >= _MAX_TOLD:
            return False
        kind = kind_of(message)
        new = kind not in self._told
        self._told.add(kind)
        return new


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal, or no descriptor
        return _WIDE


def _exit_text(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


_SHOWN = (*_Counters.KINDS, *_Teller.KINDS)
"""What the displays of progress subscribe to, so that nothing else is made for them."""


class BarPrinter:
    """One tqdm bar, drawn at most ten times a second."""

    KINDS = _SHOWN

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, failures: bool = True
    ) -> None:
        """`failures`: tell the first of each kind; not needed where every row has its line."""
        self._stream = stream
        self._teller = _Teller(failures=failures)
        self._counters = _Counters(clock)
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, event: events.Event) -> None:
        counters = self._counters
        counters.count(event)
        if (text := self._teller.line(event)) is not None:
            tqdm.write(one_line(text), file=self._stream)
        match event:
            case events.RunStarted():
                self._bar = tqdm(
                    total=event.total,
                    initial=event.done,
                    file=self._stream,
                    unit="row",
                    dynamic_ncols=True,
                    bar_format=_BAR if _columns(self._stream) >= _WIDE else _NARROW_BAR,
                    smoothing=0.05,
                    mininterval=0.1,
                    miniters=1,
                )
            case events.Pulse() if self._bar is not None:
                self._draw(self._bar)
            case events.RunFinished():
                self.close()

    def _draw(self, bar: tqdm[NoReturn]) -> None:
        bar.set_postfix_str(self._counters.details(terse=True), refresh=False)
        if not bar.update(self._counters.done - bar.n):
            bar.refresh()

    def close(self) -> None:
        """Leaves the bar as it stands; the next line starts below it."""
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.close()
            self._bar = None


class PlainPrinter:
    """One plain line every few seconds: for log files, batch jobs, pipes. No escape codes."""

    KINDS = _SHOWN

    def __init__(
        self,
        stream: TextIO,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        *,
        failures: bool = True,
    ) -> None:
        """`interval`: seconds between lines of progress; `failures` as in `BarPrinter`."""
        self._teller = _Teller(failures=failures)
        self._stream, self._interval, self._clock = stream, interval, clock
        self._counters = _Counters(clock)
        self._next = clock() + interval
        self._recent: list[tuple[float, int]] = []

    def __call__(self, event: events.Event) -> None:
        self._counters.count(event)
        if (text := self._teller.line(event)) is not None:
            print(one_line(text), file=self._stream, flush=True)
        if isinstance(event, events.Pulse) and self._clock() >= self._next:
            self._next = self._clock() + self._interval
            self._report()

    def _report(self) -> None:
        counters, now = self._counters, self._clock()
        self._recent.append((now, counters.done))
        while self._recent[0][0] < now - _RATE_WINDOW:
            self._recent.pop(0)
        since, before = self._recent[0] if len(self._recent) > 1 else (counters.started, counters.initial)
        rate = (counters.done - before) / max(1e-3, now - since)
        left = tqdm.format_interval((counters.total - counters.done) / rate) if rate > 0 else "?"
        share = 100 * counters.done / max(1, counters.total)
        print(
            f"{counters.done}/{counters.total} rows ({share:.0f}%) · {rate:.1f} rows/s · {left} left"
            f" · {counters.details()}",
            file=self._stream,
            flush=True,
        )

    def close(self) -> None:
        """Nothing is left open."""


class LinePrinter:
    """One line for each row, retry and worker, through tqdm so that a bar below stays whole."""

    KINDS = (events.RowDone, events.AttemptFailed, events.WorkerStarted)

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RowDone():
                text = f"row {event.row_number}" + (f" repeat {event.repeat}" if event.repeat else "")
                text += f": {event.status.value} · {event.provider}/{event.model} · {event.latency:.2f} s"
                if event.message:
                    text += f" · {event.message}"
            case events.AttemptFailed():
                # Without a wait of its own a row waits for its endpoint, which may have asked for an hour.
                when = f"in {event.delay:.1f} s" if event.delay else "as soon as an endpoint may be asked"
                text = (
                    f"{event.label}: attempt {event.attempts} failed: {event.failure.message}; again {when}"
                )
            case events.WorkerStarted() if event.pid is not None:
                text = f"worker {event.slot} is up (pid {event.pid})"
            case _:
                return
        tqdm.write(one_line(text), file=self._stream)
