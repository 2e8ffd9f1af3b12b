"""A run that stops itself: what was asked for on the command line, seen by its rows and its exit code."""

from __future__ import annotations

import time

import pytest
from support.behaviours import slow, status
from support.cli import Place, run_cli


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def test_fail_fast_stops_at_the_first_error_row_and_resuming_asks_the_rest(place, server):
    place.questions(40)
    bad = {"3"}
    server.behave(lambda request: status(400) if request.experiment in bad else None)
    done = place.run("-o", "results.csv", "--fail-fast", "--sequential")
    assert done.code == 3
    assert "Stopped: a row is an error (--fail-fast); 37 of 40 rows have no result yet." in done.stderr
    assert [row["status"] for row in place.rows()] == ["ok", "ok", "error"]
    told = done.stderr.splitlines()[-1].partition("To go on: parallamr-mp ")[2]
    bad.clear()
    done = run_cli(place.folder, *told.split(), env=place.env)
    assert done.code == 0, done
    assert {row["status"] for row in place.rows()} == {"ok"}
    assert len(place.rows()) == 40


def test_so_many_errors_may_be_and_no_more(place, server):
    place.questions(30)
    server.behave(lambda request: status(400) if int(request.experiment) % 2 else None)
    done = place.run("-o", "results.csv", "--fail-on-error", "2", "--sequential")
    assert done.code == 3
    assert "Stopped: 3 rows are errors (--fail-on-error 2); 25 of 30 rows" in done.stderr
    assert [row["status"] for row in place.rows()] == ["error", "ok", "error", "ok", "error"]


def test_a_share_of_errors_stops_a_run_from_twenty_rows_on(place, server):
    place.questions(40)
    server.behave(lambda request: status(400) if int(request.experiment) < 6 else None)
    done = place.run("-o", "results.csv", "--fail-on-error", "20%", "--sequential")
    assert done.code == 3
    assert "Stopped: 5 of 20 rows are errors (--fail-on-error 20%); 20 of 40 rows" in done.stderr
    done = place.run("-o", "other.csv", "--fail-on-error", "25%", "--sequential")
    assert done.code == 3
    assert "Stopped" not in done.stderr
    assert len(place.rows("other.csv")) == 40


def test_time_that_is_up_leaves_rows_to_ask_and_code_4(place, server):
    place.questions(1000)
    server.behave(slow(0.05))
    done = place.run("-o", "results.csv", "--stop-after", "1s", "--procs", "0", "--threads", "2")
    assert done.code == 4, done
    rows = len(place.rows())
    assert rows < 1000
    said = f"Stopped: the time of --stop-after is up (1s); {1000 - rows} of 1000 rows have no result yet."
    assert said in done.stderr
    assert len(server.requests) == rows


def test_a_slurm_job_that_ends_too_soon_is_refused_before_anything_is_sent(place, server):
    place.questions(1)
    env = {"SLURM_JOB_END_TIME": str(int(time.time()) + 50)}
    done = place.run("-o", "results.csv", "--stop-before", "1m", **env)
    assert done.code == 2
    assert "--stop-before 1m: the Slurm job ends in " in done.stderr
    assert not server.requests


def test_a_job_whose_end_nobody_knows_is_refused(place, server):
    place.questions(1)
    done = place.run("-o", "results.csv", "--stop-before", "1m")
    assert done.code == 2
    assert "--stop-before: this is no Slurm job" in done.stderr
    assert not server.requests
