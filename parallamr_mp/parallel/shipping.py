"""Makes tasks ready to cross to worker processes, and takes back what came of them.

A function is pickled once a group, however many tasks call it: one of a script
or notebook crosses as its code together with the globals that it uses, as they
are then. A process that has had it is sent its number alone, and keeps it, and
what it does to these globals. Of a lambda for each task it keeps the last ones.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from parallamr_mp.errors import NotPicklable
from parallamr_mp.parallel.pickling import dumps, rebuilt, said
from parallamr_mp.parallel.remote import Call, Reply
from parallamr_mp.parallel.task import Task

_REMEMBERED = 256
"""Functions that a group knows again, and that each of its processes keeps."""
_BYTES = 1 << 26
"""Of these functions, but for the last ones: the method of an object is a new one each time, and as large."""
_INSTEAD = "make it in the task, or use threads of this process (threads= without procs=)"


@dataclass(slots=True, eq=False)
class Function:
    """One that has been pickled."""

    itself: Any
    """Kept, so that nobody else gets its identity."""
    pickled: bytes
    number: int


@dataclass(slots=True, eq=False)
class Parcel:
    """A task, pickled."""

    function: Function
    arguments: bytes

    def call_for(self, known: OrderedDict[int, int], in_flight: int) -> Call:
        """What to send to a process that has the functions `known` (their bytes), the last used last.
        Changes these.

        `in_flight` is how many calls it may have at most that it has not come to.
        """
        number = self.function.number
        pickled = None if number in known else self.function.pickled
        known[number] = len(self.function.pickled)
        known.move_to_end(number)
        forget = []
        # A call that is under way may still need one of the last ones.
        size = sum(known.values())
        while len(known) > in_flight + 1 and (len(known) > _REMEMBERED or size > _BYTES):
            oldest, its = known.popitem(last=False)
            forget.append(oldest)
            size -= its
        return Call(number, pickled, self.arguments, tuple(forget))


class RemoteTraceback(Exception):  # noqa: N818  - no error of its own
    """Where in a worker process an error came from: the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Shipper:
    """Pickles the tasks of one group. Used by the group's event loop."""

    def __init__(self) -> None:
        self._recent: OrderedDict[int, Function] = OrderedDict()
        self._numbers = self._bytes = 0

    def pack(self, task: Task) -> Parcel:
        """Raises `NotPicklable`, naming the task."""
        try:
            function = self._function_of(task.call)
            return Parcel(function, dumps((task.args, dict(task.kwargs))))
        except BaseException as error:
            name = f"task {task.name!r} ({task.label})"
            raise NotPicklable(
                f"{name} cannot be sent to a worker process: {said(error)}; {_INSTEAD}"
            ) from error

    def _function_of(self, call: Any) -> Function:
        function = self._recent.get(id(call))
        if function is None:
            function = Function(call, dumps(call), self._numbers + 1)
            self._numbers += 1
            self._recent[id(call)] = function
            self._bytes += len(function.pickled)
            while len(self._recent) > 1 and (len(self._recent) > _REMEMBERED or self._bytes > _BYTES):
                _, oldest = self._recent.popitem(last=False)
                self._bytes -= len(oldest.pickled)
        self._recent.move_to_end(id(call))
        return function


def unpack(reply: Reply, task: Task) -> tuple[Any, BaseException | None]:
    """The value, or the error with the worker's traceback as its cause."""
    name = f"task {task.name!r} ({task.label})"
    if reply.ok:
        return _value(reply, name)
    try:
        if reply.pickled is not None:
            error = pickle.loads(reply.pickled)
        elif reply.parts is not None:
            error = rebuilt(reply.parts)
        elif reply.unread:
            text = f"{name} cannot be rebuilt in its worker process: {reply.text}; {_INSTEAD}"
            error = NotPicklable(text)
        else:
            error = NotPicklable(f"{name} raised what cannot be sent back: {reply.text}")
    except BaseException:
        error = NotPicklable(f"{name} raised what cannot be rebuilt here: {reply.text}")
    if not isinstance(error, Exception):
        # SystemExit, say: meant for a process of the task's own, not for this one.
        error = RuntimeError(f"{name} ended itself: {reply.text}")
    # Not by assignment: classes of errors may forbid that, as frozen dataclasses do.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(reply.trace) if reply.trace else None)
    return None, error


def _value(reply: Reply, name: str) -> tuple[Any, BaseException | None]:
    if reply.pickled is None:
        return None, NotPicklable(f"the result of {name} cannot be sent back: {reply.text}")
    try:
        return pickle.loads(reply.pickled), None
    except BaseException as error:
        return None, NotPicklable(f"the result of {name} cannot be rebuilt here: {said(error)}")
