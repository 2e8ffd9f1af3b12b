"""Requests on a connection that stands: what may go wrong there, and what each of them may not cost."""

from __future__ import annotations

import gzip
import http.client
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from support.behaviours import (
    answer,
    cut_mid_body,
    drip,
    hang_up,
    head,
    interim,
    reset,
    reset_mid_body,
    stall,
)
from support.server import FakeServer

from parallamr_mp.errors import ProviderError
from parallamr_mp.providers import watched
from parallamr_mp.providers.ends import ends_of
from parallamr_mp.providers.exchange import Headers
from parallamr_mp.providers.http import HttpClient, make_session
from parallamr_mp.providers.wire import AnswerReader

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'{"model": "fake-small", "messages": [{"role": "user", "content": "hello"}]}'


@dataclass(frozen=True)
class Raw:
    """Sends these bytes, then keeps, cuts or resets the connection, or says nothing more."""

    data: bytes
    end: str = "keep"
    before: bytes = b""
    """Sent apart from the others."""

    def play(self, exchange):
        if self.before:
            exchange.send(self.before)
        exchange.send(self.data, last=self.end != "stall")
        if self.end == "stall":
            exchange.pause(None)
        if self.end != "keep":
            exchange.end(reset=self.end == "reset")


def chat(client: HttpClient, body: bytes = BODY):
    return client.post_json(client.url, body, {"Authorization": "Bearer sk-secret-123"})


@pytest.fixture(params=[False, True], ids=["http", "https"])
def warm(request, tmp_path) -> Iterator[tuple[FakeServer, HttpClient]]:
    """A server, and a client with a connection to it that has served a request."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        FakeServer(tls=ca if request.param else None) as server,
        make_session(4, {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}) as session,
    ):
        client = HttpClient(session, 10.0)
        client.url = server.openai_url + "/chat/completions"
        assert chat(client).status == 200
        yield server, client


def failure_of(client: HttpClient) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        chat(client)
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


@pytest.fixture
def sent(monkeypatch) -> list[bytes]:
    """What goes out on connections that are made from here on, call by call."""
    calls: list[bytes] = []

    def noting(connected):
        ends = ends_of(connected)
        return ends._replace(send=lambda data: (calls.append(data), ends.send(data)))

    monkeypatch.setattr(watched, "ends_of", noting)
    return calls


# What a request costs


def test_a_second_request_makes_no_connection_and_is_sent_at_once(sent, warm):
    server, client = warm
    sent.clear()
    assert chat(client).status == 200
    assert server.connections == 1
    assert len(sent) == 1
    assert sent[0].startswith(b"POST ")
    assert b"sk-secret-123" in sent[0]
    assert sent[0].endswith(b"\r\n\r\n" + BODY)


def test_the_first_request_and_the_others_are_the_same_for_the_server(warm):
    server, client = warm
    chat(client)
    client.get(client.url.replace("chat/completions", "models"), {"X-A": "1"})
    client.get(client.url.replace("chat/completions", "models"), {"X-A": "1"})
    assert server.requests[0].headers == server.requests[1].headers
    assert server.requests[0].raw == server.requests[1].raw
    assert server.requests[0].path == server.requests[1].path
    assert server.lookups[0].headers.items() <= server.lookups[1].headers.items() | {("content-length", "0")}
    assert server.connections == 1


def test_threads_take_turns_at_the_connections_there_are(warm):
    server, client = warm
    with ThreadPoolExecutor(4) as pool:
        bodies = [BODY.replace(b"hello", b"nr %d." % number) for number in range(200)]
        replies = list(pool.map(lambda body: chat(client, body), bodies))
    assert all(b"echo: nr %d." % number in reply.content for number, reply in enumerate(replies))
    assert server.connections <= 4


# What goes wrong


@pytest.mark.parametrize(
    "behaviour", [drip(0.02, "headers"), drip(0.02, "body"), stall()], ids=["headers", "body", "silence"]
)
def test_the_deadline_holds(warm, behaviour):
    server, client = warm
    server.behave(behaviour)
    client.timeout = 0.4
    started = time.monotonic()
    error = failure_of(client)
    assert time.monotonic() - started >= 0.39
    assert (error.kind, error.retryable, error.unknown) == ("timeout", False, True)
    server.behave(answer())
    client.timeout = 10.0
    assert chat(client).status == 200
    assert server.connections == 2  # the one that was cut is not used again


def test_a_connection_that_somebody_used_otherwise_keeps_the_deadline_and_no_limit_of_its_own():
    with FakeServer() as server, make_session(1, {}) as session:
        client = HttpClient(session, 10.0)
        client.url = server.openai_url + "/chat/completions"
        assert session.post(client.url, BODY).status_code == 200  # without a limit
        client.timeout = 0.3
        server.behave(stall())
        assert failure_of(client).kind == "timeout"
        client.timeout = 10.0
        server.behave(lambda _: interim(103, seconds=0.4) if len(server.requests) == 4 else answer())
        with session.post(client.url, BODY, timeout=0.2, stream=True) as response:
            assert response.content
        assert chat(client).status == 200
        assert server.connections == 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(reset(), "Connection reset by peer"), (hang_up(), "the server closed it without an answer")],
    ids=["reset", "hang_up"],
)
def test_a_break_before_the_first_byte_is_retryable_and_left_to_others_to_retry(warm, behaviour, words):
    server, client = warm
    server.behave(behaviour)
    error = failure_of(client)
    assert (error.kind, error.retryable, error.unknown) == ("connection", True, False)
    assert "broke before an answer came" in str(error)
    assert words in str(error) or client.url.startswith("https:")  # TLS may tell a reset as an end
    assert len(server.requests) == 2


HEAD = head(200, 100, {})
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{"


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"{",
        HEAD,
        HEAD[:-4],
        HEAD[:30],
        b"HTT",
        CHUNKED,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 103 A\r\n\r\n",
    ],
)
def test_a_break_amid_the_answer_leaves_the_outcome_unknown(warm, data, end):
    server, client = warm
    server.behave(Raw(data, end))
    error = failure_of(client)
    assert (error.kind, error.retryable, error.unknown) == ("connection", False, True)
    assert "broke amid the answer" in str(error)
    server.behave(answer())
    assert chat(client).status == 200


@pytest.mark.parametrize("behaviour", [reset_mid_body(), cut_mid_body()])
def test_a_body_that_breaks_off_is_not_taken_for_whole(warm, behaviour):
    server, client = warm
    server.behave(behaviour)
    assert failure_of(client).unknown


@pytest.mark.parametrize("end", ["cut", "reset", "stall"])
def test_a_refusal_is_one_even_if_its_words_do_not_all_come(warm, end):
    server, client = warm
    server.behave(Raw(head(503, 100, {"retry-after": "7"}) + b'{"err', end))
    client.timeout = 0.4
    reply = chat(client)
    assert (reply.status, reply.headers["Retry-After"], reply.content) == (503, "7", b"")


@pytest.mark.parametrize("codes", [(100,), (103,), (100, 103, 199)])
def test_interim_answers_are_skipped_and_shift_nothing(warm, codes):
    server, client = warm
    server.behave(lambda _: interim(*codes, seconds=0.05) if len(server.requests) == 2 else None)
    for text in (b"one", b"two"):
        assert b"echo: " + text in chat(client, BODY.replace(b"hello", text)).content
    assert server.connections == 1


def test_after_101_the_connection_is_not_used_again(warm):
    server, client = warm
    server.behave(lambda _: interim(101) if len(server.requests) == 2 else None)
    error = failure_of(client)
    assert (error.kind, error.unknown) == ("bad_reply", True)
    assert chat(client).status == 200
    assert server.connections == 2


@pytest.mark.parametrize("stray", [b"\r\n", None], ids=["a_line_break", "an_answer"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize("apart", [False, True], ids=["in_one", "head_apart"])
@pytest.mark.parametrize("total", [75, 300, *range(2047, 2050), len(CHUNKED_HEAD) + 2048, 4096, 20_074])
def test_an_answer_nobody_asked_for_is_not_the_next_ones(warm, total, apart, chunked, stray):
    """However much of it is read at once, and wherever TLS keeps what comes behind it."""
    server, client = warm
    content, answer = answer_of(total, chunked=chunked)
    end = answer.index(b"\r\n\r\n") + 4 if apart else 0
    twice = Raw(answer[end:] + (answer if stray is None else stray), before=answer[:end])
    server.behave(lambda _: twice if len(server.requests) == 2 else None)
    assert chat(client).content == content
    assert b"echo: two" in chat(client, BODY.replace(b"hello", b"two")).content


def answer_of(total: int, *, chunked: bool) -> tuple[bytes, bytes]:
    """A body, and the answer that has it and is as long as that."""
    for size in range(total - 30, 0, -1):
        body = b'"%b"' % (b"1" * (size - 2))
        answer = (
            CHUNKED_HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else head(200, size, {}) + body
        )
        if len(answer) == total:
            return body, answer
    raise ValueError(total)


def test_an_early_refusal_of_a_long_body_is_read(warm):
    _, client = warm
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, ThreadPoolExecutor(1) as pool:
        client.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

        def serve() -> None:
            sock, _ = listener.accept()
            seen = b""
            while not seen.endswith(BODY):
                seen += sock.recv(65_536)
            sock.sendall(head(200, 2, {}) + b"{}")
            sock.recv(10)  # of the long one
            sock.sendall(head(413, 2, {}) + b"{}")
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 20):
                pass
            sock.close()

        done = pool.submit(serve)
        assert chat(client).status == 200
        assert chat(client, b" " * (8 << 20)).status == 413
        client.session.close()
        done.result()


def test_a_session_that_was_closed_can_be_used_again(warm):
    server, client = warm
    client.session.close()
    server.wait_until(lambda: server.open_connections == 0)
    for _ in range(3):
        assert chat(client).status == 200
    assert server.connections == 2


def test_a_broken_encoding_is_final(warm):
    server, client = warm
    server.behave(answer(headers={"content-encoding": "gzip"}))
    error = failure_of(client)
    assert (error.kind, error.unknown) == ("bad_reply", False)


def test_a_forwarding_proxy_is_asked_the_same_way_each_time():
    with FakeServer() as server:
        proxy = server.url.replace("http://", "http://me:hush@")
        with make_session(1, {"http_proxy": proxy}) as session:
            client = HttpClient(session, 5)
            client.url = "http://nowhere.invalid/v1/chat/completions"
            assert [chat(client).status for _ in range(2)] == [200, 200]
        first, second = server.requests
    assert first.headers == second.headers
    assert first.path == second.path
    assert second.headers["proxy-authorization"].startswith("Basic ")
    assert server.connections == 1


# The reading of answers


def reader_of(*pieces: bytes) -> AnswerReader:
    rest = list(pieces)

    def recv(size: int) -> bytes:
        if not rest:
            return b""
        piece, rest[:1] = rest[0][:size], [rest[0][size:]] if rest[0][size:] else []
        return piece

    return AnswerReader(recv)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX-Trailer: 1\r\n\r\n"


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
    "length twice": (OK + b"content-length: 5\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "chunked": (OK + b"Transfer-Encoding: Chunked\r\n\r\n" + chunks(b"hel", b"lo"), b"hello", True),
    "chunked wins": (
        OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n" + chunks(b"hello"),
        b"hello",
        True,
    ),
    "to the end": (OK + b"\r\nhello", b"hello", False),
    "close": (OK + b"connection: Close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "1.0 kept": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "bare line feeds": (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", b"hello", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
    "folded": (OK + b"x: a\r\n content-length: 9\r\ncontent-length:\r\n 5\r\n\r\nhello", b"hello", True),
    "gzip": (OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"hello"), b"hello", False),
    "deflate": (
        OK + b"content-encoding: deflate\r\ncontent-length: 13\r\n\r\n" + zlib.compress(b"hello"),
        b"hello",
        True,
    ),
    "interim": (
        b"HTTP/1.1 103 A\r\nx: y\r\n\r\n" * 2 + OK + b"content-length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(name, data):
    wire, content, reusable = ANSWERS[name]
    cuts = sorted(data.draw(st.lists(st.integers(1, len(wire) - 1), unique=True, max_size=6)))
    reader = reader_of(*(wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)))
    assert reader.read() == content
    assert reader.reusable is reusable
    assert reader.begun


@pytest.mark.parametrize("name", [name for name, (_, _, reusable) in ANSWERS.items() if reusable])
@given(data=st.data())
def test_an_answer_that_says_where_it_ends_is_not_whole_without_its_end(name, data):
    wire, content, _ = ANSWERS[name]
    reader = reader_of(wire[: data.draw(st.integers(0, len(wire) - 1))])
    try:
        found = reader.read()
    except http.client.HTTPException:
        return
    # Cut amid the headers nothing told of a body; the client takes no answer for whole that has none.
    assert found == b""
    assert content == b"" or "content-length" not in reader.headers


@pytest.mark.parametrize(
    "wire",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 2000 No\r\n\r\n",
        b"\r\n" + OK + b"\r\n",
        OK + b"x: " + b"y" * (1 << 19),
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n" + b"1" * (1 << 19),
    ],
)
def test_what_is_no_answer_is_refused(wire):
    reader = reader_of(wire)
    with pytest.raises(http.client.HTTPException):
        reader.read()
    assert reader.begun
    assert not reader.reusable


def test_headers_are_found_in_any_case_and_joined_where_they_come_twice():
    headers = Headers("HTTP/1.1 200 a: b\r\nContent-Type: a\r\nX-Rate: 1\r\nno field\r\nx-rate: 2")
    assert headers["content-TYPE"] == headers.get("CONTENT-type") == "a"
    assert "X-RATE" in headers
    assert headers["X-Rate"] == "1, 2"
    assert headers.get("nothing") is None
    assert dict(headers) == {"content-type": "a", "x-rate": "1, 2"}
    assert dict(Headers()) == {}


field_names = st.sampled_from(["X-Rate-A", "x-rate-a", "Rate", "Other", "RATE-\xb5", "O"])
field_values = st.text("ab:; rate\xb5", max_size=12).map(str.strip)


@given(fields=st.lists(st.tuples(field_names, field_values)))
def test_headers_named_with_a_word_are_those_that_the_whole_has(fields):
    text = "\r\n".join(["HTTP/1.1 200 rate: 1", *(f"{name}: {value}" for name, value in fields)])
    found = Headers(text).named_with("rate")
    assert found == {name: value for name, value in Headers(text).items() if "rate" in name}
