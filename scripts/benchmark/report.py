"""What clients came to: cells, one for each run, and summaries of those that are of the same.

Medians over rounds; a ratio is that of two cells of the same round, and its median is taken last.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.measure import Measures
from benchmark.scenarios import Size


@dataclass(frozen=True, slots=True)
class Cell:
    """What one client came to in one round of a scenario."""

    scenario: str
    client: str
    label: str
    round: int
    size: Size
    ideal_s: float
    """What the server's latency alone takes, with all seats taken."""
    measures: Measures
    faults: tuple[str, ...]
    help_s: float | None = None

    @property
    def rows(self) -> int:
        return self.size.rows

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
    """A line of a table. Ratios are to the scenario's reference, and None where it does not take part."""

    scenario: str
    client: str
    label: str
    size: Size
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
    further_us: float | None
    """Processor time of a row beyond those of the smallest run of the same client in the round."""
    further_ratio: float | None
    """To that of the second largest number of rows, in a table as usual."""
    peak_bytes: float
    parent_bytes: float | None
    worker_bytes: float | None
    writer_bytes: float | None
    peak_in_flight: float | None
    connections: float | None
    handshakes: float | None
    first_s: float | None
    help_s: float | None
    server_us: float | None
    """Processor time of the server for a request."""
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        return self.size.rows


def summaries(cells: Iterable[Cell], references: Mapping[str, str]) -> list[Summary]:
    """One for each client and size in a scenario, in the order in which they first ran.

    `references`: the client that a scenario's ratios are to, by the scenario's name.
    """
    groups: dict[tuple[str, str, Size], list[Cell]] = {}
    sound: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.scenario, cell.client, cell.size), []).append(cell)
        if not cell.faults:
            sound.setdefault((cell.scenario, cell.client, cell.round), []).append(cell)
    return [
        _summary(
            [
                _Placed(
                    cell,
                    next(iter(sound.get((cell.scenario, references[cell.scenario], cell.round), [])), None),
                    sound.get((cell.scenario, cell.client, cell.round), []),
                )
                for cell in group
            ]
        )
        for group in groups.values()
    ]


def ratio_within_rounds(
    cells: Iterable[Cell], client: str, other: str, read: Callable[[Cell], float]
) -> float | None:
    """The median over rounds of one client's figure over the other's, in a scenario of one size."""
    figures = {(cell.client, cell.round): read(cell) for cell in cells}
    ratios = [
        figure / figures[other, number]
        for (name, number), figure in figures.items()
        if name == client and (other, number) in figures
    ]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A cell, and the sound ones of its round that it compares with."""

    cell: Cell
    reference: Cell | None
    family: Sequence[Cell]
    """Of the same client, whatever their size."""

    def ratio(self, read: Callable[[Cell], float]) -> float | None:
        return None if self.reference is None else read(self.cell) / read(self.reference)

    def further(self) -> float | None:
        """Microseconds for each row beyond the smallest run's: without what a start costs."""
        smallest = min(self.family, key=lambda cell: cell.rows, default=None)
        return None if smallest is None else _between(smallest, self.cell)

    def further_ratio(self) -> float | None:
        numbers = sorted({cell.rows for cell in self.family})
        if len(numbers) < 3:
            return None
        usual = next((cell for cell in self.family if cell.size == Size(numbers[-2])), None)
        smallest = next(cell for cell in self.family if cell.rows == numbers[0])
        own, base = self.further(), _between(smallest, usual) if usual else None
        # Of so few rows that they are lost in what a start takes, more or less, no ratio says anything.
        return own / base if own is not None and base is not None and base > 0 else None


def _between(smaller: Cell, larger: Cell) -> float | None:
    if larger.rows <= smaller.rows:
        return None
    return (larger.measures.cpu_s - smaller.measures.cpu_s) / (larger.rows - smaller.rows) * 1e6


def _summary(placed: Sequence[_Placed]) -> Summary:
    cells = [each.cell for each in placed]

    def median(values: Iterable[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return statistics.median(found) if found else None

    def middle(read: Callable[[Cell], float | None]) -> float | None:
        return median(read(cell) for cell in cells)

    def told(read: Callable[[Cell], float]) -> float:
        return statistics.median(read(cell) for cell in cells)

    first = cells[0]
    asked = [cell.measures.requests for cell in cells if cell.measures.requests is not None]
    notes = []
    if any(count != first.rows for count in asked):
        notes.append(f"{max(asked):,} requests for {first.rows:,} rows")
    return Summary(
        scenario=first.scenario,
        client=first.client,
        label=first.label,
        size=first.size,
        rounds=len(cells),
        rate=told(lambda cell: cell.rate),
        rate_ratio=median(each.ratio(lambda cell: cell.rate) for each in placed),
        rate_in_span=middle(lambda cell: cell.rows / cell.measures.span_s if cell.measures.span_s else None),
        ideal=middle(lambda cell: cell.ideal_s / cell.measures.wall_s if cell.ideal_s else None),
        cpu_us=told(lambda cell: cell.cpu_us),
        cpu_ratio=median(each.ratio(lambda cell: cell.cpu_us) for each in placed),
        cpu_s=told(lambda cell: cell.measures.cpu_s),
        wall_s=told(lambda cell: cell.measures.wall_s),
        further_us=median(each.further() for each in placed),
        further_ratio=median(each.further_ratio() for each in placed),
        peak_bytes=told(lambda cell: cell.measures.peak_bytes),
        parent_bytes=middle(lambda cell: cell.measures.parent_bytes),
        worker_bytes=middle(lambda cell: cell.measures.worker_bytes),
        writer_bytes=middle(lambda cell: cell.measures.writer_bytes),
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
