"""Runs that stop themselves: at errors, or when their time is up. What they leave, and how they go on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support.behaviours import answer, stall, status
from support.cli import Place
from support.moody import AtMost
from support.running import Run, assert_answered, assert_to_be_resumed, assert_whole, go_on

ALL = ("-o", "results.csv", "--procs", "2", "--threads", "4")
SLOTS = 8
AGAIN = {"--stop-after=2": "--stop-after=60"}


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(120)
    return place


def bad(*ids):
    """These rows are refused for good."""
    return lambda request: status(400) if int(request.experiment) in ids else None


def assert_all_stored(place, server):
    """Each answer has its row, and each row its answer."""
    rows = place.rows()
    assert len(rows) == len(server.requests) == len(server.counts())
    assert sum(row["status"] == "ok" for row in rows) == len(server.given())
    assert [row for row in rows if row["status"] == "ok" and row["output"] != f"echo: id={row['id']}"] == []


def resumed(place, server, done, **replaced):
    """Goes on as the run has told; returns what was asked."""
    had = {row["id"]: row["status"] for row in place.rows()}
    server.clear()
    server.behave(answer())
    done = go_on(place, done, **replaced)
    assert done.code == 0, done
    assert_answered(place.rows(), 120)
    assert_whole(place)
    assert set(server.counts()).isdisjoint(id_ for id_, status in had.items() if status == "ok")
    assert max(server.counts().values()) == 1
    return set(server.counts())


# --- errors ------------------------------------------------------------------------------------


def test_by_default_errors_do_not_stop_a_run(place, server):
    server.behave(bad(*range(1, 100)))
    done = place.run(*ALL)
    assert done.code == 3, done
    assert len(place.rows()) == 120
    assert "To go on" not in done.stderr
    assert_whole(place)


def test_with_fail_fast_the_first_error_row_ends_the_run(place, server):
    server.behave(AtMost(seconds=0.01))
    server.behave(bad(30))
    done = place.run(*ALL, "--fail-fast")
    assert done.code == 3, done
    assert "Stopped: a row is an error (--fail-fast)" in done.stderr.splitlines()[-1]
    assert 30 <= len(place.rows()) <= 30 + 4 * SLOTS
    assert_all_stored(place, server)
    assert_to_be_resumed(place, 120 - len(place.rows()))
    assert "30" in resumed(place, server, done)


def test_a_retry_is_no_error_row(place, server):
    server.behave(lambda request: status(503) if server.count(request.experiment) == 1 else None)
    place.questions(30)
    done = place.run(*ALL, "--fail-fast", "--breaker-failures", "1000")
    assert done.code == 0, done
    assert_answered(place.rows(), 30)


@pytest.mark.parametrize("ids", [(10, 20, 30), (10, 20, 30, 40)], ids=["reached", "exceeded"])
def test_a_number_of_error_rows_may_be_reached_and_not_exceeded(place, server, ids):
    server.behave(AtMost(seconds=0.01))
    server.behave(bad(*ids))
    done = place.run(*ALL, "--fail-on-error", "3")
    assert done.code == 3, done
    if len(ids) == 3:
        assert len(place.rows()) == 120
        assert_whole(place)
        return
    assert "4 rows are errors (--fail-on-error 3)" in done.stderr.splitlines()[-1]
    assert len(place.rows()) <= 40 + 4 * SLOTS
    assert_all_stored(place, server)
    assert_to_be_resumed(place, 120 - len(place.rows()))
    assert {str(id_) for id_ in ids} <= resumed(place, server, done)


def test_a_share_of_error_rows_counts_from_twenty_rows_on(place, server):
    server.behave(AtMost(seconds=0.01))
    server.behave(bad(1, 2, 3))
    done = place.run(*ALL, "--fail-on-error", "10%")
    assert done.code == 3, done
    # Three of the first three are errors; of twenty they are 15 %.
    assert "rows are errors (--fail-on-error 10%)" in done.stderr.splitlines()[-1]
    assert 20 <= len(place.rows()) <= 20 + 4 * SLOTS
    assert_all_stored(place, server)
    resumed(place, server, done)


# --- time --------------------------------------------------------------------------------------


def test_when_its_time_is_up_a_run_lets_requests_finish_and_can_go_on(place, server):
    held = 20
    server.behave(lambda request: stall() if int(request.experiment) > held else None)
    with Run(place, *ALL, "--stop-after=2") as run:
        server.wait_until(lambda: server.in_flight == SLOTS)
        run.wait_for(rf"no new requests; {SLOTS} requests in flight may finish")
        assert len(server.requests) == held + SLOTS
        server.behave(answer())
        server.release_all()
        done = run.end()
    assert done.code == 4, done
    assert "Stopped: the time of --stop-after is up (2s); 92 of 120 rows" in done.stderr.splitlines()[-1]
    assert len(place.rows()) == held + SLOTS
    assert_all_stored(place, server)
    assert_to_be_resumed(place, 120 - held - SLOTS)
    assert len(resumed(place, server, done, **AGAIN)) == 120 - held - SLOTS


@pytest.mark.parametrize("signals", [1, 2])
def test_while_it_drains_ctrl_c_is_heard(place, server, signals):
    """Once: it drains already. Twice: what is in flight is given up."""
    server.behave(stall())
    with Run(place, *ALL, "--stop-after=2") as run:
        server.wait_until(lambda: server.in_flight == SLOTS)
        run.wait_for("no new requests")
        for _ in range(signals):
            run.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        if signals == 1:
            assert run.process.poll() is None
            server.behave(answer())
            server.release_all()
        done = run.end()
    assert done.code == 128 + signal.SIGINT, done
    assert len(place.rows()) == (SLOTS if signals == 1 else 0)
    if signals == 2:
        assert f"{SLOTS} requests in flight given up" in done.stderr
    assert "120 rows have no result yet" in done.stderr.splitlines()[-1]
    server.behave(answer())
    done = go_on(place, done, **AGAIN)
    assert done.code == 0, done
    assert_answered(place.rows(), 120)
    assert_whole(place)


def test_a_request_that_outlasts_the_drain_is_given_up(place, server):
    server.behave(lambda request: stall() if request.experiment == "5" else None)
    place.questions(20_000)
    done = place.run(*ALL, "--stop-after=4", "--drain-timeout", "0.5")
    assert done.code == 4, done
    assert "1 request in flight given up" in done.stderr
    assert "5" not in {row["id"] for row in place.rows()}
    assert_to_be_resumed(place, 20_000 - len(place.rows()))


def test_rows_that_wait_for_a_retry_when_the_time_is_up_are_left_to_be_resumed(place, server):
    server.behave(status(503, {"retry-after": "600"}))
    done = place.run(*ALL, "--stop-after=2")
    assert done.code == 4, done
    assert place.rows() == []
    assert_to_be_resumed(place, 120)
    assert len(resumed(place, server, done, **AGAIN)) == 120


def test_a_run_stops_before_the_end_of_its_slurm_job(place, server):
    server.behave(AtMost(seconds=0.5))
    end = str(int(time.time()) + 64)
    done = place.run(*ALL, "--stop-before", "1m", SLURM_JOB_ID="7", SLURM_JOB_END_TIME=end)
    assert done.code == 4, done
    assert "Stopped: the Slurm job ends in 1m (--stop-before)" in done.stderr.splitlines()[-1]
    assert_all_stored(place, server)
    assert_to_be_resumed(place, 120 - len(place.rows()))
    # The next job of the chain, with an end of its own.
    server.behave(answer())
    later = str(int(time.time()) + 3600)
    again = place.run(*ALL, "--stop-before", "1m", "--resume", SLURM_JOB_ID="8", SLURM_JOB_END_TIME=later)
    assert again.code == 0, again
    assert_answered(place.rows(), 120)


def test_nothing_is_sent_when_the_end_of_the_job_is_unknown_or_too_near(place, server):
    for more in ({}, {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 30)}):
        done = place.run(*ALL, "--stop-before", "1m", **more)
        assert done.code == 2, done
        assert "--stop-before" in done.stderr
    assert not server.requests
    assert not (place.folder / "results.csv").exists()


def test_a_stopped_run_that_loses_a_worker_while_it_drains_stores_the_rest(place, server):
    server.behave(stall())
    with Run(place, *ALL, "-v", "--stop-after=2") as run:
        server.wait_until(lambda: server.in_flight == SLOTS)
        run.wait_for("no new requests")
        os.kill(run.worker(0), signal.SIGKILL)
        run.wait_for("died")
        server.behave(answer())
        server.release_all()
        done = run.end()
    assert done.code == 4, done
    assert len(place.rows()) == 4
    assert len(server.requests) == SLOTS
    assert_to_be_resumed(place, 116)
