"""Runs a client in a process of its own, and measures it: time, processor, memory, what the server saw.

client ── wait4 ──► processor time of it and of all that it waited for
  │ └── sampled ──► memory of it and of all its descendants
  └─► server ── GET /stats ──► requests, peak in flight, connections, handshakes
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import trustme

from benchmark.memory import Memory

_SERVER = "benchmark.server"
_SCRIPTS = Path(__file__).resolve().parent.parent
_WAIT_S = 30.0
_MOCK_TOKENS = 110
"""The mock provider's answers are as long as the server's, however much it is asked."""
_PER_ROW_S = 0.05
"""More than the slowest client needs; after that it is stopped, and has failed."""


@dataclass(frozen=True, slots=True)
class Work:
    """A job for a client. `url` and `ca` are None where there is no server, or no TLS."""

    experiments: Path
    prompt: Path
    output: Path
    procs: int
    threads: int
    rows: int
    url: str | None = None
    ca: Path | None = None
    contexts: tuple[Path, ...] = ()
    resume: bool = False
    """Go on with an output that is there."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one run of a client. Seconds, bytes; None: there was no server to tell, or nothing to be told."""

    wall_s: float
    cpu_s: float
    """Of the whole tree of processes, start and end included."""
    peak_bytes: int
    """Of memory, each page that processes share counted once, where the system tells (PSS); else RSS."""
    code: int
    """The exit code."""
    last_words: str
    """The last line on standard error."""
    parent_bytes: int | None = None
    """The peak of the process that was started; below, the largest peak of any other one."""
    worker_bytes: int | None = None
    writer_bytes: int | None = None
    """Of the one that has the output open, where that is another than the first."""
    first_s: float | None = None
    """From the start of the client until its first request was with the server."""
    span_s: float | None = None
    """From then until the last answer was sent."""
    requests: int | None = None
    peak_in_flight: int | None = None
    connections: int | None = None
    handshakes: int | None = None
    server_cpu_s: float | None = None


class BenchServer:
    """`benchmark.server` in a process of its own, and the one connection over which its counters are read."""

    def __init__(self, latency: float, authority: Authority | None = None) -> None:
        command = [sys.executable, "-m", _SERVER, "--latency", str(latency)]
        tls: ssl.SSLContext | None = None
        self.ca: Path | None = None
        if authority is not None:
            command += ["--certificate", str(authority.certificate)]
            tls = ssl.create_default_context(cafile=authority.ca)
            self.ca = authority.ca
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(PYTHONPATH=_SCRIPTS),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{port}/v1"
        if tls is not None:
            self._control: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=_WAIT_S, context=tls
            )
        else:
            self._control = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end that it waits for
        self._process.wait(_WAIT_S)
        self._process.stdout.close()

    def reset(self) -> None:
        self._ask("POST", "/reset")

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("GET", "/stats"))
        return found

    def _ask(self, method: str, path: str) -> bytes:
        self._control.request(method, path)
        return self._control.getresponse().read()


@dataclass(frozen=True, slots=True)
class Authority:
    """A test CA, and the certificate with its key that it gave to the server: two files."""

    ca: Path
    certificate: Path


def make_authority(folder: Path) -> Authority:
    """A new CA and a certificate of its, in this folder."""
    authority = Authority(folder / "ca.pem", folder / "server.pem")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(authority.ca))
    ca.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        str(authority.certificate)
    )
    return authority


def run_client(
    arguments: Sequence[str], work: Work, folder: Path, server: BenchServer | None, sample_s: float
) -> Measures:
    """Runs the command in this folder until it ends, and measures it. Nothing of it is left running."""
    environment = _environment(
        OPENAI_API_KEY="bench",
        OPENAI_BASE_URL=work.url,
        REQUESTS_CA_BUNDLE=work.ca,
        MOCK_OUTPUT_TOKENS=_MOCK_TOKENS,
    )
    if server is not None:
        server.reset()
    with open(folder / "messages", "w+b") as messages:
        started = time.monotonic()
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            start_new_session=True,
        )
        with (
            _stopped_after(process, _WAIT_S + work.rows * _PER_ROW_S),
            Memory(process.pid, work.output, sample_s) as memory,
        ):
            _, status, used = os.wait4(process.pid, 0)
            wall = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        messages.seek(0)
        words = messages.read().decode(errors="replace").replace("\r", "\n").split("\n")
    stats = server.stats() if server is not None else {}
    first, last = stats.get("first"), stats.get("last")
    return Measures(
        wall_s=wall,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_bytes=memory.peak,
        code=process.returncode,
        last_words=next((line.strip() for line in reversed(words) if line.strip()), ""),
        parent_bytes=memory.parent,
        worker_bytes=memory.worker,
        writer_bytes=memory.writer,
        first_s=first - started if first is not None else None,
        span_s=last - first if first is not None and last is not None else None,
        requests=stats.get("requests"),
        peak_in_flight=stats.get("peak_in_flight"),
        connections=stats.get("connections"),
        handshakes=stats.get("handshakes"),
        server_cpu_s=stats.get("cpu_s"),
    )


def wall_of(arguments: Sequence[str], folder: Path) -> float:
    """Seconds that this command takes. Raises `subprocess.CalledProcessError` if it fails."""
    started = time.monotonic()
    subprocess.run(arguments, cwd=folder, env=_environment(), capture_output=True, check=True)
    return time.monotonic() - started


def _environment(**more: object) -> Mapping[str, str]:
    """That of this process without what leads requests elsewhere, or changes how parallamr-mp or Python runs.

    Under PYTHONDONTWRITEBYTECODE, say, each process of a client that is installed in place would compile it
    anew.
    """
    ours = (
        "OPENAI_",
        "PARALLAMR_",
        "MOCK_",
        "PYTHON",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSL_CERT_",
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(ours) and not name.upper().endswith("_PROXY")
    }
    return kept | {name: str(value) for name, value in more.items() if value is not None}


@contextlib.contextmanager
def _stopped_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kills the process group when its time is over, and whatever is left of it at the end."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        kill()
