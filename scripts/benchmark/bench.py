"""The benchmark of `scripts/bench`, which makes the environment for it: who runs when, what is told of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.check import PROMPT, faults_of, write_table
from benchmark.contestants import (
    REFERENCE,
    Contestant,
    NoEnvironmentError,
    known,
    python_of,
    turns,
    versions_in,
)
from benchmark.measure import BenchServer, Work, make_authority, run_client, wall_of
from benchmark.report import Cell, Summary, as_json, draw, summaries, table
from benchmark.scenarios import SCENARIOS, Scenario, quick
from benchmark.server import raise_limit

_TOLD_VERSIONS = (
    "parallamr-mp",
    "aiohttp",
    "uvloop",
    "httpx",
    "openai",
    "requests",
    "urllib3",
    "orjson",
    "pycurl",
)
_BUSY = 0.5
"""Processes that want to run, without the benchmark."""
_FULL = 1000
"""Connections that the largest scenario needs."""


class Bench:
    """One call of the benchmark: its contestants, with the Python of each, and what came of them so far."""

    def __init__(self, contestants: Sequence[Contestant], folder: Path, options: argparse.Namespace) -> None:
        self._contestants = contestants
        self._folder = folder
        self._options = options
        self._pythons = {each.name: python_of(each, install=not options.quick) for each in contestants}
        self.cells: list[Cell] = []

    def machine(self) -> dict[str, Any]:
        """What the figures depend on."""
        versions: dict[str, str] = {}
        for python in dict.fromkeys(self._pythons.values()):
            versions = versions_in(python, _TOLD_VERSIONS) | versions
        return {
            "processor": _processor(),
            "cores": _cores(),
            "load": os.getloadavg()[0],
            "system": f"{platform.system()} {platform.release()}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "openssl": ssl.OPENSSL_VERSION,
            "versions": versions,
        }

    def play(self, scenario: Scenario) -> None:
        """All rounds of a scenario: in each one, everybody once, in turns."""
        taking_part = self._taking_part(scenario)
        if not taking_part:
            return
        rounds = min(self._options.rounds, scenario.rounds or self._options.rounds)
        folder = self._folder / scenario.name
        folder.mkdir()
        (folder / "prompt.txt").write_text(PROMPT, encoding="utf-8")
        with self._server(scenario, folder) as server:
            for number, contestant, rows in turns(scenario, taking_part, rounds):
                cell = self._cell(scenario, contestant, number, rows, folder, server)
                self.cells.append(cell)
                _tell(cell, rounds)

    def _taking_part(self, scenario: Scenario) -> list[Contestant]:
        chosen = self._contestants
        if scenario.only and not self._options.only:
            chosen = [each for each in chosen if each.name in scenario.only or each.outside]
        if scenario.latency is None:  # the mock provider is ours alone
            chosen = [each for each in chosen if each.ours]
        return list(chosen)

    @contextlib.contextmanager
    def _server(self, scenario: Scenario, folder: Path) -> Iterator[BenchServer | None]:
        if scenario.latency is None:
            yield None
            return
        authority = make_authority(folder) if scenario.tls else None
        with BenchServer(scenario.latency, authority) as server:
            yield server

    def _cell(
        self,
        scenario: Scenario,
        contestant: Contestant,
        number: int,
        rows: int,
        folder: Path,
        server: BenchServer | None,
    ) -> Cell:
        mock = server is None
        experiments = folder / f"experiments-{rows}.csv"
        if not experiments.exists():
            write_table(experiments, rows, mock=mock)
        python = self._pythons[contestant.name]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            work = Work(
                experiments=experiments,
                prompt=folder / "prompt.txt",
                output=Path(place, "results.csv"),
                procs=scenario.procs,
                threads=scenario.threads,
                rows=rows,
                url=server.url if server else None,
                ca=server.ca if server else None,
            )
            measures = run_client(
                contestant.arguments(python, work), work, Path(place), server, scenario.sample_s
            )
            faults = faults_of(work.output, rows, mock=mock)
            if measures.code:
                faults.insert(0, f"it ended with code {measures.code}: {measures.last_words[:200]}")
            help_s = None
            if scenario.help and contestant.ours:
                help_s = wall_of([str(python.parent / "parallamr-mp"), "--help"], Path(place))
        latency = scenario.latency or 0.0
        return Cell(
            scenario=scenario.name,
            client=contestant.name,
            label=contestant.label,
            round=number,
            rows=rows,
            ideal_s=-(-rows // scenario.in_flight) * latency,
            measures=measures,
            faults=tuple(faults),
            help_s=help_s,
        )


def _tell(cell: Cell, rounds: int) -> None:
    verdict = f"wrong: {'; '.join(cell.faults)}" if cell.faults else "right"
    print(
        f"{cell.scenario} {cell.round + 1}/{rounds} {cell.client}: {cell.rows:,} rows in "
        f"{cell.measures.wall_s:.1f} s, {cell.rate:,.0f}/s, {cell.cpu_us:,.0f} µs, {verdict}",
        file=sys.stderr,
        flush=True,
    )


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _told(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cores']} cores ({machine['processor']}), load {machine['load']:.1f} at the start; "
        f"{machine['system']}; {machine['python']}; {machine['openssl']}; {versions}"
    )


def _named(text: str, all_names: Sequence[str], what: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in all_names:
            raise SystemExit(f"error: no {what} is called {name}; there are {', '.join(all_names)}")
    return names


def _added(text: str) -> Contestant:
    name, equals, command = text.partition("=")
    if not equals or not name or not (words := shlex.split(command)):
        raise argparse.ArgumentTypeError("has to be NAME=COMMAND")
    return Contestant(name, name, command=tuple(words), outside=True)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compares parallamr-mp with what one would write or pick instead, on the same job: "
        "read a table, send each row to a server of chat completions, write a table of answers. Everything "
        "runs on this machine. Figures of one call compare with each other, and with no others.",
        epilog=f"Clients: {', '.join(each.name for each in known())}. "
        f"Scenarios: {', '.join(each.name for each in SCENARIOS)}.",
    )
    parser.add_argument("--only", default="", metavar="NAME,…", help="these clients")
    parser.add_argument("--scenario", default="", metavar="NAME,…", help="these scenarios")
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help="everybody runs so many times (default: 3)"
    )
    parser.add_argument(
        "--rows", type=_count, metavar="N", help="rows of each scenario but start; slow clients do a share"
    )
    parser.add_argument(
        "--quick", action="store_true", help="seconds, nothing installed: shows that it works"
    )
    parser.add_argument(
        "--client",
        action="append",
        type=_added,
        default=[],
        metavar="NAME=COMMAND",
        help="add your own: gets --url, --experiments, --prompt, --output, --procs, --threads, --ca (TLS)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them")
    return parser


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    everyone = [*known(), *options.client]
    if options.only:
        names = _named(options.only, [each.name for each in everyone], "client")
        return [each for each in everyone if each.name in names]
    if options.quick:
        return [each for each in everyone if each.name == "parallamr-mp" or not each.requirements]
    return everyone


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    names = _named(options.scenario, [each.name for each in SCENARIOS], "scenario")
    chosen = [each for each in SCENARIOS if not names or each.name in names]
    if options.quick:
        chosen = [quick(each) for each in chosen if names or each.latency != 1.0]
    if options.rows:
        chosen = [each.with_rows(options.rows) for each in chosen]
    return chosen


def main() -> int:
    options = _parser().parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    contestants, scenarios = _contestants(options), _scenarios(options)
    if raise_limit() < 2 * _FULL and not options.quick:
        print("error: too few open files are allowed: raise `ulimit -n` to 4096", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            bench = Bench(contestants, Path(folder), options)
        except NoEnvironmentError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        machine = bench.machine()
        if machine["load"] > _BUSY and not options.quick:
            print(
                f"warning: this machine is busy (load {machine['load']:.1f}): use the ratios", file=sys.stderr
            )
        print(f"{_told(machine)}. Ratios are to {REFERENCE} in the same round.", flush=True)
        lines: list[Summary] = []
        for scenario in scenarios:  # told as they end: whoever stops it has what was measured so far
            bench.play(scenario)
            lines = summaries(bench.cells, REFERENCE)
            if found := [line for line in lines if line.scenario == scenario.name]:
                print(f"\n{table(scenario, found)}", flush=True)
            if options.json:
                figures = as_json(machine, bench.cells, lines)
                options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.plot:
        draw(scenarios, lines, _told(machine), options.plot)
    return 1 if any(line.faults for line in lines) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
