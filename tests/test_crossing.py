"""What crosses from process to process comes out as it went in, without the detours of `dataclasses`."""

from __future__ import annotations

import doctest
import pickle
import pickletools
import subprocess
import sys
from dataclasses import dataclass

import pytest

from parallamr_mp import crossing
from parallamr_mp.answered import RowResult, RowTask
from parallamr_mp.crossing import pack, unpack
from parallamr_mp.engine.messages import Ack, Append, Lease, Outcome
from parallamr_mp.models import Allowance, Failure, Inputs, Status

TASK = RowTask(1, 0, "abc", 0, "mock", "mock", ("mock", "mock"), {"a": [1]}, Inputs("p", (("d", "t"),), None))
RESULT = RowResult(b"1,2\n", Status.WARNING, "why", 0.1, 10, 20, None, allowance=Allowance(requests_left=3))


@dataclass(frozen=True, slots=True)
class Mark:
    """Not one of those that cross."""

    x: int


FAILURE = Failure("timeout", "late", unknown=True, status=503)


@pytest.mark.parametrize(
    "message",
    [
        Lease(7, 2, TASK, (1, 2), "http://a"),
        Outcome(7, RESULT, None, 0.5),
        Outcome(7, failure=FAILURE),
        Append(1, 0, b"x\n"),
        Ack(0, (1, 2), 99),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_out_as_it_went_in(message):
    calls = []
    sys.setprofile(lambda _frame, event, arg: calls.append(event) if event == "call" else None)
    try:
        crossed = unpack(pickle.loads(pickle.dumps(pack(message), pickle.HIGHEST_PROTOCOL)))
    finally:
        sys.setprofile(None)
    assert crossed == message
    assert type(crossed) is type(message)
    # Packed, unpacked and made, each object in it: nothing is called for a field.
    assert len(calls) <= 15, calls


@pytest.mark.parametrize("message", [Lease(7, 2, TASK), Outcome(7, RESULT), Append(1, 0, b"x\n"), FAILURE])
def test_no_class_is_named_to_pickle(message):
    names = [
        argument
        for opcode, argument, _ in pickletools.genops(pickle.dumps(pack(message)))
        if opcode.name in {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"}
    ]
    assert names == []


@pytest.mark.parametrize(
    "value", [("parallamr_mp.models:Status", "ok"), (None, 1), [TASK], Mark(3), {"a": 1}, b"x"]
)
def test_values_of_somebody_else_stay_what_they_are(value):
    assert unpack(pickle.loads(pickle.dumps(pack(Outcome(1, value))))) == Outcome(1, value)


def test_a_class_of_a_module_that_is_not_loaded_yet_is_found():
    packed = pickle.dumps(pack(Outcome(1, RESULT)))
    program = (
        "import pickle, sys; from parallamr_mp.crossing import unpack;"
        f" print(unpack(pickle.loads({packed!r})).value.status.value)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "warning\n"


def test_the_docstring_tells_the_truth():
    assert doctest.testmod(crossing).failed == 0
