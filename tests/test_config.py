import builtins
import io
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp import config
from parallamr_mp.config import RunConfig, check, default_procs, drain_seconds, split_parallel, usable_cpus
from parallamr_mp.errors import BadInput

GOOD = RunConfig(prompt="p.txt", experiments="e.csv", output="r.csv")


# --- settings that make no sense ---------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"procs": 0, "threads": 1, "total_limit": 1, "max_retries": 0, "timeout": 0.5, "drain_timeout": 0},
        {"first_row": 3, "last_row": 3, "repeat": 2},
        {"resume": True, "retry_errors": True, "redo_changed": True, "flatten": True},
        {"overwrite": True, "timeout": float("inf")},
        {"output": None},
    ],
    ids=repr,
)
def test_sensible_settings_pass(change):
    check(replace(GOOD, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"procs": -1}, "--procs -1: must be at least 0"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"max_cost": float("inf")}, "--max-cost inf: must be a sum of money"),
        ({"total_limit": 0}, "--total-limit 0: must be at least 1"),
        ({"timeout": 0}, "--timeout 0: must be positive"),
        ({"timeout": -3.0}, "--timeout -3.0: must be positive"),
        ({"timeout": float("nan")}, "--timeout nan: must be positive"),
        ({"drain_timeout": -1}, "--drain-timeout -1: must be at least 0"),
        ({"max_retries": -1}, "--max-retries -1: must be at least 0"),
        ({"repeat": 0}, "--repeat 0: must be at least 1"),
        ({"first_row": 0}, "--first-row 0: must be at least 1"),
        ({"first_row": 5, "last_row": 4}, "rows 5 to 4: there is none"),
        ({"last_row": 0}, "rows 1 to 0: there is none"),
        ({"limits": {"openai": 3, "ollama": 0}}, "ollama: 0 requests at once; must be at least 1"),
        ({"params": {"seed": 1, "messages": []}}, "--param messages: cannot be set"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
        ({"retry_errors": True}, "--retry-errors needs --resume"),
        ({"resume": True, "output": None}, "--resume needs --output"),
        ({"redo_changed": True}, "--redo-changed needs --resume"),
    ],
    ids=repr,
)
def test_settings_that_make_no_sense_are_refused_by_their_options_name(change, message):
    with pytest.raises(BadInput) as caught:
        check(replace(GOOD, **change))
    assert message in str(caught.value)


# --- what the machine offers -------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Pretends to a number of CPUs in the affinity mask, and a cgroup's quota."""
    real_open = builtins.open

    def machine(cpus: int, quota: str | None = None):
        def fake_open(name, *args, **kwargs):
            if name != "/sys/fs/cgroup/cpu.max":
                return real_open(name, *args, **kwargs)
            if quota is None:
                raise FileNotFoundError(name)
            return io.StringIO(quota)

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
        monkeypatch.setattr(builtins, "open", fake_open)

    return machine


@pytest.mark.parametrize(
    ("cpus", "quota", "slurm", "usable"),
    [
        (16, None, None, 16),
        (3, None, None, 3),
        (16, "max 100000\n", None, 16),
        (16, "250000 100000\n", None, 3),
        (16, "50000 100000\n", None, 1),
        (2, "800000 100000\n", None, 2),
        (16, "nonsense", None, 16),
        (16, None, "4", 4),
        (4, None, "16", 4),
        (16, "200000 100000\n", "8", 2),
        (16, None, "", 16),
        (16, None, "0", 16),
        (16, None, "many", 16),
        (16, None, "²", 16),
    ],
)
def test_usable_cpus_are_the_least_of_affinity_quota_and_slurms_allotment(
    machine, cpus, quota, slurm, usable
):
    machine(cpus, quota)
    env = {} if slurm is None else {"SLURM_CPUS_PER_TASK": slurm}
    assert usable_cpus(env) == usable


def test_without_affinity_all_cpus_count(machine, monkeypatch):
    machine(1)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus({}) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus({}) == 1


def test_slurms_allotment_is_taken_from_the_environment(machine, monkeypatch):
    machine(16)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert usable_cpus() == 3
    assert default_procs() == 3


def test_by_default_there_are_at_most_four_processes(machine, monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    for cpus, procs in ((1, 1), (3, 3), (4, 4), (64, 4)):
        machine(cpus)
        assert default_procs() == procs


# --- splitting a number of requests over processes and threads ---------------------------------


@pytest.mark.parametrize(
    ("parallel", "procs", "split"),
    [
        (1, None, (1, 1)),
        (8, None, (1, 8)),
        (9, None, (2, 5)),
        (32, None, (4, 8)),
        (100, None, (4, 25)),
        (5, 0, (0, 5)),
        (10, 3, (3, 4)),
        (10, 1, (1, 10)),
    ],
)
def test_few_processes_are_filled_before_more_are_started(monkeypatch, parallel, procs, split):
    monkeypatch.setattr(config, "default_procs", lambda: 4)
    assert split_parallel(parallel, procs) == split


@given(st.integers(1, 10_000), st.none() | st.integers(0, 64))
def test_the_split_has_room_for_all_and_at_most_one_thread_a_process_to_spare(parallel, procs):
    found, threads = split_parallel(parallel, procs)
    assert procs is None or found == min(procs, parallel)
    assert threads >= 1
    assert max(1, found) * threads >= parallel
    assert max(1, found) * (threads - 1) < parallel


@pytest.mark.parametrize("parallel", [0, -3])
def test_less_than_one_request_at_once_is_refused(parallel):
    with pytest.raises(BadInput, match=f"--parallel {parallel}: must be at least 1"):
        split_parallel(parallel)


# --- draining ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "env", "seconds"),
    [
        ({}, {}, 300.0),
        ({"timeout": 40.0}, {}, 40.0),
        ({}, {"SLURM_JOB_ID": "7"}, 25.0),
        ({"timeout": 4.0}, {"SLURM_JOB_ID": "7"}, 4.0),
        ({"drain_timeout": 600.0}, {"SLURM_JOB_ID": "7"}, 600.0),
        ({"drain_timeout": 0.0}, {}, 0.0),
    ],
)
def test_requests_may_finish_after_a_signal_for_as_long_as_one_takes_or_a_batch_system_waits(
    settings, env, seconds
):
    assert drain_seconds(RunConfig("p", "e", **settings), env) == seconds
