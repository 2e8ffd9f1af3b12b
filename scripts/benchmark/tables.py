"""Summaries as text: tables of Markdown, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.report import Cell, Summary
from benchmark.scenarios import Scenario


def _number(form: str) -> Callable[[float | None], str]:
    return lambda value: "-" if value is None else form.format(value)


def _megabytes(size: float | None) -> str:
    return _number("{:.0f}")(None if size is None else size / 1e6)


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
    "cpu_connect": ("CPU ms a request", lambda line: _number("{:.2f}")(line.cpu_us / 1e3)),
    "further": ("CPU µs a further row", lambda line: _number("{:,.1f}")(line.further_us)),
    "further_ratio": ("ratio", lambda line: _number("{:.2f}")(line.further_ratio)),
    "memory": ("peak MB", lambda line: _megabytes(line.peak_bytes)),
    "parent": ("parent", lambda line: _megabytes(line.parent_bytes)),
    "worker": ("a worker", lambda line: _megabytes(line.worker_bytes)),
    "writer": ("writer", lambda line: _megabytes(line.writer_bytes)),
    "first": ("first request after s", lambda line: _number("{:.2f}")(line.first_s)),
    "help": ("--help s", lambda line: _number("{:.2f}")(line.help_s)),
    "count": ("rows", lambda line: _number("{:,.0f}")(line.rows)),
    "connects": ("connections", lambda line: _number("{:,.0f}")(line.rows)),
    "columns": ("columns", lambda line: f"{line.size.columns}"),
    "contexts": ("context files", lambda line: f"{line.size.contexts}"),
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
