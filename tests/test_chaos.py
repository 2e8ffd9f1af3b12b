"""The promise under fire. Whoever is struck, whenever and however: every row is there once, nothing is left.

Here is a choice of what `support/chaos.py` can play, one of each kind that has a reason of its own;
`scripts/chaos` plays all of them, at random, for as long as one likes.
"""

import os
import signal
import subprocess
import sys
import threading

import pytest
from support.arena import GONE_S, Arena, until
from support.behaviours import answer, stall, wait_for
from support.chaos import ANSWERED, GROUP, MOMENTS, PARENT, SERVER, WORKER, WORKERS, WRITER, Scenario, play

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm"),
    pytest.mark.timeout(60),
]


@pytest.fixture
def arena(tmp_path, server):
    arena = Arena(tmp_path, server)
    yield arena
    arena.close()


SCENARIOS = [
    # Nobody has asked anything yet.
    Scenario(PARENT, "looking-up", "TERM"),
    Scenario(GROUP, "looking-up", "KILL"),
    Scenario(PARENT, "noting", "KILL"),
    Scenario(WORKERS, "starting", "KILL"),
    Scenario(WRITER, "starting", "KILL"),
    Scenario(GROUP, "starting", "INT INT"),
    # Every thread has a request in flight.
    Scenario(WORKER, "in-flight", "KILL"),
    Scenario(WORKERS, "in-flight", "KILL", again=True),
    Scenario(WRITER, "in-flight", "KILL", again=True),
    Scenario(PARENT, "in-flight", "KILL", again=True),
    Scenario(GROUP, "in-flight", "KILL", again=True),
    Scenario(WORKERS, "in-flight", "TERM"),
    Scenario(WRITER, "in-flight", "INT INT"),
    Scenario(GROUP, "in-flight", "INT"),
    Scenario(PARENT, "in-flight", "HUP"),
    Scenario(WORKER, "in-flight", "STOP"),
    Scenario(WRITER, "in-flight", "STOP"),
    Scenario(PARENT, "in-flight", "STOP"),
    Scenario(GROUP, "in-flight", "STOP"),
    Scenario(SERVER, "in-flight", "away"),
    # The writer is in the midst of something.
    Scenario(WRITER, "unacknowledged", "KILL"),
    Scenario(PARENT, "unacknowledged", "KILL"),
    Scenario(WRITER, "unacknowledged", "STOP"),
    Scenario(WRITER, "half-written", "KILL"),
    Scenario(GROUP, "half-written", "KILL"),
    Scenario(WRITER, "syncing", "KILL"),
    Scenario(WRITER, "truncating", "KILL"),
    Scenario(PARENT, "writer-behind", "KILL"),
    # Nothing is in flight, and there is something to do.
    Scenario(PARENT, "retry-wait", "USR1"),
    Scenario(GROUP, "retry-wait", "INT INT"),
    Scenario(WORKERS, "retry-wait", "KILL"),
    # A first signal has come.
    Scenario(WORKER, "draining", "KILL"),
    Scenario(WRITER, "draining", "KILL"),
    Scenario(PARENT, "draining", "KILL"),
    Scenario(GROUP, "draining", "HUP"),
    Scenario(SERVER, "draining", "away"),
    # The run that is struck is itself a resumed one.
    Scenario(PARENT, "scanning", "KILL"),
    Scenario(PARENT, "cutting", "KILL"),
    Scenario(GROUP, "cutting", "INT"),
    Scenario(PARENT, "taking-over", "TERM"),
    Scenario(PARENT, "orphans", "KILL"),
    Scenario(GROUP, "orphans", "USR1"),
    Scenario(PARENT, "adopting", "KILL"),
    Scenario(WRITER, "resumed", "KILL"),
    Scenario(PARENT, "resumed", "KILL"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_row_is_there_once_and_nothing_is_left(arena, scenario):
    play(arena, scenario)


# --- what a death costs, and whom ----------------------------------------------------------------


def test_an_experiment_that_kills_its_worker_three_times_becomes_an_error_row(arena):
    # It dies when it is about to send the request for row 5, whichever worker that is.
    rule = {"name": "deadly", "call": "sendall", "data": "id=5", "do": "kill", "times": 3}
    run = arena.start(rules=[rule])
    assert run.end() == 3
    arena.check_file()
    row = next(row for row in arena.rows_now() if row["id"] == "5")
    assert (row["status"], row["output"]) == ("error", "")
    assert row["error_message"].startswith("its worker process died 3 times while this row was in flight")
    assert arena.server.count(5) == 0
    assert len(arena.rows_now()) == arena.rows
    arena.broken, arena.blows = 3 * (arena.threads - 1), 3  # what its neighbours had in flight
    arena.lost = arena.broken
    arena.resume()
    arena.check_all()


def test_a_killed_worker_is_replaced_while_the_requests_of_the_others_go_on(arena):
    moment = MOMENTS["in-flight"].reach(arena)
    before = {request.experiment: request.connection for request in arena.server.requests}
    victim = moment.run.pids("worker", arena.procs)[0]
    os.kill(victim, signal.SIGKILL)
    # All that happens while the others' requests are still held: nobody waits for them.
    arena.server.wait_until(lambda: arena.server.in_flight == arena.capacity - arena.threads)
    arena.wait_for_held()
    asked = arena.server.counts()
    again = {experiment for experiment, count in asked.items() if count == 2}
    assert len(again) == arena.threads
    held = {str(number) for number in range(ANSWERED + 1, ANSWERED + arena.capacity + 1)}
    arena.let_go()
    assert moment.run.end() == 0
    after = arena.server.requests
    for experiment in held - again:
        connections = [request.connection for request in after if request.experiment == experiment]
        assert connections == [before[experiment]]
    arena.broken, arena.blows = arena.threads, 1
    arena.check_all()


def test_idle_workers_and_the_writer_go_with_their_parent(arena):
    moment = MOMENTS["retry-wait"].reach(arena)
    moment.run.process.kill()
    moment.run.process.wait()
    until(lambda: not arena.processes(), "nobody is left", GONE_S)
    arena.let_go()
    arena.resume()
    arena.check_all()


# --- an output that takes no more ----------------------------------------------------------------


def told_once(run, *texts):
    """The one error of the run, which says all of these."""
    errors = [line for line in run.lines if line.startswith("Error: ")]
    assert len(errors) == 1, run.said
    text = run.said[run.said.index("Error: ") :]
    assert all(said in text for said in texts), text
    return text


def fail_in_flight(arena, run, told):
    """The writer has failed while requests are held: they finish, and nothing else is asked."""
    run.wait_for(told)
    asked = arena.server.counts()
    arena.let_go()
    assert run.end() == 1
    assert arena.server.counts() == asked
    arena.check_file()


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_after_a_failed_write_nothing_is_asked_and_no_answer_is_lost(arena, error):
    rule = {"name": "full", "call": "write", "role": "writer", "path": "*/results.csv", "do": error}
    one = threading.Event()

    def hold(request):
        number = int(request.experiment)
        if number == ANSWERED + 1:
            return wait_for(one)
        return stall() if number > ANSWERED else answer()

    arena.server.behave(hold)
    run = arena.start(rules=[{**rule, "half": True, "armed": True}])
    arena.wait_for_held()
    arena.wait_for_rows(ANSWERED)
    arena.arm("full")
    one.set()  # its row is the one that does not fit; its thread had asked for another before that was known
    arena.server.wait_until(lambda: arena.server.count(ANSWERED + arena.capacity + 1))
    fail_in_flight(arena, run, "in flight may finish")
    assert len(arena.rows_now()) == ANSWERED
    told_once(run, "results.csv: cannot be written", f"{arena.capacity + 1} answers", "--resume")
    arena.resume()
    arena.check_all()


def test_a_disk_that_fails_to_sync_ends_the_run_and_no_answer_is_lost(arena):
    rule = {"name": "full", "call": "fsync", "role": "writer", "path": "*/results.csv", "do": "EIO"}
    arena.hold_after(ANSWERED)
    run = arena.start(rules=[rule])
    arena.wait_for_held()
    fail_in_flight(arena, run, "in flight may finish")
    told_once(run, "results.csv: cannot be written", "--resume")
    arena.resume()
    arena.check_all()


def mounted(folder, size):
    """A small file system there; None where that may not be."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    return made.returncode == 0


def test_a_full_disk_ends_the_run_and_no_answer_is_lost(tmp_path, server):
    job = tmp_path / "job"
    job.mkdir()
    if os.geteuid() != 0 or not mounted(job, "40k"):
        pytest.skip("mounting a small file system takes root")
    arena = Arena(tmp_path, server)
    try:
        arena.long_answers(2000)
        server.behave(answer())
        run = arena.start()
        assert run.end() == 1
        told_once(run, "results.csv: cannot be written: No space left on device")
        arena.check_file()
        subprocess.run(["mount", "-o", "remount,size=4m", job], check=True)
        arena.resume()
        arena.check_all()
    finally:
        arena.close()
        subprocess.run(["umount", "-l", job], check=True)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_an_output_removed_midway_ends_the_run_and_what_is_answered_then_is_kept(arena, what):
    arena.output = arena.place.folder / "out" / "results.csv"
    moment = MOMENTS["in-flight"].reach(arena)
    arena.output.unlink()
    if what == "folder":
        for left in arena.output.parent.iterdir():
            left.unlink()
        arena.output.parent.rmdir()
    arena.let_go()
    run = moment.run
    assert run.end() == 1
    told_once(run, "out/results.csv: was removed while results were being written to it")
    # Who removes results asks for their rows again; nobody asked for those that came later.
    arena.lost, arena.blows = ANSWERED, 1
    arena.resume()
    arena.check_all()


def test_a_writer_that_cannot_open_its_file_again_ends_the_run(arena):
    rule = {"name": "denied", "call": "open", "role": "writer", "path": "*/results.csv", "do": "EACCES"}
    arena.hold_after(ANSWERED)
    run = arena.start(rules=[{**rule, "armed": True, "times": 9}])
    arena.wait_for_held()
    arena.wait_for_rows(ANSWERED)
    arena.arm("denied")
    os.kill(run.pids("writer")[0], signal.SIGKILL)
    fail_in_flight(arena, run, "in flight may finish")
    told_once(run, "results.csv: cannot be opened for writing: Permission denied")
    arena.resume()
    arena.check_all()


# --- processes that cannot start -----------------------------------------------------------------


@pytest.mark.parametrize("started", [0, 1, 2], ids=["no writer", "no worker", "one worker only"])
def test_processes_that_cannot_start_are_one_clear_error(arena, started):
    rule = {"name": "limit", "call": "fork_exec", "role": "parent", "do": "EAGAIN", "times": 99}
    run = arena.start(rules=[{**rule, "skip": started}])
    assert run.end() == 1
    told_once(run, "the process cannot be started: ", "--resume")
    arena.resume()
    arena.check_all()


def test_a_replacement_that_cannot_start_ends_the_run_once_the_others_have_their_answers(arena):
    rule = {"name": "limit", "call": "fork_exec", "role": "parent", "do": "EAGAIN", "times": 99}
    arena.hold_after(ANSWERED)
    run = arena.start(rules=[{**rule, "skip": 1 + arena.procs}])
    arena.wait_for_held()
    os.kill(run.pids("worker", arena.procs)[0], signal.SIGKILL)
    arena.broken, arena.blows = arena.threads, 1
    run.wait_for("in flight may finish")
    arena.let_go()
    assert run.end() == 1
    told_once(run, "worker 0: the process cannot be started: ", "--resume")
    assert len(arena.rows_now()) == ANSWERED + arena.capacity - arena.threads
    arena.resume()
    arena.check_all()


def test_workers_that_die_while_they_start_end_the_run(arena):
    rule = {"name": "start", "call": "write", "role": "worker", "data": "Ready", "do": "kill", "times": 99}
    run = arena.start(rules=[rule])
    assert run.end() == 1
    told_once(run, "its process ended 3 times before it was ready", "--resume")
    arena.resume()
    arena.check_all()


@pytest.mark.parametrize("descriptors", [8, 14, 26])
def test_too_few_descriptors_are_a_clear_error_or_enough(arena, descriptors):
    run = arena.start(shell=f"ulimit -n {descriptors}")
    code = run.end()
    assert code in {0, 1}, run.said
    if code:
        told_once(run, "the process cannot be started: ")
    arena.resume()
    arena.check_all()
