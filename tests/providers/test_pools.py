"""Connections that are made for `exchange`: as urllib3 itself would have made them, and failing alike."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest
import requests
import trustme
from support.behaviours import reset
from support.server import FakeServer
from support.tunnels import Tunnels

from parallamr_mp.providers import http
from parallamr_mp.providers.transport import DeadlineAdapter, make_session
from parallamr_mp.providers.watched import under_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEADERS = {"Content-Type": "application/json"}
BODY = b'{"model": "fake-small", "messages": [{"role": "user", "content": "hello"}]}'
ANY = (OSError, ValueError)
PASSING = {"sock", "timeout", "cut", "ends", "idle_since", "_arrivals", "_method", "_response_options"}
"""What belongs to one socket, or to the request that went over it, not to how a connection is made."""


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def adapter_with(ca: trustme.CA, tmp_path: Path) -> Iterator[Callable[..., DeadlineAdapter]]:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    with ExitStack() as sessions:

        def make(**env: str) -> DeadlineAdapter:
            session = sessions.enter_context(make_session(2, {"SSL_CERT_FILE": str(path), **env}))
            return session.get_adapter("http://")

        yield make


def state_of(connection) -> dict[str, object]:
    found = {name: value for name, value in vars(connection).items() if name not in PASSING}
    return {name: value for name, value in found.items() if not name.startswith("_HTTPConnection__")}


def options_of(sock: socket.socket) -> list[int]:
    asked = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    return [sock.getsockopt(level, option) for level, option in asked]


@pytest.mark.parametrize("way", ["http", "https", "forwarded", "tunnelled"])
def test_a_connection_is_made_as_urllib3_makes_it(way, ca, adapter_with):
    """Also: what is called of urllib3 without a public name is there, and nothing has come in beside it."""
    with (
        FakeServer(tls=ca if way in {"https", "tunnelled"} else None) as server,
        Tunnels(server.port) as proxy,
    ):
        adapter = adapter_with(
            **{"forwarded": {"HTTP_PROXY": server.url}, "tunnelled": {"HTTPS_PROXY": proxy.url}}.get(way, {})
        )
        url = "http://nowhere.invalid/v1/models" if way == "forwarded" else f"{server.openai_url}/models"
        prepared = adapter.prepare("GET", url, HEADERS)
        pool = prepared.pool
        assert pool.urlopen("GET", url if way == "forwarded" else "/v1/models", assert_same_host=False).status
        theirs = pool.pool.take()
        assert adapter.exchange(prepared, None, 5).status == 200
        ours = pool.pool.take()
        assert ours is not theirs
        assert type(ours) is type(theirs)
        assert state_of(ours) == state_of(theirs)
        assert options_of(ours.sock) == options_of(theirs.sock) == [1, 1]
        assert ours.is_verified == (way in {"https", "tunnelled"})
        assert len(proxy.asked) == (2 if way == "tunnelled" else 0)
        ours.close()
        theirs.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


class _Hangs:
    """Takes connections, reads a little, and resets, ends or keeps them; or answers in plain HTTP."""

    def __init__(self, end: str) -> None:
        self._end = end
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._kept: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for sock in self._kept:
            sock.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._kept.append(sock)
            if self._end != "keep":
                sock.recv(65_536)
                if self._end == "plain":
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                linger = struct.pack("ii", self._end == "reset", 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.close()


def failures(adapter: DeadlineAdapter, url: str) -> tuple[Exception, Exception]:
    """How `send` fails, and `exchange`."""
    request = requests.Request("POST", url, HEADERS, data=BODY).prepare()
    with pytest.raises(ANY) as sending:
        adapter.send(request, timeout=0.4)
    prepared = adapter.prepare("POST", url, HEADERS)
    with pytest.raises(ANY) as exchanging:
        adapter.exchange(prepared, BODY, 0.4)
    return sending.value, exchanging.value


def assert_alike(adapter: DeadlineAdapter, url: str, kind: type[Exception]) -> None:
    theirs, ours = failures(adapter, url)
    assert (type(theirs), type(ours)) == (kind, kind)
    told = [http._mapped(error, "the server", 0.4, ()) for error in (theirs, ours)]
    assert vars(told[0]) == vars(told[1])
    assert str(told[0]) == str(told[1])


def test_who_refuses_fails_alike(adapter_with):
    assert_alike(adapter_with(), f"http://127.0.0.1:{closed_port()}/v1", requests.ConnectionError)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_fails_alike(adapter_with, scheme):
    adapter = adapter_with(ALL_PROXY=f"http://127.0.0.1:{closed_port()}")
    assert_alike(adapter, f"{scheme}://nowhere.invalid/v1", requests.exceptions.ProxyError)


def test_a_name_that_is_not_found_fails_alike(adapter_with, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert_alike(adapter_with(), "http://nowhere.invalid/v1", requests.ConnectionError)


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.ENETUNREACH, errno.EMFILE])
def test_a_way_that_is_closed_fails_alike(adapter_with, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, "no way")

    monkeypatch.setattr("socket.socket.connect", fail)
    kind = requests.ConnectTimeout if number == errno.ETIMEDOUT else requests.ConnectionError
    assert_alike(adapter_with(), "http://127.0.0.1:9/v1", kind)


def test_an_unknown_authority_fails_alike(adapter_with):
    with FakeServer(tls=trustme.CA()) as server:
        assert_alike(adapter_with(), server.openai_url, requests.exceptions.SSLError)
        assert not server.requests


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("reset", requests.ConnectionError),
        ("cut", requests.exceptions.SSLError),
        ("keep", requests.ConnectTimeout),
        ("plain", requests.exceptions.SSLError),
    ],
)
def test_a_handshake_that_breaks_off_fails_alike(adapter_with, end, kind):
    with _Hangs(end) as server:
        assert_alike(adapter_with(), f"https://127.0.0.1:{server.port}/v1", kind)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", requests.exceptions.ProxyError),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", requests.exceptions.ProxyError),
        (b"SSH-2.0-OpenSSH\r\n", requests.ConnectionError),
        (b"", requests.ConnectionError),
    ],
)
def test_a_proxy_that_makes_no_tunnel_fails_alike(adapter_with, reply, kind):
    with Tunnels(1, reply=reply) as proxy:
        assert_alike(adapter_with(HTTPS_PROXY=proxy.url), "https://nowhere.invalid/v1", kind)


def test_a_host_that_can_be_none_fails_alike(adapter_with):
    theirs, ours = failures(adapter_with(), f"http://{'a' * 70}.invalid/v1")
    assert type(theirs) is type(ours)
    assert isinstance(ours, ValueError)


def test_a_connection_that_broke_before_an_answer_fails_alike(adapter_with):
    with FakeServer() as server:
        server.behave(reset())
        assert_alike(adapter_with(), f"{server.openai_url}/chat/completions", requests.ConnectionError)


def test_a_name_that_is_looked_up_past_the_deadline_has_sent_nothing(adapter_with, monkeypatch):
    real = socket.getaddrinfo

    def slow(*args, **kwargs):
        late = threading.Event()
        under_way.call.on_deadline(late.set)
        assert late.wait(10)
        return real(*args, **kwargs)

    with FakeServer() as server:
        adapter = adapter_with()
        prepared = adapter.prepare("POST", f"{server.openai_url}/chat/completions", HEADERS)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(requests.ConnectTimeout):
            adapter.exchange(prepared, BODY, 0.05)
        monkeypatch.setattr(socket, "getaddrinfo", real)
        assert adapter.exchange(prepared, BODY, 10).status == 200
        assert len(server.requests) == 1


def test_what_has_failed_leaves_nothing_open(adapter_with, monkeypatch):
    made: list[socket.socket] = []
    real = socket.socket.connect

    def noting(self, address):
        made.append(self)
        return real(self, address)

    with FakeServer(tls=trustme.CA()) as server:
        adapter = adapter_with()
        prepared = adapter.prepare("POST", server.openai_url, HEADERS)
        monkeypatch.setattr("socket.socket.connect", noting)
        with pytest.raises(requests.exceptions.SSLError):
            adapter.exchange(prepared, BODY, 5)
        assert [sock.fileno() for sock in made] == [-1]
        assert not adapter._watchdog._calls
        assert under_way.call is under_way.connection is None
