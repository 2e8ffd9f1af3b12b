"""Which experiments a results file has answered already: decided here, applied to files below.

    identities of the table (Survey) ─┐
    scans of the results files ───────┴─► match ─► Matching ─► apply: cut torn ends, take rows out

An experiment is *done* when a result has its identity (a multiset: equal rows
each claim one). A result that nobody claims has the row number of an experiment
that is not done: then that experiment was *changed* since, and the result is an
answer to what it was before. Results that are left are of experiments that were
*removed*, or are out of this run's range.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from parallamr_mp.outputs import Output
from parallamr_mp.results.rewrite import drop_records
from parallamr_mp.results.scan import Finished, Scan


@dataclass(slots=True)
class Identities:
    """What the table asks, by ordinal: eight bytes each, whatever the rows hold."""

    ids: array[int] = field(default_factory=lambda: array("Q"))
    """`experiment_id` as a number."""
    keys: array[int] = field(default_factory=lambda: array("Q"))
    """`row_key`."""
    files: array[int] = field(default_factory=lambda: array("L"))
    """Number of the output file."""


@dataclass(slots=True)
class Matching:
    """What a resumed run finds, and what is to become of it."""

    done: bytearray
    """1 for each ordinal that is not asked again."""
    drops: list[set[int]]
    """Rows to take out of each file, by their index in it."""
    errors: int = 0
    """Of those done, how many are error rows."""
    retried: int = 0
    """Error rows that are asked again."""
    changed: int = 0
    """Experiments that were answered before they were changed."""
    removed: int = 0
    """Results of experiments that are not in this run."""


def match(
    asked: Identities, scans: Sequence[Scan | None], *, retry_errors: bool, redo_changed: bool
) -> Matching:
    """Finds what is done. Touches no file.

    Changed experiments count as done, their old result stays, unless
    `redo_changed`; an old *error* is no answer and always gives way.
    """
    total = len(asked.ids)
    found = Matching(bytearray(total), [set() for _ in scans])
    finished = [Finished(scan) if scan is not None else None for scan in scans]
    retried = bytearray(total)
    for same_row in (True, False):
        for ordinal in range(total):
            file = finished[asked.files[ordinal]]
            if file is None or found.done[ordinal] or retried[ordinal]:
                continue
            if same_row:
                index = file.claim_same_row(asked.ids[ordinal], asked.keys[ordinal])
            else:
                index = file.claim_any(asked.ids[ordinal])
            if index is None:
                continue
            if retry_errors and file.is_error(index):
                retried[ordinal] = 1
                found.drops[asked.files[ordinal]].add(index)
            else:
                found.done[ordinal] = 1
                found.errors += file.is_error(index)
    found.retried = sum(retried)
    _match_changed(asked, scans, finished, found, retried, redo=redo_changed)
    return found


def _match_changed(
    asked: Identities,
    scans: Sequence[Scan | None],
    finished: Sequence[Finished | None],
    found: Matching,
    retried: bytearray,
    *,
    redo: bool,
) -> None:
    left: list[dict[int, int]] = []
    """By file: row key → index, of results that nobody has claimed."""
    for scan, file in zip(scans, finished, strict=True):
        unclaimed = list(file.unclaimed()) if file is not None else []
        left.append({scan.rows[index]: index for index in unclaimed} if scan is not None else {})
        found.removed += len(unclaimed)
    if not found.removed:
        return
    for ordinal in range(len(asked.ids)):
        number = asked.files[ordinal]
        if found.done[ordinal] or retried[ordinal]:
            continue
        index, file = left[number].pop(asked.keys[ordinal], None), finished[number]
        if index is None or file is None:
            continue
        found.removed -= 1
        if file.is_error(index):
            found.drops[number].add(index)
        else:
            found.changed += 1
            if redo:
                found.drops[number].add(index)
            else:
                found.done[ordinal] = 1


def apply(found: Matching, scans: Sequence[Scan | None], outputs: Sequence[Output]) -> None:
    """Cuts torn ends off and takes rows out that will be asked again.

    Runs in the parent before the writer starts: until then the files are the
    parent's. Each file is changed in one step. Raises `OutputError`.
    """
    for output, scan, drop in zip(outputs, scans, found.drops, strict=True):
        if scan is None or output.path is None:
            continue
        if drop:
            _, output.offset = drop_records(output.path, drop.__contains__)
        elif scan.torn:
            os.truncate(output.path, scan.end)


def notices(found: Matching, scans: Sequence[Scan | None], *, redo_changed: bool) -> list[str]:
    """What the user should know before anything is sent."""
    told = [
        f"{scan.path}: {scan.torn} bytes of an unfinished last record are cut off"
        for scan in scans
        if scan is not None and scan.torn
    ]
    if found.retried:
        told.append(f"{_count(found.retried, 'error row')} will be asked again")
    if found.changed and redo_changed:
        told.append(f"{_count(found.changed, 'row')} changed since their answer and will be asked again")
    elif found.changed:
        told.append(
            f"{_count(found.changed, 'row')} changed since their answer (the row itself, its prompt, context"
            " or parameters); the old results stay. --redo-changed asks them again."
        )
    if found.removed:
        told.append(
            f"{_count(found.removed, 'result')} of the file belong to no row of this run"
            " (removed, or out of its range); they stay"
        )
    return told


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
