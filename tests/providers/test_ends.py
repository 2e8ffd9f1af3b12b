"""What a connection is written to and read from by, with TLS and without."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trustme
from support.tunnels import TLSWithin
from urllib3.util.ssltransport import SSLTransport

from parallamr_mp.providers.ends import ends_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = bytes(range(256)) * 8192
"""Beyond what a socket's buffers hold, and of more than one TLS record."""


@pytest.fixture(params=["plain", "tls"])
def pair(request) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket and its server's."""
    client, server = socket.socketpair()
    if request.param == "plain":
        with client, server:
            yield client, server
        return
    ca = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    ca.configure_trust(ours)
    with ThreadPoolExecutor(1) as other:
        wrapped = other.submit(theirs.wrap_socket, server, server_side=True)
        with ours.wrap_socket(client, server_hostname="localhost") as client, wrapped.result() as server:
            yield client, server


def everything(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size)
    return data


def test_what_is_sent_arrives_whole_however_long_it_is(pair):
    client, server = pair
    with ThreadPoolExecutor(1) as other:
        received = other.submit(everything, server, len(LONG))
        ends_of(client).send(LONG)
        assert received.result() == LONG


def test_what_comes_is_received_up_to_the_size_asked_for(pair):
    client, server = pair
    recv = ends_of(client).recv
    server.sendall(b"0123456789")
    assert [recv(4), recv(4), recv(4)] == [b"0123", b"4567", b"89"]


def test_an_end_is_no_bytes_announced_or_not(pair):
    client, server = pair
    recv = ends_of(client).recv
    server.sendall(b"last")
    socket.socket.shutdown(server, socket.SHUT_RDWR)  # without TLS's own word for it
    assert recv(10) == b"last"
    assert recv(10) == b""


def test_an_end_that_tls_announces_is_one_too(pair):
    client, server = pair
    recv = ends_of(client).recv
    with ThreadPoolExecutor(1) as other:
        if isinstance(server, ssl.SSLSocket):
            other.submit(server.unwrap)
        else:
            server.shutdown(socket.SHUT_WR)
        assert recv(10) == b""
        client.close()


@pytest.mark.parametrize("pair", ["tls"], indirect=True)
def test_an_end_that_was_not_to_be_overlooked_is_an_error(pair):
    client, server = pair
    client.suppress_ragged_eofs = False
    recv = ends_of(client).recv
    socket.socket.shutdown(server, socket.SHUT_RDWR)
    with pytest.raises(ssl.SSLEOFError):
        recv(10)


@pytest.mark.parametrize("pair", ["tls"], indirect=True)
def test_what_is_no_tls_is_an_error_and_no_end(pair):
    client, server = pair
    recv = ends_of(client).recv
    socket.socket.send(server, b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        recv(10)


def test_what_a_class_of_its_own_does_with_the_bytes_is_done():
    class Shouting(ssl.SSLSocket):
        def sendall(self, data, flags=0):
            raise NotImplementedError

        def recv(self, buflen=1024, flags=0):
            return b"own"

    theirs = Shouting.__new__(Shouting)
    assert ends_of(theirs).recv(1) == b"own"
    assert ends_of(theirs).send == theirs.sendall


class Derived(ssl.SSLSocket):
    """Is none of ours to look into."""


@pytest.mark.parametrize("pair", ["tls"], indirect=True)
@pytest.mark.parametrize("kind", [ssl.SSLSocket, Derived])
def test_what_tls_has_taken_in_is_told(pair, kind):
    client, server = pair
    client.__class__ = kind
    ends = ends_of(client)
    server.sendall(b"0123456789")
    assert ends.recv(4) == b"0123"
    assert (ends.pending(), ends.reads_ahead) == (6, False)


@pytest.mark.parametrize("pair", ["plain", "tls"], indirect=True)
def test_what_tls_within_tls_has_taken_in_is_told_wherever_it_is(pair):
    client, server = pair
    ca = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    ca.configure_trust(ours)
    with ThreadPoolExecutor(1) as other:
        shaken = other.submit(TLSWithin, server, theirs)
        within = SSLTransport(client, ours, server_hostname="localhost")
        inner = shaken.result()
    ends = ends_of(within)
    inner.send(b"first")
    assert ends.recv(100) == b"first"
    assert (ends.pending(), ends.reads_ahead) == (0, True)
    inner.send(b"second", b"third")
    assert ends.recv(100) == b"second"
    assert ends.pending() > 0
    assert ends.recv(100) == b"third"
    assert ends.pending() == 0
    if isinstance(server, ssl.SSLSocket):
        inner.send(bytes(16_000), bytes(16_000))  # in two records of the outer TLS, of which one is read
        assert len(ends.recv(16_000)) == 16_000
        assert ends.pending() > 0
