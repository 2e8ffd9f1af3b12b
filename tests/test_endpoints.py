"""Several servers for one provider, and what a run does when they fail, go away, hang, or come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter

import pytest
from support.behaviours import answer, reset, stall, status
from support.cli import Place
from support.moody import AtMost
from support.running import Run, assert_answered, assert_to_be_resumed, assert_whole
from support.server import FakeServer

ALL = ("-o", "results.csv", "--procs", "2", "--threads", "8")


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


@pytest.fixture
def servers():
    """Three, each of which takes a while for an answer."""
    with FakeServer() as one, FakeServer() as two, FakeServer() as three:
        for server in (one, two, three):
            server.behave(AtMost(seconds=0.02))
        yield one, two, three


@pytest.fixture
def several(tmp_path, servers):
    """A folder in which all three are told by the environment."""
    return Place(tmp_path, servers[0], OPENAI_BASE_URL=",".join(server.openai_url for server in servers))


def total(servers, counts=FakeServer.given):
    return sum((counts(server) for server in servers), Counter())


def by_endpoint(place):
    return Counter(row["endpoint"] for row in place.rows())


# --- one server --------------------------------------------------------------------------------


class Dead:
    """A port at which every connection is reset at once, and counted."""

    def __init__(self):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.connections = 0
        self._thread = threading.Thread(target=self._reset)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _reset(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()


def test_a_dead_server_costs_seconds_and_not_one_try_a_row(place):
    place.questions(200)
    with Dead() as dead:
        started = time.monotonic()
        done = place.run(*ALL, "--max-wait", "3", OPENAI_BASE_URL=dead.url)
        assert time.monotonic() - started < 30
    assert done.code == 3, done
    rows = place.rows()
    assert len(rows) == 200
    assert {row["status"] for row in rows} == {"error"}
    assert all("--max-wait" in row["error_message"] for row in rows), rows[0]
    # What was in flight when the breaker opened, a probe each second or two, and who asks for models.
    assert dead.connections <= 16 + 8
    assert f"{dead.url}: out of order" in done.stderr
    assert_whole(place)


def test_nobody_at_a_port_is_told_and_costs_seconds(place, server):
    place.questions(200)
    server.go_away()
    done = place.run(*ALL, "--max-wait", "2")
    assert done.code == 3, done
    rows = place.rows()
    assert len(rows) == 200
    assert all("--max-wait" in row["error_message"] for row in rows)
    assert sum(int(row["attempts"]) for row in rows) <= 16 + 8
    assert_whole(place)
    server.come_back()
    assert place.run(*ALL, "--resume", "--retry-errors").code == 0
    assert_answered(place.rows(), 200)


def test_rows_outlast_a_server_that_goes_away_and_comes_back(place, server):
    server.behave(AtMost(seconds=0.02))
    place.questions(400)
    with Run(place, *ALL) as run:
        for answered in (60, 200):
            server.wait_until(lambda answered=answered: len(server.requests) >= answered)
            server.go_away()
            run.wait_for("out of order")
            server.come_back()
        assert run.end().code == 0
    assert_answered(place.rows(), 400)
    assert max(server.given().values()) == 1
    assert len(server.requests) <= 400 + 2 * 16
    assert_whole(place)


def test_a_server_that_hangs_is_left_alone_after_a_few_rows(place, server):
    server.behave(stall())
    place.questions(200)
    started = time.monotonic()
    done = place.run(*ALL, "--timeout", "1", "--max-wait", "3")
    assert time.monotonic() - started < 30
    assert done.code == 3, done
    rows = place.rows()
    assert len(rows) == 200
    unknown = [row for row in rows if "outcome unknown" in row["error_message"] and row["attempts"] == "1"]
    assert {row["attempts"] for row in rows} <= {"0", "1"}
    assert len(unknown) == len(server.requests) <= 16 + 8
    assert_whole(place)


def test_a_server_that_fails_now_and_then_is_not_left_alone(place, server):
    server.behave(lambda request: status(500) if server.count(request.experiment) == 1 else None)
    place.questions(60)
    with Run(place, *ALL, "--breaker-failures", "1000") as run:
        assert run.end().code == 0
    assert_answered(place.rows(), 60)
    assert {row["attempts"] for row in place.rows()} == {"2"}


# --- several -----------------------------------------------------------------------------------


def test_rows_are_spread_over_all_servers_and_say_who_answered(several, servers):
    several.questions(300)
    assert several.run(*ALL).code == 0
    assert_answered(several.rows(), 300)
    assert by_endpoint(several) == {server.openai_url: len(server.given()) for server in servers}
    assert min(len(server.requests) for server in servers) >= 60


def test_a_server_that_is_slower_is_asked_less(several, servers):
    servers[0].behave(AtMost(seconds=0.3))
    several.questions(300)
    assert several.run(*ALL).code == 0
    assert_answered(several.rows(), 300)
    assert 3 * len(servers[0].requests) < min(len(server.requests) for server in servers[1:])


def test_weights_are_the_share_of_what_is_in_flight(place, servers):
    weights = (1, 1, 2)
    endpoints = [
        f"openai={server.openai_url} weight={weight}" for server, weight in zip(servers, weights, strict=True)
    ]
    place.questions(48)
    for server in servers:
        server.behave(stall())
    options = [word for endpoint in endpoints for word in ("--endpoint", endpoint)]
    with Run(place, *ALL, "--no-adaptive", *options) as run:
        servers[2].wait_until(lambda: servers[2].in_flight == 8)
        for server in servers[:2]:
            server.wait_until(lambda server=server: server.in_flight == 4)
        for server in servers:
            server.behave(answer())
            server.release_all()
        assert run.end().code == 0
    assert_answered(place.rows(), 48)


def test_no_row_is_lost_when_one_of_the_servers_dies(several, servers):
    several.questions(400)
    with Run(several, *ALL, "--max-retries", "1", "--retry-unknown") as run:
        servers[0].wait_until(lambda: len(servers[0].requests) >= 40)
        servers[0].go_away()
        assert run.end().code == 0
    assert_answered(several.rows(), 400)
    # What it was answering when it died was asked elsewhere, and nothing else.
    assert sum(total(servers, FakeServer.counts).values()) <= 400 + 16
    assert by_endpoint(several)[servers[0].openai_url] <= len(servers[0].given())
    assert_whole(several)


def test_no_row_is_lost_when_one_of_the_servers_hangs(several, servers):
    several.questions(400)
    with Run(several, *ALL, "--timeout", "2", "--max-retries", "1", "--retry-unknown") as run:
        servers[0].wait_until(lambda: len(servers[0].requests) >= 40)
        servers[0].behave(stall())
        assert run.end().code == 0
    assert_answered(several.rows(), 400)
    assert sum(total(servers, FakeServer.counts).values()) <= 400 + 32
    assert_whole(several)


def test_what_was_refused_by_one_goes_to_another(several, servers):
    servers[0].behave(status(429, {"retry-after": "30"}))
    servers[1].behave(reset())
    several.questions(100)
    assert several.run(*ALL).code == 0
    assert by_endpoint(several) == {servers[2].openai_url: 100}
    assert len(servers[0].requests) <= 16


def test_a_run_ends_when_all_servers_are_gone_for_longer_than_rows_wait(several, servers):
    several.questions(100)
    for server in servers:
        server.go_away()
    done = several.run(*ALL, "--max-wait", "2")
    assert done.code == 3, done
    assert len(several.rows()) == 100
    assert_whole(several)


def test_rows_with_the_same_context_meet_at_the_same_server(place, servers):
    """As long as that one is not much busier: so each context is read by one server, not by three."""
    texts = {name: f"the long text {name} " * 400 for name in "abcdef"}
    for name, text in texts.items():
        place.write(f"{name}.txt", text)
    place.table(
        [{"provider": "openai", "model": "m", "id": id_, "doc": "abcdef"[id_ % 6]} for id_ in range(240)]
    )
    urls = ",".join(server.openai_url for server in servers)
    options = ("--system", "{{doc}}.txt", "--no-adaptive")
    assert place.run(*ALL, *options, OPENAI_BASE_URL=urls).code == 0
    asked = Counter((row["doc"], row["endpoint"]) for row in place.rows())
    assert sum(asked.values()) == 240
    # Left to chance, nearly every context would come to each of the three equally often.
    at_home = sum(max(asked[name, server.openai_url] for server in servers) for name in texts)
    assert at_home >= 0.6 * 240, asked
    assert min(len(server.requests) for server in servers) >= 30


# --- a file of endpoints -----------------------------------------------------------------------


def listed(place, *servers, more=""):
    """Writes the file in one go, as one should."""
    lines = "".join(f"openai={server.openai_url}\n" for server in servers)
    place.write("nodes.new", lines + more)
    os.replace(place.folder / "nodes.new", place.folder / "nodes.txt")


def test_servers_come_and_go_while_a_run_is_on(place, servers):
    one, two, three = servers
    listed(place, one)
    place.questions(4000)
    with Run(place, *ALL, "--endpoints-file", "nodes.txt", "--concurrency", "openai=8") as run:
        one.wait_until(lambda: len(one.requests) > 20)
        assert not two.requests
        listed(place, one, two)
        two.wait_until(lambda: len(two.requests) > 20)
        listed(place, two, three)
        run.wait_for(r"1 new, 1 gone")
        three.wait_until(lambda: len(three.requests) > 20)
        one.wait_until(lambda: not one.in_flight)
        asked = len(one.requests)
        place.write("nodes.txt", f"openai={one.openai_url} rpm=\nwhat is this?\n")
        run.wait_for(r"nodes.txt, line 1")
        three.wait_until(lambda: len(three.requests) > 40)
        listed(place)
        run.wait_for(r"0 endpoints now .*rows wait")
        for server in servers:
            server.wait_until(lambda server=server: not server.in_flight)
        assert len(one.requests) == asked
        before = total(servers, FakeServer.counts)
        listed(place, one)
        one.wait_until(lambda: len(one.requests) > asked + 20)
        assert sum(before.values()) + len(one.requests) - asked == sum(
            total(servers, FakeServer.counts).values()
        )
        run.process.send_signal(signal.SIGTERM)
        done = run.end()
    assert done.code == 128 + signal.SIGTERM
    rows = place.rows()
    assert {row["status"] for row in rows} == {"ok"}
    assert max(total(servers).values()) == 1
    assert len(rows) == len(total(servers))
    assert_to_be_resumed(place, 4000 - len(rows))


def test_a_run_may_begin_before_its_first_server(place, server):
    listed(place, more="# none yet\n")
    place.questions(20)
    with Run(place, *ALL, "--endpoints-file", "nodes.txt") as run:
        run.wait_for("no endpoints yet")
        listed(place, server)
        assert run.end().code == 0
    assert_answered(place.rows(), 20)


def test_a_run_whose_servers_never_come_ends_when_its_rows_have_waited_enough(place, server):
    listed(place)
    place.questions(20)
    done = place.run(*ALL, "--endpoints-file", "nodes.txt", "--max-wait", "1")
    assert done.code == 3, done
    rows = place.rows()
    assert all("--max-wait" in row["error_message"] for row in rows)
    assert len(rows) == 20
    assert not server.requests
    assert_whole(place)
