"""Cells to summaries, and these to tables of Markdown, JSON and a picture.

Medians over rounds; a ratio is that of two cells of the same round, and its median is taken last.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.measure import Measures
from benchmark.scenarios import Scenario

OUR_COLOUR, THEIR_COLOUR = "#D55E00", "#999999"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one client came to in one round of a scenario."""

    scenario: str
    client: str
    label: str
    round: int
    rows: int
    ideal_s: float
    """What the server's latency alone takes, with all seats taken."""
    measures: Measures
    faults: tuple[str, ...]
    help_s: float | None = None

    @property
    def rate(self) -> float:
        """Rows a second, from the start of the client to its end."""
        return self.rows / self.measures.wall_s

    @property
    def cpu_us(self) -> float:
        """Processor time of the client for a row."""
        return self.measures.cpu_s / self.rows * 1e6


@dataclass(frozen=True, slots=True)
class Summary:
    """A line of a table. Ratios are to the reference, and None where it does not take part."""

    scenario: str
    client: str
    label: str
    rows: int
    rounds: int
    rate: float
    rate_ratio: float | None
    rate_in_span: float | None
    """Rows a second while the server had any to answer: without start and end."""
    ideal: float | None
    cpu_us: float
    cpu_ratio: float | None
    cpu_s: float
    wall_s: float
    peak_bytes: float
    peak_in_flight: float | None
    connections: float | None
    handshakes: float | None
    first_s: float | None
    help_s: float | None
    server_us: float | None
    """Processor time of the server for a request."""
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def summaries(cells: Iterable[Cell], reference: str) -> list[Summary]:
    """One for each client and number of rows in a scenario, in the order in which they first ran."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.scenario, cell.client, cell.rows), []).append(cell)
    sound = {
        (cell.scenario, cell.round): cell
        for group in groups.values()
        for cell in group
        if cell.client == reference and not cell.faults
    }
    return [
        _summary(group, [sound.get((cell.scenario, cell.round)) for cell in group])
        for group in groups.values()
    ]


def _summary(cells: Sequence[Cell], references: Sequence[Cell | None]) -> Summary:
    def middle(read: Callable[[Cell], float | None]) -> float | None:
        found = [value for cell in cells if (value := read(cell)) is not None]
        return statistics.median(found) if found else None

    def told(read: Callable[[Cell], float]) -> float:
        return statistics.median(read(cell) for cell in cells)

    def ratio(read: Callable[[Cell], float]) -> float | None:
        pairs = [(cell, other) for cell, other in zip(cells, references, strict=True) if other is not None]
        return statistics.median(read(cell) / read(other) for cell, other in pairs) if pairs else None

    first = cells[0]
    asked = [cell.measures.requests for cell in cells if cell.measures.requests is not None]
    notes = []
    if any(count != first.rows for count in asked):
        notes.append(f"{max(asked):,} requests for {first.rows:,} rows")
    return Summary(
        scenario=first.scenario,
        client=first.client,
        label=first.label,
        rows=first.rows,
        rounds=len(cells),
        rate=told(lambda cell: cell.rate),
        rate_ratio=ratio(lambda cell: cell.rate),
        rate_in_span=middle(lambda cell: cell.rows / cell.measures.span_s if cell.measures.span_s else None),
        ideal=middle(lambda cell: cell.ideal_s / cell.measures.wall_s if cell.ideal_s else None),
        cpu_us=told(lambda cell: cell.cpu_us),
        cpu_ratio=ratio(lambda cell: cell.cpu_us),
        cpu_s=told(lambda cell: cell.measures.cpu_s),
        wall_s=told(lambda cell: cell.measures.wall_s),
        peak_bytes=told(lambda cell: cell.measures.peak_bytes),
        peak_in_flight=middle(lambda cell: cell.measures.peak_in_flight),
        connections=middle(lambda cell: cell.measures.connections),
        handshakes=middle(lambda cell: cell.measures.handshakes),
        first_s=middle(lambda cell: cell.measures.first_s),
        help_s=middle(lambda cell: cell.help_s),
        server_us=middle(
            lambda cell: (
                cell.measures.server_cpu_s / cell.rows * 1e6
                if cell.measures.server_cpu_s is not None
                else None
            )
        ),
        faults=tuple(dict.fromkeys(fault for cell in cells for fault in cell.faults)),
        notes=tuple(notes),
    )


def _number(form: str) -> Callable[[float | None], str]:
    return lambda value: "-" if value is None else form.format(value)


COLUMNS: dict[str, tuple[str, Callable[[Summary], str]]] = {
    "rate": ("req/s", lambda line: _number("{:,.0f}")(line.rate)),
    "rows": ("rows/s", lambda line: _number("{:,.0f}")(line.rate)),
    "rate_ratio": ("ratio", lambda line: _number("{:.2f}")(line.rate_ratio)),
    "ideal": ("of the ideal", lambda line: _number("{:.2f}")(line.ideal)),
    "cpu": ("CPU µs a request", lambda line: _number("{:,.0f}")(line.cpu_us)),
    "cpu_row": ("CPU µs a row", lambda line: _number("{:,.0f}")(line.cpu_us)),
    "cpu_ratio": ("ratio", lambda line: _number("{:.2f}")(line.cpu_ratio)),
    "cpu_all": ("CPU s", lambda line: _number("{:.2f}")(line.cpu_s)),
    "wall": ("wall s", lambda line: _number("{:.2f}")(line.wall_s)),
    "peak": ("peak in flight", lambda line: _number("{:,.0f}")(line.peak_in_flight)),
    "connections": ("connections", lambda line: _number("{:,.0f}")(line.connections)),
    "handshakes": ("handshakes", lambda line: _number("{:,.0f}")(line.handshakes)),
    "memory": ("peak MB", lambda line: _number("{:.0f}")(line.peak_bytes / 1e6)),
    "first": ("first request after s", lambda line: _number("{:.2f}")(line.first_s)),
    "help": ("--help s", lambda line: _number("{:.2f}")(line.help_s)),
    "count": ("rows", lambda line: _number("{:,.0f}")(line.rows)),
}


def table(scenario: Scenario, lines: Sequence[Summary]) -> str:
    """The scenario as Markdown: a heading, what it is, a table, and what is to be said of its lines."""
    columns = [COLUMNS[name] for name in scenario.columns]
    most = max(scenario.rows)
    told = [f"{scenario.procs} processes of {scenario.threads} threads, or {scenario.in_flight} tasks of one"]
    rounds = max((line.rounds for line in lines), default=0)
    told += [
        f"{line.client} {line.rows:,} rows{', once' if line.rounds < rounds else ''}"
        for line in lines
        if line.rows < min(scenario.rows)
    ]
    text = [
        f"### {scenario.title}",
        "",
        f"{most:,} rows; {'; '.join(told)}. {f'Median of {rounds} rounds' if rounds > 1 else 'One round'}.",
        "",
        f"| client | {' | '.join(title for title, _ in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for line in lines:
        values = ["wrong" if line.faults else show(line) for _, show in columns]
        text.append(f"| {line.label} | {' | '.join(values)} |")
    busy = max((line.server_us for line in lines if line.server_us is not None), default=None)
    if busy is not None:
        text += ["", f"The server took at most {busy:.0f} µs of processor a request."]
    said = [f"- **{line.client}: wrong results: {fault}**" for line in lines for fault in line.faults]
    said += [f"- {line.client}: {note}" for line in lines for note in line.notes]
    return "\n".join([*text, *([""] if said else []), *said])


def as_json(machine: dict[str, Any], cells: Sequence[Cell], lines: Sequence[Summary]) -> dict[str, Any]:
    return {
        "machine": machine,
        "summary": [asdict(line) for line in lines],
        "cells": [{**asdict(cell), "rate": cell.rate, "cpu_us": cell.cpu_us} for cell in cells],
    }


def draw(scenarios: Sequence[Scenario], lines: Sequence[Summary], machine: str, path: Path) -> None:
    """Requests a second and processor time a request of everyone, a row of two pictures for each scenario."""
    # Only for the picture: the tables need none of it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    shown = [
        (scenario, [line for line in lines if line.scenario == scenario.name and not line.faults])
        for scenario in scenarios
        if "rate_ratio" in scenario.columns
    ]
    shown = [(scenario, found) for scenario, found in shown if found]
    if not shown:
        raise ValueError("nothing to draw: none of the scenarios has requests a second to compare")
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    heights = [1 + len(found) for _, found in shown]
    figure, grid = plt.subplots(
        len(shown),
        2,
        figsize=(9, 0.24 * sum(heights) + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for (left, right), (scenario, found) in zip(grid, shown, strict=True):
        colours = [OUR_COLOUR if line.client.startswith("parallamr-mp") else THEIR_COLOUR for line in found]
        places, rates, costs = (
            range(len(found)),
            [line.rate for line in found],
            [line.cpu_us for line in found],
        )
        left.bar_label(left.barh(places, rates, color=colours), [f" {rate:,.0f}" for rate in rates])
        left.set_yticks(places, [line.label.strip("*") for line in found])
        left.margins(x=0.15)
        # Points: the length of a bar says nothing where there is no zero.
        right.scatter(costs, places, color=colours)
        for place, cost in zip(places, costs, strict=True):
            right.annotate(f"{cost:,.0f}", (cost, place), (7, 0), textcoords="offset points", va="center")
        right.set(xscale="log", xlim=(50, 50_000), yticks=places, yticklabels=[""] * len(found))
        right.grid(axis="x", color="#dddddd")
        right.set_axisbelow(True)
        for axes in (left, right):
            axes.set_ylim(len(found) - 0.4, -0.6)
        left.set_title(scenario.title, loc="left", fontweight="bold")
    left.set_xlabel("requests a second")
    right.set_xlabel("µs of processor a request, in powers of ten")
    figure.supxlabel(textwrap.fill(machine, 170), fontsize=6, color="#555555")
    figure.savefig(path, dpi=110)
    plt.close(figure)
