"""One TCP connection of the test server: HTTP/1.1 read, exchanges played, waits that can be woken.

Everything here runs in the connection's own thread unless it says otherwise. Only that thread closes the
socket; others may shut it down, which wakes the thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from . import shapes
from .shapes import Recorded

if TYPE_CHECKING:
    from .server import FakeServer

_HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Gate:
    """Wakes every thread that waits at it, for ever after `open`: a pipe, so that `poll` can wait for it too.

    Everything but `fileno` is called under the server's condition: an event added is either seen by `open`
    or finds the gate open.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._events: list[threading.Event] = []
        self._opened = False

    def fileno(self) -> int:
        return self._read

    def add(self, event: threading.Event) -> None:
        if self._opened:
            event.set()
        self._events.append(event)

    def open(self) -> None:
        if not self._opened:
            self._opened = True
            os.write(self._write, b"!")  # never read: the pipe stays readable for late comers
        for event in self._events:
            event.set()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class _Exchange:
    """One request being answered, in its connection's thread."""

    def __init__(self, connection: Connection, recorded: Recorded, gate: Gate) -> None:
        self.recorded = recorded
        self._connection = connection
        self._server = connection.server
        self._gate = gate
        self._finished = False

    def send(self, data: bytes, *, last: bool = False) -> None:
        if last:
            # Before the bytes leave: the client's next request must not be counted together with this one.
            self.finish()
        self._connection.sock.sendall(data)
        if last:
            self._server.sent(self.recorded, data)

    def pause(self, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._connection.sock, _HUNG_UP)
        poll.register(self._gate, select.POLLIN)
        woken = {fd for fd, _ in poll.poll(None if seconds is None else math.ceil(seconds * 1000))}
        if self._connection.sock.fileno() in woken or self._server.closed:
            raise ConnectionAbortedError

    def wait_for(self, event: threading.Event) -> None:
        with self._server.changed:
            self._gate.add(event)
        event.wait()
        if self._server.closed:
            raise ConnectionAbortedError

    def end(self, *, reset: bool = False) -> None:
        self.finish()
        self._connection.end(reset=reset)

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._server.leave(self.recorded)


class Connection:
    """One accepted TCP connection and the thread that serves it."""

    def __init__(self, server: FakeServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.thread = threading.Thread(target=self._serve, name=f"fake-server-{number}", daemon=True)
        self._buffer = bytearray()
        self._open = True

    def _serve(self) -> None:
        # OSError: the client has gone, or the server closes. Both are ordinary; anything else is a bug
        # (of a rule, say), which pytest reports as an unhandled exception of this thread.
        try:
            with contextlib.suppress(OSError):
                if isinstance(self.sock, ssl.SSLSocket):
                    self.sock.do_handshake()
                    self.server.shook_hands()
                while self._open and (recorded := self._read()):
                    self._answer(recorded)
        finally:
            self.server.forget(self)

    def _answer(self, recorded: Recorded) -> None:
        exchange = _Exchange(self, recorded, self.server.enter(recorded))
        try:
            self.server.behaviour_for(recorded).play(exchange)
        finally:
            exchange.finish()
        if recorded.headers.get("connection", "").lower() == "close":
            self._open = False

    def end(self, *, reset: bool) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._open = False

    def wake(self) -> None:
        """Make every blocking call of this connection's thread return; under the server's condition."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which takes the TLS object away under the thread's hands.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _fill(self) -> bool:
        data = self.sock.recv(65_536)
        self._buffer += data
        return bool(data)

    def _read(self) -> Recorded | None:
        """The next request; None at the end of the connection or where it is not HTTP."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._fill():
                return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        try:
            method, target, _ = first.split(" ")
        except ValueError:
            return None
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        start = end + 4
        stop = start + int(headers.get("content-length", "0"))
        while len(self._buffer) < stop:
            if not self._fill():
                return None
        raw = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        return self._recorded(method, target, headers, raw)

    def _recorded(self, method: str, target: str, headers: dict[str, str], raw: bytes) -> Recorded:
        parts = urlsplit(target)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        chat = shapes.is_chat(method, parts.path)
        return Recorded(
            method=method,
            path=parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers=headers,
            body=body,
            raw=raw,
            started=time.monotonic(),
            connection=self.number,
            api=shapes.api_of(parts.path),
            chat=chat,
            experiment=shapes.experiment_of(body) if chat else "",
        )
