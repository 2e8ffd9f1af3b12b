"""What a request costs a worker's thread, without a clock: calls of functions, connections, messages.

All threads of a worker share one interpreter lock, so what one of them computes the others wait for.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trustme
from support.behaviours import answer
from support.server import FakeServer

from parallamr_mp import text
from parallamr_mp.answered import AttemptSpec, RowTask
from parallamr_mp.attempt import Asker
from parallamr_mp.models import Inputs
from parallamr_mp.providers import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLUMNS = ("provider", "model", "topic", "language")
INPUTS = Inputs(
    "Explain {{topic}} in {{language}}.", (("a.txt", "some text"), ("b.txt", "more")), "Be brief."
)

MOST_PYTHON_CALLS = 50
MOST_CALLS = 170
"""A little above what it is with CPython 3.11. Look at what came in before raising them."""
MOST_CALLS_TO_CONNECT = 130
"""For a connection beside that: they come all at once, one a thread."""


def task(number: int, provider: str) -> RowTask:
    values = (provider, "fake-small", f"topic {number}", "English")
    params = {"temperature": 0.5, "max_tokens": 100}
    return RowTask(number, 0, "abcdef0123456789", 0, provider, "fake-small", values, params)


@pytest.fixture(params=["http"])
def server(request, tmp_path, monkeypatch) -> Iterator[FakeServer]:
    ca = trustme.CA() if request.param == "https" else None
    if ca is not None:
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with FakeServer(tls=ca) as running:
        yield running


both = pytest.mark.parametrize("server", ["http", "https"], indirect=True)


@pytest.fixture
def asking(server, monkeypatch) -> Iterator[Callable[..., Asker]]:
    """Makes askers, of these columns and inputs."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
    # Once a second its text is made anew: that is not a request's.
    monkeypatch.setattr(text, "time", SimpleNamespace(time_ns=itertools.repeat(10**18).__next__))
    with ExitStack() as made:

        def make(columns: tuple[str, ...] = COLUMNS, inputs: Inputs = INPUTS) -> Asker:
            asker = Asker(AttemptSpec(columns, inputs, timeout=30.0, threads=2))
            made.callback(asker.close)
            return asker

        yield make


@pytest.fixture
def asker(asking) -> Asker:
    return asking()


def warmed(asker: Asker, provider: str = "openai") -> Asker:
    """What is done once, or once a connection, is done by then."""
    for number in range(3):
        asker(task(number, provider), 1, "")
    return asker


def calls_of(asker: Asker, this: RowTask) -> tuple[int, int]:
    """Calls of Python functions, and of all, for one request; of this thread alone."""
    python = every = 0

    def note(_frame, event, _argument):
        nonlocal python, every
        python += event == "call"
        every += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        asker(this, 1, "")
    finally:
        sys.setprofile(before)
    return python, every


@both
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_a_request_takes_few_calls(asker, server, provider):
    warmed(asker, provider)
    python, every = calls_of(asker, task(9, provider))
    assert len(server.requests) == 4
    assert server.connections == 1
    assert python <= MOST_PYTHON_CALLS
    assert every <= MOST_CALLS


def test_a_connection_takes_few_calls(asker, server, monkeypatch):
    warmed(asker)
    monkeypatch.setattr(watched, "IDLE_SECONDS", 0.0)  # none is good enough any more
    _, every = calls_of(asker, task(9, "openai"))
    assert server.connections == 2
    assert every <= MOST_CALLS + MOST_CALLS_TO_CONNECT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an idle connection is polled")
@both
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_a_request_lets_go_of_the_interpreters_lock_to_send_and_to_receive_and_for_nothing_else(
    asker, server, provider
):
    warmed(asker, provider)
    called: list[str] = []

    def note(_frame, event, function):
        if event == "c_call":
            called.append(function.__qualname__)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        asker(task(9, provider), 1, "")
    finally:
        sys.setprofile(before)
    slow = [
        name for name in called if name.startswith(("socket.", "SSLSocket.", "_SSLSocket.", "poll", "select"))
    ]
    quick = {"getsockopt", "gettimeout"}
    assert [name for name in slow if name.partition(".")[2] not in quick] == (
        ["_SSLSocket.write", "_SSLSocket.read"]
        if server.url.startswith("https:")
        else ["socket.sendall", "socket.recv"]
    )
    assert not {"sleep", "lock.acquire", "RLock.acquire"} & set(called)


def test_more_context_files_take_no_more_calls(asking, server):
    server.behave(answer("short"))  # a long one, as an echo would be, is received in several parts
    took = []
    for many in (2, 20):
        documents = tuple((f"{number}.txt", f"text {number:02} " * 85) for number in range(many))
        asker = asking(inputs=Inputs(INPUTS.prompt, documents, INPUTS.system))
        took.append(calls_of(warmed(asker), task(9, "openai")))
    assert took[0] == took[1]


def test_more_columns_take_no_more_calls_of_python_functions(asking):
    few, _ = calls_of(warmed(asking()), task(9, "openai"))
    more = tuple(f"column {number}" for number in range(50))
    asker = asking((*COLUMNS, *more))
    wide = replace(task(9, "openai"), values=(*task(9, "openai").values, *more))
    for _ in range(3):
        asker(wide, 1, "")
    python, _ = calls_of(asker, wide)
    assert python == few
