"""What crosses from process to process comes out as it went in, without the detours of `dataclasses`."""

from __future__ import annotations

import doctest
import pickle
import sys

import pytest

from parallamr_mp import crossing
from parallamr_mp.answered import RowResult, RowTask
from parallamr_mp.engine.messages import Ack, Append, Lease, Outcome
from parallamr_mp.models import Allowance, Failure, Inputs, Status, Unsaved

TASK = RowTask(1, 0, "abc", 0, "mock", "mock", ("mock", "mock"), {"a": [1]}, Inputs("p", (("d", "t"),), None))
RESULT = RowResult(b"1,2\n", Status.WARNING, "why", 0.1, 10, 20, None, allowance=Allowance(requests_left=3))
FAILURE = Failure("timeout", "late", unknown=True, status=503)


@pytest.mark.parametrize(
    "message",
    [
        Lease(7, 2, TASK, (1, 2), "http://a"),
        Outcome(7, RESULT, None, 0.5),
        Outcome(7, failure=FAILURE),
        Append(1, 0, b"x\n"),
        Ack(0, (1, 2), 99),
        Unsaved(TASK, 1, RESULT, None, 0.5),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_out_as_it_went_in(message):
    calls = []
    sys.setprofile(lambda _frame, event, arg: calls.append(event) if event == "call" else None)
    try:
        crossed = pickle.loads(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
    finally:
        sys.setprofile(None)
    assert crossed == message
    assert type(crossed) is type(message)
    # Reduced and made anew, each object in it, and each status looked up: nothing is called a field.
    assert len(calls) <= 15, calls


def test_the_docstring_tells_the_truth():
    assert doctest.testmod(crossing).failed == 0
