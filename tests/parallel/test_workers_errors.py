"""Errors across processes: what is raised, what cannot cross, and what retries and the breaker make of it."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass

import pytest
from support import tasks
from support.grouping import longest, watched

from parallamr_mp.errors import CircuitOpen, NotPicklable
from parallamr_mp.parallel import ExecutionState


def test_errors_of_all_kinds_are_results_of_their_tasks_alone():
    class Local(Exception):  # noqa: N818 - a name for a test
        pass

    @dataclass(frozen=True)
    class Frozen(Exception):  # noqa: N818 - as above
        code: int

        def __reduce__(self):
            return Frozen, (self.code,)

    def fail_locally():
        raise Local("of this function")

    def fail_frozen():
        raise Frozen(3)

    def fail_with_cause():
        try:
            tasks.fail("first")
        except LookupError as error:
            raise ValueError("second") from error

    with ExecutionState().parallel(procs=1, threads=2) as p:
        p.add(tasks.fail, "no such thing", name="plain")
        p.add(fail_locally, name="local")
        p.add(fail_frozen, name="frozen")
        p.add(fail_with_cause, name="cause")
        p.add(tasks.raise_made, SystemExit, 3, name="exit")
        p.add(tasks.raise_made, KeyboardInterrupt, name="interrupt")
        p.add(tasks.raise_made, tasks.Stubborn, 1, 2, name="stubborn")
        p.add(tasks.raise_made, tasks.Secretive, name="secretive")
        p.add(tasks.raise_made, tasks.Holding, name="holding")
        p.add(tasks.recurse, name="recursion")
        p.add(tasks.nested_list, 100_000, name="deep result")
        p.add(tasks.make, tasks.Unpicklable, name="unpicklable result")
        p.add(tasks.make, tasks.Unrebuildable, name="unrebuildable result")
        p.add(tasks.double, tasks.Unpicklable(), name="unpicklable argument")
        p.add(tasks.double, tasks.Unrebuildable(), name="unrebuildable argument")
        p.add(threading.Lock().acquire, name="unpicklable function")
        p.add(tasks.double, 21, name="fine")
        results = p.gather_dict()
    fine = results.pop("fine")
    assert fine.unwrap() == 42
    assert not any(result.ok for result in results.values())
    assert {result.attempts for result in results.values()} == {1}

    with pytest.raises(LookupError, match="no such thing") as raised:
        results["plain"].unwrap()
    shown = "".join(traceback.format_exception(raised.value))
    assert "in fail\n    raise LookupError(message)" in shown  # the line in the worker

    with pytest.raises(Local, match="of this function"):
        results["local"].unwrap()
    with pytest.raises(Frozen) as raised:
        results["frozen"].unwrap()
    assert raised.value.code == 3
    assert "first" in "".join(traceback.format_exception(results["cause"].error))

    said = {name: (result.error_type, result.error_message) for name, result in results.items()}
    name_and_call = "task {!r} ({})".format
    assert said["exit"] == (
        "RuntimeError",
        f"{name_and_call('exit', 'raise_made')} ended itself: SystemExit: 3",
    )
    assert said["interrupt"][1].endswith("ended itself: KeyboardInterrupt: ")
    assert said["stubborn"] == ("Stubborn", "1 and 2")  # its class cannot be called with its args
    assert said["secretive"] == ("Secretive", "Secretive")
    assert said["holding"] == ("Holding", "holds a lock")  # which stays where it is
    assert said["recursion"][0] == "RecursionError"
    assert (
        "the result of task 'deep result' (nested_list) cannot be sent back: list:" in said["deep result"][1]
    )
    assert (
        "the result of task 'unpicklable result' (make) cannot be sent back: Unpicklable"
        in (said["unpicklable result"][1])
    )
    assert "cannot be rebuilt here: ValueError: not here" in said["unrebuildable result"][1]
    assert said["unpicklable argument"][1] == (
        "task 'unpicklable argument' (double) cannot be sent to a worker process:"
        " TypeError: a thing of this place;"
        " make it in the task, or use threads of this process (threads= without procs=)"
    )
    assert (
        "cannot be rebuilt in its worker process: ValueError: not here" in said["unrebuildable argument"][1]
    )
    assert "task 'unpicklable function' (lock.acquire) cannot be sent" in said["unpicklable function"][1]
    with pytest.raises(NotPicklable):
        results["unpicklable function"].unwrap()


def test_tasks_are_tried_again_on_errors_of_the_named_type_wherever_they_were_raised(tmp_path):
    class Passing(Exception):  # noqa: N818 - it does
        pass

    def fail_at_first(path, times, kind):
        with open(path, "a") as log:
            log.write("x")
            tries = log.tell()
        if tries <= times:
            raise kind("not yet")
        return "at last"

    state, events = watched(uniform=longest)
    with state.parallel(procs=2, max_retries=3, retry_delay=0.01, retry_on=(Passing, OSError)) as p:
        p.add(fail_at_first, str(tmp_path / "a"), 2, Passing, name="passing")
        p.add(fail_at_first, str(tmp_path / "b"), 9, ConnectionError, name="lasting")
        p.add(fail_at_first, str(tmp_path / "c"), 9, KeyError, name="other")
        p.add(tasks.make, tasks.Unpicklable, name="unpicklable")
        p.add(tasks.die, name="deadly")
        results = p.gather_dict()
    assert {name: (result.error_type, result.attempts) for name, result in results.items()} == {
        "passing": (None, 3),
        "lasting": ("ConnectionError", 4),
        "other": ("KeyError", 1),
        "unpicklable": ("NotPicklable", 1),  # the same again
        "deadly": ("WorkerDied", 3),
    }
    retries = [event.name for event in events if event.status == "retrying"]
    assert {name: retries.count(name) for name in set(retries)} == {"passing": 2, "lasting": 3, "deadly": 2}
    delays = [event.delay for event in events if event.status == "retrying" and event.name == "lasting"]
    assert delays == pytest.approx([0.01, 0.02, 0.04])


def test_the_breaker_opens_on_failures_of_all_processes_together():
    with ExecutionState().parallel(procs=2, circuit_breaker_threshold=3, circuit_breaker_timeout=3600) as p:
        for number in range(20):
            p.add(tasks.fail, number)
        results = p.gather()
    rejected = [result for result in results if result.attempts == 0]
    assert 20 - 3 - 1 <= len(rejected) <= 20 - 3  # one may have been under way
    assert "Circuit breaker open" in rejected[0].error_message
    with pytest.raises(CircuitOpen):
        rejected[0].unwrap()


def test_large_arguments_and_results_cross():
    size = 200_000_000
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.size_of, bytes(size))
        p.add(tasks.blob, size)
        p.add(tasks.double, 21)
        there, back, small = p.gather()
    assert (there.unwrap(), len(back.unwrap()), small.unwrap()) == (size, size, 42)
