"""How often functions cross to the worker processes, and what is kept of them."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections import OrderedDict

import pytest
from support import tasks
from support.desk import beside, desk

from parallamr_mp.errors import NotPicklable
from parallamr_mp.parallel import ExecutionState
from parallamr_mp.parallel.remote import Caller, Reply
from parallamr_mp.parallel.shipping import RemoteTraceback, Shipper, unpack
from parallamr_mp.parallel.task import Group, Task


def task_of(call, *args, name="t"):
    return Task(Group("id", "g#1", "g", 1, None), 0, name, call, args, label="call")


def test_a_function_with_large_globals_crosses_once_to_each_process(tmp_path):
    log = tmp_path / "unpickled"
    large = tasks.Counted(str(log), 1_000_000)

    def scored(address, number):
        tasks.ring(address)
        return len(large.data) + number

    with desk() as door:

        def receptionist():
            for visitor in door.come(4):  # both processes take part
                visitor.let_go()
            for _ in range(16):
                for visitor in door.come(1):
                    visitor.let_go()

        with beside(receptionist), ExecutionState().parallel(procs=2, threads=2) as p:
            for number in range(20):
                p.add(scored, door.address, number)
            results = p.gather()
    assert [result.unwrap() for result in results] == [1_000_000 + number for number in range(20)]
    pids = log.read_text().split()
    assert len(pids) == len(set(pids)) == 2


def test_a_process_that_has_had_a_function_gets_its_number_alone():
    shipper, known = Shipper(), OrderedDict()
    first, second, other = (shipper.pack(task_of(call, 1)) for call in (tasks.double, tasks.double, len))
    assert first.function is second.function
    calls = [parcel.call_for(known, 1) for parcel in (first, second, other, second)]
    assert [(call.function, call.pickled is None) for call in calls] == [
        (1, False),
        (1, True),
        (2, False),
        (1, True),
    ]
    assert second.call_for(OrderedDict(), 1).pickled is not None  # another process


@pytest.mark.parametrize("in_flight", [1, 400])
def test_of_a_function_for_each_task_the_last_ones_are_kept(in_flight):
    shipper, known, caller = Shipper(), OrderedDict(), Caller(())
    for number in range(1000):
        call = shipper.pack(task_of(lambda number=number: number)).call_for(known, in_flight)
        assert caller(call, 1, "").ok
    assert len(shipper._recent) <= 256
    assert list(caller._functions) == list(known)
    assert len(known) == max(256, in_flight + 1)


def test_what_a_function_keeps_in_its_globals_stays_from_the_first_call_on():
    script = (
        "from functools import lru_cache\n"
        "from parallamr_mp.parallel import ExecutionState\n"
        "loads = 0\n"
        "@lru_cache(maxsize=None)\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "@lru_cache\n"
        "def model():\n"
        "    global loads\n"
        "    loads += 1\n"
        "    return {'fib': fib}\n"
        "def task(n): return model()['fib'](n), loads\n"
        "with ExecutionState().parallel(procs=1) as p:\n"
        "    for n in (10, 20, 30): p.add(task, n)\n"
        "    print([result.unwrap() for result in p.gather()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "[(55, 1), (6765, 1), (832040, 1)]\n"


def test_a_worker_rebuilds_one_call_at_a_time(tmp_path, monkeypatch):
    """Threads that import a package from both its ends would be handed modules that are half imported."""
    (tmp_path / "knot").mkdir()
    (tmp_path / "knot" / "__init__.py").write_text("")
    for one, other in (("left", "right"), ("right", "left")):
        (tmp_path / "knot" / f"{one}.py").write_text(
            f"import os, time\nfor _ in range(200): os.sched_yield()\ntime.sleep(0.05)\n"
            f"import knot.{other} as other\n"
            f"def {one}(x): return x, other.__name__\n"
        )
    script = tmp_path / "script.py"
    script.write_text(
        "import knot.left, knot.right\n"
        "from parallamr_mp.parallel import ExecutionState\n"
        "with ExecutionState().parallel(procs=1, threads=4) as p:\n"
        "    for n in range(8): p.add(knot.left.left, n); p.add(knot.right.right, n)\n"
        "    print({str(result.unwrap()[1]) for result in p.gather()})\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() in {"{'knot.right', 'knot.left'}", "{'knot.left', 'knot.right'}"}, done.stderr


def test_a_function_is_as_it_was_when_it_was_first_sent_however_often_it_is_used():
    shipper = Shipper()
    scale, known = tasks.Scale(2), OrderedDict()
    caller = Caller(())
    values = []
    for by in (2, 3, 4):
        scale.by = by
        call = shipper.pack(task_of(scale, 10)).call_for(known, 1)
        values.append(unpack(caller(call, 1, ""), task_of(scale))[0])
    assert values == [20, 20, 20]


def test_a_function_that_cannot_be_rebuilt_is_the_error_of_every_task_that_calls_it():
    class Bad(tasks.Unrebuildable):
        def __call__(self):
            return 1

    bad, shipper, known, caller = Bad(), Shipper(), OrderedDict(), Caller(())
    for _ in range(3):
        reply = caller(shipper.pack(task_of(bad)).call_for(known, 1), 1, "")
        _, error = unpack(reply, task_of(bad))
        assert isinstance(error, NotPicklable)
        assert "cannot be rebuilt in its worker process: ValueError: not here" in str(error)


def test_what_an_error_is_rebuilt_as_is_an_error_in_any_case():
    caller = Caller(())

    def odd():
        class Odd(Exception):  # noqa: N818 - it is
            def __reduce__(self):
                return str, ("not an error",)

        raise Odd("odd")

    reply = caller(Shipper().pack(task_of(odd)).call_for(OrderedDict(), 1), 1, "")
    _, error = unpack(reply, task_of(odd))
    assert type(error).__name__ == "Odd"
    assert str(error) == "odd"
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in odd" in str(error.__cause__)


def test_a_reply_without_a_pickle_says_why():
    _, error = unpack(Reply(True, None, "lock: no"), task_of(None, name="mine"))
    assert str(error) == "the result of task 'mine' (call) cannot be sent back: lock: no"


@pytest.mark.parametrize("procs", [0, 1])
def test_a_group_that_is_over_holds_neither_functions_nor_arguments(procs):
    class Big:
        def __call__(self, other):
            return 1

    function, argument = Big(), Big()
    refs = [weakref.ref(function), weakref.ref(argument)]
    state = ExecutionState()
    with state.parallel(procs=procs) as p:
        p.add(function, argument)
        p.gather()
    del function, argument
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert p.results[0].unwrap() == 1


def test_large_functions_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("parallamr_mp.parallel.shipping._BYTES", 1_000_000)
    shipper, known, caller = Shipper(), OrderedDict(), Caller(())
    data = bytes(300_000)
    for number in range(20):
        call = shipper.pack(task_of(lambda data=data: len(data))).call_for(known, 1)
        assert unpack(caller(call, 1, ""), task_of(len))[0] == 300_000, number
        assert sum(len(function.pickled) for function in shipper._recent.values()) <= 1_000_000
        assert len(caller._functions) == len(known) <= 3
