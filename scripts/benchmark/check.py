"""Whether the results of a client are right: every row's answer is its own, and is there exactly once."""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from pathlib import Path

from benchmark.chat import answer_to
from benchmark.scenarios import Size

SHOWN = 3
"""Rows named for each fault."""
PROMPT = (
    "Answer about {{topic}} in two sentences, and repeat the words [[{{marker}}]] at the beginning.\n"
    + "What follows is the context of the question, which is the same for all of them, as it often is. " * 6
)


def marker_of(number: int) -> str:
    """Of the row with this number, and of no other; unlike the number, no client gets it by counting."""
    return f"{number}-{zlib.crc32(b'%d' % number):08x}"


def write_table(path: Path, size: Size, *, mock: bool = False) -> None:
    """The table that all clients read. Those of fewer rows are the beginning of those of more."""
    names = ["provider", "model", "id", "topic", "marker"]
    provider, model = ("mock", "mock") if mock else ("openai", "bench")
    more = range(size.columns - len(names))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *(f"x{number}" for number in more)])
        for n in range(size.rows):
            further = [f"v{(n + number) % 89}" for number in more]
            writer.writerow([provider, model, n, f"subject {n % 97}", marker_of(n), *further])


def write_contexts(folder: Path, size: Size) -> list[Path]:
    """The context files that go with a table."""
    paths = [folder / f"context-{number}.txt" for number in range(size.contexts)]
    for number, path in enumerate(paths):
        path.write_text(f"Note {number}: short, for it is not its length that matters.\n", encoding="utf-8")
    return paths


def begins_with(path: Path, start: Path) -> bool:
    """Whether the bytes of `start` are the first ones of `path`."""
    with open(path, "rb") as whole, open(start, "rb") as beginning:
        while chunk := beginning.read(1 << 20):
            if whole.read(len(chunk)) != chunk:
                return False
    return True


def faults_of(path: Path, rows: int, *, mock: bool = False) -> list[str]:
    """What is wrong with a client's results, in words; empty if all is right."""
    seen: Counter[int] = Counter()
    wrong = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                number = int(record["id"])
                seen[number] += 1
                if not _right(record["output"], number, mock):
                    wrong.append(number)
    except OSError as error:
        return [f"no results: {error.strerror}"]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        return [f"results that are no table of the asked form: {type(error).__name__} {error}"]
    found = {
        "missing": [number for number in range(rows) if number not in seen],
        "more than once": [number for number, count in seen.items() if count > 1],
        "that no one asked for": [number for number in seen if not 0 <= number < rows],
        "with an answer that is not theirs": wrong,
    }
    return [_told(numbers, what) for what, numbers in found.items() if numbers]


def _right(output: str | None, number: int, mock: bool) -> bool:
    marker = marker_of(number)
    # The mock provider echoes the row's variables, then what it is asked.
    return output is not None and (f'"marker": "{marker}"' in output if mock else output == answer_to(marker))


def _told(numbers: list[int], what: str) -> str:
    shown = ", ".join(str(number) for number in numbers[:SHOWN])
    return f"{len(numbers)} rows {what} (id {shown}{', …' if len(numbers) > SHOWN else ''})"
