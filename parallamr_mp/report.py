"""What a run came to: counted from its events as they happen, in constant memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from parallamr_mp import events
from parallamr_mp.models import Status
from parallamr_mp.policy.thresholds import StopReason
from parallamr_mp.text import kind_of

_GROWTH = math.log(1.02)
_MAX_REASONS = 200


class Percentiles:
    """A histogram whose buckets grow by 2 %: percentiles within 1 %, whatever the number of values."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def add(self, value: float) -> None:
        bucket = round(math.log(max(value, 1e-4)) / _GROWTH)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1

    def at(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of all values do not exceed; None without values."""
        rank = math.ceil(share * self._total)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return math.exp(bucket * _GROWTH)
        return None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did. Times in seconds, tokens as the providers counted them, cost in USD."""

    total: int
    """Experiments in this run's part of the table."""
    resumed: int
    """Of these, finished before this run."""
    resumed_errors: int
    """Of those finished before, how many are error rows."""
    ok: int
    warning: int
    error: int
    """Rows written by this run, by status."""
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """What the answers cost, as far as it is known; None: of none."""
    retries: int
    workers_lost: int
    seconds: float
    """Wall time of this run."""
    latency_p50: float | None
    latency_p95: float | None
    outputs: tuple[str, ...]
    """Paths of the results files; empty for standard output."""
    signum: int | None = None
    """The signal that ended the run early."""
    stop: StopReason | None = None
    """Why the run stopped itself before its end."""
    notices: tuple[str, ...] = ()
    unpriced: int = 0
    """Answered rows that cost nobody knows how much: they are not in `cost_usd`."""
    reasons: tuple[tuple[Status, str, int], ...] = ()
    """Why rows are warnings or errors, most frequent first: status, an example of the message, how many."""

    @property
    def written(self) -> int:
        """Rows written by this run."""
        return self.ok + self.warning + self.error

    @property
    def missing(self) -> int:
        """Experiments that have no row yet."""
        return self.total - self.resumed - self.written


class Tally:
    """An event handler that counts a run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._counts = dict.fromkeys(Status, 0)
        self._latency = Percentiles()
        self._input_tokens = self._output_tokens = self._retries = self._workers_lost = 0
        self._cost: float | None = None
        self._unpriced = 0
        self._total = self._resumed = self._resumed_errors = 0
        self._notices: list[str] = []
        self._reasons: dict[tuple[Status, str], tuple[str, int]] = {}

    KINDS = (events.RowDone, events.AttemptFailed, events.WorkerLost, events.RunStarted, events.Notice)
    """What it counts."""

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RowDone():
                self._counts[event.status] += 1
                self._input_tokens += event.input_tokens
                self._output_tokens += event.output_tokens
                if event.status is not Status.ERROR:
                    self._latency.add(event.latency)
                if event.cost_usd is not None:
                    self._cost = (self._cost or 0.0) + event.cost_usd
                elif event.status is not Status.ERROR:
                    self._unpriced += 1
                if event.message:
                    self._count_reason(event.status, event.message)
            case events.AttemptFailed():
                self._retries += 1
            case events.WorkerLost():
                self._workers_lost += 1
            case events.RunStarted():
                self._total, self._resumed = event.total, event.done
                self._resumed_errors = event.done_errors
            case events.Notice():
                self._notices.append(event.text)

    def _count_reason(self, status: Status, message: str) -> None:
        """Messages that differ in numbers only are one kind; kinds beyond a bound do not count."""
        kind = status, kind_of(message)
        example, count = self._reasons.get(kind, (message, 0))
        if count or len(self._reasons) < _MAX_REASONS:
            self._reasons[kind] = example, count + 1

    def summary(
        self, outputs: tuple[str, ...], signum: int | None, stop: StopReason | None = None
    ) -> RunSummary:
        """What has been counted so far."""
        return RunSummary(
            total=self._total,
            resumed=self._resumed,
            resumed_errors=self._resumed_errors,
            ok=self._counts[Status.OK],
            warning=self._counts[Status.WARNING],
            error=self._counts[Status.ERROR],
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            cost_usd=self._cost,
            unpriced=self._unpriced,
            retries=self._retries,
            workers_lost=self._workers_lost,
            seconds=self._clock() - self._started,
            latency_p50=self._latency.at(0.50),
            latency_p95=self._latency.at(0.95),
            outputs=outputs,
            signum=signum,
            stop=stop,
            notices=tuple(self._notices),
            reasons=self._ranked_reasons(),
        )

    def _ranked_reasons(self) -> tuple[tuple[Status, str, int], ...]:
        found = [(status, example, number) for (status, _), (example, number) in self._reasons.items()]
        return tuple(sorted(found, key=lambda reason: -reason[2]))
