"""Private one-way channels between the parent and one other actor.

    parent                                              child (process or thread)
    ──────                                              ─────────────────────────
    Outbox.post → buffer → flush ──── os.pipe ────────► Receiver.receive   (blocks)
    Inbox.read  ◄──────────────────── os.pipe ───────── Sender.send        (blocks, under its lock)

Every pipe has exactly one writing and one reading process, so nobody can die
holding something that others wait for. The carriers are the `Connection`
objects of `multiprocessing.Pipe`, because those travel to a spawned process;
on top of them both ends speak frames: a length, then a pickle (of what
`crossing` makes of the message).

The parent never blocks on a pipe: a stopped or slow child costs it a buffer,
not its loop. A child blocks as it pleases. `Sender.send` returns only when the
whole frame is in the pipe, so a finished row survives the SIGKILL of the
process that sent it: the parent can still read it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import struct
import threading
from multiprocessing.connection import Connection, wait
from typing import Any

from parallamr_mp.crossing import pack, unpack

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16
"""Bytes read at once: as much as a pipe holds. From 128 KiB on, each read would map and unmap memory."""


def _encode(message: Any) -> tuple[bytes, bytes]:
    """The two parts of a frame: to put them together would copy what may be hundreds of megabytes."""
    body = pickle.dumps(pack(message), pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)), body


def _decode(stream: bytes | bytearray, begin: int, end: int) -> Any:
    if end - begin < _CHUNK:
        return unpack(pickle.loads(stream[begin:end]))
    with memoryview(stream) as view:  # to copy it would take as much memory again
        return unpack(pickle.loads(view[begin:end]))


class _Frames:
    """Cuts a byte stream into messages, whatever pieces it arrives in."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete with these bytes."""
        kept = self._buffer
        # Mostly whole messages come, and nothing is kept from one time to the next.
        stream: bytes | bytearray = data
        if kept:
            kept += data
            stream = kept
        start, size = 0, len(stream)
        messages = []
        try:
            while size - start >= _LENGTH.size:
                begin = start + _LENGTH.size
                end = begin + _LENGTH.unpack_from(stream, start)[0]
                if end > size:
                    break
                messages.append(_decode(stream, begin, end))
                start = end
        finally:
            if stream is kept:
                del kept[:start]
            else:
                kept += data[start:]
        return messages

    @property
    def torn(self) -> bool:
        """Whether the stream stopped inside a message."""
        return bool(self._buffer)


class Sender:
    """A child's sending end. Safe from many threads of that child; blocks while the pipe is full."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fd = connection.fileno()
        """Asked for once: `fileno` is two calls, and it is needed for every message."""
        # Frames of two threads must not interleave. The lock is this process's
        # own: nobody outside can be left waiting for it.
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Puts the whole message into the pipe. Raises OSError when the reader is gone."""
        length, body = _encode(message)
        small = len(body) < _CHUNK
        with self._lock:
            for part in (length + body,) if small else (length, body):
                # A pipe takes what is small as a whole, as a rule.
                written = os.write(self._fd, part)
                if written < len(part):
                    data = memoryview(part)[written:]
                    while data:
                        data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        self._fd = -1  # from here on another file may have the number
        self._connection.close()


class Receiver:
    """A child's receiving end, used by one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fd = connection.fileno()
        self._frames = _Frames()
        # Made once: `wait` sets up a selector each time. Not `select`, which knows no descriptor above 1023.
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(connection.fileno(), select.POLLIN)

    def receive(self, timeout: float | None = None) -> list[Any]:
        """All messages that one read brings; blocks for the first up to `timeout` seconds.

        Returns [] when the time is over. Raises EOFError when the parent has
        closed its end or is dead.
        """
        while True:
            if timeout is not None and not self._wait(timeout):
                return []
            data = os.read(self._fd, _CHUNK)
            if not data:
                raise EOFError
            if messages := self._frames.feed(data):
                return messages

    def _wait(self, seconds: float) -> bool:
        if self._poll is None:
            return bool(wait([self._connection], seconds))
        return bool(self._poll.poll(seconds * 1000))

    def close(self) -> None:
        self._fd = -1  # as above
        self._connection.close()


class Inbox:
    """The parent's receiving end: never blocks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames = _Frames()
        os.set_blocking(connection.fileno(), False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> tuple[list[Any], bool]:
        """What has arrived, and whether the channel has ended.

        Messages that a dead child had sent in full are still returned; one that
        it was in the middle of is dropped.
        """
        try:
            data = os.read(self._connection.fileno(), _CHUNK)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        if not data:
            return [], True
        return self._frames.feed(data), False

    def drain(self) -> list[Any]:
        """Everything that is still in the pipe of a child that has died."""
        messages: list[Any] = []
        while True:
            some, ended = self.read()
            messages += some
            if ended or not some:
                return messages

    def close(self) -> None:
        self._connection.close()


class Outbox:
    """The parent's sending end: `post` buffers, `flush` writes what the pipe will take."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = bytearray()
        os.set_blocking(connection.fileno(), False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def post(self, message: Any) -> None:
        for part in _encode(message):
            self._buffer += part

    @property
    def pending(self) -> int:
        """Bytes that the pipe has not taken yet."""
        return len(self._buffer)

    def flush(self) -> None:
        """Writes as much as fits. A reader that is gone is not an error here: its inbox tells."""
        buffer = self._buffer
        try:
            fd = self._connection.fileno()
            while buffer:
                with memoryview(buffer) as view:
                    written = os.write(fd, view[:_CHUNK])
                del buffer[:written]
        except BlockingIOError:
            pass
        except OSError:
            buffer.clear()

    def cut(self) -> None:
        """Ends the stream for its reader, but keeps the descriptor: a selector may know it."""
        self._buffer.clear()
        with contextlib.suppress(OSError), open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), self.fileno(), inheritable=False)

    def close(self) -> None:
        self._connection.close()
