"""What a task prints in a worker process, on its way to the parent.

    print ──► TaskStream ──whole lines──► Said(Printed) ──► the parent's own streams

Several processes that write to one terminal would tear each other's lines and
any bar; and where a notebook is the terminal, only the parent's stream leads
there.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

_LONGEST = 1 << 16
"""Characters of an unfinished line that are kept back."""


class Printed(NamedTuple):
    """Text that a task has written."""

    stream: str
    """`stdout` or `stderr`."""
    text: str


class TaskStream(io.TextIOBase):
    """In place of a worker's standard stream. Each thread has a line of its own; `flush` sends it as it is.

    What a thread leaves unfinished when it ends goes with the next task's end.
    """

    def __init__(self, name: str, real: TextIO | None, say: Callable[[Printed], None]) -> None:
        super().__init__()
        self._stream, self._real, self._say = name, real, say
        self._begun: dict[int, list[str]] = {}
        """Unfinished lines, by the thread that writes them: its own alone, but for `sweep`."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def name(self) -> str:
        """As that of the real ones."""
        return f"<{self._stream}>"

    @property
    def buffer(self) -> Any:
        """That of the real stream: bytes go their own way."""
        if self._real is None:
            raise AttributeError("buffer")
        return self._real.buffer

    def fileno(self) -> int:
        """That of the real stream: programs that a task starts write to it."""
        if self._real is None:
            raise io.UnsupportedOperation("fileno")
        return self._real.fileno()

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_: Any) -> None:
        """There is nothing to set: it is the parent's stream that encodes and buffers."""

    def write(self, text: str, /) -> int:
        begun = self._begun.setdefault(threading.get_ident(), [])
        whole, newline, rest = text.rpartition("\n")
        if newline:
            self._send("".join(begun) + whole + newline)
            begun.clear()
        if rest:
            begun.append(rest)
            if len(begun) % 64 == 0 and sum(map(len, begun)) > _LONGEST:
                self.flush()
        return len(text)

    def flush(self) -> None:
        self._send_begun(threading.get_ident())
        if self._real is not None:  # bytes that were written to `buffer`
            with contextlib.suppress(OSError, ValueError):
                self._real.flush()

    def sweep(self, *, every: bool = False) -> None:
        """A task has ended: sends its unfinished line and those of threads that are gone, or of all."""
        self.flush()
        if self._begun:
            alive = () if every else {thread.ident for thread in threading.enumerate()}
            for thread in [thread for thread in self._begun if thread not in alive]:
                self._send_begun(thread)

    def _send_begun(self, thread: int) -> None:
        if begun := self._begun.pop(thread, None):
            self._send("".join(begun))

    def _send(self, text: str) -> None:
        try:
            self._say(Printed(self._stream, text))
        except (OSError, ValueError):
            # The channel is closed: that is what an exit handler has to say, or the parent is gone.
            if self._real is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._real.write(text)
                    self._real.flush()
