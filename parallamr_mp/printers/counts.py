"""What is counted of a sweep, and how the counts read."""

from __future__ import annotations

from collections.abc import Callable

from parallamr_mp import events
from parallamr_mp.models import Status
from parallamr_mp.text import usd

_IDLE = events.Pulse(0, 0, 0.0, None)


class RunCounts:
    """Rows by status, tokens, cost, and what is in flight; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.total = self.done = self.initial = self.tokens = 0
        self.by_status = dict.fromkeys(Status, 0)
        self.cost = 0.0
        self.started = clock()
        self.pulse = _IDLE

    def count(self, event: events.Event) -> None:
        """Takes an event into account."""
        match event:
            case events.RowDone():
                self.done += 1
                self.tokens += event.input_tokens + event.output_tokens
                self.by_status[event.status] += 1
                self.cost += event.cost_usd or 0.0
            case events.RunStarted():
                self.total, self.done, self.initial = event.total, event.done, event.done
                self.started = self._clock()
            case events.Pulse():
                self.pulse = event
            case events.RunFinished():
                self.pulse = _IDLE

    @property
    def tokens_per_second(self) -> float:
        """Of this run's rows, since its start."""
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
