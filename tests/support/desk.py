"""A place where tasks in other processes and threads ring, and wait until the test lets them go on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

Address = tuple[str, int]


def ring(address: Address, key: object = "") -> str:
    """The task's side: says that it is here, and returns what it is told once it may go on."""
    with socket.create_connection(address) as line:
        line.sendall(f"{key}\n".encode())
        with line.makefile() as words:
            return words.readline().rstrip("\n")


@dataclass
class Visitor:
    """A task that has rung."""

    key: str
    line: socket.socket

    def let_go(self, told: object = "") -> None:
        with contextlib.suppress(OSError):  # it has died meanwhile
            self.line.sendall(f"{told}\n".encode())
        self.line.close()


class Desk:
    """The test's side."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._listening.settimeout(60)
        self.address: Address = self._listening.getsockname()

    def come(self, number: int) -> list[Visitor]:
        """Waits until so many more tasks have rung."""
        visitors = []
        for _ in range(number):
            line, _ = self._listening.accept()
            with line.makefile() as words:
                visitors.append(Visitor(words.readline().rstrip("\n"), line))
        return visitors

    def close(self) -> None:
        self._listening.close()


@contextlib.contextmanager
def desk() -> Iterator[Desk]:
    opened = Desk()
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def beside(work: object) -> Iterator[None]:
    """Runs `work()` in a thread while the block runs, and waits for its end; its error is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    if errors:
        raise errors[0]
