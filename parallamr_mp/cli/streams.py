"""Standard output and standard error, made fit to break: a reader that goes, a full disk, a closed terminal.

    sys.stderr ──► TextIOWrapper ──► _Dropping ──► descriptor 2    what it does not take is dropped
    sys.stdout ──► TextIOWrapper ──► _Telling  ──► descriptor 1    what it does not take is an error, once

Messages are comfort: that nobody reads them must not end a run whose results
go to a file. Results are not: that nobody takes them is told. Neither keeps
back what it could not write; the interpreter would try it again at its end,
complain, and change the exit code to 120.

Both are the last place where the environment's secrets are taken out of what
is printed, tracebacks included.

The writer process writes its rows to descriptor 1 by itself; here are the other
commands, and what the parent prints.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

from parallamr_mp.providers.secrets import environment_secrets, redactor, route_secrets

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Patient(io.FileIO):
    """A descriptor of which somebody else may have made a non-blocking one. Does not close it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        """As a blocking descriptor does, which Python's own streams are not prepared not to have."""
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


class _Dropping(_Patient):
    """Drops what cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Telling(_Patient):
    """Raises the first error, and drops what comes after it."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
                raise
        return memoryview(data).nbytes


class _Text(io.TextIOWrapper):
    """A standard stream of text that holds no secrets."""

    def write(self, text: str, /) -> int:
        super().write(_hide(text))
        return len(text)


_hide: Callable[[str], str] = str


def hide_secrets(urls: Iterable[str] = ()) -> None:
    """Of the environment as it is now, and of `urls`; called once more when more is known."""
    global _hide  # noqa: PLW0603  - one terminal, one process
    _hide = redactor(environment_secrets(os.environ) | route_secrets(urls))


def guard() -> None:
    """Replaces the standard streams of this process, for good. Called once, before anything is printed."""
    _fill_closed()
    hide_secrets()
    if sys.stdout is not None:
        sys.stdout = _text(_Telling(1), sys.stdout)
    sys.stderr = _text(_Dropping(2), sys.stderr)


def _fill_closed() -> None:
    """Gives descriptors 0 to 2 something to be, where the caller has closed them.

    Otherwise the next file or pipe would get such a number, and be written to
    as if it were standard output. `sys.stdout` stays None: that tells.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  - for the life of the process


def _text(raw: io.FileIO, like: TextIO) -> TextIO:
    return _Text(
        io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        newline="\n",
        line_buffering=getattr(like, "line_buffering", True),
        write_through=getattr(like, "write_through", False),
    )


def stdout_error() -> OSError | None:
    """Why standard output could not be written, if so."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Telling) else None


def flush() -> None:
    """Hands everything printed to the system. Raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                continue
