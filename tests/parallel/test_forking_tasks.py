"""Tasks that fork: their children hold copies of their worker's pipe, and hide its death from its reader."""

from __future__ import annotations

import gc
import os
import signal
import sys

import psutil
import pytest

from parallamr_mp.parallel import ExecutionState

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system does not tell of deaths"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


def fork_and(then, path):
    """Leaves a child behind that only a signal ends, and writes down who it is."""
    child = os.fork()
    if child == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    path.write_text(str(child))
    if then == "die":
        os._exit(7)
    if then == "hang":
        signal.sigwait({signal.SIGUSR2})
    return child


def gone(path):
    """Nobody but the init process, which may never do so, is left to ask how it ended."""
    try:
        return psutil.Process(int(path.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_worker_that_dies_is_noticed_though_its_child_lives_and_its_child_is_killed(tmp_path):
    with ExecutionState().parallel(procs=2) as p:
        p.add(fork_and, "die", tmp_path / "child")
        p.add(len, "abc")
        died, sibling = p.gather()
    assert died.error_type == "WorkerDied"
    assert sibling.unwrap() == 3
    assert gone(tmp_path / "child")


def test_what_a_task_has_forked_is_killed_with_it(tmp_path):
    def main():
        with ExecutionState().parallel(procs=2, error_strategy="fail_fast") as p:
            p.add(fork_and, "hang", tmp_path / "child")
            p.add(wait_and_fail, tmp_path / "child")

    with pytest.raises(ZeroDivisionError):
        main()
    assert gone(tmp_path / "child")


def wait_and_fail(path):
    while not (path.exists() and path.read_text()):
        os.sched_yield()
    return 1 / 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_the_descriptors_that_watch_is_left():
    def count():
        gc.collect()  # a process that has ended keeps two until it is
        return len(os.listdir("/proc/self/fd"))

    state = ExecutionState()
    for _ in range(2):  # the first starts what Python keeps for later
        before = count()
        with state.parallel(procs=2) as p:
            p.add(len, "abc")
            p.add(os._exit, 3)
    assert count() == before
