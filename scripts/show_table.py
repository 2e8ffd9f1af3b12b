#!/usr/bin/env python3
"""Shows a CSV file as a table that fits the terminal: long cells are cut, line ends and tabs become blanks.

    scripts/show_table.py FILE.csv [--columns a,b,c] [--rows 20] [--width N]

Without --columns it shows the input's variables and the most telling columns of a result file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import shutil
import sys
import unicodedata
from pathlib import Path

RESULT_COLUMNS = (
    "status",
    "input_tokens",
    "context_window",
    "output_tokens",
    "output",
    "error_message",
    "row_number",
    "repeat",
    "experiment_id",
    "attempts",
    "latency_s",
    "finish_reason",
    "cost_usd",
    "endpoint",
    "completed_at",
)
TELLING = ("status", "input_tokens", "output_tokens", "latency_s", "output", "error_message")
SHORT = {"input_tokens": "in", "output_tokens": "out", "latency_s": "seconds", "error_message": "note"}
NARROWEST, LONGEST, GAP = 6, 2000, "  "


def one_line(cell: str) -> str:
    """The beginning of the cell without anything a terminal would act on."""
    shown = "".join(letter if letter.isprintable() else " " for letter in cell[:LONGEST])
    return " ".join(shown.split())


def width_of(text: str) -> int:
    """Terminal cells: East Asian letters and emoji take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def fit(text: str, width: int) -> str:
    """The text cut or filled up to exactly so many terminal cells."""
    if width_of(text) > width:
        while width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - width_of(text))


def choose(header: list[str], rows: list[dict[str, str]], asked: str | None) -> list[str]:
    """The asked columns that exist; else the input's variables and the telling ones that are not empty."""
    if asked:
        return [name for name in asked.split(",") if name in header]
    own = [name for name in header if name not in RESULT_COLUMNS and not name.startswith("param:")]
    names = own + [name for name in TELLING if name in header]
    return [name for name in names if any(row[name] for row in rows)]


def widths(table: list[list[str]], weights: list[int], total: int) -> list[int]:
    """Every column as wide as its text; if that is too much, the widest for their weight give way."""
    wanted = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    spare = max(total - len(GAP) * (len(wanted) - 1), len(wanted) * NARROWEST)
    fitted = [min(width, spare) for width in wanted]
    while sum(fitted) > spare:
        widest = max(range(len(fitted)), key=lambda index: fitted[index] / weights[index])
        fitted[widest] -= 1
    return fitted


def show(path: Path, asked: str | None, limit: int, total: int) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        header = list(reader.fieldnames or [])
        rows = [{name: one_line(row[name]) for name in header} for row in itertools.islice(reader, limit)]
        left = sum(1 for _ in reader)
    names = choose(header, rows, asked)
    if not rows or not names:
        print(f"{path}: no rows")
        return
    headings = [SHORT.get(name, one_line(name)) for name in names]
    table = [headings, *([row[name] for name in names] for row in rows)]
    fitted = widths(table, [3 if name in ("output", "error_message") else 1 for name in names], total)
    table.insert(1, ["-" * width for width in fitted])
    for line in table:
        print(GAP.join(map(fit, line, fitted)).rstrip())
    if left:
        print(f"… and {left} more rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--columns", help="names, separated by commas")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--width", type=int, default=shutil.get_terminal_size((120, 24)).columns)
    options = parser.parse_args()
    csv.field_size_limit(2**31 - 1)
    sys.stdout.reconfigure(errors="replace")
    try:
        show(options.file, options.columns, options.rows, options.width)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        raise SystemExit(f"show_table: {error}") from error


if __name__ == "__main__":
    main()
