"""The session, its deadlines and its ways; foreign errors become ours."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import requests
import trustme
from support.behaviours import (
    answer,
    close_idle,
    cut_mid_body,
    drip,
    hang_up,
    head,
    interim,
    redirect,
    reset,
    reset_mid_body,
    sequence,
    set_cookie,
    stall,
)
from support.server import FakeServer
from support.tunnels import TLSWithin, Tunnels

from parallamr_mp.errors import BadInput, ProviderError
from parallamr_mp.providers import watched
from parallamr_mp.providers.endpoints import parse_base_url, shown_url
from parallamr_mp.providers.environment import proxy_rules
from parallamr_mp.providers.http import HttpClient, make_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b'{"model": "fake-small", "messages": [{"role": "user", "content": "hello"}]}'
KEY = {"Authorization": "Bearer sk-secret-123"}


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with make_session(8, {}) as session:
        yield HttpClient(session, 10.0)


@pytest.fixture
def foreign() -> Iterator[HttpClient]:
    with requests.Session() as session:
        made = HttpClient(session, 10.0)
        yield made
        made.close()


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def chat(client: HttpClient, url: str):
    return client.post_json(url + "/chat/completions", BODY, KEY)


def failure_of(call: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call()
    # Neither the message nor what it was raised from may lead to the key.
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


# Connections


def test_a_hundred_requests_from_eight_threads_open_at_most_eight_connections(server, client, caplog):
    with caplog.at_level("WARNING", "urllib3"), ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: chat(client, server.openai_url), range(100)))
    assert {reply.status for reply in replies} == {200}
    assert len(server.requests) == 100
    assert server.connections <= 8
    assert not caplog.records  # none was thrown away for want of room


def test_the_body_and_the_headers_arrive_as_given(server, client):
    reply = chat(client, server.openai_url)
    (seen,) = server.requests
    assert seen.raw == BODY
    assert seen.headers["authorization"] == "Bearer sk-secret-123"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["user-agent"].startswith("parallamr-mp/")
    assert reply.headers["CONTENT-TYPE"] == "application/json"
    client.post_json(server.openai_url + "/chat/completions", b"{}", KEY)
    assert server.requests[1].raw == b"{}"


def test_a_connection_that_has_idled_is_not_used_again(server, client, monkeypatch):
    chat(client, server.openai_url)
    chat(client, server.openai_url)
    assert server.connections == 1
    monkeypatch.setattr(watched, "IDLE_SECONDS", 0.0)
    chat(client, server.openai_url)
    assert server.connections == 2


def test_a_connection_the_server_closed_is_replaced_without_an_error(server, client):
    server.behave(close_idle())
    chat(client, server.openai_url)
    server.wait_until(lambda: server.open_connections == 0)
    assert chat(client, server.openai_url).status == 200


def test_packets_are_sent_at_once_and_dead_peers_noticed(server, client):
    chat(client, server.openai_url)
    pool = client.session.get_adapter(server.url).poolmanager.connection_from_url(server.url)
    sock = pool._get_conn().sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock.close()


def test_closing_the_session_ends_the_watchdog_which_starts_anew_when_needed(server, client):
    watchdog = client.session.get_adapter("http://")._watchdog
    assert watchdog._thread is None
    chat(client, server.openai_url)
    thread = watchdog._thread
    assert thread is not None
    client.session.close()
    assert not thread.is_alive()
    assert chat(client, server.openai_url).status == 200


def test_an_injected_session_is_the_one_used_and_is_left_as_it_was(server, foreign):
    foreign.session.headers["X-Mine"] = "1"
    before = dict(foreign.session.headers)
    assert chat(foreign, server.openai_url).status == 200
    assert foreign.get(server.openai_url + "/models", KEY).status == 200
    assert server.requests[0].headers["x-mine"] == "1"
    assert server.lookups[0].headers["authorization"] == "Bearer sk-secret-123"
    assert dict(foreign.session.headers) == before
    assert server.connections == 1


# What must not happen


@pytest.mark.parametrize("kind", ["client", "foreign"])
def test_netrc_does_not_replace_the_key(server, kind, request, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    chat(request.getfixturevalue(kind), server.openai_url)
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret-123"


@pytest.mark.parametrize("kind", ["client", "foreign"])
def test_a_redirect_is_not_followed(server, kind, request):
    server.behave(redirect(server.url + "/elsewhere"))
    assert chat(request.getfixturevalue(kind), server.openai_url).status == 302
    assert len(server.requests) == 1
    assert not server.lookups


def test_cookies_are_neither_kept_nor_sent(server, client):
    server.behave(set_cookie())
    chat(client, server.openai_url)
    chat(client, server.openai_url)
    assert "cookie" not in server.requests[1].headers
    assert len(client.session.cookies) == 0


def test_the_environment_is_not_read_after_the_start(server, client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert chat(client, server.openai_url).status == 200


# Deadlines


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "behaviour", [drip(0.02, "headers"), drip(0.02, "body"), stall()], ids=["headers", "body", "silence"]
)
def test_every_way_to_take_too_long_ends_at_the_deadline(behaviour, tls, ca, ca_file):
    with (
        FakeServer(tls=ca if tls else None) as server,
        make_session(1, {"SSL_CERT_FILE": ca_file}) as session,
    ):
        server.behave(behaviour)
        started = time.monotonic()
        error = failure_of(lambda: chat(HttpClient(session, 0.4), server.openai_url))
        assert 0.39 <= time.monotonic() - started < 1.5
        assert (error.kind, error.retryable, error.unknown) == ("timeout", False, True)
        expected = "no complete answer within 0.4 s (outcome unknown: the server may have done the work)"
        assert str(error) == expected
        assert error.endpoint == f"{server.openai_url}/chat/completions"
        server.behave(answer())
        assert chat(HttpClient(session, 5), server.openai_url).status == 200


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_server_that_does_not_read_the_request_is_cut_at_the_deadline_too(tls, ca, ca_file):
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                ca.issue_cert("127.0.0.1").configure_cert(context)
                sock = context.wrap_socket(sock, server_side=True)
            release.wait(10)
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}/v1"
        with make_session(1, {"SSL_CERT_FILE": ca_file}) as session:
            client = HttpClient(session, 0.6)
            started = time.monotonic()
            error = failure_of(lambda: client.post_json(url, b" " * (32 << 20), KEY))
            assert 0.59 <= time.monotonic() - started < 2
        release.set()
        thread.join()
    assert (error.kind, error.retryable) == ("timeout", False)


def test_many_deadlines_at_once_are_all_kept(server):
    server.behave(drip(0.05, "body"))
    with make_session(16, {}) as session, ThreadPoolExecutor(16) as pool:
        client = HttpClient(session, 0.4)
        started = time.monotonic()
        errors = list(pool.map(lambda _: failure_of(lambda: chat(client, server.openai_url)).kind, range(16)))
        assert errors == ["timeout"] * 16
        assert time.monotonic() - started < 2


def test_a_shorter_deadline_wakes_a_watchdog_that_sleeps_for_a_longer_one(server):
    with make_session(2, {}) as session, ThreadPoolExecutor(1) as pool:
        server.behave(lambda seen: stall() if len(server.requests) == 1 else drip(0.02, "headers"))
        patient = pool.submit(chat, HttpClient(session, 30), server.openai_url)
        server.wait_until(lambda: server.in_flight == 1)
        started = time.monotonic()
        assert failure_of(lambda: chat(HttpClient(session, 0.3), server.openai_url)).kind == "timeout"
        assert time.monotonic() - started < 1.5
        server.release_all()
        assert patient.result().status == 200


@pytest.mark.parametrize("behaviour", [drip(0.02, "body"), stall()], ids=["body", "silence"])
def test_an_injected_session_keeps_the_deadline_once_headers_have_come(server, foreign, behaviour):
    server.behave(behaviour)
    foreign.timeout = 0.4
    started = time.monotonic()
    assert failure_of(lambda: chat(foreign, server.openai_url)).kind == "timeout"
    assert time.monotonic() - started < 1.5


def test_an_injected_session_keeps_it_over_tls_too(ca, ca_file):
    with FakeServer(tls=ca) as server, requests.Session() as session:
        session.verify = ca_file
        server.behave(drip(0.02, "body"))
        client = HttpClient(session, 0.4)
        assert failure_of(lambda: chat(client, server.openai_url)).kind == "timeout"
        client.close()


@pytest.mark.parametrize("stalls", [True, False])
def test_a_body_that_only_ends_with_its_connection_is_not_taken_for_whole_when_cut(client, stalls):
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            seen = b""
            while not seen.endswith(BODY):  # closing with something unread would reset the connection
                seen += sock.recv(65_536)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            if stalls:
                release.wait(10)
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        client.timeout = 0.3
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        if stalls:
            assert failure_of(lambda: chat(client, url)).kind == "timeout"
        else:
            assert chat(client, url).content == b"half"
        release.set()
        thread.join()


def test_a_host_that_does_not_take_connections_is_given_up_at_the_deadline(client):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        for _ in range(4):  # fills the queue of those that wait to be accepted
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        client.timeout = 0.3
        error = failure_of(lambda: chat(client, f"http://127.0.0.1:{port}"))
        for sock in waiting:
            sock.close()
    assert (error.kind, error.retryable, error.unknown) == ("timeout", True, False)
    assert "no connection to" in str(error)


# TLS


def test_one_handshake_per_connection_and_the_authority_read_once(ca, ca_file, tmp_path):
    with FakeServer(tls=ca) as server, make_session(4, {"SSL_CERT_FILE": ca_file}) as session:
        (tmp_path / "ca.pem").unlink()  # a connection that read it again would fail
        client = HttpClient(session, 10)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: chat(client, server.openai_url), range(20)))
        assert {reply.status for reply in replies} == {200}
        assert server.handshakes == server.connections <= 4


@pytest.mark.parametrize("with_other_ca", [False, True])
def test_a_certificate_of_an_unknown_authority_is_refused_for_good(ca, tmp_path, with_other_ca):
    env = {}
    if with_other_ca:
        env["REQUESTS_CA_BUNDLE"] = str(tmp_path / "other.pem")
        trustme.CA().cert_pem.write_to_path(env["REQUESTS_CA_BUNDLE"])
    with FakeServer(tls=ca) as server, make_session(1, env) as session:
        error = failure_of(lambda: chat(HttpClient(session, 5), server.openai_url))
        assert (error.kind, error.retryable) == ("tls", False)
        assert "SSL_CERT_FILE" in str(error)
        session.verify = False  # not a way round
        assert failure_of(lambda: chat(HttpClient(session, 5), server.openai_url)).kind == "tls"
        assert not server.requests


def test_a_handshake_that_stalls_is_a_connection_that_did_not_come_about(server, client):
    client.timeout = 0.3
    error = failure_of(lambda: chat(client, server.openai_url.replace("http:", "https:")))
    assert (error.kind, error.retryable) == ("timeout", True)
    assert str(error).startswith("no connection to https://127.0.0.1")
    assert "outcome unknown" not in str(error)


def test_https_to_a_plain_server_is_final(client):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            sock.recv(65_536)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        error = failure_of(lambda: chat(client, f"https://127.0.0.1:{listener.getsockname()[1]}/v1"))
        thread.join()
    assert (error.kind, error.retryable) == ("tls", False)
    assert "WRONG_VERSION_NUMBER" in str(error)


def test_a_ca_file_that_is_none_stops_at_the_start(tmp_path):
    with pytest.raises(BadInput, match="CURL_CA_BUNDLE names no file"):
        make_session(1, {"CURL_CA_BUNDLE": str(tmp_path / "nowhere")})
    (tmp_path / "empty.pem").write_text("hello")
    with pytest.raises(BadInput, match="SSL_CERT_FILE holds no certificates"):
        make_session(1, {"SSL_CERT_FILE": str(tmp_path / "empty.pem")})
    make_session(1, {"SSL_CERT_FILE": str(tmp_path)}).close()  # a folder of hashed files may be empty


# Interim answers


@pytest.mark.parametrize("codes", [(100,), (102,), (103,), (100, 103, 199)])
def test_interim_answers_are_skipped_and_shift_nothing(server, client, codes):
    server.behave(lambda _: interim(*codes, seconds=0.05) if len(server.requests) == 1 else None)
    for text in (b"one", b"two"):
        reply = client.post_json(server.openai_url + "/chat/completions", BODY.replace(b"hello", text), KEY)
        assert reply.status == 200
        assert b"echo: " + text in reply.content
    assert server.connections == 1


@pytest.mark.parametrize(("kind", "code"), [("foreign", 102), ("foreign", 103), ("client", 101)])
@pytest.mark.parametrize("pause", [0, 0.25])
def test_a_connection_with_more_to_come_than_its_answer_is_not_used_again(server, kind, code, pause, request):
    client = request.getfixturevalue(kind)
    server.behave(lambda _: interim(code) if len(server.requests) == 1 else None)
    error = failure_of(lambda: chat(client, server.openai_url))
    assert (error.kind, error.retryable, error.unknown) == ("bad_reply", False, True)
    assert f"HTTP {code}" in str(error)
    assert "outcome unknown" in str(error)
    time.sleep(pause)  # with one, the real answer would be there, were anybody to read it
    for text in (b"one", b"two"):
        reply = client.post_json(server.openai_url + "/chat/completions", BODY.replace(b"hello", text), KEY)
        assert b"echo: " + text in reply.content
    assert server.connections == 2


def test_a_pool_that_is_counted_gets_its_place_back(server):
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=1, pool_block=True))
        client = HttpClient(session, 5)
        server.behave(sequence(interim(103)))
        assert failure_of(lambda: chat(client, server.openai_url)).kind == "bad_reply"
        assert chat(client, server.openai_url).status == 200
        client.close()


# Foreign errors


@dataclass(frozen=True)
class Broken:
    """Sends these bytes, then ends the connection, or says nothing more."""

    data: bytes
    end: str = "cut"

    def play(self, exchange):
        exchange.send(self.data, last=self.end != "stall")
        if self.end == "stall":
            exchange.pause(None)
        exchange.end(reset=self.end == "reset")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(reset(), "Connection reset by peer"), (hang_up(), "the server closed it without an answer")],
    ids=["reset", "hang_up"],
)
@pytest.mark.parametrize("kind", ["client", "foreign"])
def test_a_connection_that_breaks_before_the_answers_first_byte_is_retryable(
    server, kind, request, behaviour, words
):
    server.behave(behaviour)
    error = failure_of(lambda: chat(request.getfixturevalue(kind), server.openai_url))
    assert (error.kind, error.retryable, error.unknown) == ("connection", True, False)
    assert f"broke before an answer came: {words}" in str(error)
    assert "outcome unknown" not in str(error)
    assert len(server.requests) == 1  # no layer below retries


_HEAD = head(200, 100, {})
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{"


@pytest.mark.parametrize(
    ("behaviour", "kinds"),
    [
        (reset_mid_body(), "client foreign"),
        (cut_mid_body(), "client foreign"),
        (Broken(_HEAD), "client foreign"),
        (Broken(_HEAD, "reset"), "client foreign"),
        (Broken(_HEAD[:-4]), "client foreign"),
        (Broken(_HEAD[:-4], "reset"), "client"),  # of a foreign session's headers only their end can be seen
        (Broken(_HEAD[:30]), "client foreign"),
        (Broken(_HEAD[:30], "reset"), "client"),
        (Broken(b"HTT"), "client foreign"),
        (Broken(b"HTT", "reset"), "client"),
        (Broken(_CHUNKED), "client foreign"),
        (Broken(_CHUNKED, "reset"), "client foreign"),
        (Broken(b"SSH-2.0-OpenSSH\r\n"), "client foreign"),
        (Broken(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "client"),  # the other takes it for the answer
        (Broken(b"HTTP/1.1 103 Early Hints\r\n\r\n", "reset"), "client"),
    ],
)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_connection_that_breaks_amid_the_answer_leaves_the_outcome_unknown(
    behaviour, kinds, tls, ca, ca_file
):
    for kind in kinds.split():
        with (
            FakeServer(tls=ca if tls else None) as server,
            make_session(1, {"SSL_CERT_FILE": ca_file})
            if kind == "client"
            else requests.Session() as session,
        ):
            session.verify = ca_file
            server.behave(behaviour)
            client = HttpClient(session, 10)
            error = failure_of(lambda: chat(client, server.openai_url))  # noqa: B023
            assert (error.kind, error.retryable, error.unknown) == ("connection", False, True)
            assert "broke amid the answer" in str(error)
            assert str(error).endswith("(outcome unknown: the server may have done the work)")
            assert len(server.requests) == 1
            server.behave(answer())
            assert chat(client, server.openai_url).status == 200
            client.close()


@pytest.mark.parametrize("end", ["cut", "reset", "stall"])
@pytest.mark.parametrize("kind", ["client", "foreign"])
def test_a_refusal_is_one_even_if_its_words_do_not_all_come(server, kind, request, end):
    server.behave(Broken(head(503, 100, {"retry-after": "7"}) + b'{"err', end))
    client = request.getfixturevalue(kind)
    client.timeout = 0.4
    reply = chat(client, server.openai_url)
    assert (reply.status, reply.headers["retry-after"], reply.content) == (503, "7", b"")


def test_a_proxy_that_breaks_amid_its_own_answer_has_sent_nothing_to_the_server(ca_file):
    with Tunnels(1, reply=b"SSH-2.0-OpenSSH\r\n") as proxy:
        with make_session(1, {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": ca_file}) as session:
            error = failure_of(lambda: chat(HttpClient(session, 5), "https://nowhere.invalid/v1"))
    assert (error.kind, error.retryable, error.unknown) == ("connection", True, False)


def test_a_refused_connection_is_retryable(client):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    error = failure_of(lambda: chat(client, url))
    assert (error.kind, error.retryable, error.unknown) == ("connection", True, False)
    assert str(error) == f"no connection to {url}/chat/completions: Connection refused"


def test_a_name_that_is_not_found_is_retryable(client, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = failure_of(lambda: chat(client, "http://nowhere.invalid/v1"))
    assert (error.kind, error.retryable) == ("connection", True)
    assert "Name or service not known" in str(error)


@pytest.mark.parametrize("kind", ["client", "foreign"])
def test_a_connection_that_times_out_before_it_is_there_is_retryable(kind, request, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr("socket.socket.connect", fail)
    error = failure_of(lambda: chat(request.getfixturevalue(kind), "http://127.0.0.1:9/v1"))
    assert error.retryable
    assert "no connection to" in str(error)
    assert "outcome unknown" not in str(error)


@pytest.mark.parametrize("kind", ["client", "foreign"])
@pytest.mark.parametrize("url", ["http://", "ftp://host/v1", "nonsense", "http://host:99999/v1"])
def test_a_url_that_cannot_be_asked_is_final(kind, request, url):
    error = failure_of(lambda: chat(request.getfixturevalue(kind), url))
    assert (error.kind, error.retryable) == ("bad_request", False)


def test_a_body_in_a_broken_encoding_has_come_in_full_and_is_final(server, client):
    server.behave(answer(headers={"content-encoding": "gzip"}))
    error = failure_of(lambda: chat(client, server.openai_url))
    assert (error.kind, error.retryable, error.unknown) == ("bad_reply", False, False)


# Proxies


def test_a_plain_request_goes_through_the_proxy_with_its_password(server):
    proxy = server.url.replace("http://", "http://me:hush@")
    with make_session(1, {"http_proxy": proxy, "NO_PROXY": "other.invalid"}) as session:
        assert chat(HttpClient(session, 5), "http://nowhere.invalid/v1").status == 200
    (seen,) = server.requests
    assert seen.headers["host"] == "nowhere.invalid"
    assert seen.headers["proxy-authorization"].startswith("Basic ")


def test_https_goes_through_the_proxys_tunnel_and_is_still_verified(ca, ca_file):
    with FakeServer(tls=ca) as server, Tunnels(server.port) as proxy:
        env = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": ca_file}
        with make_session(1, env) as session:
            client = HttpClient(session, 5)
            assert chat(client, "https://localhost:1234/v1").status == 200
            assert chat(client, "https://localhost:1234/v1").status == 200
            assert proxy.asked == ["localhost:1234"]
            assert failure_of(lambda: chat(client, "https://other.invalid/v1")).kind == "tls"


def test_an_answer_nobody_asked_for_is_not_the_next_ones_over_tls_within_tls(ca, ca_file):
    """It comes in a record of its own, which an https proxy's client has taken in with the answer."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(theirs)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    asked = []

    def serve(raw):
        with theirs.wrap_socket(raw, server_side=True) as outer:
            while not outer.recv(65_536).endswith(b"\r\n\r\n"):
                pass
            outer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            inner = TLSWithin(outer, theirs)
            while request := inner.recv():
                asked.append(request)
                body = b'"%d"' % len(asked)
                whole = head(200, len(body), {}) + body
                inner.send(whole, *([head(200, 7, {}) + b'"stray"'] if len(asked) == 1 else []))

    def accept():
        for _ in range(2):
            serve(listener.accept()[0])

    with listener, ThreadPoolExecutor(1) as other:
        served = other.submit(accept)
        env = {"HTTPS_PROXY": f"https://localhost:{listener.getsockname()[1]}", "SSL_CERT_FILE": ca_file}
        with make_session(1, env) as session:
            client = HttpClient(session, 10.0)
            contents = [client.post_json("https://localhost/v1", b"{}", {}).content for _ in range(3)]
        served.result(10)
    assert contents == [b'"1"', b'"2"', b'"3"']


def test_a_proxy_that_drips_its_answer_is_cut_at_the_deadline(ca_file):
    with Tunnels(1, interval=0.05) as proxy:
        with make_session(1, {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": ca_file}) as session:
            started = time.monotonic()
            error = failure_of(lambda: chat(HttpClient(session, 0.3), "https://nowhere.invalid/v1"))
            assert time.monotonic() - started < 1.2
    assert error.kind == "timeout"


def test_a_proxy_that_wants_a_password_is_a_final_error(ca_file):
    with Tunnels(1, reply=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        with make_session(1, {"ALL_PROXY": proxy.url, "SSL_CERT_FILE": ca_file}) as session:
            error = failure_of(lambda: chat(HttpClient(session, 5), "https://nowhere.invalid/v1"))
    assert (error.kind, error.retryable, error.unreached) == ("connection", False, False)
    assert "407" in str(error)


def test_a_proxy_that_finds_no_server_is_tried_again(ca_file):
    with Tunnels(1, reply=b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
        with make_session(1, {"ALL_PROXY": proxy.url, "SSL_CERT_FILE": ca_file}) as session:
            error = failure_of(lambda: chat(HttpClient(session, 5), "https://nowhere.invalid/v1"))
    assert (error.kind, error.retryable, error.unreached) == ("connection", True, True)


def test_a_proxy_that_is_not_there_is_named_as_the_culprit():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with make_session(1, {"HTTP_PROXY": f"http://me:hush@127.0.0.1:{port}"}) as session:
        error = failure_of(lambda: chat(HttpClient(session, 5), "http://nowhere.invalid/v1"))
    assert (error.kind, error.retryable) == ("connection", True)
    assert "through the proxy" in str(error)
    assert "hush" not in str(error)


def test_a_socks_proxy_without_its_library_says_what_to_install():
    with make_session(1, {"ALL_PROXY": "socks5://127.0.0.1:9"}) as session:
        error = failure_of(lambda: chat(HttpClient(session, 5), "http://nowhere.invalid/v1"))
    assert (error.kind, error.retryable) == ("bad_request", False)
    assert "requests[socks]" in str(error)


@pytest.mark.parametrize(
    ("env", "url", "proxy"),
    [
        ({}, "http://a.example/v1", None),
        ({"HTTP_PROXY": "p:3128"}, "http://a.example/v1", "http://p:3128"),
        ({"HTTP_PROXY": "p:3128"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://all"}, "https://a.example/v1", "http://all"),
        ({"ALL_PROXY": "http://all", "https_proxy": "http://tls"}, "https://a.example/v1", "http://tls"),
        ({"HTTPS_PROXY": "http://BIG", "https_proxy": "http://small"}, "https://a.example", "http://small"),
        ({"HTTP_PROXY": "  "}, "http://a.example/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*"}, "http://a.example", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "example"}, "http://a.example", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": ".example"}, "http://a.example", None),
        ({"ALL_PROXY": "http://p", "no_proxy": "x, *.Example"}, "http://A.example", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "example"}, "http://bexample", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "localhost,127.0.0.1"}, "http://127.0.0.1:8000/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "a.example:8000"}, "http://a.example:8000/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "a.example:8000"}, "http://a.example/v1", "http://p"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "a.example:443"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "::1"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "[::1]:8000"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "nonsense/99,,"}, "http://10.1.2.3", "http://p"),
    ],
)
def test_proxies_are_chosen_per_url(env, url, proxy):
    assert proxy_rules(env).for_url(url) == proxy


@pytest.mark.parametrize("value", ["http://", "http://me:hush@", "http://host:99999999"])
def test_a_proxy_without_a_host_stops_at_the_start(value):
    with pytest.raises(BadInput, match="HTTPS_PROXY") as caught:
        proxy_rules({"https_proxy": value})
    assert "hush" not in str(caught.value)


# Base URLs


@pytest.mark.parametrize(
    ("value", "joined"),
    [
        ("https://host/v1", "https://host/v1/models"),
        (" https://host/v1/ ", "https://host/v1/models"),
        ("http://HOST:8000", "http://host:8000/models"),
        ("https://host/v1?api-version=2024-06-01", "https://host/v1/models?api-version=2024-06-01"),
        ("https://me:hush@host/v1", "https://host/v1/models"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/models"),
    ],
)
def test_a_base_url_is_joined_with_a_path(value, joined):
    assert parse_base_url(value, "X").join("/models") == joined


@pytest.mark.parametrize(
    "value",
    ["localhost:8000", "host/v1", "ftp://host", "http://", "http:host", "http://h:0x1", "http://a b/v1"],
)
def test_a_base_url_without_scheme_or_host_names_its_variable(value):
    with pytest.raises(BadInput, match="OPENAI_BASE_URL"):
        parse_base_url(value, "OPENAI_BASE_URL")


def test_what_a_base_url_hides_is_shown_nowhere():
    base = parse_base_url("https://me:hush@host/v1?key=abcdef&api-version=1", "X")
    assert base.shown == "https://host/v1"
    assert "hush" not in repr(base)
    assert "abcdef" not in repr(base)
    assert {"hush", "abcdef"} <= set(base.secrets())
    assert base.basic_auth() == "Basic bWU6aHVzaA=="
    assert shown_url("https://me:hush@host:1/v1?key=abcdef#x") == "https://host:1/v1"
    assert shown_url("http://[broken") == "(an unreadable URL)"
