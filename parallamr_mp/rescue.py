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

from parallamr_mp.errors import BadInput
from parallamr_mp.outputs import Output
from parallamr_mp.results.records import encode_record
from parallamr_mp.results.scan import Scan, complete_records, scan_results
from parallamr_mp.results.writer import IncrementalCSVWriter
from parallamr_mp.resume import Identities


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
    rescued: dict[tuple[int, int], bytes] = {}
    foreign: list[str] = []
    places = _places(asked)
    for path in files:
        try:
            found = scan_results(path, columns)
        except BadInput:
            foreign.append(path)
            continue
        with open(path, "rb") as stream:
            records = [record for _, record in complete_records(stream)][1:]
        for identity, key, record in zip(found.ids, found.rows, records, strict=True):
            if identity in places:
                rescued[identity, key] = record
            elif path not in foreign:
                foreign.append(path)
    for scan in scans:
        if scan is not None and rescued:
            for present in zip(scan.ids, scan.rows, strict=True):
                rescued.pop(present, None)
    by_file: dict[int, list[bytes]] = {}
    for (identity, _), record in rescued.items():
        by_file.setdefault(places[identity], []).append(record)
    for number, records in by_file.items():
        _append(outputs[number], scans[number], columns, records)
    for path in files:
        if path not in foreign:
            os.unlink(path)
    return len(rescued), foreign


def waiting(saved: Scan, asked: Identities, scans: list[Scan | None], outputs: Sequence[Output]) -> int:
    """Adds to `scans` what `adopt` would take in of a rescue file; returns how many rows. Touches no file."""
    places = _places(asked)
    present = {pair for scan in scans if scan is not None for pair in zip(scan.ids, scan.rows, strict=True)}
    taken = 0
    for index, pair in enumerate(zip(saved.ids, saved.rows, strict=True)):
        if pair in present or pair[0] not in places:
            continue
        present.add(pair)
        number = places[pair[0]]
        scan = scans[number]
        if scan is None:
            scan = scans[number] = Scan(outputs[number].path or "")
        scan.ids.append(saved.ids[index])
        scan.rows.append(saved.rows[index])
        scan.cells.append(saved.cells[index])
        scan.statuses.append(saved.statuses[index])
        taken += 1
    return taken


def _places(asked: Identities) -> dict[int, int]:
    return dict(zip(asked.ids, asked.files, strict=True))


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
