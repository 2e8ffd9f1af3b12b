"""Metrics of groups as Prometheus reads them, by the parser of its own library."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.grouping import Gates, run, settle
from support.working import at_work, finish

from parallamr_mp.parallel import ExecutionState, StateMetrics


def samples_of(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


NAMES = ["plain", 'quoted "name"', "back\\slash", "new\nline", "Ünïcode 文件", "{a=b}, #1/2 % ", ""]


def test_prometheus_reads_what_the_models_say_by_whatever_name():
    async def main():
        clock, state, work = at_work()
        gates = Gates()

        async def group(name):
            async with state.parallel(2, name=name, max_retries=1, circuit_breaker_threshold=2) as p:
                p.add(work(1, failures=1))
                p.add(work(0.02))
                p.add(work(400, failures=9))

        for name in NAMES:
            await finish(clock, group(name), 100)
        waiting = asyncio.create_task(one_task(state, gates))
        await settle()
        metrics = state.metrics()
        samples = samples_of(metrics.to_prometheus())
        assert len(metrics.groups) == len(NAMES) + 1
        for one in metrics.groups:
            labels = (("group", one.address), ("name", one.name))

            def value(name, *more, labels=labels):
                return samples[name, tuple(sorted((*labels, *more)))]

            for name, expected in {
                "tasks_added_total": one.added,
                "tasks_started_total": one.started,
                "attempts_total": one.attempts,
                "retries_total": one.retries,
                "rejections_total": one.rejections,
                "busy_seconds_total": one.busy_seconds,
                "tasks_running": one.running,
                "concurrency_limit": one.max_workers,
                "concurrency_peak": one.peak,
                "wall_seconds": one.wall_seconds,
                "task_duration_seconds_count": one.latency.count,
                "task_duration_seconds_sum": one.latency.total,
            }.items():
                assert value(f"parallamr_{name}") == expected, name
            ended = {
                status: value("parallamr_tasks_total", ("status", status))
                for status in ("completed", "replayed", "failed", "rejected", "cancelled")
            }
            assert sum(ended.values()) + one.running == one.added
            assert value("parallamr_group_status", ("status", one.status.value)) == 1
            buckets = [
                value("parallamr_task_duration_seconds_bucket", ("le", le))
                for le in ("0.025", "1.0", "300.0", "1800.0", "+Inf")
            ]
            assert buckets == ([0] * 5 if one.running else [1, 1, 2, 3, 3])
            speed_up = samples.get(("parallamr_speedup_ratio", labels))
            assert speed_up == one.speed_up
        assert samples["parallamr_state_wall_seconds", ()] == metrics.total.wall_seconds
        assert samples["parallamr_state_concurrency_peak", ()] == metrics.total.peak
        assert samples["parallamr_state_speedup_ratio", ()] == metrics.total.speed_up
        await gates.open("x")
        await waiting

    run(main())


async def one_task(state, gates):
    async with state.parallel(name="waits") as p:
        p.add(gates, "x")


def test_names_and_types_are_as_prometheus_wants_them():
    state = ExecutionState()

    async def main():
        async with state.parallel() as p:
            p.add(asyncio.sleep(0))

    run(main())
    text = state.metrics().to_prometheus()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families) > 10
    for family in families:
        assert re.fullmatch(r"parallamr_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.samples
        counted = [sample for sample in family.samples if sample.name.endswith("_total")]
        assert bool(counted) == (family.type == "counter")
        assert not any(math.isnan(sample.value) for sample in family.samples)
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert text.endswith("\n")


def test_metrics_that_went_through_json_tell_prometheus_the_same():
    async def main():
        clock, state, work = at_work()

        async def group():
            async with state.parallel() as p:
                p.add(work(1.1))

        await finish(clock, group())
        metrics = state.metrics()
        read = StateMetrics.model_validate_json(metrics.model_dump_json(indent=2))
        assert read.to_prometheus() == metrics.to_prometheus()

    run(main())


def test_without_the_extra_prometheus_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'parallamr-mp[metrics]'")):
        ExecutionState().metrics().to_prometheus()


def test_metrics_that_go_to_json_do_not_load_the_extra():
    code = (
        "import sys; from parallamr_mp.parallel import ExecutionState;"
        "ExecutionState().metrics().model_dump_json(); assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True)
