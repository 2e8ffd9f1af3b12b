"""The server that clients are measured with: what it reads, what it answers, what it counts."""

import contextlib
import json
import os
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
import trustme

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchmark import server as bench_server
from benchmark.chat import answer_to, parse_head
from benchmark.server import Poller, Server

FOR_EVER = 3600.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n%b\r\n"


def request(marker, header=b""):
    body = json.dumps({"messages": [{"role": "user", "content": f"Say [[{marker}]], and more."}]}).encode()
    return HEAD % (len(body), header) + body


class Client:
    """One connection, over which answers are read one by one."""

    def __init__(self, port, tls=None, **options):
        self.sock = socket.socket()
        if "room" in options:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["room"])
        self.sock.settimeout(60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(("127.0.0.1", port))
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def read(self):
        """The status and the JSON of the next answer."""
        status = int(self.file.readline().split()[1])
        length = 0
        while line := self.file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(self.file.read(length))

    def text(self):
        status, answer = self.read()
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    def stats(self):
        self.send(b"GET /stats HTTP/1.1\r\n\r\n")
        return self.read()[1]

    def reset(self):
        self.send(b"POST /reset HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert self.read()[0] == 200


@contextlib.contextmanager
def serving(latency=0.0, tls=None, send_buffer=None):
    server = Server(latency, tls)
    if send_buffer is not None:
        server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    stop, end = os.pipe()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        yield server
    finally:
        os.close(end)
        thread.join(60)
        os.close(stop)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("head", "path", "length"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 12", b"/v1/chat/completions", 12),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length:7\r\naccept: b", b"/x", 7),
        (b"GET /stats?x=1 HTTP/1.1\r\nX-Content-Length: 9", b"/stats", 0),
    ],
)
def test_a_head_is_read_in_any_case_and_order(head, path, length):
    found = parse_head(head)
    assert (found.path, found.length, found.closes, found.readable) == (path, length, False, True)


def test_a_head_tells_of_an_end_and_of_a_form_that_cannot_be_read():
    assert parse_head(b"POST / HTTP/1.1\r\nConnection: Close").closes
    assert not parse_head(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked").readable


@pytest.mark.parametrize("poller", ["epoll", "selectors"])
def test_a_request_in_pieces_is_one_request(poller, monkeypatch):
    if poller == "selectors":
        monkeypatch.delattr(bench_server.select, "epoll", raising=False)
    with serving() as server, Client(server.port) as client:
        assert isinstance(server._poller, Poller) == (poller == "selectors" or sys.platform != "linux")
        whole = request("in pieces")
        for place in range(0, len(whole), 7):
            client.send(whole[place : place + 7])
        assert client.text() == answer_to("in pieces")
        assert client.stats()["requests"] == 1


def test_requests_in_one_packet_are_answered_in_their_order():
    with serving() as server, Client(server.port) as client:
        client.send(request("a") + request("b") + request("c")[:-5])
        client.send(request("c")[-5:] + request("d"))
        assert [client.text() for _ in range(4)] == [answer_to(marker) for marker in "abcd"]


def test_a_connection_for_one_request_says_so_and_ends_with_the_answer():
    with serving() as server, Client(server.port) as client:
        client.send(request("alone").replace(b"/v1/", b"/once/v1/"))
        answer = client.file.read()  # up to the end, which comes
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"\r\nConnection: close" in head
        assert json.loads(body)["choices"][0]["message"]["content"] == answer_to("alone")


def test_everyone_gets_the_answer_to_their_own_question():
    with serving(latency=0.001) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(50)]
        for turn in range(3):
            for number, client in enumerate(clients):
                client.send(request(f"{turn}-{number}"))
            for number, client in reversed(list(enumerate(clients))):
                assert client.text() == answer_to(f"{turn}-{number}")


def test_it_counts_from_the_reset_on_and_not_who_counts():
    with serving(latency=FOR_EVER) as server, Client(server.port) as control, contextlib.ExitStack() as stack:
        with Client(server.port) as before:
            before.send(request("before"))
            before.stats()
        control.reset()
        clients = [stack.enter_context(Client(server.port)) for _ in range(20)]
        for client in clients:
            client.send(request("x"))
            client.stats()  # until the server has seen it
        stats = control.stats()
        assert (stats["requests"], stats["connections"], stats["bytes_out"] > 20 * 500) == (20, 20, True)
        assert stats["peak_in_flight"] == 21, "that of before is still in flight"
        assert stats["first"] > 0
        assert stats["last"] is None


def test_over_tls_it_counts_handshakes():
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    with serving(tls=theirs) as server:
        with Client(server.port, ours) as client, Client(server.port, ours) as other:
            for marker in "abc":
                client.send(request(marker))
                assert client.text() == answer_to(marker)
            # Larger than a record of TLS: it comes in several.
            other.send(request("large", b"X-Padding: " + b"x" * 40_000 + b"\r\n"))
            assert other.text() == answer_to("large")
            assert (client.stats()["handshakes"], client.stats()["requests"]) == (2, 4)
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(server.port, ssl.create_default_context())


def test_answers_that_nobody_reads_are_kept_until_somebody_does():
    with serving(send_buffer=4096) as server, Client(server.port, room=4096) as client:
        markers = [str(number) for number in range(300)]
        client.send(b"".join(map(request, markers)))
        assert [client.text() for _ in markers] == [answer_to(marker) for marker in markers]


def test_what_it_does_not_understand_is_told_and_counted():
    with serving() as server, Client(server.port) as client:
        client.send(HEAD % (2, b"") + b"{}")
        assert client.read()[0] == 400
        client.send(b"GET /elsewhere HTTP/1.1\r\n\r\n")
        assert client.read()[0] == 404
        assert client.stats()["unusable"] == 2
        client.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.read()[0] == 411


def test_a_client_that_says_so_is_left_after_its_answer():
    with serving() as server, Client(server.port) as client:
        client.send(request("last", b"Connection: close\r\n"))
        assert client.text() == answer_to("last")
        assert client.file.read() == b""


def test_who_goes_before_the_answer_harms_no_one_who_comes_after():
    with serving(latency=0.2) as server, Client(server.port) as control:
        with Client(server.port) as goes:
            goes.send(request("gone"))
            while not control.stats()["requests"]:
                pass
        with Client(server.port) as comes:  # most likely with the descriptor of the one that is gone
            comes.send(request("here"))
            assert comes.text() == answer_to("here")
