"""urllib3's connections, watched: their sockets can be cut from outside, and they know when they idled."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from parallamr_mp.providers.arrivals import Arrivals
from parallamr_mp.providers.deadlines import Call
from parallamr_mp.providers.ends import Ends, ends_of

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_SECONDS = 10.0
"""The longest a connection may take to come about: address, TCP, TLS each."""

IDLE_SECONDS = 4.0
"""A connection unused for longer is not trusted: servers close theirs after 5 s and more (uvicorn: 5)."""


class UnderWay(threading.local):
    """The call that this thread is busy with: how a connection finds the call it is used for."""

    call: Call | None = None
    total: float = 0.0
    """Seconds the call may take."""
    connection: Any = None
    """The one it uses, from when that has come about: before, nothing can have been sent."""
    answered: bool = False
    """Whether a byte has come back on it."""


under_way = UnderWay()


class _FinalAnswer(http.client.HTTPResponse):
    """The first answer that is not interim.

    Any number of 1xx may come before the answer (RFC 9110, 15.2), but `begin`
    skips 100 alone: a 103 Early Hints would count as the answer, and the real
    one be read as that of the next request on this connection. So all are
    reported as 100, but for 101, after which the connection speaks no HTTP.
    """

    def _read_status(self) -> tuple[str, int, str]:
        # A proxy's answer to CONNECT is read here, too, but before there is a connection to the server.
        if under_way.connection is not None and self.fp.peek(1):
            under_way.answered = True
        version, status, reason = super()._read_status()  # type: ignore[misc]
        interim = 100 <= status < 200 and status != http.client.SWITCHING_PROTOCOLS
        return version, http.client.CONTINUE if interim else status, reason


class Watched(HTTPConnection):
    """A connection whose socket can be cut from outside, and which distrusts itself when it has idled."""

    response_class = _FinalAnswer
    idle_since: float | None = None
    cut: Callable[[], object] | None = None
    """Ends all reading and writing, from any thread."""
    ends: Ends | None = None
    """Of `sock`, where there is a `cut`."""
    _arrivals: Arrivals | None = None

    @property
    def is_connected(self) -> bool:
        """What is asked before a used connection is taken out of the pool."""
        if self.idle_since is not None and time.monotonic() - self.idle_since > IDLE_SECONDS:
            return False
        # Nothing has been asked, so whatever has arrived is the end, or belongs to nobody.
        nothing = None if self._arrivals is None else self._arrivals.none()
        return super().is_connected if nothing is None else nothing

    def _new_conn(self) -> socket.socket:
        # Here and not only in `connect`: a proxy's answer to CONNECT can drip as well.
        opened = super()._new_conn()
        if under_way.call is not None:
            under_way.call.on_deadline(_cut_of(opened))
            # The TLS handshake that may follow takes this timeout as its total.
            opened.settimeout(min(under_way.total, CONNECT_SECONDS))
        return opened

    def connect(self) -> None:
        super().connect()
        call = under_way.call
        if call is not None and self.sock is not None:
            under_way.connection = self
            call.on_deadline(self.watched())  # TLS has put a new socket object in place of the one above

    def watched(self) -> Callable[[], object]:
        """From here on the watchdog alone ends what takes too long, by what this returns.

        A limit of the socket's own would be over at once after a stop of this
        process, before that is forgiven.
        """
        connected: Any = self.sock
        connected.settimeout(None)
        self._arrivals = Arrivals(connected, _inner(connected))
        self.ends = ends_of(connected)
        self.cut = _cut_of(connected)
        return self.cut

    def request(self, *args: Any, **kwargs: Any) -> None:
        call = under_way.call
        if call is not None and self.sock is not None:
            under_way.connection = self
            call.on_deadline(self.cut or self.watched())
            self.timeout = None  # as in `connect`; urllib3 gives it to the socket
        super().request(*args, **kwargs)

    def close(self) -> None:
        self.cut = self.ends = self._arrivals = None
        super().close()


class WatchedTLS(Watched, HTTPSConnection):
    """As `Watched`, over TLS."""


def _inner(connected: Any) -> socket.socket:
    """The TCP socket: TLS within TLS has it inside an SSLTransport."""
    inner: socket.socket = connected if isinstance(connected, socket.socket) else connected.socket
    return inner


def _cut_of(connected: Any) -> Callable[[], object]:
    # Not the object's own `shutdown`: an SSLSocket's would make the other thread read
    # ciphertext as if it were plain.
    return partial(socket.socket.shutdown, _inner(connected), socket.SHUT_RDWR)


def watched_kind(kind: Any) -> Any:
    """The watched variant of a connection class, also of those for SOCKS proxies."""
    if kind is HTTPConnection:
        return Watched
    if kind is HTTPSConnection:
        return WatchedTLS
    return type(f"Watched{kind.__name__}", (Watched, kind), {})
