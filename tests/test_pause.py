"""A run that is stopped and goes on (Ctrl-Z and fg, a frozen container) has lost nothing but time.

Each test waits once for longer than the timeout, with everything it watches standing still: no state can
tell when that is over.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from support.behaviours import answer, stall
from support.cli import SCRIPT, Place

from parallamr_mp.providers.deadlines import STOPPED_SECONDS

ROWS = 8
TIMEOUT_S = 3


class Job:
    """A run in a process group of its own, but of our session: as a shell starts it, so that Ctrl-Z works.

    To a group that no process of the session could ever continue, the kernel gives no SIGTSTP.
    """

    def __init__(self, place, *options):
        self._said = place.folder / "stderr"
        with self._said.open("wb") as stream:
            self.process = subprocess.Popen(
                [SCRIPT, *place.job("-o", "results.csv", "-v", "--timeout", TIMEOUT_S, *options)],
                cwd=place.folder,
                env=place.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                process_group=0,
            )

    @property
    def said(self):
        return self._said.read_text()

    def send(self, signum):
        os.killpg(self.process.pid, signum)

    def members(self):
        us = psutil.Process(self.process.pid)
        return [us, *us.children(recursive=True)]

    def workers(self):
        return [psutil.Process(int(pid)) for pid in re.findall(r"worker \d is up \(pid (\d+)\)", self.said)]

    def end(self):
        """Kills what a failed test has left."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(ROWS)
    server.behave(stall())
    return place


@pytest.fixture
def start(place, server):
    jobs = []

    def start(*options):
        jobs.append(Job(place, *options))
        server.wait_until(lambda: len(server.requests) == server.in_flight == ROWS)
        return jobs[-1]

    yield start
    for job in jobs:
        job.end()


def wait_until_stopped(processes):
    deadline = time.monotonic() + 10
    while {process.status() for process in processes} != {psutil.STATUS_STOPPED}:
        assert time.monotonic() < deadline, processes
        time.sleep(0.01)


def outlast_the_timeout():
    time.sleep(TIMEOUT_S + STOPPED_SECONDS)


def assert_all_answered_once(place, server, job):
    server.behave(answer())
    server.release_all()
    assert job.process.wait(30) == 0, job.said
    rows = place.rows()
    assert [(row["id"], row["status"], row["attempts"]) for row in rows] == [
        (str(number), "ok", "1") for number in range(1, ROWS + 1)
    ]
    assert set(server.counts().values()) == {1}
    assert len(server.requests) == ROWS
    assert "died" not in job.said


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGTSTP], ids=["SIGSTOP", "Ctrl-Z"])
def test_requests_in_flight_outlive_a_stop_of_all_processes_that_is_longer_than_their_time(
    place, server, start, signum
):
    job = start("--procs", "2", "--threads", "4")
    members = job.members()
    job.send(signum)
    wait_until_stopped(members)
    outlast_the_timeout()
    assert server.in_flight == ROWS
    job.send(signal.SIGCONT)
    assert_all_answered_once(place, server, job)


def test_requests_in_flight_outlive_a_stop_of_their_worker_alone(place, server, start):
    job = start("--procs", "1", "--threads", str(ROWS))
    (worker,) = job.workers()
    worker.suspend()
    wait_until_stopped([worker])
    outlast_the_timeout()
    assert psutil.STATUS_STOPPED not in {process.status() for process in job.members() if process != worker}
    worker.resume()
    assert_all_answered_once(place, server, job)
