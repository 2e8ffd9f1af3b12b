"""Metrics in Prometheus' text format, by `prometheus-client` (extra `metrics`), which is loaded here alone.

What Prometheus can add up is given by group alone (`group`: its address,
`name`); the state's own wall time, peak and speed-up are no sums. The statuses
of `parallamr_tasks_total` exclude each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from parallamr_mp.parallel.enums import GroupStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from parallamr_mp.parallel.metrics import ExecutionMetrics, GroupMetrics, StateMetrics

EXTRA = "pip install 'parallamr-mp[metrics]'"
_LABELS = ("group", "name")

_COUNTERS = {
    "parallamr_tasks_added": ("Tasks added to a group.", "added"),
    "parallamr_tasks_started": ("Tasks that were tried.", "started"),
    "parallamr_attempts": ("Attempts of tasks.", "attempts"),
    "parallamr_retries": ("How often tasks were put back to be tried again.", "retries"),
    "parallamr_rejections": ("How often the circuit breaker did not let a task start.", "rejections"),
    "parallamr_busy_seconds": ("What all attempts of tasks took together.", "busy_seconds"),
}
"""Name without `_total`: what it is, and which field."""
_GAUGES = {
    "parallamr_tasks_running": ("Tasks that were tried and have not ended.", "running"),
    "parallamr_concurrency_limit": ("How many tasks of a group may run at once.", "max_workers"),
    "parallamr_concurrency_peak": ("The most attempts of a group in flight at once.", "peak"),
    "parallamr_wall_seconds": ("From a group's start to its end, or until now.", "wall_seconds"),
    "parallamr_speedup_ratio": ("Time of all attempts over the wall time of their group.", "speed_up"),
}
_STATE_GAUGES = {
    "parallamr_state_concurrency_peak": ("The most attempts of all groups in flight at once.", "peak"),
    "parallamr_state_wall_seconds": ("Time in which any group was running.", "wall_seconds"),
    "parallamr_state_speedup_ratio": ("Time of all attempts over the state's wall time.", "speed_up"),
}


def text_of(metrics: StateMetrics) -> str:
    """Raises an `ImportError` that tells how to get `prometheus-client` if it is not there."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  - an extra
    except ImportError as error:
        raise ImportError(f"metrics in Prometheus' format need prometheus-client: {EXTRA}") from error
    registry = CollectorRegistry()  # of its own: nothing of the process is told with it
    registry.register(_Collector(metrics))
    return generate_latest(registry).decode()


class _Collector:
    """What a registry asks for metrics."""

    def __init__(self, metrics: StateMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import core  # noqa: PLC0415  - an extra

        groups, total = self._metrics.groups, self._metrics.total
        for name, (about, field) in _COUNTERS.items():
            counter = core.CounterMetricFamily(name, about, labels=_LABELS)
            _fill(counter, groups, field)
            yield counter
        ended = core.CounterMetricFamily(
            "parallamr_tasks", "Tasks that have ended, by how.", labels=(*_LABELS, "status")
        )
        for group in groups:
            for status, number in _ended(group).items():
                ended.add_metric((*_labels(group), status), number)
        yield ended
        for name, (about, field) in _GAUGES.items():
            gauge = core.GaugeMetricFamily(name, about, labels=_LABELS)
            _fill(gauge, groups, field)
            yield gauge
        statuses = core.GaugeMetricFamily(
            "parallamr_group_status", "1 for the status that a group has.", labels=(*_LABELS, "status")
        )
        for group in groups:
            for one in GroupStatus:
                statuses.add_metric((*_labels(group), one.value), one is group.status)
        yield statuses
        durations = core.HistogramMetricFamily(
            "parallamr_task_duration_seconds",
            "Time of the attempts of a task that completed or failed, without the waits between them.",
            labels=_LABELS,
        )
        for group in groups:
            latency = group.latency
            buckets = [(str(bound), float(number)) for bound, number in latency.buckets]
            durations.add_metric(_labels(group), [*buckets, ("+Inf", float(latency.count))], latency.total)
        yield durations
        for name, (about, field) in _STATE_GAUGES.items():
            gauge = core.GaugeMetricFamily(name, about, labels=())
            if (value := getattr(total, field)) is not None:
                gauge.add_metric((), value)
            yield gauge


def _fill(family: Any, groups: tuple[GroupMetrics, ...], field: str) -> None:
    for group in groups:
        if (value := getattr(group, field)) is not None:
            family.add_metric(_labels(group), value)


def _labels(group: GroupMetrics) -> tuple[str, str]:
    return group.address, group.name


def _ended(metrics: ExecutionMetrics) -> dict[str, int]:
    return {
        "completed": metrics.completed - metrics.replayed,
        "replayed": metrics.replayed,
        "failed": metrics.failed - metrics.rejected,
        "rejected": metrics.rejected,
        "cancelled": metrics.cancelled,
    }
