"""Summaries as text: tables of Markdown, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any, NamedTuple

from benchmark.report import Cell, Summary
from benchmark.scenarios import Scenario


class Column(NamedTuple):
    """What stands above, and how the number is written that a line has there; `-` where it has none."""

    title: str
    number: str
    """The attribute of `Summary`, with dots in between for one of its attributes."""
    form: str = ",.0f"
    unit: float = 1

    def show(self, line: Summary) -> str:
        value = attrgetter(self.number)(line)
        return "-" if value is None else format(value / self.unit, self.form)


COLUMNS = {
    "rate": Column("req/s", "rate"),
    "rows": Column("rows/s", "rate"),
    "rate_ratio": Column("ratio", "rate_ratio", ".2f"),
    "ideal": Column("of the ideal", "ideal", ".2f"),
    "cpu": Column("CPU µs a request", "cpu_us"),
    "cpu_row": Column("CPU µs a row", "cpu_us"),
    "cpu_ratio": Column("ratio", "cpu_ratio", ".2f"),
    "cpu_all": Column("CPU s", "cpu_s", ".2f"),
    "wall": Column("wall s", "wall_s", ".2f"),
    "peak": Column("peak in flight", "peak_in_flight"),
    "connections": Column("connections", "connections"),
    "handshakes": Column("handshakes", "handshakes"),
    "cpu_connect": Column("CPU ms a request", "cpu_us", ".2f", 1e3),
    "further": Column("CPU µs a further row", "further_us", ",.1f"),
    "further_ratio": Column("ratio", "further_ratio", ".2f"),
    "memory": Column("peak MB", "peak_bytes", ".0f", 1e6),
    "parent": Column("parent", "parent_bytes", ".0f", 1e6),
    "worker": Column("a worker", "worker_bytes", ".0f", 1e6),
    "writer": Column("writer", "writer_bytes", ".0f", 1e6),
    "first": Column("first request after s", "first_s", ".2f"),
    "help": Column("--help s", "help_s", ".2f"),
    "count": Column("rows", "rows"),
    "connects": Column("connections", "rows"),
    "columns": Column("columns", "size.columns", ".0f"),
    "contexts": Column("context files", "size.contexts", ".0f"),
}


def table(scenario: Scenario, lines: Sequence[Summary]) -> str:
    """The scenario as Markdown: a heading, what it is, a table, and what is to be said of its lines."""
    columns = [COLUMNS[name] for name in scenario.columns]
    rounds = max((line.rounds for line in lines), default=0)
    text = [
        f"### {scenario.title}",
        "",
        f"{_about(scenario, lines, rounds)}{f' {scenario.note}' if scenario.note else ''}",
        "",
        f"| client | {' | '.join(column.title for column in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for line in lines:
        values = ["wrong" if line.faults else column.show(line) for column in columns]
        text.append(f"| {line.label} | {' | '.join(values)} |")
    busy = max((line.server_us for line in lines if line.server_us is not None), default=None)
    if busy is not None:
        text += ["", f"The server took at most {busy:.0f} µs of processor a request."]
    said = [f"- **{line.client}: wrong results: {fault}**" for line in lines for fault in line.faults]
    said += [f"- {line.client}: {note}" for line in lines for note in line.notes]
    return "\n".join([*text, *([""] if said else []), *said])


def _about(scenario: Scenario, lines: Sequence[Summary], rounds: int) -> str:
    """How much was done, by how many, how often."""
    told = [f"{scenario.most_rows:,} {'connections' if scenario.kind == 'connect' else 'rows'}"]
    if scenario.in_flight > 1:
        tasks = f", or {scenario.in_flight} tasks of one" if scenario.latency is not None else ""
        told.append(f"{scenario.procs} processes of {scenario.threads} threads{tasks}")
    least = min(size.rows for size in scenario.sizes)
    told += [
        f"{line.client} {line.rows:,} rows{', once' if line.rounds < rounds else ''}"
        for line in lines
        if line.rows < least
    ]
    return f"{'; '.join(told)}. {f'Median of {rounds} rounds' if rounds > 1 else 'One round'}."


def as_json(machine: dict[str, Any], cells: Sequence[Cell], lines: Sequence[Summary]) -> dict[str, Any]:
    return {
        "machine": machine,
        "summary": [asdict(line) for line in lines],
        "cells": [{**asdict(cell), "rate": cell.rate, "cpu_us": cell.cpu_us} for cell in cells],
    }
