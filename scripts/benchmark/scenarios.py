"""What is measured: how slow the server is, how many requests are in flight, over how large a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

PROCESSES = (
    *("parallamr-mp", "parallamr-mp[fast]", "aiohttp", "aiohttp-processes"),
    *("http.client", "raw-sockets", "pycurl-multi"),
)
"""Those who have more than one, and the fastest who have one."""
WITH_TLS = (
    *("parallamr-mp", "parallamr-mp[fast]", "aiohttp"),
    *("requests", "http.client", "raw-sockets", "pycurl-multi"),
)
GROWING = ("parallamr-mp", "aiohttp", "like-the-original")
OURS = ("parallamr-mp",)
"""Where there is no server, what carries requests is of no matter."""

TRAFFIC = ("rate", "rate_ratio", "ideal", "cpu", "cpu_ratio", "peak", "connections", "memory", "first")
TLS = ("rate", "rate_ratio", "ideal", "cpu", "cpu_ratio", "peak", "handshakes", "memory", "first")
ROLES = ("memory", "parent", "worker", "writer")

REFERENCE = "aiohttp"
"""Ratios are to this one: the fastest client on the event loop that asyncio comes with."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of the table that a client is given, and what goes with it."""

    rows: int
    columns: int = 5
    contexts: int = 0
    """Files that are appended to the prompt."""


def _rows(*numbers: int) -> tuple[Size, ...]:
    return tuple(Size(number) for number in numbers)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table of the benchmark."""

    name: str
    title: str
    latency: float | None
    """Seconds of the server's answers; None: no server, but the mock provider of parallamr-mp."""
    procs: int
    threads: int
    sizes: tuple[Size, ...]
    """One cell for each of these."""
    columns: tuple[str, ...] = TRAFFIC
    kind: Literal["sweep", "resume", "connect"] = "sweep"
    """What clients do with the table: see `jobs`."""
    note: str = ""
    """What is to be known to read its table."""
    reference: str = REFERENCE
    tls: bool = False
    only: tuple[str, ...] = ()
    """Who takes part if nobody is named; empty: everyone."""
    rounds: int | None = None
    """At most so many."""
    sample_s: float = 0.5
    """Between two looks at the memory, which costs a little itself."""
    full: bool = False
    """Everyone does all rows, slow or not."""
    fixed: bool = False
    """Its size is what it is about: --rows does not change it."""
    help: bool = False
    """The time of --help belongs to it."""

    @property
    def in_flight(self) -> int:
        return self.procs * self.threads

    @property
    def most_rows(self) -> int:
        return max(size.rows for size in self.sizes)

    def with_rows(self, most: int) -> Scenario:
        """The same with so many rows at most, the others in proportion."""
        if self.fixed:
            return self
        return self._resized(lambda rows: max(1, most * rows // self.most_rows))

    def sizes_for(self, share: float) -> tuple[Size, ...]:
        """The sizes for a contestant that does this share of the rows: no fewer than fill all seats twice."""
        if self.full:
            return self.sizes
        least = 2 * self.in_flight
        return self._resized(lambda rows: min(rows, max(int(rows * share), least))).sizes

    def in_brief(self) -> Scenario:
        """The same with so little to do that it takes seconds: it shows that all works, and no more."""
        numbers = sorted({size.rows for size in self.sizes})
        most = {rows: 20 if self.fixed else 100 * (1 + place) for place, rows in enumerate(numbers)}
        smaller = self._resized(lambda rows: min(rows, most[rows]))
        return replace(
            smaller,
            title=f"{self.name}, in brief: shows that it works; a start is most of it",
            latency=None if self.latency is None else min(self.latency, 0.02),
            procs=min(self.procs, 2),
            threads=min(self.threads, 8),
            sample_s=0.1,
        )

    def _resized(self, rows_of: Callable[[int], int]) -> Scenario:
        return replace(self, sizes=tuple(replace(size, rows=rows_of(size.rows)) for size in self.sizes))


_K = 1000
SCENARIOS = (
    Scenario("50ms", "50 ms, 256 in flight", 0.05, 2, 128, _rows(80 * _K)),
    Scenario("1s", "1 s, 1000 in flight", 1.0, 2, 500, _rows(20 * _K), rounds=2),
    Scenario(
        "1s-4",
        "1 s, 1000 in flight, four processes",
        *(1.0, 4, 250, _rows(20 * _K)),
        only=PROCESSES,
        rounds=1,
    ),
    Scenario(
        "tls",
        "50 ms, 256 in flight, TLS",
        *(0.05, 2, 128, _rows(80 * _K), TLS),
        tls=True,
        only=WITH_TLS,
    ),
    Scenario(
        "connect",
        "A request on a new TLS connection",
        *(0.0, 1, 1, _rows(200)),
        ("connects", "cpu_connect", "cpu_ratio", "handshakes"),
        kind="connect",
        note="One after the other, each on a connection of its own, by one thread. The authorities that are "
        "trusted are those that `requests` comes with, and the benchmark's; an unknown one was refused.",
        reference="requests",
        tls=True,
        only=("parallamr-mp", "parallamr-mp[fast]", "requests"),
        full=True,
        fixed=True,
    ),
    Scenario(
        "engine",
        "The engine alone: mock provider, no latency",
        *(None, 2, 8, _rows(100 * _K)),
        ("rows", "cpu_row", "memory"),
        only=OURS,
    ),
    Scenario(
        "memory",
        "Memory",
        *(0.005, 2, 32, _rows(10 * _K, 100 * _K)),
        ("count", *ROLES, "rate", "cpu"),
        note="Workers and others: the largest of them.",
        only=GROWING,
        rounds=1,
        sample_s=0.1,
        full=True,
    ),
    Scenario(
        "growth",
        "Growth: mock provider, no latency",
        None,
        *(2, 8),
        (
            *_rows(_K, 10 * _K, 100 * _K, 1000 * _K),
            Size(100 * _K, columns=50),
            Size(100 * _K, contexts=20),
        ),
        ("count", "columns", "contexts", "wall", "cpu_all", "cpu_row", "further", "further_ratio", *ROLES),
        note="A further row: what was used beyond the smallest run, which is the start, for each row beyond "
        "its rows. Its ratio is to that of a table of 5 columns, no files, and a tenth of the most rows.",
        only=OURS,
        rounds=1,
        full=True,
    ),
    Scenario(
        "resume",
        "Resume: all rows but 16 are finished",
        *(None, 2, 8, _rows(1000 * _K)),
        ("count", "wall", "cpu_all", *ROLES),
        kind="resume",
        only=OURS,
        rounds=2,
        sample_s=0.1,
        full=True,
    ),
    Scenario(
        "start",
        "Start",
        *(0.0, 2, 8, _rows(16)),
        ("help", "first", "wall", "cpu_all"),
        full=True,
        fixed=True,
        help=True,
    ),
)
