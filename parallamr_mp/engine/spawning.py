"""How a child process is started: by `multiprocessing`'s spawn, without what our actors never need.

`multiprocessing` knows no options for that, so some of its functions are
replaced while one of our children starts. They are so for the thread that
starts it alone; for all others everything is as ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker, spawn, util
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

# The signals that a terminal, a batch system or a user sends to a whole process
# group. Children ignore them: the parent alone decides how a run ends.
GROUP_SIGNALS = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT")
    if hasattr(signal, name)
)

_TUNABLES = "GLIBC_TUNABLES"
_SHARED = "glibc.malloc.tcache_max=512"
"""Each thread keeps what it has freed for itself: up to 7 pieces of every size to 1 KiB, which it may never
need again. Requests and answers are of all sizes, so 500 threads come to hold tens of megabytes. Pieces up to
512 bytes are of a few kinds: Python's own objects of that size come from elsewhere. Source: glibc manual,
Memory Allocation Tunables."""

# Starting a child replaces functions of `multiprocessing`: one start at a time.
_start_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Thrift:
    """How a child gets by with less, which must run none but our own code.

    It has no resource tracker, which is a process of its own; one is started
    if something in there should need it.
    """

    shares: bool = False
    """What one of its threads frees serves all, where that is glibc's to do: saves memory with hundreds of
    threads, and costs some CPU where they never wait."""
    without: tuple[str, ...] = ()
    """Modules that cannot be imported there: others load them if they find them, and get by without."""


@contextlib.contextmanager
def starting(thrift: Thrift | None) -> Iterator[None]:
    """Children that this thread starts meanwhile are ours, see `_bare_main` and `_signals_held_back`.

    A thrifty one calls `begin_thrifty` first of all.
    """
    with _start_lock, _signals_held_back(), contextlib.ExitStack() as stack:
        if thrift is None:
            with _signals_held_back():  # the tracker's start unblocks SIGINT and SIGTERM
                resource_tracker.ensure_running()
        elif os.name == "posix":
            nobody = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nobody)
            stack.enter_context(_replaced(resource_tracker, "getfd", lambda: nobody))
            if thrift.shares:
                stack.enter_context(_replaced(util, "spawnv_passfds", _spawn_sharing))
        stack.enter_context(_bare_main())
        yield


def begin_thrifty(thrift: Thrift) -> None:
    """In the child: what it starts itself, and what it registers with a tracker, is as ever."""
    if thrift.shares and os.environ.get(_TUNABLES, "").startswith(_SHARED):
        theirs = os.environ.pop(_TUNABLES)[len(_SHARED) + 1 :]
        if theirs:
            os.environ[_TUNABLES] = theirs
    if os.name == "posix":
        # What a child starts with is set there; nothing public takes it away again.
        tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001
        os.close(tracker._fd)  # noqa: SLF001
        tracker._fd = None  # noqa: SLF001
    for name in thrift.without:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # documented to end each import of it


def _spawn_sharing(path: bytes, args: Sequence[str], passfds: Sequence[int]) -> int:
    """`util.spawnv_passfds`, with an environment of the child's own. Raises OSError."""
    env = dict(os.environ)
    # glibc goes by the last that it is told: whoever has set this one already knows better.
    env[_TUNABLES] = ":".join(filter(None, (_SHARED, env.get(_TUNABLES))))
    child = subprocess.Popen(
        args, executable=path, pass_fds=[int(fd) for fd in passfds], env=env, restore_signals=False
    )
    child.returncode = 0  # `multiprocessing` waits for it, and nobody else may
    return child.pid


@contextlib.contextmanager
def _replaced(module: Any, name: str, instead: Callable[..., Any]) -> Iterator[None]:
    """Has this thread meanwhile call another function by that name."""
    usual, us = getattr(module, name), threading.get_ident()

    def chosen(*args: Any) -> Any:
        return (instead if threading.get_ident() == us else usual)(*args)

    setattr(module, name, chosen)
    try:
        yield
    finally:
        setattr(module, name, usual)


@contextlib.contextmanager
def _bare_main() -> Iterator[None]:
    """Has children that this thread starts meanwhile not import the caller's `__main__`.

    `multiprocessing` re-imports the parent's main module in a spawned child.
    Our actors never need it; leaving it out makes a child start faster, keeps
    the CLI's imports out of workers, and lets a script without an
    `if __name__ == "__main__"` guard use this library. What other threads
    start, or look up in `sys.modules`, is as ever.
    """
    prepare = spawn.get_preparation_data

    def prepared(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepare(name)
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
        return data

    with _replaced(spawn, "get_preparation_data", prepared):
        yield


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Blocks the group signals in this thread; a child started meanwhile inherits that.

    Otherwise a Ctrl-C during a child's start would print its traceback, and an
    ignored signal (`SIG_IGN`) would be lost to the parent. Blocked ones wait.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _LocalLock:
    """A lock among the threads of one process; in the process that it is sent to, one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> tuple[type[_LocalLock], tuple[()]]:
        return _LocalLock, ()


class _NoBound:
    """In place of the semaphore that bounds a queue: one task and the word to end is all it ever gets."""

    @property
    def _semlock(self) -> _NoBound:
        """What `Queue.full` looks into."""
        return self

    def acquire(self, *_: object, **__: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def _is_zero(self) -> bool:
        return False


class OneSpawn(SpawnContext):
    """What an executor with one worker is made with: no semaphores, and it tells which process it has made.

    An executor's queues share locks between processes. With one process at
    either end there is nothing to lock out; but a process that is killed in
    the wrong moment would keep such a lock for ever, and when all are killed
    at once, nobody is left to remove the semaphores from the system.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """May be dead before anybody could look for it."""
        self.made.append(SpawnProcess(*args, **kwargs))
        return self.made[-1]

    def Lock(self) -> Any:  # noqa: N802
        return _LocalLock()

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: ARG002, N802
        return _NoBound()
