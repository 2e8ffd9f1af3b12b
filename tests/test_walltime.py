import os
import time

import pytest

from parallamr_mp.errors import BadInput
from parallamr_mp.walltime import TimeLeft, seconds_to_job_end, time_left

NOW = 1_800_000_000.0


@pytest.fixture
def squeue(tmp_path):
    """Puts a `squeue` on a PATH that says and does something. Returns the environment of a job."""

    def make(script: str) -> dict[str, str]:
        program = tmp_path / "squeue"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:/usr/bin:/bin", "TZ": os.environ.get("TZ", "")}

    return make


def test_the_environment_of_a_job_tells_its_end():
    assert seconds_to_job_end({"SLURM_JOB_END_TIME": "1800000090"}, NOW) == 90


@pytest.mark.parametrize("variable", [{}, {"SLURM_JOB_END_TIME": ""}, {"SLURM_JOB_END_TIME": "Unknown"}])
def test_else_squeue_is_asked(squeue, monkeypatch, variable):
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW + 120))
    env = squeue(f'[ "$*" = "-h -j 77 -o %e" ] && [ $SLURM_TIME_FORMAT = standard ] && echo {end}')
    monkeypatch.setenv("PATH", env["PATH"])
    assert seconds_to_job_end(env | variable, NOW) == 120


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo N/A", "squeue does not tell when Slurm job 77 ends: N/A"),
        ("exit 0", "squeue does not tell when Slurm job 77 ends\n"),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "ends: slurm_load_jobs error"),
    ],
)
def test_a_squeue_that_does_not_tell_is_quoted(squeue, monkeypatch, script, says):
    env = squeue(script)
    monkeypatch.setenv("PATH", env["PATH"])
    with pytest.raises(BadInput) as caught:
        seconds_to_job_end(env, NOW)
    assert says in str(caught.value)
    assert "--stop-after" in str(caught.value)


def test_without_squeue_or_with_one_that_hangs_it_says_what_to_do(squeue, monkeypatch, tmp_path):
    env = squeue("exec sleep 60")
    monkeypatch.setenv("PATH", env["PATH"])
    monkeypatch.setattr("parallamr_mp.walltime._SQUEUE_SECONDS", 0.1)
    with pytest.raises(BadInput, match=r"ends: no answer within 0\.1 s\n  Give --stop-after instead"):
        seconds_to_job_end(env, NOW)
    (tmp_path / "squeue").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="ends: No such file or directory"):
        seconds_to_job_end({**env, "PATH": str(tmp_path)}, NOW)


def test_outside_of_a_job_it_says_what_to_do():
    with pytest.raises(BadInput, match=r"this is no Slurm job.*\n  Give --stop-after instead"):
        time_left(None, 300, {}, NOW)


def test_the_shorter_time_counts_and_tells_why():
    env = {"SLURM_JOB_END_TIME": "1800003600"}
    assert time_left(None, None, {}, NOW) is None
    assert time_left(5400, None, {}, NOW) == TimeLeft(5400, "the time of --stop-after is up (1h30m)")
    job = TimeLeft(3300, "the Slurm job ends in 5m (--stop-before)")
    assert time_left(None, 300, env, NOW) == time_left(5400, 300, env, NOW) == job
    found = time_left(60, 300, env, NOW)
    assert found is not None
    assert found.seconds == 60


@pytest.mark.parametrize(("before", "left"), [(7200, "1h"), (3600, "1h")])
def test_a_job_that_ends_too_soon_is_refused(before, left):
    with pytest.raises(BadInput, match=f"--stop-before .*: the Slurm job ends in {left}"):
        time_left(None, before, {"SLURM_JOB_END_TIME": "1800003600"}, NOW)


def test_a_job_whose_end_has_passed_is_refused():
    with pytest.raises(BadInput, match="the Slurm job ends in 0s"):
        time_left(None, 0, {"SLURM_JOB_END_TIME": "1799999999"}, NOW)
