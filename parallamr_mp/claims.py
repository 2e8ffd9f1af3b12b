"""Which result is whose: the rows of results files, claimed by experiments with their identity.

    by row        a result whose row number and repeat are the experiment's goes to it: one look a result
    by identity   what is left, to experiments without one that ask the very same, in order

Input rows that are alike share an identity: results are a multiset, and each is
claimed once. As the row number counts first, a resumed run answers just the row
numbers that are missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from parallamr_mp.results.scan import ERROR_CODE, REPEAT_BITS, REPEAT_MASK, Scan, row_key, row_of

_PART_BITS = 14
"""What is left of a file is looked at in parts of some 2 ** 14 rows: dictionaries of a million are large."""


@dataclass(slots=True)
class Identities:
    """What the table asks, by ordinal: 20 bytes each, whatever the rows hold.

    Ordinals count the rows from `first_row` on, each with all its repeats.
    """

    first_row: int = 1
    repeat: int = 1
    """How often each row is asked."""
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """`experiment_id` as a number."""
    cells: array[int] = field(default_factory=lambda: array("q"))
    """`cells_key`."""
    files: array[int] = field(default_factory=lambda: array("I"))
    """Number of the output file."""

    def key(self, ordinal: int) -> int:
        """`row_key` of an experiment."""
        row, repeat = divmod(ordinal, self.repeat)
        return row_key(self.first_row + row, repeat)

    def place(self, key: int) -> int:
        """The experiment of a `row_key`; -1: there is none."""
        row, repeat = row_of(key)
        ordinal = (row - self.first_row) * self.repeat + repeat
        return ordinal if repeat < self.repeat and 0 <= ordinal < len(self.ids) else -1


@dataclass(slots=True)
class Claims:
    """Who has what."""

    results: array[int]
    """By ordinal: the index in its file of the result that it has claimed; -1: none."""
    free: list[array[int]]
    """By file: the indexes of results that nobody has claimed, in order."""
    superseded: list[set[int]]
    """By file: of these, errors beside a result of the same row, as a run leaves them that was killed
    while it retried. Nobody can claim them."""


def claim(asked: Identities, scans: Sequence[Scan | None]) -> Claims:
    """Gives every experiment a result of its identity in its own file, while there are any."""
    claims = Claims(array("i", [-1]) * len(asked.ids), [], [set() for _ in scans])
    for number, scan in enumerate(scans):
        claims.free.append(
            _claim_by_row(asked, number, scan, claims.results) if scan is not None else array("I")
        )
    if any(claims.free):
        waiting: dict[int, array[int]] = {}
        for ordinal, index in enumerate(claims.results):
            if index < 0:
                waiting.setdefault(asked.files[ordinal], array("I")).append(ordinal)
        for number, scan in enumerate(scans):
            if scan is not None and claims.free[number]:
                _claim_by_identity(asked, number, scan, claims, waiting.get(number, array("I")))
    return claims


def _claim_by_row(asked: Identities, number: int, scan: Scan, results: array[int]) -> array[int]:
    """Returns the indexes of the results of this file that are left."""
    ids, files, statuses, total = asked.ids, asked.files, scan.statuses, len(asked.ids)
    first, repeats = asked.first_row, asked.repeat
    free, in_order = array("I"), True
    for index, (identity, key) in enumerate(zip(scan.ids, scan.rows, strict=True)):
        # As `Identities.place` has it; a call would cost as much as all the rest.
        repeat = key & REPEAT_MASK
        ordinal = ((key >> REPEAT_BITS) - first) * repeats + repeat
        left = index
        if (
            repeat < repeats
            and 0 <= ordinal < total
            and ids[ordinal] == identity
            and files[ordinal] == number
        ):
            holder = results[ordinal]
            if holder < 0:
                results[ordinal] = index
                continue
            if statuses[holder] == ERROR_CODE != statuses[index]:
                results[ordinal], left, in_order = index, holder, False
        free.append(left)
    return free if in_order else array("I", sorted(free))


def _claim_by_identity(
    asked: Identities, number: int, scan: Scan, claims: Claims, waiting: array[int]
) -> None:
    """Gives what is left of one file to experiments that wait for a result, and finds what is superseded."""
    free, superseded = claims.free[number], claims.superseded[number]
    ids, taken = scan.ids, bytearray(len(scan.ids))
    divided = parts(free, ids.__getitem__, len(free)), parts(waiting, asked.ids.__getitem__, len(free))
    for indexes, ordinals in zip(*divided, strict=True):
        alike: dict[int, list[int]] = {}
        for index in indexes:
            alike.setdefault(ids[index], []).append(index)
        for same in alike.values():
            superseded.update(_superseded(asked, number, scan, claims.results, same))
        claimable = {
            identity: iter([index for index in _by_row(scan, same) if index not in superseded])
            for identity, same in alike.items()
        }
        for ordinal in ordinals:
            index = next(claimable.get(asked.ids[ordinal], _NOTHING), -1)
            if index >= 0:
                claims.results[ordinal] = index
                taken[index] = 1
    claims.free[number] = array("I", [index for index in free if not taken[index]])


_NOTHING: Iterator[int] = iter(())


def parts(places: Sequence[int], mark: Callable[[int], int], total: int) -> list[array[int]]:
    """The places, in order, divided by the first bits of their marks, which are hashes of 64 bits.

    Lists that are divided by the same `total` go together part by part.
    """
    bits = max(0, total.bit_length() - _PART_BITS)
    found = [array("Q") for _ in range(1 << bits)]
    for place in places:
        found[(mark(place) & 0xFFFF_FFFF_FFFF_FFFF) >> (64 - bits)].append(place)
    return found


def _by_row(scan: Scan, same: list[int]) -> list[int]:
    """Results of one identity by their row; those of one row as they are in the file, errors last."""
    return sorted(same, key=lambda index: (scan.rows[index], scan.statuses[index] == ERROR_CODE))


def _superseded(
    asked: Identities, number: int, scan: Scan, results: Sequence[int], same: list[int]
) -> Iterator[int]:
    """Of results of one identity that nobody has claimed by row, the errors beside another of that row."""
    errors = [index for index in same if scan.statuses[index] == ERROR_CODE]
    if not errors:
        return
    answered = {scan.rows[index] for index in same if scan.statuses[index] != ERROR_CODE}
    for index in errors:
        key = scan.rows[index]
        ordinal = asked.place(key)
        # Whoever asks this row has claimed the best there is of it, in this file.
        if key in answered or (
            ordinal >= 0
            and asked.ids[ordinal] == scan.ids[index]
            and asked.files[ordinal] == number
            and scan.statuses[results[ordinal]] != ERROR_CODE
        ):
            yield index
