"""Metrics from a history: read when they are asked for, so that a group that runs pays nothing for them.

    History ──► facts (what an entry says, as a tuple) ──► Run (one run of a group) ──► GroupMetrics
                                                            └── all of them ──────────► StateMetrics.total

How many attempts were in flight at once is found by their places in the
history, which is in order whatever the clock did meanwhile. Only the start of
an attempt after the first is not told there: it is put where its end and the
time it took say.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from parallamr_mp.errors import CircuitOpen
from parallamr_mp.parallel.enums import ExecutionStatus, GroupStatus
from parallamr_mp.parallel.metrics import ExecutionMetrics, GroupMetrics, LatencyMetrics, StateMetrics
from parallamr_mp.parallel.models import ExecutionEvent, ParallelEventGroup
from parallamr_mp.parallel.record import Entry, Retrying
from parallamr_mp.parallel.result import ExecutionResult

BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""Seconds: from a function's milliseconds to the hour that a model may take."""
_REJECTED = CircuitOpen.__name__


def metrics_of(
    entries: Sequence[Entry | ExecutionEvent], *, state_id: str, now: float, loaded: int = 0
) -> StateMetrics:
    """The metrics of these entries, of which the first `loaded` come from a file: nothing of them still runs.

    `now` is in seconds since the epoch. Events of groups whose start is not
    among the entries are left out.
    """
    runs = _read(entries, loaded)
    every = list(runs.values())
    spans = [(run.group.started_at or 0.0, run.wall(now)) for run in every]
    groups = tuple(
        GroupMetrics(
            group_id=run.group.group_id,
            address=run.group.address,
            name=run.group.name,
            status=run.group.status,
            max_workers=run.group.max_workers,
            **vars(_metrics([run], wall, run.group.max_workers)),
        )
        for run, (_, wall) in zip(every, spans, strict=True)
    )
    return StateMetrics(state_id=state_id, timestamp=now, groups=groups, total=_metrics(every, union(spans)))


class _Tried(NamedTuple):
    """A task that has not ended."""

    attempts: int
    seconds: float
    in_flight: bool
    since: int = 0
    """The place of the entry that told this."""


_UNTRIED = _Tried(0, 0.0, in_flight=False)


@dataclass(slots=True)
class _Run:
    """One run of a group, as far as it has been read."""

    group: ParallelEventGroup
    seconds: float | None = None
    """From its start to its end."""
    last: float = 0.0
    """When something happened in it, in seconds since the epoch."""
    started: int = 0
    completed: int = 0
    """Those replayed not included."""
    failed: int = 0
    cancelled: int = 0
    replayed: int = 0
    rejected: int = 0
    attempts: int = 0
    retries: int = 0
    rejections: int = 0
    busy: float = 0.0
    latencies: list[float] = field(default_factory=list)
    open: dict[int | None, _Tried] = field(default_factory=dict)
    """Tasks that have not ended, by index."""
    changes: list[int] = field(default_factory=list)
    """Where attempts began or ended, as `_change` writes it."""

    def wall(self, now: float) -> float:
        """Seconds from its start to its end, or until now."""
        if self.seconds is not None:
            return self.seconds
        until = now if self.group.status is GroupStatus.RUNNING else self.last
        return max(0.0, until - (self.group.started_at or until))

    def began(self, index: int | None, place: int) -> None:
        """The first attempt of a task."""
        self.started += 1
        self.attempts += 1
        before = self.open.get(index, _UNTRIED)
        self.open[index] = _Tried(1, before.seconds, in_flight=True)
        self.changes.append(_change(place, _BEGAN))

    def stopped(self, fact: _Fact, place: int, times: Sequence[float]) -> None:
        """An attempt has ended, or the breaker did not let one begin."""
        before = self.open.pop(fact.task, _UNTRIED)
        spent = fact.seconds - before.seconds
        self.busy += spent
        rejected = False
        if fact.attempt > before.attempts:  # one after the first; it began after the entry before
            self.attempts += fact.attempt - before.attempts
            began = bisect_right(times, fact.when - spent, before.since + 1, place)
            self.changes += (_change(began, _BEGAN_BEFORE), _change(place, _ENDED))
        elif before.in_flight:
            self.changes.append(_change(place, _ENDED))
        else:
            rejected = fact.error_type == _REJECTED
            self.rejections += rejected
        match fact.status:
            case ExecutionStatus.RETRYING:
                self.retries += 1
                self.open[fact.task] = _Tried(fact.attempt, fact.seconds, in_flight=False, since=place)
                return
            case ExecutionStatus.CANCELLED:
                self.cancelled += 1
                return
            case ExecutionStatus.FAILED:
                self.failed += 1
                self.rejected += rejected
            case _:
                self.completed += 1
        if fact.attempt:
            self.latencies.append(fact.seconds)

    def ended(self, place: int) -> None:
        """Nothing of it runs any more."""
        self.changes += [_change(place, _ENDED) for tried in self.open.values() if tried.in_flight]
        self.open.clear()


class _Fact(NamedTuple):
    """What an entry says of a task."""

    group_id: str | None
    task: int | None
    """Its index."""
    status: ExecutionStatus
    when: float
    attempt: int
    seconds: float
    error_type: str | None
    replayed: bool


def _read(entries: Sequence[Entry | ExecutionEvent], loaded: int) -> dict[str, _Run]:
    """The last run of every group, by its id."""
    runs: dict[str, _Run] = {}
    times: list[float] = []
    """When the entries were made, by their place."""
    for place, entry in enumerate(entries):
        if place == loaded:
            _interrupt(runs, place)
        if isinstance(entry, ExecutionEvent) and (group := entry.group) is not None:
            times.append(entry.timestamp)
            if group.status is GroupStatus.RUNNING:
                runs.pop(group.group_id, None)  # it shall be the last in order, too
                runs[group.group_id] = _Run(group, last=entry.timestamp)
            elif (run := runs.get(group.group_id)) is not None:
                run.group, run.seconds, run.last = group, entry.execution_time, entry.timestamp
                run.replayed = max(run.replayed, group.replayed)
                run.ended(place)
            continue
        fact = _fact_of(entry)
        times.append(fact.when)
        run = runs.get(fact.group_id or "")
        if run is None:
            continue
        run.last = fact.when
        if fact.replayed:
            run.replayed += fact.status is ExecutionStatus.COMPLETED
        elif fact.status is ExecutionStatus.STARTED:
            run.began(fact.task, place)
        else:
            run.stopped(fact, place, times)
    if len(entries) <= loaded:
        _interrupt(runs, len(entries))
    return runs


def _interrupt(runs: dict[str, _Run], place: int) -> None:
    """The groups that were running when their state was saved do not run any more."""
    for run in runs.values():
        if run.group.status is GroupStatus.RUNNING:
            run.group = run.group.model_copy(update={"status": GroupStatus.CANCELLED})
            run.ended(place)


def _fact_of(entry: Entry | ExecutionEvent) -> _Fact:
    if isinstance(entry, ExecutionEvent):
        return _Fact(
            entry.group_id,
            entry.parallel_index,
            entry.status,
            entry.timestamp,
            entry.attempt,
            entry.execution_time or 0.0,
            entry.error_type,
            entry.is_replayed,
        )
    task, status, when, more = entry
    attempt, seconds, kind, replayed = 1, 0.0, None, False
    if isinstance(more, ExecutionResult):
        attempt, seconds, kind = more.attempts, more.execution_time, more.error_type
        replayed = more.is_replayed
    elif isinstance(more, Retrying):
        attempt, seconds, kind = more.attempt, more.seconds, more.error_type
    else:
        replayed = more
    return _Fact(task.group.id, task.index, status, when, attempt, seconds, kind, replayed)


def _metrics(runs: Sequence[_Run], wall: float, limit: float = math.inf) -> ExecutionMetrics:
    """`limit`: how many attempts can have been in flight at once, should the clock that times retries err."""
    busy = math.fsum(run.busy for run in runs)
    replayed = sum(run.replayed for run in runs)
    return ExecutionMetrics(
        added=sum(run.group.total for run in runs),
        started=sum(run.started for run in runs),
        running=sum(len(run.open) for run in runs),
        completed=sum(run.completed for run in runs) + replayed,
        failed=sum(run.failed for run in runs),
        cancelled=sum(run.cancelled for run in runs),
        replayed=replayed,
        rejected=sum(run.rejected for run in runs),
        attempts=sum(run.attempts for run in runs),
        retries=sum(run.retries for run in runs),
        rejections=sum(run.rejections for run in runs),
        peak=int(min(limit, _peak(chain.from_iterable(run.changes for run in runs)))),
        wall_seconds=wall,
        busy_seconds=busy,
        speed_up=busy / wall if wall > 0 and busy > 0 else None,
        latency=_latency(sorted(chain.from_iterable(run.latencies for run in runs))),
    )


def _change(place: int, what: int) -> int:
    """As one number, for their order: in that of the history, and at one place in that of `what`."""
    return 4 * place + what


_BEGAN_BEFORE, _ENDED, _BEGAN = range(3)
"""An attempt began before the entry at this place, ended there, or began there."""


def _peak(changes: Iterable[int]) -> int:
    most = inside = 0
    for change in sorted(changes):
        if change % 4 == _ENDED:
            inside -= 1
        else:
            inside += 1
            most = max(most, inside)
    return most


def _latency(ordered: Sequence[float]) -> LatencyMetrics:
    count = len(ordered)
    if not count:
        return LatencyMetrics(buckets=tuple((bound, 0) for bound in BOUNDS))
    p50, p90, p95, p99 = (ordered[math.ceil(share * count / 100) - 1] for share in (50, 90, 95, 99))
    total = math.fsum(ordered)
    return LatencyMetrics(
        count=count,
        total=total,
        mean=min(max(total / count, ordered[0]), ordered[-1]),  # rounding keeps it between them
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=ordered[-1],
        buckets=tuple((bound, bisect_right(ordered, bound)) for bound in BOUNDS),
    )


def union(spans: Iterable[tuple[float, float]]) -> float:
    """The time that spans (start, length) cover together.

    >>> union([(10.0, 2.0), (11.0, 3.0), (20.0, 1.0)])
    5.0
    """
    covered, until = [], -math.inf
    for start, length in sorted(spans):
        end = start + length
        if start >= until:
            covered.append(length)
        elif end > until:
            covered.append(end - until)
        until = max(until, end)
    return math.fsum(covered)
