"""Which experiments a results file has answered already: decided here, applied to files below.

    identities of the table (Survey) ─┐
    scans of the results files ───────┴─► claim, match ─► Matching ─► before the run: cut torn ends
                                                            └► after it: take replaced rows out

An experiment is *done* when a result has its identity (a multiset: equal rows
each claim one). A result that nobody claims may have the very cells of an
experiment that is not done: then what is asked about that row was *changed*
since (its prompt, context, system text or parameters), and the result is an
answer to what it was before. Results that are left are of rows that were
edited or *removed*, or are out of this run's range.

A row that is asked again stays in its file until its new result is there too;
then it goes, in one step for all of a file. An answer gives way to an answer
only: where asking again comes to an error, that goes. Whoever is killed in between leaves
both, and the next run knows an error beside a result for what it is.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from parallamr_mp.claims import Claims, Identities, claim, parts
from parallamr_mp.outputs import Output
from parallamr_mp.results.rewrite import drop_records
from parallamr_mp.results.scan import ERROR_CODE, Scan
from parallamr_mp.text import count

_INDEX_BITS = 40
_INDEX = (1 << _INDEX_BITS) - 1


@dataclass(slots=True)
class Matching:
    """What a resumed run finds, and what is to become of it."""

    done: bytearray
    """1 for each ordinal that is not asked again."""
    replaces: array[int]
    """By ordinal: the row, by its index in the file, that the new result takes the place of; -1: none."""
    leftovers: list[set[int]]
    """By file: rows that have a newer result besides, which a killed run could not take out."""
    errors: int = 0
    """Of those done, how many are error rows."""
    retried: int = 0
    """Error rows that are asked again."""
    changed: int = 0
    """Experiments that were answered before they were changed."""
    removed: int = 0
    """Results of experiments that are not in this run."""


@dataclass(slots=True)
class Formerly:
    """What the table would have asked without the columns that a results file lacks, by ordinal."""

    ids: array[int] = field(default_factory=lambda: array("Q"))
    """`experiment_id` without those that no text uses: the request was the very same."""
    cells: array[int] = field(default_factory=lambda: array("q"))
    """`cells_key` of the columns that file and table share."""


def recognise(scan: Scan, asked: Identities, formerly: Formerly, number: int | None) -> array[int]:
    """Finds the experiments of the rows of a file with another layout: their ordinals, -1 for none.

    `number`: the output file that this is; None: its rows may belong to any.
    Afterwards the scan is as that of the same file in the run's layout: a row
    whose request was the very same bears the identity of its experiment, as
    does, for want of any, each of the original parallamr's with the same cells.
    Touches no file.
    """
    total = len(asked.ids)
    mine = [ordinal for ordinal in range(total) if number is None or asked.files[ordinal] == number]
    found = array("q", [-1]) * len(scan.ids)
    taken = bytearray(total)
    nameless = scan.layout is not None and scan.layout.original
    by_row = {(formerly.ids[ordinal], asked.key(ordinal)): ordinal for ordinal in mine}
    by_id: dict[int, deque[int]] = {}
    by_cells: dict[int, deque[int]] = {}
    for ordinal in mine:
        by_id.setdefault(formerly.ids[ordinal], deque()).append(ordinal)
        by_cells.setdefault(formerly.cells[ordinal], deque()).append(ordinal)

    def first_free(waiting: deque[int] | None) -> int:
        while waiting:
            ordinal = waiting.popleft()
            if not taken[ordinal]:
                return ordinal
        return -1

    def find(index: int, step: int) -> int:
        if step == 0:
            ordinal = by_row.get((scan.ids[index], scan.rows[index]), -1)
            return -1 if ordinal >= 0 and taken[ordinal] else ordinal
        return first_free(by_id.get(scan.ids[index]) if step == 1 else by_cells.get(scan.cells[index]))

    for step in (2,) if nameless else (0, 1, 2):
        for index in range(len(scan.ids)):
            if found[index] >= 0 or (ordinal := find(index, step)) < 0:
                continue
            found[index] = ordinal
            taken[ordinal] = 1
            scan.cells[index] = asked.cells[ordinal]
            if nameless:
                scan.rows[index] = asked.key(ordinal)
            if nameless or step < 2:
                scan.ids[index] = asked.ids[ordinal]
    return found


def match(
    asked: Identities, scans: Sequence[Scan | None], *, retry_errors: bool, redo_changed: bool
) -> Matching:
    """Finds what is done. Touches no file.

    Changed experiments count as done, their old result stays, unless
    `redo_changed`; an old *error* is no answer and always gives way.
    """
    total, claims = len(asked.ids), claim(asked, scans)
    found = Matching(bytearray(total), array("q", [-1]) * total, claims.superseded)
    failed = bytearray(total)
    statuses = [scan.statuses if scan is not None else bytearray() for scan in scans]
    for ordinal, index in enumerate(claims.results):
        if index < 0:
            continue
        if statuses[asked.files[ordinal]][index] != ERROR_CODE:
            found.done[ordinal] = 1
        elif retry_errors:
            found.replaces[ordinal] = index
            found.retried += 1
        else:
            found.done[ordinal] = failed[ordinal] = 1
            found.errors += 1
    _match_changed(asked, scans, claims, found, failed, redo=redo_changed)
    return found


def _match_changed(
    asked: Identities,
    scans: Sequence[Scan | None],
    claims: Claims,
    found: Matching,
    failed: bytearray,
    *,
    redo: bool,
) -> None:
    left = array("Q")  # file and index of results that nobody has claimed
    for number, free in enumerate(claims.free):
        beside = claims.superseded[number]
        left.extend(number << _INDEX_BITS | index for index in free if index not in beside)
    found.removed = len(left)
    if not left:
        return

    def cells(place: int) -> int:
        scan = scans[place >> _INDEX_BITS]
        return 0 if scan is None else scan.cells[place & _INDEX]

    ordinals = parts(range(len(asked.ids)), asked.cells.__getitem__, len(left))
    for results, asking in zip(parts(left, cells, len(left)), ordinals, strict=True):
        _match_cells(asked, scans, results, asking, found, failed, redo=redo)


def _match_cells(
    asked: Identities,
    scans: Sequence[Scan | None],
    results: Sequence[int],
    ordinals: Sequence[int],
    found: Matching,
    failed: bytearray,
    *,
    redo: bool,
) -> None:
    """The same for some results, and the experiments that may have their cells."""
    by_cells: dict[tuple[int, int], list[int]] = {}
    errors_by_row: dict[tuple[int, int, int], int] = {}
    answers_by_row: dict[tuple[int, int, int], int] = {}
    for result in results:
        number, index = result >> _INDEX_BITS, result & _INDEX
        scan = scans[number]
        if scan is None:
            continue
        place = number, scan.rows[index], scan.cells[index]
        if scan.statuses[index] == ERROR_CODE:
            errors_by_row[place] = index
        else:
            answers_by_row[place] = index
            by_cells.setdefault((number, scan.cells[index]), []).append(index)
    for ordinal in ordinals:
        number, cells = asked.files[ordinal], asked.cells[ordinal]
        place = number, asked.key(ordinal), cells
        error = errors_by_row.pop(place, -1)
        if error >= 0:
            found.removed -= 1
            if found.done[ordinal] or found.replaces[ordinal] >= 0:
                found.leftovers[number].add(error)
            else:
                found.replaces[ordinal] = error
        same = by_cells.get((number, cells))
        if found.done[ordinal] or found.replaces[ordinal] >= 0:
            old = answers_by_row.get(place, -1) if redo else -1
            if same and old in same and found.done[ordinal] and not failed[ordinal]:
                # A run that redid this row was killed before the old answer could go.
                same.remove(old)
                found.removed -= 1
                found.leftovers[number].add(old)
            continue
        if same:
            found.removed -= 1
            found.changed += 1
            index = same.pop(0)
            if redo:
                found.replaces[ordinal] = index
            else:
                found.done[ordinal] = 1


def cut(scans: Sequence[Scan | None]) -> None:
    """Cuts torn ends off.

    Runs in the parent before the writer starts: until then the files are the parent's.
    """
    for scan in scans:
        if scan is not None and scan.torn:
            os.truncate(scan.path, scan.end)


def replaced(found: Matching, asked: Identities, written: bytearray) -> list[set[int]]:
    """By file, the rows whose place a written result has taken."""
    drops = [set(leftover) for leftover in found.leftovers]
    for ordinal, index in enumerate(found.replaces):
        if index >= 0 and written[ordinal]:
            drops[asked.files[ordinal]].add(index)
    return drops


def drop_rows(drops: Sequence[set[int]], outputs: Sequence[Output]) -> None:
    """Takes rows out of their files, each file in one step.

    Runs in the parent after the writer has ended. Raises `OutputError`.
    """
    for output, drop in zip(outputs, drops, strict=True):
        if drop and output.path is not None:
            drop_records(output.path, drop.__contains__)


def notices(found: Matching, scans: Sequence[Scan | None], *, redo_changed: bool) -> list[str]:
    """What the user should know before anything is sent."""
    told = [
        f"{scan.path}: {scan.torn} bytes of an unfinished last record are cut off"
        for scan in scans
        if scan is not None and scan.torn
    ]
    if found.retried:
        told.append(f"{count(found.retried, 'error row')} will be asked again")
    if found.changed and redo_changed:
        told.append(f"{count(found.changed, 'row')} will be asked again: what is asked has changed")
    elif found.changed:
        told.append(
            f"{count(found.changed, 'row')} had another prompt, context, system text or parameters when"
            " answered; the old results stay. --redo-changed asks again."
        )
    if found.removed:
        told.append(
            f"{count(found.removed, 'result')} in the file from rows that were edited or removed, or are out"
            " of this run's range; they stay."
        )
    return told
