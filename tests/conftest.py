"""Fixtures for every test: a clean environment, a fake server, and a check that nothing is left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import settings
from support.server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

# A shell that starts the tests in the background has them ignore SIGINT, and what they start would, too.
for _signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)

# Derandomized: a red test is red for everybody. HYPOTHESIS_PROFILE=explore looks further, on one's own.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_PREFIXES = ("OPENAI_", "OPENROUTER_", "OLLAMA_", "PARALLAMR_", "MOCK_")
_NAMES = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"}
_GRACE_S = 2.0


def _processes() -> set[psutil.Process]:
    """Living descendants of this test process; psutil tells a reused pid from the process that had it."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE or "resource_tracker" in " ".join(process.cmdline()):
                continue
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        found.add(process)
    return found


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a process or a non-daemon thread behind; set up first, so torn down last."""
    threads, processes = _threads(), _processes()
    yield
    deadline = time.monotonic() + _GRACE_S
    while left := [*(_threads() - threads), *(_processes() - processes)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for leaked in left:
        # Its test is red already; the tests after it shall not suffer.
        if isinstance(leaked, psutil.Process) and leaked.is_running():
            leaked.kill()
    if left:
        pytest.fail(f"still running {_GRACE_S:.0f} s after the test: {left}", pytrace=False)


@pytest.fixture(autouse=True)
def _clean_environment(
    _nothing_left_running: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No key, endpoint, proxy, CA bundle or home folder of the developer reaches a test."""
    for name in list(os.environ):
        upper = name.upper()
        if upper.startswith(_PREFIXES) or upper.endswith("_PROXY") or upper in _NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A FakeServer for one test."""
    with FakeServer() as running:
        yield running
