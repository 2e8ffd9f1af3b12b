"""The promise of the package, end to end: processes are killed and stopped, and each row is there once.

The server holds requests, so that what is in flight when the blow falls is known; nothing is left to timing.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support.behaviours import answer, stall
from support.cli import SCRIPT, Place, run_cli

ROWS = 40
OPTIONS = ("-o", "results.csv", "-v", "--procs", "2", "--threads", "4")
AT_ONCE_S = 2.5


class Run:
    """`parallamr-mp run` in a process group of its own, and what it has said so far."""

    def __init__(self, place, *options):
        self.process = subprocess.Popen(
            [SCRIPT, *place.job(*options)],
            cwd=place.folder,
            env=place.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self._changed = threading.Condition()
        # All its children hold the pipe too: its end of file says that nobody is left.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern, count=1):
        """The last of `count` matches of the pattern in the lines, once they are there."""

        def found():
            matches = [match for line in self.lines if (match := re.search(pattern, line))]
            return matches[count - 1] if len(matches) >= count else None

        with self._changed:
            assert self._changed.wait_for(found, 10), (pattern, self.lines)
            return found()

    def worker(self, slot, life=1):
        """The pid of the process that is the `life`-th in this slot."""
        return int(self.wait_for(rf"worker {slot} is up \(pid (\d+)\)", life)[1])

    def writer(self):
        """The pid of the present writer: the child that is no worker."""
        workers = {self.worker(0), self.worker(1)}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children():
                try:
                    words = " ".join(child.cmdline())
                except psutil.Error:
                    continue
                if child.pid not in workers and "spawn_main" in words and child.status() != "zombie":
                    return child.pid
        raise AssertionError("no writer")

    def end(self, timeout=20.0):
        """The exit code, once the run and all its children are gone."""
        code = self.process.wait(timeout)
        self._reader.join(AT_ONCE_S)
        assert not self._reader.is_alive(), "children outlive the run"
        self.process.stderr.close()
        assert [line for line in self.lines if "Traceback" in line or "leaked" in line] == []
        return code

    def abandon(self):
        """Leaves nothing behind when a test has failed, but what the run had said."""
        print(self.process.poll(), *self.lines, sep="\n")
        if self._reader.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self._reader.join(10)


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(ROWS)
    return place


@pytest.fixture
def start(place):
    runs = []

    def start(*options):
        runs.append(Run(place, *(options or OPTIONS)))
        return runs[-1]

    yield start
    for run in runs:
        run.abandon()


def hold_after(server, answered):
    """Answers the rows up to this one, and holds all others."""
    server.behave(lambda request: stall() if int(request.experiment) > answered else answer())


def wait_for_held(server, requests):
    server.wait_until(lambda: len(server.requests) == requests and server.in_flight == 8)


def flow_until(server, answered):
    """Lets what is held go, and rows flow up to this one, without waiting for them."""
    hold_after(server, answered)
    server.release_all()


def wait_for_all_held(server, answered):
    """As `wait_for_held`, where some may have been asked twice."""
    held = {str(answered + number) for number in range(1, 9)}
    server.wait_until(lambda: server.in_flight == 8 and held <= set(server._counts))


def let_go(server):
    server.behave(answer())
    server.release_all()


def wait_for_rows(place, count):
    """Until that many rows are in the file."""
    path, deadline = place.folder / "results.csv", time.monotonic() + 10
    while not path.exists() or path.read_bytes().count(b"\n") < 1 + count:
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.01)


def assert_rows(place, numbers):
    """Exactly these rows, each once, each with its own answer."""
    rows = place.rows()
    assert [int(row["row_number"]) for row in rows] == list(numbers)
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["output"] for row in rows] == [f"echo: id={row['id']}" for row in rows]


ALL = range(1, ROWS + 1)


# --- SIGKILL -----------------------------------------------------------------------------------


def test_a_killed_worker_costs_only_its_own_requests(place, server, start):
    hold_after(server, 0)
    run = start()
    wait_for_held(server, 8)
    in_flight = {request.experiment for request in server.requests}
    os.kill(run.worker(0), signal.SIGKILL)
    assert run.wait_for(r"worker 0 \(pid \d+\) died \(SIGKILL\) with (\d) requests in flight")[1] == "4"
    wait_for_held(server, 8 + 4)  # by its replacement
    let_go(server)
    assert run.end() == 0
    assert_rows(place, ALL)
    again = {experiment for experiment, count in server.counts().items() if count > 1}
    assert again <= in_flight
    assert len(again) == 4
    assert len(server.requests) == ROWS + 4
    attempts = {row["id"]: row["attempts"] for row in place.rows()}
    assert {id_ for id_, count in attempts.items() if count == "2"} == again


def test_workers_killed_in_the_flow_lose_and_double_nothing(place, server, start):
    hold_after(server, 8)
    run = start()
    pids = [run.worker(0), run.worker(1)]
    wait_for_held(server, 16)
    for pid, answered in zip(pids, (20, 32), strict=True):
        flow_until(server, answered)
        os.kill(pid, signal.SIGKILL)
        wait_for_all_held(server, answered)
    let_go(server)
    assert run.end() == 0
    assert_rows(place, ALL)
    assert len(server.requests) <= ROWS + 2 * 4
    assert max(server.counts().values()) <= 3


def test_both_workers_killed_at_once_are_replaced(place, server, start):
    hold_after(server, 20)
    run = start()
    wait_for_held(server, 28)
    for slot in (0, 1):
        os.kill(run.worker(slot), signal.SIGKILL)
    wait_for_held(server, 36)
    let_go(server)
    assert run.end() == 0
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS + 8


def test_a_killed_writer_costs_no_row_and_no_request(place, server, start):
    hold_after(server, 20)
    run = start()
    wait_for_held(server, 28)
    os.kill(run.writer(), signal.SIGKILL)
    run.wait_for(r"the writer \(pid \d+\) died \(SIGKILL\); it is replaced, and no row is lost")
    let_go(server)
    assert run.end() == 0
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS


def test_a_writer_killed_in_the_flow_again_and_again_loses_and_doubles_nothing(place, server, start):
    hold_after(server, 0)
    run = start()
    wait_for_held(server, 8)
    pids = set()
    for answered in (10, 20, 32):
        while (pid := run.writer()) in pids:  # the one before has not been reaped yet
            time.sleep(0.01)
        flow_until(server, answered)
        os.kill(pid, signal.SIGKILL)
        pids.add(pid)
        wait_for_held(server, answered + 8)
    let_go(server)
    assert run.end() == 0
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS


def test_without_a_grace_a_killed_run_takes_its_children_along_and_is_resumed(place, server, start):
    hold_after(server, 20)
    run = start(*OPTIONS, "--orphan-grace", "0")
    wait_for_held(server, 28)
    wait_for_rows(place, 20)
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    assert_rows(place, range(1, 21))
    server.wait_until(lambda: server.in_flight == 0)
    let_go(server)
    resumed = place.run(*OPTIONS, "--resume")
    assert resumed.code == 0, resumed
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS + 8


def test_what_a_killed_run_had_in_flight_is_finished_saved_and_not_asked_again(place, server, start):
    hold_after(server, 20)
    run = start()
    wait_for_held(server, 28)
    run.process.kill()
    resumed = start(*OPTIONS, "--resume")
    resumed.wait_for("waiting for 2 processes of the run that was killed")
    let_go(server)
    assert resumed.end() == 0
    assert run.end() == -signal.SIGKILL
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS
    assert sorted(os.listdir(place.folder)) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]


def test_that_a_request_timed_out_is_not_forgotten_with_the_parent(place, server, start):
    """Nobody knows whether it was paid for, so it is not sent again."""
    hold_after(server, 20)
    run = start(*OPTIONS, "--timeout", "3")
    wait_for_held(server, 28)
    run.process.kill()
    server.wait_until(lambda: server.in_flight == 0)
    assert run.end() == -signal.SIGKILL
    let_go(server)
    resumed = place.run(*OPTIONS, "--resume")
    assert resumed.code == 3, resumed
    assert len(server.requests) == ROWS
    rows = place.rows()
    assert [int(row["row_number"]) for row in rows] == list(ALL)
    unknown = [row for row in rows if row["status"] == "error"]
    assert len(unknown) == 8
    assert all("outcome unknown" in row["error_message"] for row in unknown)


def test_however_far_the_writer_was_behind_no_answer_of_a_killed_run_is_lost(place, server, start):
    many = 400
    place.questions(many)
    hold_after(server, 0)
    run = start()
    wait_for_held(server, 8)
    writer = run.writer()
    os.kill(writer, signal.SIGSTOP)
    flow_until(server, many - 8)
    wait_for_held(server, many)
    run.process.kill()
    os.kill(writer, signal.SIGKILL)
    let_go(server)
    assert run.end() == -signal.SIGKILL
    assert place.rows() == []
    resumed = place.run(*OPTIONS, "--resume")
    assert resumed.code == 0, resumed
    assert_rows(place, range(1, many + 1))
    assert len(server.requests) == many


def test_orphans_go_when_their_grace_is_over(place, server, start):
    hold_after(server, 20)
    run = start(*OPTIONS, "--orphan-grace", "0.5")
    wait_for_held(server, 28)
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    server.wait_until(lambda: server.in_flight == 0)


def test_a_run_killed_in_the_flow_is_resumed_with_each_row_once_and_none_asked_again(place, server, start):
    hold_after(server, 10)
    run = start()
    wait_for_held(server, 18)
    flow_until(server, 30)
    run.process.kill()
    let_go(server)
    assert run.end() == -signal.SIGKILL
    server.wait_until(lambda: server.in_flight == 0)
    resumed = place.run(*OPTIONS, "--resume")
    assert resumed.code == 0, resumed
    assert_rows(place, ALL)
    assert server.counts().most_common(1)[0][1] == 1


# --- signals to stop ---------------------------------------------------------------------------


def go_on(place, run):
    """Runs what the last line told, as it stands there."""
    _, _, command = run.lines[-1].partition("To go on: ")
    program, *words = shlex.split(command)
    assert (program, words[-1]) == ("parallamr-mp", "--resume"), run.lines
    done = run_cli(place.folder, *words, env=place.env)
    assert done.code == 0, done


@pytest.mark.parametrize("procs", ["2", "0"])
@pytest.mark.parametrize(
    ("send", "signum"),
    [
        (os.killpg, signal.SIGINT),
        (os.kill, signal.SIGTERM),
        (os.killpg, signal.SIGHUP),
        (os.kill, signal.SIGUSR1),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP to all", "SIGUSR1"],
)
def test_a_first_signal_lets_requests_finish_and_tells_how_to_go_on(
    place, server, start, send, signum, procs
):
    threads = "8" if procs == "0" else "4"
    hold_after(server, 20)
    run = start("-o", "results.csv", "--procs", procs, "--threads", threads)
    wait_for_held(server, 28)
    send(run.process.pid, signum)
    run.wait_for(f"{signum.name}: no new requests; 8 in flight")
    let_go(server)
    assert run.end() == 128 + signum
    assert_rows(place, range(1, 29))
    assert "12 of 40 rows have no result yet" in run.lines[-1]
    go_on(place, run)
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS


@pytest.mark.parametrize("procs", ["2", "0"])
def test_a_second_signal_ends_at_once_and_leaves_a_whole_file(place, server, start, procs):
    threads = "8" if procs == "0" else "4"
    hold_after(server, 20)
    run = start("-o", "results.csv", "--procs", procs, "--threads", threads)
    wait_for_held(server, 28)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_for("SIGINT: no new requests")
    second = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert time.monotonic() - second < AT_ONCE_S
    assert_rows(place, range(1, 21))
    server.wait_until(lambda: server.in_flight == 0)
    let_go(server)
    go_on(place, run)
    assert_rows(place, ALL)
    assert len(server.requests) == ROWS + 8


@pytest.mark.parametrize("called", ["module", "path"])
def test_the_way_to_go_on_is_told_in_the_words_that_this_one_was_called_with(place, server, called):
    """By a path that is not on PATH, or as a module."""
    hold_after(server, 0)
    command = [sys.executable, "-m", "parallamr_mp"] if called == "module" else [str(SCRIPT)]
    env = place.env | {"PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [*command, *place.job(*OPTIONS)], cwd=place.folder, env=env, stderr=subprocess.PIPE, text=True
    )
    with process:
        server.wait_until(lambda: server.in_flight == 8)
        process.send_signal(signal.SIGTERM)
        while "SIGTERM" not in process.stderr.readline():
            assert process.poll() is None
        let_go(server)
        last = process.stderr.read().splitlines()[-1]
    words = shlex.split(last.partition("To go on: ")[2])
    assert words[: len(command)] == command
    done = subprocess.run(words, cwd=place.folder, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    assert_rows(place, ALL)


def test_requests_that_outlast_the_drain_time_are_given_up(place, server, start):
    hold_after(server, 20)
    run = start(*OPTIONS, "--drain-timeout", "0.1")
    wait_for_held(server, 28)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM
    assert_rows(place, range(1, 21))
    assert any(line.startswith("8 requests in flight given up") for line in run.lines)
