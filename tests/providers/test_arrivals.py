"""Whether a connection that nobody has asked is as it was, however that is found out."""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest

from parallamr_mp.providers import arrivals
from parallamr_mp.providers.arrivals import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells without poll")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket and its server's; the client has read an answer."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, _ = listener.accept()
        with server:
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
            yield client, server


@pytest.fixture(params=["as it is", "by poll"])
def way(request, monkeypatch) -> str:
    if request.param == "by poll":
        monkeypatch.setattr(arrivals.sys, "platform", "darwin")
    return request.param


def come(client: socket.socket) -> None:
    """Returns once something has arrived."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    assert poll.poll(10_000)


def stray(server: socket.socket) -> None:
    server.sendall(b"x")


def fin(server: socket.socket) -> None:
    server.shutdown(socket.SHUT_WR)


def rst(server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()


def urgent(server: socket.socket) -> None:
    server.send(b"x", socket.MSG_OOB)
    server.sendall(b"y")  # poll for reading does not tell of the first alone


@pytest.mark.parametrize("happening", [stray, fin, rst, urgent])
@pytest.mark.usefixtures("way")
def test_whatever_comes_is_noticed(pair, happening):
    client, server = pair
    watched = Arrivals(client, client)
    assert watched.none() is True
    assert watched.none() is True
    happening(server)
    come(client)
    assert watched.none() is False


@pytest.mark.usefixtures("way")
def test_what_was_read_to_its_end_does_not_count_and_the_rest_of_it_does(pair):
    client, server = pair
    watched = Arrivals(client, client)
    for size in (1, 1000, 100_000):
        server.sendall(b"x" * size + b"y")
        missing = size
        while missing:
            missing -= len(client.recv(missing))
        come(client)
        assert watched.none() is False
        assert client.recv(1) == b"y"
        assert watched.none() is True


@pytest.mark.usefixtures("way")
def test_a_socket_of_ours_that_was_shut_down_or_closed_does_not_count_as_standing(pair):
    client, _ = pair
    watched = Arrivals(client, client)
    assert watched.none() is True
    client.shutdown(socket.SHUT_RDWR)
    assert watched.none() is False
    client.close()
    assert watched.none() is False


@linux
def test_as_long_as_nothing_comes_the_interpreters_lock_is_not_let_go_of(pair, monkeypatch):
    client, server = pair
    watched = Arrivals(client, client)
    polls: list[int] = []
    monkeypatch.setattr(watched, "_poll", lambda seconds: polls.append(seconds) or [1])
    assert watched.none() is True
    assert not polls
    stray(server)
    come(client)
    assert watched.none() is False
    assert len(polls) == 1


@linux
def test_a_kernel_that_has_counted_nothing_of_an_answer_is_not_asked_again(pair, monkeypatch):
    client, _ = pair
    asked: list[tuple[int, ...]] = []

    class Strange(socket.socket):
        def getsockopt(self, *option):
            asked.append(option)
            return super().getsockopt(*option) if option[1] != socket.TCP_INFO else bytes(option[2])

    with Strange(fileno=socket.dup(client.fileno())) as strange:
        watched = Arrivals(client, strange)
        polls: list[int] = []
        monkeypatch.setattr(watched, "_poll", polls.append)
        assert watched.none() is True
        before = len(asked)
        assert watched.none() is True
        assert (len(asked), len(polls)) == (before, 2)


def test_a_socket_that_is_not_tcp_is_polled():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = Arrivals(ours, ours)
        assert watched.none() is True
        stray(theirs)
        assert watched.none() is False


def test_where_there_is_no_poll_nothing_is_said(pair, monkeypatch):
    client, _ = pair
    monkeypatch.setattr(arrivals.sys, "platform", "win32")
    monkeypatch.delattr(select, "poll")
    assert Arrivals(client, client).none() is None
