"""What runs a group's tasks in a worker: in a process of its own, or in threads of the caller's.

    Lease(Call) ──► Caller ──► function(*args, **kwargs) ──► Outcome(Reply)
                                      │ print
                                      └──► TaskStream ──► Said(Printed)    (`streams.py`)

A function crosses once to a process and is kept there under a number, together
with the globals of a script or notebook that it uses: they may be large, and
one may be a model that is loaded once. Exceptions cross as pickles inside the
value, with their traceback as text: `unwrap` is to raise the error itself,
which the engine's `Failure` could not.

A worker process imports this module: nothing here may bring Pydantic or asyncio.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future
from typing import Any

from parallamr_mp.crossing import crossing
from parallamr_mp.engine.channels import Receiver, Sender
from parallamr_mp.engine.messages import Said
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.models import Unsaved
from parallamr_mp.parallel.pickling import dumps, dumps_error, said
from parallamr_mp.parallel.streams import Printed, TaskStream
from parallamr_mp.values import value

_LAST_SECONDS = 1.0
"""In which a process that has been told to end does so, or is ended."""


@crossing()
@value
class Call:
    """A task on its way to a worker process."""

    function: int
    """Its number in this group."""
    pickled: bytes | None
    """The function; None: this process has it by its number."""
    arguments: bytes
    """`(args, kwargs)`."""
    forget: tuple[int, ...] = ()
    """Functions that this process need not keep any longer."""


@crossing()
@value
class Reply:
    """What came of a call: its value or its error, pickled."""

    ok: bool
    pickled: bytes | None
    """None: it cannot be pickled."""
    text: str = ""
    """What the error says; of a value that cannot be pickled, why."""
    trace: str = ""
    """The error's traceback."""
    parts: bytes | None = None
    """Of an error that cannot be pickled whole: see `pickling.rebuilt`."""
    unread: bool = False
    """The call itself could not be rebuilt: nothing has been called."""


def processes_main(receiver: Receiver, sender: Sender, threads: int) -> None:
    """The actor of a group's worker process: threads that call what is sent. See `worker_main`."""

    def say(printed: Printed) -> None:
        sender.send(Said(printed))

    streams = TaskStream("stdout", sys.stdout, say), TaskStream("stderr", sys.stderr, say)
    sys.stdout, sys.stderr = streams
    worker_main(receiver, sender, threads, Caller, (streams,))
    threading.Thread(target=_end, name="end", daemon=True).start()


def _end() -> None:
    """Ends the process, which would wait for threads and processes that tasks have left running in it."""
    time.sleep(_LAST_SECONDS)
    for child in multiprocessing.active_children():  # which nobody would wait for any more
        child.kill()
    os._exit(0)


class Caller:
    """Calls functions that were sent; used by all threads of a worker process."""

    def __init__(self, streams: Sequence[TaskStream]) -> None:
        self._streams = streams
        self._functions: dict[int, Future[Callable[..., Any]]] = {}
        # Who is sent a number alone may come before the thread that got the function has unpacked it.
        self._lock = threading.Lock()
        # To rebuild is to import. Two threads that import from the two ends of a package meet in the
        # middle, where Python breaks the deadlock by handing out modules that are half imported.
        self._importing = threading.Lock()

    def __call__(self, payload: Call, attempt: int, route: str) -> Reply:  # noqa: ARG002
        try:
            function = self._function_of(payload)
            args, kwargs = self._rebuilt(payload.arguments)
        except BaseException as error:
            return Reply(False, None, said(error), _trace(error), unread=True)
        try:
            value = called(function, args, kwargs)
        except BaseException as error:  # also SystemExit: a task ends itself, and nothing else
            whole, parts = dumps_error(error)
            return Reply(False, whole, said(error), _trace(error), parts)
        finally:
            for stream in self._streams:
                stream.sweep()
        try:
            return Reply(True, dumps(value))
        except BaseException as error:
            return Reply(True, None, f"{type(value).__qualname__}: {said(error)}")

    def rescue(self, unsaved: Sequence[Unsaved]) -> None:
        """Results of groups have no file to be saved in."""

    def close(self) -> None:
        """Lets go of the functions, and of what has been printed."""
        self._functions.clear()
        for stream in self._streams:
            stream.sweep(every=True)

    def _function_of(self, call: Call) -> Callable[..., Any]:
        with self._lock:
            future = self._functions.setdefault(call.function, Future())
            for number in call.forget:
                self._functions.pop(number, None)
        if call.pickled is not None:
            try:
                future.set_result(self._rebuilt(call.pickled))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _rebuilt(self, pickled: bytes) -> Any:
        with self._importing:
            return pickle.loads(pickled)


class LocalCaller:
    """Calls functions in threads of the process that added them: nothing is copied or pickled.

    The payload is the id of an entry of `calls`; what comes of it is put into `outcomes`.
    """

    def __init__(
        self,
        calls: Mapping[int, Callable[[], Any]],
        outcomes: MutableMapping[int, tuple[Any, BaseException | None]],
    ) -> None:
        self._calls, self._outcomes = calls, outcomes

    def __call__(self, payload: int, attempt: int, route: str) -> None:  # noqa: ARG002
        try:
            self._outcomes[payload] = self._calls[payload](), None
        except BaseException as error:
            self._outcomes[payload] = None, error

    def rescue(self, unsaved: Sequence[Unsaved]) -> None:
        """Never asked: who would save what dies with those who want it."""

    def close(self) -> None:
        """There is nothing to let go of."""


def called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the function returns; awaited, on a loop of this thread's, if it is awaitable."""
    value = function(*args, **kwargs)
    if hasattr(value, "__await__"):
        import asyncio  # noqa: PLC0415  - costs a worker, which seldom needs it, 40 ms

        async def waited() -> Any:
            return await value

        return asyncio.run(waited())
    return value


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an error whose words cannot be had
        return ""
