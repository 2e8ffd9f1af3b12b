"""The functions by which a connection is written to and read from, with as little Python as can be.

An `SSLSocket` goes through eight functions of Python to send and to receive,
each of which asks anew whether the socket is still open and still one of TLS.
Its owner knows.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Ends(NamedTuple):
    """For one thread at a time, until the connection is closed. Both raise what a socket's raise."""

    send: Callable[[bytes], object]
    """All of it."""
    recv: Callable[[int], bytes]
    """At most so many bytes; none: the end."""
    pending: Callable[[], int] = int
    """Bytes that TLS has taken in and nobody has read: the system knows nothing of them. Else 0."""
    reads_ahead: bool = False
    """There may be such after any read, and not only after one that has brought all that it asked for."""


def ends_of(connected: Any) -> Ends:
    """Those of a socket without a time limit, or of anything that is used like one."""
    # Only the very class: what is derived from it may do more with the bytes.
    tls = getattr(connected, "_sslobj", None) if type(connected) is ssl.SSLSocket else None
    if tls is None:
        if isinstance(connected, ssl.SSLSocket):
            return Ends(connected.sendall, connected.recv, connected.pending)
        if (inner := getattr(connected, "sslobj", None)) is not None:
            return Ends(connected.sendall, connected.recv, partial(_pending_within, connected, inner), True)
        return Ends(connected.sendall, connected.recv)
    write, read, ragged = tls.write, tls.read, connected.suppress_ragged_eofs

    def send(data: bytes) -> None:
        sent = write(data)
        while sent < len(data):
            sent += write(memoryview(data)[sent:])

    def recv(size: int) -> bytes:
        try:
            found: bytes = read(size)
        except ssl.SSLError as error:
            # An end that nobody has announced; a body that is cut by it is noticed by its length.
            if ragged and error.args[0] == ssl.SSL_ERROR_EOF:
                return b""
            raise
        return found

    return Ends(send, recv, tls.pending)


def _pending_within(connected: Any, inner: Any) -> int:
    """Of urllib3's TLS within TLS, which takes in whatever the outer one has: in each of three places."""
    outer = connected.socket
    beyond: int = outer.pending() if isinstance(outer, ssl.SSLSocket) else 0
    kept: int = inner.pending() + connected.incoming.pending
    return kept + beyond
