"""Makes tasks ready to cross to worker processes, and takes back what came of them.

A function is pickled once a group, however many tasks call it: one of a script
or notebook crosses as its code together with the globals that it uses, as they
are then. A process keeps it under a number, and gets that number alone from
then on: a large function at once, a small one from its second use on, since
programs also make a lambda for each task.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cloudpickle

from parallamr_mp.errors import NotPicklable
from parallamr_mp.parallel.remote import Call, Reply
from parallamr_mp.parallel.task import Task

_REMEMBERED = 64
"""Functions that are looked out for: a lambda for each task is a new one each time."""
_LARGE = 1 << 14
"""Bytes of one that no process is to get twice."""
_NUMBERED = 256
"""Functions that the processes of a group keep."""


@dataclass(slots=True, eq=False)
class Function:
    """One that has been pickled."""

    itself: Any
    """Kept, so that nobody else gets its identity."""
    pickled: bytes
    number: int = 0
    """0: no process keeps it."""


@dataclass(slots=True, eq=False)
class Parcel:
    """A task, pickled."""

    function: Function
    arguments: bytes

    def call_for(self, known: set[int]) -> Call:
        """What to send to a process that has the functions with the numbers `known`; these become more."""
        number = self.function.number
        pickled = None if number in known else self.function.pickled
        if number:
            known.add(number)
        return Call(number, pickled, self.arguments)


class RemoteTraceback(Exception):  # noqa: N818  - no error of its own
    """Where in a worker process an error came from: the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Shipper:
    """Pickles the tasks of one group. Used by the group's event loop."""

    def __init__(self) -> None:
        self._recent: OrderedDict[int, Function] = OrderedDict()
        self._numbers = 0

    def pack(self, task: Task) -> Parcel:
        """Raises `NotPicklable`, naming the task."""
        try:
            function = self._function_of(task.call)
            return Parcel(function, _dumps((task.args, dict(task.kwargs))))
        except BaseException as error:
            raise NotPicklable(
                f"task {task.name!r} ({task.label}) cannot be sent to a worker process: {_why(error)}"
            ) from error

    def _function_of(self, call: Any) -> Function:
        function = self._recent.get(id(call))
        known = function is not None
        if function is None:
            function = self._recent[id(call)] = Function(call, _dumps(call))
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        self._recent.move_to_end(id(call))
        if not function.number and self._numbers < _NUMBERED and (known or len(function.pickled) >= _LARGE):
            self._numbers += 1
            function.number = self._numbers
        return function


def unpack(reply: Reply, task: Task) -> tuple[Any, BaseException | None]:
    """The value, or the error with the worker's traceback as its cause."""
    name = f"task {task.name!r} ({task.label})"
    if reply.pickled is None:
        if reply.ok:
            return None, NotPicklable(f"the result of {name} cannot be sent back: {reply.text}")
        return None, _with_trace(NotPicklable(f"{name} raised what cannot be sent back: {reply.text}"), reply)
    try:
        value = pickle.loads(reply.pickled)
    except BaseException as error:
        if reply.ok:
            return None, NotPicklable(f"the result of {name} cannot be rebuilt here: {_why(error)}")
        raised = NotPicklable(f"{name} raised what cannot be rebuilt here: {reply.text}")
        return None, _with_trace(raised, reply)
    if reply.ok:
        return value, None
    if not isinstance(value, Exception):
        # SystemExit, say: meant for a process of the task's own, not for this one.
        value = RuntimeError(f"{name} ended itself: {reply.text}")
    return None, _with_trace(value, reply)


def _with_trace(error: BaseException, reply: Reply) -> BaseException:
    # Not by assignment: classes of errors may forbid that, as frozen dataclasses do.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(reply.trace) if reply.trace else None)
    return error


def _dumps(value: Any) -> bytes:
    pickled: bytes = cloudpickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return pickled


def _why(error: BaseException) -> str:
    try:
        return f"{type(error).__qualname__}: {error}"
    except Exception:
        return type(error).__qualname__
