"""A cheap server of chat completions, to measure clients with: one process, one thread, no dependency.

    listener ─► connections ── a whole request ──► due: first in, first out ── its time has come ──► answer

Every request takes the same time, so those that are due first stand first. Requests are parsed by hand, and
only as far as clients that send a Content-Length need it. A request without TLS costs 3 µs of Python,
and some 10 of the kernel's (30 where it has to wake many threads): that leaves the machine to the client.

    GET  …/stats     the counters as JSON
    POST …/reset     zeroes them
    GET  …/models    the one model
    POST anything    an answer made of the marker in the body: what stands between [[ and ]]
    …/once/…         the same, and the connection ends with the answer

The counters leave out connections that were there at the reset: whoever resets and reads them over the same
connection is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import select
import selectors
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

from benchmark.chat import Head, answer, parse_head, parting, plain

READ, WRITE = 1, 4
"""As select.EPOLLIN and select.EPOLLOUT, which not every system has."""
_BACKLOG = 4096
_CHUNK = 1 << 16
_EARLY_S = 0.0005
"""What is due within half of epoll's unit of time is answered now: on average that is right."""
_KNOWN_HEADS = 4096


@dataclass(slots=True)
class Counters:
    """What has happened since the last reset. Times are of the monotonic clock, which processes share."""

    requests: int = 0
    peak_in_flight: int = 0
    connections: int = 0
    handshakes: int = 0
    resumed: int = 0
    """Handshakes that went on with a session from before."""
    unusable: int = 0
    """Requests that were answered with an error."""
    bytes_in: int = 0
    bytes_out: int = 0
    first: float | None = None
    """When the first request was there."""
    last: float | None = None
    """When the last answer was sent."""


class Poller:
    """As select.epoll, for systems that have none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, _events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, _events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Waits for so many seconds; a negative number is for ever."""
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [
            (key.fd, bool(mask & selectors.EVENT_READ) * READ | bool(mask & selectors.EVENT_WRITE) * WRITE)
            for key, mask in ready
        ]

    def close(self) -> None:
        self._selector.close()


def _events(mask: int) -> int:
    return bool(mask & READ) * selectors.EVENT_READ | bool(mask & WRITE) * selectors.EVENT_WRITE


class Connection:
    """A client's connection: what it has sent so far, and what it has not taken yet."""

    __slots__ = ("closes", "fd", "received", "send", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.send = sock.send
        self.received = b""
        self.unsent = b""
        self.closes = False
        """Once all is sent."""

    def receive(self) -> bytes | None:
        """What has come; empty at the end, None if nothing has."""
        try:
            return self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class TLSConnection(Connection):
    """A connection that has to shake hands first."""

    __slots__ = ("_counters", "_server", "ready")

    sock: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket, server: Server) -> None:
        super().__init__(sock)
        self.ready = False
        self._server = server

    def receive(self) -> bytes | None:
        try:
            if not self.ready:
                self.sock.do_handshake()
                self.ready = True
                self._server.counters.handshakes += 1
                self._server.counters.resumed += bool(self.sock.session_reused)
            data = self.sock.recv(_CHUNK)
            # A record that was read off the socket is not announced again.
            while data and (pending := self.sock.pending()):
                data += self.sock.recv(pending)
            return data
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            # A handshake's packets are far smaller than the buffer of an idle socket: no waiting to write.
            return None
        except OSError:
            return b""


class Server:
    """Answers requests `latency` seconds after they came, on 127.0.0.1 at `port` (0: any), with TLS if told.

    `run` is for one thread or process; the counters are only to be read there, or by GET /stats.
    """

    def __init__(self, latency: float, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.latency = latency
        self.counters = Counters()
        self._cpu_at_reset = time.process_time()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._poller: Poller | select.epoll = select.epoll() if hasattr(select, "epoll") else Poller()
        self._connections: dict[int, Connection] = {}
        self._due: deque[tuple[float, Connection, bytes]] = deque()
        self._heads: dict[bytes, Head] = {}
        """Clients repeat themselves."""

    def run(self, until: int) -> None:
        """Serves until the descriptor `until` can be read or is at its end; then closes everything."""
        listener = self._listener.fileno()
        self._poller.register(listener, READ)
        self._poller.register(until, READ)
        poll, due, connections, counters = self._poller.poll, self._due, self._connections, self.counters
        monotonic, read = time.monotonic, self._read
        try:
            while True:
                for fd, mask in poll(max(0.0, due[0][0] - _EARLY_S - monotonic()) if due else -1):
                    connection = connections.get(fd)
                    if connection is not None:
                        if mask & WRITE:
                            self._flush(connection)
                        if mask & ~WRITE:
                            read(connection)
                    elif fd == listener:
                        self._accept()
                    elif fd == until:
                        return
                if due:
                    now = monotonic() + _EARLY_S
                    while due and due[0][0] <= now:
                        _, connection, response = due.popleft()
                        self._write(connection, response)
                        counters.last = now
        finally:
            self._close()

    def _accept(self) -> None:
        # One call of accept for each that has come: many come at once.
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.counters.connections += 1
            if self._tls is None:
                connection = Connection(sock)
            else:
                wrapped = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                connection = TLSConnection(wrapped, self)
            self._connections[connection.fd] = connection
            self._poller.register(connection.fd, READ)

    def _read(self, connection: Connection) -> None:
        data = connection.receive()
        if not data:
            if data is not None:
                self._drop(connection)
            return
        if connection.received:
            data = connection.received + data
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            text = data[:end]
            head = self._heads.get(text) or self._learn(text)
            size = end + 4 + head.length
            if len(data) < size:
                break
            # The whole request at hand is the rule: no copy of it is made.
            if len(data) == size:
                request, data = data, b""
            else:
                request, data = data[:size], data[size:]
            self._serve(connection, head, request, end)
        connection.received = data

    def _learn(self, text: bytes) -> Head:
        if len(self._heads) >= _KNOWN_HEADS:
            self._heads.clear()
        head = self._heads[text] = parse_head(text)
        return head

    def _serve(self, connection: Connection, head: Head, request: bytes, end: int) -> None:
        if head.closes:
            connection.closes = True
        if head.method == b"POST" and head.readable and not head.path.endswith(b"/reset"):
            response = answer(request[end:])
            if response is not None:
                now = time.monotonic()
                counters = self.counters
                if not counters.requests:
                    counters.first = now
                counters.requests += 1
                counters.bytes_in += len(request)
                if head.closes:
                    response = parting(response)
                counters.bytes_out += len(response)
                self._due.append((now + self.latency, connection, response))
                if len(self._due) > counters.peak_in_flight:  # noqa: PLR1730 - half as dear as max()
                    counters.peak_in_flight = len(self._due)
                return
        self._write(connection, self._other(head))

    def _other(self, head: Head) -> bytes:
        """All that is not measured, answered at once."""
        if head.method == b"GET" and head.path.endswith(b"/stats"):
            return plain("200 OK", self.stats())
        if head.method == b"GET" and head.path.endswith(b"/models"):
            return plain("200 OK", {"object": "list", "data": [{"id": "bench", "object": "model"}]})
        if head.method == b"POST" and head.path.endswith(b"/reset"):
            self._reset()
            return plain("200 OK", {})
        self.counters.unusable += 1
        if not head.readable:
            return plain("411 Length Required", {"error": {"message": "send a Content-Length"}})
        if head.method == b"POST":
            return plain("400 Bad Request", {"error": {"message": "no [[marker]] in the request"}})
        return plain("404 Not Found", {"error": {"message": "no such path"}})

    def stats(self) -> dict[str, float | None]:
        """The counters, and the processor time of this process since they were zero."""
        return {**asdict(self.counters), "cpu_s": time.process_time() - self._cpu_at_reset}

    def _reset(self) -> None:
        for name, value in asdict(Counters()).items():
            setattr(self.counters, name, value)
        self._cpu_at_reset = time.process_time()

    def _write(self, connection: Connection, response: bytes) -> None:
        if connection.unsent:
            connection.unsent += response
            return
        try:
            sent = connection.send(response)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except (OSError, ValueError):  # the client is gone, or its connection was closed meanwhile
            self._drop(connection)
            return
        if sent < len(response):
            connection.unsent = response[sent:]
            self._poller.modify(connection.fd, READ | WRITE)
        elif connection.closes:
            self._drop(connection)

    def _flush(self, connection: Connection) -> None:
        response, connection.unsent = connection.unsent, b""
        self._poller.modify(connection.fd, READ)
        self._write(connection, response)

    def _drop(self, connection: Connection) -> None:
        # Its descriptor may be another's by now, when its answer has become due only after it was gone.
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]
            with contextlib.suppress(OSError):
                self._poller.unregister(connection.fd)
            connection.sock.close()

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._listener.close()
        self._poller.close()


def raise_limit() -> int:
    """As many open files as the system allows this process, and what it starts. Returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft < most:
        # macOS calls a limit infinite that it does not take.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Serves chat completions until its standard input ends. Its first line is the port.",
    )
    parser.add_argument(
        "--latency", type=float, default=0.05, metavar="S", help="seconds that an answer takes"
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, is any that is free")
    parser.add_argument("--certificate", metavar="FILE.pem", help="speak TLS: the certificate, and its key")
    options = parser.parse_args()
    raise_limit()
    gc.disable()  # nothing here is part of a cycle
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
    server = Server(options.latency, tls, options.port)
    print(server.port, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sys.stdin.fileno())
    os._exit(0)


if __name__ == "__main__":
    main()
