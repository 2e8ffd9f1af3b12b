"""What the clients of the benchmark share, so that they differ only in how they send.

Run by the Python of any contestant's environment: the standard library, and orjson where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import multiprocessing
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

try:
    import orjson
except ImportError:
    dumps: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()  # noqa: E731
    loads: Callable[[bytes], Any] = json.loads
else:
    dumps, loads = orjson.dumps, orjson.loads

Row = dict[str, str]
HEADERS = {"Authorization": "Bearer bench", "Content-Type": "application/json"}
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done: every row of `experiments` sent to `url` and its answer written to `output`."""

    url: str
    """The base URL, up to /v1."""
    experiments: Path
    prompt: str
    output: Path
    procs: int
    threads: int
    """Of each process. A client of one process has all requests in it."""
    ca: str | None

    @property
    def in_flight(self) -> int:
        return self.procs * self.threads

    @property
    def endpoint(self) -> str:
        return f"{self.url}/chat/completions"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def tls(self) -> ssl.SSLContext | None:
        """One context for all connections of the process; None for plain HTTP."""
        return _context(self.ca) if self.url.startswith("https") else None

    def body(self, row: Row) -> dict[str, Any]:
        prompt = self.prompt
        for name, value in row.items():
            prompt = prompt.replace("{{" + name + "}}", value)
        return {"model": row["model"], "messages": [{"role": "user", "content": prompt}]}


def the_job() -> Job:
    """The job that the command line tells."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiments", type=Path, required=True)
    parser.add_argument("--prompt", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--procs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ca")
    found = parser.parse_args()
    prompt = found.prompt.read_text(encoding="utf-8")
    return Job(found.url, found.experiments, prompt, found.output, found.procs, found.threads, found.ca)


def text_of(answer: bytes) -> str:
    """The text in an answer of the API."""
    text: str = loads(answer)["choices"][0]["message"]["content"]
    return text


class Table:
    """The rows, read as any thread asks for them: every `step`-th one from `start` on."""

    def __init__(self, job: Job, start: int = 0, step: int = 1) -> None:
        self._lock = threading.Lock()
        self._rows = self._read(job, start, step)

    @staticmethod
    def _read(job: Job, start: int, step: int) -> Iterator[Row]:
        with open(job.experiments, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                if number % step == start:
                    yield row

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        with self._lock:
            return next(self._rows)


class Results:
    """The results file, written by any thread as answers come."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        self._begun = False

    def write(self, row: Row, text: str) -> None:
        with self._lock:
            if not self._begun:
                self._begun = True
                self._writer.writerow([*row, "output"])
            self._writer.writerow([*row.values(), text])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@functools.cache
def _context(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


Ask = Callable[[Row], str]
"""Asks one row, and returns the text."""


def in_processes(job: Job, work: Callable[..., None], *more: object) -> None:
    """Calls `work(job, table, *more)` in `procs` processes, each with its own share of the rows and output.

    What they have written is put together at the end.
    """
    parts = [replace(job, output=job.output.with_suffix(f".{number}")) for number in range(job.procs)]
    workers = [
        multiprocessing.Process(target=_share, args=(part, number, work, more))
        for number, part in enumerate(parts)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process has failed")
    put_together([part.output for part in parts], job.output)


def _share(job: Job, number: int, work: Callable[..., None], more: Iterable[object]) -> None:
    work(job, Table(job, number, job.procs), *more)


def in_threads_of_processes(job: Job, make_asker: Callable[[Job], Ask]) -> None:
    """Runs the job in `procs` processes of `threads` threads, each of which makes an asker and keeps it."""
    in_processes(job, _in_threads, make_asker)


def _in_threads(job: Job, table: Table, make_asker: Callable[[Job], Ask]) -> None:
    failed = []

    def thread() -> None:
        try:
            ask = make_asker(job)
            for row in table:
                results.write(row, ask(row))
        except BaseException:
            failed.append(True)
            raise

    job.tls()  # before the threads: it is made once
    with Results(job.output) as results:
        threads = [threading.Thread(target=thread) for _ in range(job.threads)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    if failed:
        raise SystemExit(1)


def put_together(parts: list[Path], output: Path) -> None:
    """One table of several with the same columns; the parts are removed."""
    with open(output, "wb") as whole:
        for number, part in enumerate(parts):
            with open(part, "rb") as file:
                head = file.readline()
                if number == 0:
                    whole.write(head)
                while chunk := file.read(1 << 20):
                    whole.write(chunk)
            with contextlib.suppress(OSError):
                part.unlink()
