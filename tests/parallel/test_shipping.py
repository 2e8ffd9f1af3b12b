"""How often functions cross to the worker processes, and what is kept of them."""

from __future__ import annotations

import gc
import weakref

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


def test_a_small_function_gets_a_number_from_its_second_use_on():
    shipper, known = Shipper(), set()
    first, second, third = (shipper.pack(task_of(tasks.double, number)) for number in range(3))
    assert first.function is second.function is third.function
    calls = [parcel.call_for(known) for parcel in (first, second, third)]
    assert [call.pickled is None for call in calls] == [False, True, True]
    assert len({call.function for call in calls}) == 1

    shipper, known = Shipper(), set()
    calls = [shipper.pack(task_of(tasks.double, number)).call_for(known) for number in range(3)]
    assert [(call.function, call.pickled is None) for call in calls] == [(0, False), (1, False), (1, True)]
    assert shipper.pack(task_of(tasks.double, 3)).call_for(set()).pickled is not None  # another process


def test_functions_of_one_use_take_neither_numbers_nor_memory():
    shipper = Shipper()
    calls = [shipper.pack(task_of(lambda number=number: number)).call_for(set()) for number in range(1000)]
    assert {call.function for call in calls} == {0}
    assert len(shipper._recent) <= 64
    caller = Caller(())
    assert [caller(call, 1, "").ok for call in calls] == [True] * 1000
    assert caller._functions == {}


def test_a_function_is_as_it_was_when_it_was_first_sent_however_often_it_is_used():
    shipper = Shipper()
    scale, known = tasks.Scale(2), set()
    caller = Caller(())
    values = []
    for by in (2, 3, 4):
        scale.by = by
        call = shipper.pack(task_of(scale, 10)).call_for(known)
        values.append(unpack(caller(call, 1, ""), task_of(scale))[0])
    assert values == [20, 20, 20]


def test_a_function_that_cannot_be_rebuilt_is_the_error_of_every_task_that_calls_it():
    class Bad(tasks.Unrebuildable):
        def __call__(self):
            return 1

    bad, shipper, known, caller = Bad(), Shipper(), set(), Caller(())
    for _ in range(3):
        reply = caller(shipper.pack(task_of(bad)).call_for(known), 1, "")
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

    reply = caller(Shipper().pack(task_of(odd)).call_for(set()), 1, "")
    _, error = unpack(reply, task_of(odd))
    assert isinstance(error, RuntimeError)
    assert "Odd: odd" in str(error)
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
