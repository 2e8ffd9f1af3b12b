"""Answers that could not get into their results file, on their way there after all.

    RescueFile ─► OUTPUT.rescue-PID.csv ─► adopt (at --resume) ─► OUTPUT ─► rescue file removed

A rescue file has the columns of the results. Its rows may be in the results
already, for whoever saved them could not know; the row's identity tells. A row is
removed from here only when it is on the disk there: dying in between is
harmless, for then it is found there the next time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from parallamr_mp.claims import Identities
from parallamr_mp.errors import BadInput
from parallamr_mp.models import Status
from parallamr_mp.outputs import Output
from parallamr_mp.results.records import complete_records, encode_record
from parallamr_mp.results.scan import Scan, scan_results
from parallamr_mp.results.writer import IncrementalCSVWriter


def adopt(
    files: Sequence[str],
    columns: tuple[str, ...],
    asked: Identities,
    scans: Sequence[Scan | None],
    outputs: Sequence[Output],
) -> tuple[int, list[str]]:
    """Takes rescued rows of this run's experiments into their results files.

    Returns how many, and the rescue files that hold rows of no experiment of
    this run: they stay. Files of other columns stay, too. Runs in the parent
    before the writer starts. Raises `OutputError`.
    """
    saves: list[Scan] = []
    foreign: list[str] = []
    for path in files:
        try:
            saves.append(scan_results(path, columns))
        except BadInput:
            foreign.append(path)
    rescued, strange = _select(saves, asked, scans)
    by_file: dict[int, list[bytes]] = {}
    for number, saved in enumerate(saves):
        with open(saved.path, "rb") as stream:
            records = [record for _, record in complete_records(stream)][1:]
        for source, index, file in rescued.values():
            if source == number:
                by_file.setdefault(file, []).append(records[index])
    for number, chosen in by_file.items():
        _append(outputs[number], scans[number], columns, chosen)
    foreign += [saves[number].path for number in strange]
    for path in files:
        if path not in foreign:
            os.unlink(path)
    return len(rescued), foreign


def waiting(
    saves: Sequence[Scan], asked: Identities, scans: list[Scan | None], outputs: Sequence[Output]
) -> int:
    """Adds to `scans` what `adopt` would take in of rescue files; returns how many rows. Touches no file."""
    rescued, _ = _select(saves, asked, scans)
    for source, index, file in rescued.values():
        saved, scan = saves[source], scans[file]
        if scan is None:
            scan = scans[file] = Scan(outputs[file].path or "")
        scan.ids.append(saved.ids[index])
        scan.rows.append(saved.rows[index])
        scan.cells.append(saved.cells[index])
        scan.statuses.append(saved.statuses[index])
    return len(rescued)


def _select(
    saves: Sequence[Scan], asked: Identities, scans: Sequence[Scan | None]
) -> tuple[dict[tuple[int, int], tuple[int, int, int]], set[int]]:
    """Which rescued rows to take in, by identity and row: (rescue file, index in it, results file).

    A row with the cells of an experiment that now asks something else has its
    place, too: it is an answer to what was asked before. What the results hold
    already is left out, but for errors that a rescued answer makes up for. Of
    several rows of one experiment the best is taken in: one worker had an answer
    that was cut, another the whole one. Also returns the rescue files with rows
    that have no place.
    """
    by_id = _files_of(asked.ids, asked.files, {each for saved in saves for each in saved.ids})
    by_cells = _files_of(asked.cells, asked.files, {each for saved in saves for each in saved.cells})
    rescued: dict[tuple[int, int], tuple[int, int, int]] = {}
    strange: set[int] = set()
    for source, saved in enumerate(saves):
        for index, pair in enumerate(zip(saved.ids, saved.rows, strict=True)):
            ordinal = asked.place(pair[1])
            if ordinal >= 0 and asked.ids[ordinal] == pair[0]:
                file: int | None = asked.files[ordinal]
            else:
                file = by_id.get(pair[0], by_cells.get(saved.cells[index]))
            if file is None:
                strange.add(source)
                continue
            other = rescued.get(pair)
            if other is None or _worth(saved, index) >= _worth(saves[other[0]], other[1]):
                rescued[pair] = source, index, file
    for scan in scans if rescued else ():
        if scan is None:
            continue
        for index, pair in enumerate(zip(scan.ids, scan.rows, strict=True)):
            if (found := rescued.get(pair)) is not None:
                failed = saves[found[0]].status(found[1]) is Status.ERROR
                if failed or scan.status(index) is not Status.ERROR:
                    del rescued[pair]
    return rescued, strange


def _files_of(marks: Sequence[int], files: Sequence[int], wanted: set[int]) -> dict[int, int]:
    """The file of the last experiment with each of these marks. No more is kept than is wanted."""
    if not wanted:
        return {}
    return {mark: file for mark, file in zip(marks, files, strict=True) if mark in wanted}


def _worth(saved: Scan, index: int) -> int:
    """More for a better row. Within a file, the later of equals is of the later attempt."""
    status = saved.status(index)
    return 2 if status is Status.OK else 1 if status is Status.WARNING else 0


def _append(output: Output, scan: Scan | None, columns: tuple[str, ...], records: Sequence[bytes]) -> None:
    commas = b"," * len(output.extra)
    with IncrementalCSVWriter(
        output.path,
        header=encode_record((*columns, *output.extra)),
        resume_at=scan.end if scan is not None else 0,
    ) as writer:
        writer.write_record(b"".join(record[:-1] + commas + b"\n" for record in records))
        writer.sync()
    output.existed = True
