"""What a state's groups came to, in numbers: models that go to JSON and back, and to Prometheus.

`measuring` makes them from the history.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from parallamr_mp.parallel import exposition
from parallamr_mp.parallel.enums import GroupStatus


class LatencyMetrics(BaseModel):
    """How long tasks took, in seconds: their attempts, without the waits between them.

    Of tasks that completed or failed; not of those that were cancelled,
    replayed, or never tried. Percentiles are values that occurred: the least
    that so many of 100 tasks do not exceed. None: there were no such tasks.
    """

    model_config = ConfigDict(frozen=True)

    count: int = 0
    total: float = 0.0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    buckets: tuple[tuple[float, int], ...] = ()
    """How many tasks took at most so many seconds, for a histogram."""


class ExecutionMetrics(BaseModel):
    """Numbers of one group, or of all groups together."""

    model_config = ConfigDict(frozen=True)

    added: int = 0
    started: int = 0
    """Tasks that were tried now, however often: replayed and rejected ones were not."""
    running: int = 0
    """Tasks that have been tried and have not ended: in flight, or waiting for a retry."""
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    replayed: int = 0
    """Of the completed ones, those taken from an earlier run's history: known when their group has ended."""
    rejected: int = 0
    """Of the failed ones, those that ended because the circuit breaker was open."""
    attempts: int = 0
    """One after the first of its task is known, here and in `peak`, once it has ended."""
    retries: int = 0
    """How often a task was put back to be tried again."""
    rejections: int = 0
    """How often the circuit breaker did not let a task start; one task may be rejected again and again."""
    peak: int = 0
    """The most attempts in flight at once."""
    wall_seconds: float = 0.0
    """From a group's start to its end, or until now; of all groups: the time in which any was running."""
    busy_seconds: float = 0.0
    """What all attempts that have ended took together."""
    speed_up: float | None = None
    """`busy_seconds` over `wall_seconds`; None before there are any.

    A task that waits for a group that it has opened is busy, and so are that group's tasks.
    """
    latency: LatencyMetrics = LatencyMetrics()


class GroupMetrics(ExecutionMetrics):
    """Numbers of one group. One that was run again, on a state that was loaded: of its last run."""

    group_id: str
    address: str
    name: str
    status: GroupStatus
    """`cancelled`, too, if it was running when its state was saved, and has not been opened again."""
    max_workers: int


class StateMetrics(BaseModel):
    """Numbers of all groups of a state that have started, those of a state that was loaded included.

    >>> StateMetrics.model_validate_json(StateMetrics(state_id="mine").model_dump_json()).total.added
    0
    """

    model_config = ConfigDict(frozen=True)

    state_id: str
    timestamp: float = 0.0
    """When they were taken, in seconds since the epoch."""
    groups: tuple[GroupMetrics, ...] = ()
    """In the order of their start."""
    total: ExecutionMetrics = ExecutionMetrics()

    def group(self, address: str) -> GroupMetrics:
        """That of this address (`Documents#1`); a `KeyError` if there is none."""
        for group in self.groups:
            if group.address == address:
                return group
        raise KeyError(address)

    def to_prometheus(self) -> str:
        """The same as Prometheus reads it: its text format 0.0.4, see `parallel.exposition`.

        Needs the extra `metrics`; without it, an `ImportError` tells how to get that.
        """
        return exposition.text_of(self)
