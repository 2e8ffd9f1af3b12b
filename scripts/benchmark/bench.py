"""The command of `scripts/bench`, which makes the environment for it: options, and what is told when."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmark import goals, publish
from benchmark.contestants import ROOT, Contestant, NoEnvironmentError, known, python_of
from benchmark.machine import this_machine, told
from benchmark.picture import draw
from benchmark.play import Bench
from benchmark.report import Summary, summaries
from benchmark.scenarios import REFERENCE, SCENARIOS, Scenario
from benchmark.server import raise_limit
from benchmark.tables import as_json, table

_BUSY = 0.5
"""Processes that want to run, without the benchmark."""
_FULL = 1000
"""Connections that the largest scenario needs."""
_QUICK = ("parallamr-mp", "requests")
"""What they need is in the environment of the benchmark itself."""


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
        "runs on this machine. Figures of one call compare with each other, and with no others. "
        "Everything takes some 30 minutes on two cores, and 1.5 GB of disk for temporary files.",
        epilog=f"Clients: {', '.join(each.name for each in known())}. "
        f"Scenarios: {', '.join(each.name for each in SCENARIOS)}.",
    )
    parser.add_argument("--only", default="", metavar="NAME,…", help="these clients")
    parser.add_argument("--scenario", default="", metavar="NAME,…", help="these scenarios")
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help="everybody runs so many times (default: 3)"
    )
    parser.add_argument(
        "--rows",
        type=_count,
        metavar="N",
        help="rows of each scenario at most, but for start and connect; slow clients do a share",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute, no other clients: shows that it works"
    )
    parser.add_argument(
        "--client",
        action="append",
        type=_added,
        default=[],
        metavar="NAME=COMMAND",
        help="add your own: gets --url, --experiments, --prompt, --output, --procs, --threads, --ca (TLS)",
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="put what was measured into README.md, docs/bench.md and docs/bench.png",
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
        return [each for each in everyone if each.name in _QUICK or not each.requirements]
    return everyone


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    names = _named(options.scenario, [each.name for each in SCENARIOS], "scenario")
    chosen = [each for each in SCENARIOS if not names or each.name in names]
    if options.quick:
        chosen = [each.in_brief() for each in chosen if names or each.latency != 1.0]
    if options.rows:
        chosen = [each.with_rows(options.rows) for each in chosen]
    return chosen


def _unfit(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> str:
    """Why this call cannot be; empty: it can."""
    if raise_limit() < 2 * _FULL and not options.quick:
        return "too few open files are allowed: raise `ulimit -n` to 4096"
    if options.readme:
        missing = [name for name in publish.SHOWN if name not in {each.name for each in scenarios}]
        if options.quick or options.rows or options.only or missing:
            return "--readme is for a call with everyone, all rows, and the scenarios " + ", ".join(
                publish.SHOWN
            )
    return ""


def main() -> int:
    options = _parser().parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    contestants, scenarios = _contestants(options), _scenarios(options)
    if reason := _unfit(options, scenarios):
        print(f"error: {reason}", file=sys.stderr)
        return 1
    try:
        pythons = {each.name: python_of(each, install=not options.quick) for each in contestants}
    except NoEnvironmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    machine = this_machine(pythons.values())
    if machine["load"] > _BUSY and not options.quick:
        print(f"warning: this machine is busy (load {machine['load']:.1f}): use the ratios", file=sys.stderr)
    print(f"{told(machine)}. Ratios are to {REFERENCE} in the same round, unless told otherwise.", flush=True)
    lines: list[Summary] = []
    tables: dict[str, str] = {}
    references = {each.name: each.reference for each in scenarios}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(contestants, pythons, Path(folder), named=bool(options.only))
        for scenario in scenarios:  # told as they end: whoever stops it has what was measured so far
            bench.play(scenario, options.rounds)
            lines = summaries(bench.cells, references)
            if found := [line for line in lines if line.scenario == scenario.name]:
                tables[scenario.name] = table(scenario, found)
                print(f"\n{tables[scenario.name]}", flush=True)
            if options.json:
                figures = as_json(machine, bench.cells, lines)
                options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    reached = goals.told(goals.Figures(bench.cells, lines), fewer_rows=bool(options.rows))
    if reached and not options.quick:
        print(f"\n{reached}", flush=True)
    if options.plot:
        draw(scenarios, lines, told(machine), options.plot)
    if any(line.faults for line in lines):
        return 1
    if options.readme:
        publish.publish(ROOT, told(machine), tables, reached)
        drawn = [each for each in scenarios if each.name == publish.SHOWN[0]]
        draw(drawn, lines, told(machine), ROOT / publish.PICTURE)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
