"""Who runs when: the rounds of a scenario, and the cells that come of them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.contestants import Contestant, turns
from benchmark.jobs import JOBS, Task
from benchmark.measure import BenchServer, make_authority
from benchmark.report import Cell
from benchmark.scenarios import Scenario


class Bench:
    """One call of the benchmark: its contestants, with the Python of each, and what came of them so far."""

    def __init__(
        self, contestants: Sequence[Contestant], pythons: Mapping[str, Path], folder: Path, *, named: bool
    ) -> None:
        """`named`: the user chose the contestants, so that none is left out where it could take part."""
        self._contestants = contestants
        self._pythons = pythons
        self._folder = folder
        self._named = named
        self.cells: list[Cell] = []

    def play(self, scenario: Scenario, rounds: int) -> None:
        """All rounds of a scenario: in each one, everybody once, in turns."""
        taking_part = self._taking_part(scenario)
        if not taking_part:
            return
        rounds = min(rounds, scenario.rounds or rounds)
        folder = self._folder / scenario.name
        folder.mkdir()
        with self._server(scenario, folder) as server:
            for number, contestant, size in turns(scenario, taking_part, rounds):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    finished = self._folder / "finished"
                    python = self._pythons[contestant.name]
                    task = Task(scenario, contestant, python, size, folder, Path(place), finished, server)
                    done = JOBS[scenario.kind](task)
                cell = Cell(
                    scenario=scenario.name,
                    client=contestant.name,
                    label=contestant.label,
                    round=number,
                    size=size,
                    ideal_s=-(-size.rows // scenario.in_flight) * (scenario.latency or 0.0),
                    measures=done.measures,
                    faults=done.faults,
                    help_s=done.help_s,
                )
                self.cells.append(cell)
                _tell(cell, rounds)

    def _taking_part(self, scenario: Scenario) -> list[Contestant]:
        chosen = list(self._contestants)
        if scenario.only and not self._named:
            chosen = [each for each in chosen if each.name in scenario.only or each.outside]
        if scenario.latency is None:  # the mock provider is ours alone
            chosen = [each for each in chosen if each.ours]
        if scenario.kind == "connect":
            chosen = [each for each in chosen if each.connects]
        return chosen

    @contextlib.contextmanager
    def _server(self, scenario: Scenario, folder: Path) -> Iterator[BenchServer | None]:
        if scenario.latency is None:
            yield None
            return
        authority = make_authority(folder) if scenario.tls else None
        with BenchServer(scenario.latency, authority) as server:
            yield server


def _tell(cell: Cell, rounds: int) -> None:
    verdict = f"wrong: {'; '.join(cell.faults)}" if cell.faults else "right"
    print(
        f"{cell.scenario} {cell.round + 1}/{rounds} {cell.client}: {cell.rows:,} rows in "
        f"{cell.measures.wall_s:.1f} s, {cell.rate:,.0f}/s, {cell.cpu_us:,.0f} µs, {verdict}",
        file=sys.stderr,
        flush=True,
    )
