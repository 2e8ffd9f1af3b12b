"""What is to be reached, and what this call has reached of it: a table to add to.

Ratios are medians over rounds of those within a round, all others medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.report import Cell, Summary, ratio_within_rounds
from benchmark.scenarios import REFERENCE, Size

OURS, FAST = "parallamr-mp", "parallamr-mp[fast]"
ORIGINAL = "like-the-original"
ORIGINAL_HELP_S, ORIGINAL_FIRST_S = 0.5, 0.53
"""Of the original parallamr, which is in no package index: from the machine on which the goals were set."""


class Figures:
    """The cells and lines of a call, for goals to look at."""

    def __init__(self, cells: Sequence[Cell], lines: Sequence[Summary]) -> None:
        self._cells = cells
        self._lines = {(line.scenario, line.client, line.size): line for line in lines if not line.faults}

    def of(
        self,
        scenario: str,
        client: str,
        read: Callable[[Summary], float | None],
        size: Callable[[Size], bool] | None = None,
    ) -> float | None:
        """A figure of the largest table, or of the one that `size` picks; None where there is none."""
        found = [
            line
            for (in_scenario, by, of_size), line in self._lines.items()
            if (in_scenario, by) == (scenario, client) and (size is None or size(of_size))
        ]
        return read(max(found, key=lambda line: line.rows)) if found else None

    def ratio(self, scenario: str, client: str, other: str, read: Callable[[Cell], float]) -> float | None:
        return ratio_within_rounds(
            [cell for cell in self._cells if cell.scenario == scenario and not cell.faults],
            client,
            other,
            read,
        )

    def memory_growth(self) -> float | None:
        """Of the largest table of plain rows over the one of a tenth of them."""
        most = self.of("growth", OURS, lambda line: line.rows)
        if most is None:
            return None

        def peak(rows: float) -> float | None:
            return self.of("growth", OURS, lambda line: line.peak_bytes, lambda size: size == Size(int(rows)))

        large, small = peak(most), peak(most / 10)
        return large / small if large and small else None


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound, and where the figure for it is."""

    scenario: str
    client: str
    what: str
    """With a place for the figure."""
    bound: float
    read: Callable[[Figures], float | None]
    at_least: bool = False
    """Else at most."""

    def told(self, figures: Figures) -> str | None:
        """A line on what was reached; None where it was not measured."""
        reached = self.read(figures)
        if reached is None:
            return None
        met = reached >= self.bound if self.at_least else reached <= self.bound
        limit = f"at {'least' if self.at_least else 'most'} {self.bound:g}"
        verdict = "met" if met else "**not met**"
        what = self.what.format(_short(reached))
        return f"- {verdict}: {self.scenario}: {self.client}: {what} (goal: {limit})"


def told(figures: Figures, *, fewer_rows: bool = False) -> str:
    """What became of each goal that was measured, as Markdown; empty if none was."""
    lines = [line for goal in GOALS if (line := goal.told(figures)) is not None]
    note = ["Over fewer rows than they are meant for: they prove nothing.", ""] if fewer_rows else []
    return "\n".join(["### Goals", "", *note, *lines]) if lines else ""


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _against(scenario: str, client: str, other: str, rate: float, cpu: float | None) -> tuple[Goal, ...]:
    """At least so many times the rows a second of the other, at no more than so many times its processor."""
    wanted = [
        Goal(
            scenario,
            client,
            f"{{}} x the req/s of {other}",
            rate,
            lambda figures: figures.ratio(scenario, client, other, lambda cell: cell.rate),
            at_least=True,
        )
    ]
    if cpu is not None:
        wanted.append(
            Goal(
                scenario,
                client,
                f"{{}} x the CPU a request of {other}",
                cpu,
                lambda figures: figures.ratio(scenario, client, other, lambda cell: cell.cpu_us),
            )
        )
    return tuple(wanted)


def _figure(
    scenario: str,
    client: str,
    what: str,
    bound: float,
    read: Callable[[Summary], float | None],
    *,
    at_least: bool = False,
    size: Callable[[Size], bool] | None = None,
) -> Goal:
    return Goal(
        scenario,
        client,
        what,
        bound,
        lambda figures: figures.of(scenario, client, read, size),
        at_least=at_least,
    )


def _megabytes(read: Callable[[Summary], float | None]) -> Callable[[Summary], float | None]:
    return lambda line: None if (size := read(line)) is None else size / 1e6


def _slow_server(scenario: str) -> tuple[Goal, ...]:
    return tuple(
        goal
        for client, share in ((OURS, 0.85), (FAST, 0.90))
        for goal in (
            _figure(scenario, client, "{} of the ideal", share, lambda line: line.ideal, at_least=True),
            _figure(
                scenario,
                client,
                "{} in flight at once",
                1000,
                lambda line: line.peak_in_flight,
                at_least=True,
            ),
        )
    )


GOALS = (
    *_against("50ms", OURS, REFERENCE, 1.1, 1.6),
    *_against("50ms", OURS, ORIGINAL, 2.0, 0.8),
    *_against("50ms", FAST, REFERENCE, 1.5, 0.9),
    *_slow_server("1s"),
    *_slow_server("1s-4"),
    *_against("tls", OURS, REFERENCE, 1.0, None),
    *_against("tls", FAST, REFERENCE, 1.0, None),
    # One more for each process, which may ask for the models.
    *(
        _figure("tls", client, "{} handshakes for 256 connections", 260, lambda line: line.handshakes)
        for client in (OURS, FAST)
    ),
    *(
        _figure("connect", client, "{} x the CPU of a default Session's", 0.15, lambda line: line.cpu_ratio)
        for client in (OURS, FAST)
    ),
    _figure("engine", OURS, "{} rows/s", 10_000, lambda line: line.rate, at_least=True),
    _figure("engine", OURS, "{} µs of CPU a row", 100, lambda line: line.cpu_us),
    Goal("growth", OURS, "{} x the memory at a tenth of the rows", 1.1, Figures.memory_growth),
    _figure("memory", OURS, "{} MB the parent", 60, _megabytes(lambda line: line.parent_bytes)),
    _figure("memory", OURS, "{} MB a worker", 30, _megabytes(lambda line: line.worker_bytes)),
    *(
        _figure(
            scenario, client, "{} MB in all, 1000 in flight", 120, _megabytes(lambda line: line.peak_bytes)
        )
        for scenario in ("1s", "1s-4")
        for client in (OURS, FAST)
    ),
    _figure("resume", OURS, "{} s", 15, lambda line: line.wall_s),
    _figure("resume", OURS, "{} MB in all", 150, _megabytes(lambda line: line.peak_bytes)),
    # Half of the original's, and one and a half of it.
    _figure("start", OURS, "--help in {} s", 0.5 * ORIGINAL_HELP_S, lambda line: line.help_s),
    _figure("start", OURS, "first request after {} s", 1.5 * ORIGINAL_FIRST_S, lambda line: line.first_s),
    # "Linear" and "flat": what more than the machine's own noise would be.
    _figure(
        "growth",
        OURS,
        "{} x the CPU a further row at a tenth of the rows",
        1.15,
        lambda line: line.further_ratio,
        size=lambda size: size == Size(size.rows),
    ),
    _figure(
        "growth",
        OURS,
        "{} x the CPU a further row with 50 columns",
        1.25,
        lambda line: line.further_ratio,
        size=lambda size: size.columns == 50,
    ),
    _figure(
        "growth",
        OURS,
        "{} x the CPU a further row with 20 context files",
        1.25,
        lambda line: line.further_ratio,
        size=lambda size: size.contexts == 20,
    ),
)
