"""What is measured: how slow the server is, how many requests are in flight, over how many rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

LEAN = ("parallamr-mp", "parallamr-mp[fast]", "aiohttp", "like-the-original", "raw-sockets")
PROCESSES = (
    *("parallamr-mp", "parallamr-mp[fast]", "aiohttp", "aiohttp-processes"),
    *("requests", "http.client", "raw-sockets"),
)
"""Those who have more than one, and the reference."""
OURS = ("parallamr-mp", "parallamr-mp[fast]")

TRAFFIC = ("rate", "rate_ratio", "ideal", "cpu", "cpu_ratio", "peak", "connections", "memory", "first")
TLS = ("rate", "rate_ratio", "ideal", "cpu", "cpu_ratio", "peak", "handshakes", "memory", "first")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table of the benchmark."""

    name: str
    title: str
    latency: float | None
    """Seconds of the server's answers; None: no server, but the mock provider of parallamr-mp."""
    procs: int
    threads: int
    rows: tuple[int, ...]
    """One cell for each of these numbers."""
    columns: tuple[str, ...] = TRAFFIC
    tls: bool = False
    only: tuple[str, ...] = ()
    """Who takes part if nobody is named; empty: everyone."""
    rounds: int | None = None
    """At most so many."""
    sample_s: float = 0.5
    """Between two looks at the memory, which costs a little itself."""
    full: bool = False
    """Everyone does all rows, slow or not."""
    help: bool = False
    """The time of --help belongs to it."""

    @property
    def in_flight(self) -> int:
        return self.procs * self.threads

    def with_rows(self, most: int) -> Scenario:
        """The same with so many rows at most. A start stays what it is."""
        if self.help:
            return self
        return replace(self, rows=tuple(max(1, most * rows // max(self.rows)) for rows in self.rows))

    def rows_for(self, share: float) -> tuple[int, ...]:
        """The rows of a contestant that does this share of them: no fewer than fill all seats twice."""
        if self.full:
            return self.rows
        return tuple(min(rows, max(int(rows * share), 2 * self.in_flight)) for rows in self.rows)


SCENARIOS = (
    Scenario("50ms", "50 ms, 256 in flight", 0.05, 2, 128, (20_000,)),
    Scenario("1s", "1 s, 1000 in flight", 1.0, 2, 500, (5_000,)),
    Scenario("1s-4", "1 s, 1000 in flight, four processes", 1.0, 4, 250, (5_000,), only=PROCESSES),
    Scenario("tls", "50 ms, 256 in flight, TLS", 0.05, 2, 128, (20_000,), TLS, tls=True),
    Scenario(
        "engine",
        "The engine alone: mock provider, no latency",
        None,
        *(2, 8),
        (50_000,),
        ("rows", "cpu_row", "memory"),
        only=OURS,
    ),
    Scenario(
        "memory",
        "Memory",
        0.005,
        *(2, 32),
        (10_000, 100_000),
        ("count", "memory", "rate", "cpu"),
        only=LEAN,
        rounds=1,
        sample_s=0.1,
        full=True,
    ),
    Scenario("start", "Start", 0.0, 2, 8, (16,), ("help", "first", "wall", "cpu_all"), full=True, help=True),
)


def quick(scenario: Scenario) -> Scenario:
    """The same with so little to do that it takes a second: it shows that all works, and no more."""
    return replace(
        scenario,
        title=f"{scenario.title}: in brief",
        latency=None if scenario.latency is None else min(scenario.latency, 0.02),
        procs=2,
        threads=8,
        rows=tuple(min(rows, 100 * (number + 1)) for number, rows in enumerate(scenario.rows)),
        sample_s=0.1,
    )
