"""What tests have worker processes do. They import this: it brings nothing but the standard library."""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from support.desk import Address, ring


def double(number: int) -> int:
    return 2 * number


def add(a: int, b: int = 0, *more: int, times: int = 1) -> int:
    return (a + b + sum(more)) * times


async def double_later(number: int) -> int:
    return 2 * number


class Scale:
    """Methods, and instances that are called."""

    def __init__(self, by: int) -> None:
        self.by = by

    def of(self, number: int) -> int:
        return self.by * number

    @classmethod
    def one(cls, number: int) -> int:
        return cls(1).of(number)

    __call__ = of


triple = functools.partial(add, times=3)


def where(address: Address, key: object = "") -> tuple[int, int, str]:
    """Rings, and tells process, thread, and what it was told."""
    told = ring(address, key)
    return os.getpid(), threading.get_ident(), told


def ring_pid(address: Address, more: object = "") -> str:
    """Rings as the process that it runs in."""
    return ring(address, f"{os.getpid()} {more}")


def modules(*wanted: str) -> list[str]:
    """Those of the wanted ones that this process has loaded."""
    return sorted(set(wanted) & set(sys.modules))


def fail(message: str) -> None:
    raise LookupError(message)


def die(how: str = "exit") -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(mark: str, value: Any) -> Any:
    """Kills its process unless the file is there, which it makes."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return value
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def die_sending(mark: str, size: int) -> bytes:
    """Large; the first time, its process dies when a part of it has been sent."""
    if not Path(mark).exists():
        Path(mark).touch()
        write = os.write

        def torn(fd: int, data: Any) -> int:
            if len(data) < size:
                return write(fd, data)
            write(fd, data[: size // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.write = torn
    return bytes(size)


def close_everything() -> None:
    """What a careless daemon does."""
    os.closerange(3, 200)


def die_at_exit() -> None:
    atexit.register(die)


def leave_a_thread() -> None:
    """One that the interpreter waits for, and that never ends."""
    threading.Thread(target=threading.Event().wait).start()


def raise_now(error: BaseException) -> None:
    raise error


def recurse(deep: int = 0) -> int:
    return recurse(deep + 1)


def nested_list(deep: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(deep):
        value = [value]
    return value


def leave_a_process_behind() -> int:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    assert process.pid is not None
    return process.pid


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("a thing of this place")


class Unrebuildable:
    """Crosses in one direction; is not made at the other end."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("not here")

    def __getstate__(self) -> Any:
        return {"a": 1}


class Stubborn(Exception):  # noqa: N818 - it is
    """Its pickle cannot be loaded: two arguments are missing then."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Secretive(Exception):  # noqa: N818 - it is
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Holding(Exception):  # noqa: N818 - it does
    """Has something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def make(kind: type, *args: Any) -> Any:
    return kind(*args)


def raise_made(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


class Counted:
    """Large, and writes a letter to a file each time it is unpickled."""

    def __init__(self, log: str, size: int) -> None:
        self.log, self.data = log, bytes(size)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")


def size_of(data: bytes) -> int:
    return len(data)


def blob(size: int) -> bytes:
    return bytes(size)


def chatter(number: int, lines: int) -> None:
    for line in range(lines):
        print(f"task {number} line {line}", "x" * 40)
        print(f"fault {number} line {line}", file=sys.stderr)


def say(*words: str, **how: Any) -> None:
    print(*words, **how)


def say_in_a_thread(text: str) -> None:
    """The thread ends with its line unfinished."""
    thread = threading.Thread(target=say, args=(text,), kwargs={"end": ""})
    thread.start()
    thread.join()


def say_later(address: Address, text: str) -> None:
    """From a daemon thread, which outlives the task."""

    def later() -> None:
        ring(address, "before")
        print(text, flush=True)
        ring(address, "after")

    threading.Thread(target=later, daemon=True).start()


def say_and_ring(address: Address, text: str) -> str:
    print(text, end="", flush=True)
    return ring(address)


def say_at_exit(text: str) -> None:
    atexit.register(print, text)


def say_in_pieces(number: int) -> None:
    for _ in range(number):
        print("abcdefghij", end="")


def say_otherwise() -> None:
    """By the ways that do not go through `print`."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stdout.writelines(["written ", "lines\n"])
    sys.stdout.buffer.write(b"bytes\n")
    logging.getLogger("task").warning("logged")
    warnings.warn("warned", UserWarning, stacklevel=1)
    subprocess.run([sys.executable, "-c", "print('from a program')"], check=True)


def say_names() -> tuple[str, str, bool]:
    return sys.stdout.name, sys.stdout.encoding, sys.stdout.isatty()
