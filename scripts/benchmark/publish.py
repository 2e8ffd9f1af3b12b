"""What a call found out, put where people read it: README's block, `docs/bench.md`, `docs/bench.png`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmark.scenarios import REFERENCE, SCENARIOS

BEGIN = "<!-- what follows is written by `scripts/bench --readme`: no figure here is typed -->"
END = "<!-- here ends what `scripts/bench` has written -->"
SHOWN = ("50ms", "1s")
"""Scenarios whose tables README has; the others are in `docs/bench.md`."""
PICTURE, TABLES = Path("docs", "bench.png"), Path("docs", "bench.md")


class NoBlockError(Exception):
    """README has no place for figures."""


def rewritten(readme: str, block: str) -> str:
    """README with this block in place of the one that it has. Raises `NoBlockError`."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoBlockError(f"no `{BEGIN}` … `{END}` in README.md")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"


def readme_block(machine: str, tables: Mapping[str, str]) -> str:
    """What README shows of a call: `tables` by the scenario's name. Needs all that are in `SHOWN`."""
    title = next(scenario.title for scenario in SCENARIOS if scenario.name == SHOWN[0])
    picture = f"![Requests a second and processor time a request by client: {title}.]({PICTURE.as_posix()})"
    more = (
        f"Ratios are to {REFERENCE} in the same round. TLS, memory, growth, resume, start and the goals: "
        f"[{TABLES.as_posix()}]({TABLES.as_posix()})."
    )
    shown = [tables[name] for name in SHOWN]
    return "\n\n".join([picture, *shown, more, f"Measured on {machine}."])


def whole_report(machine: str, tables: Mapping[str, str], goals: str) -> str:
    """Everything, as a document of its own."""
    about = (
        f"Ratios are to {REFERENCE} in the same round unless told otherwise; figures of one call compare "
        "with each other, and with no others. Every row of every run was checked."
    )
    parts = [
        "# What `scripts/bench` found",
        f"Written by `scripts/bench --readme`, and by no hand. Measured on {machine}.",
        about,
        *tables.values(),
        *([goals] if goals else []),
    ]
    return "\n\n".join(parts) + "\n"


def publish(root: Path, machine: str, tables: Mapping[str, str], goals: str) -> None:
    """Writes README's block and `docs/bench.md` below `root`; the picture is drawn elsewhere."""
    readme = root / "README.md"
    new = rewritten(readme.read_text(encoding="utf-8"), readme_block(machine, tables))
    (root / TABLES).write_text(whole_report(machine, tables, goals), encoding="utf-8")
    readme.write_text(new, encoding="utf-8")


def headings(text: str) -> list[tuple[str, list[str]]]:
    """The title and the columns of each table in a block: what it can be judged by."""
    return [
        (title, [cell.strip() for cell in header.strip("|").split("|")])
        for title, header in re.findall(r"^### (.+)\n(?:(?!###).*\n)*?(\|.*\|)\n\|---", text, re.MULTILINE)
    ]
