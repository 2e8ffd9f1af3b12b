"""Reading a results file from its beginning: where it stops being whole, and what is done in it.

A record is complete when its line feed is there and its quotes are closed. A
run that is killed in the middle of a write leaves at most one incomplete
record, at the end; everything before it was written by whole records. One pass,
one record in memory at a time.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

from parallamr_mp.errors import BadInput, ColumnsMismatch
from parallamr_mp.models import RESULT_COLUMNS, Status
from parallamr_mp.results.layout import Layout, layout_of
from parallamr_mp.results.records import complete_records, decode_record, encode_record, unguarded

_BOM = b"\xef\xbb\xbf"

STATUSES = tuple(Status)
_STATUS_CODES = {status.value: code for code, status in enumerate(STATUSES)}


@dataclass(slots=True)
class Scan:
    """What a results file holds. 25 bytes a row stay in memory, whatever the rows hold."""

    path: str
    header: tuple[str, ...] = ()
    """Empty when the file has not even a complete header."""
    end: int = 0
    """Bytes up to the end of the last complete record."""
    size: int = 0
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """`experiment_id` of each row, in the file's order."""
    rows: array[int] = field(default_factory=lambda: array("Q"))
    """`row_key` of each row."""
    cells: array[int] = field(default_factory=lambda: array("q"))
    """`cells_key` of each row."""
    statuses: bytearray = field(default_factory=bytearray)
    """Place in `STATUSES` of each row's status, or one more for a word that is none."""
    layout: Layout | None = None
    """None when the file has not even a complete header."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status; without those whose status is none."""
        return {status.value: self.statuses.count(code) for code, status in enumerate(STATUSES)}

    def status(self, index: int) -> Status | None:
        """The status of a row; None for a word that is none."""
        code = self.statuses[index]
        return STATUSES[code] if code < len(STATUSES) else None

    @property
    def torn(self) -> int:
        """Bytes behind the last complete record."""
        return self.size - self.end


def row_key(row_number: int, repeat: int) -> int:
    """Row number and repeat index as one number."""
    return row_number << 24 | repeat


def row_of(key: int) -> tuple[int, int]:
    """Row number and repeat index of a `row_key`."""
    return key >> 24, key & 0xFFFFFF


def cells_key(values: Sequence[str], repeat: int) -> int:
    """What tells whether two rows have the same input cells, within this process; guarded or not."""
    # Asked of every row there is, few of which hold a guard: one look at all cells tells.
    if "\n'" in "\n" + "\n".join(values):
        values = [unguarded(value) for value in values]
    return hash((repeat, *values))


def scan_results(path: str, expected: Sequence[str]) -> Scan:
    """Reads a results file that a run with the columns `expected` wants to go on with.

    A file that lacks some of the input's columns, or was written by the
    original parallamr, is read as far as it goes: see `Layout`. Raises
    `ColumnsMismatch` for other columns and `BadInput` for a file that is not a
    results file or is damaged before its end.
    """
    scan = Scan(path)
    try:
        stream = open(path, "rb")  # noqa: SIM115  - closed by the with below; the try is for opening only
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=path) from error
    with stream:
        scan.size = os.fstat(stream.fileno()).st_size
        records = complete_records(stream)
        first = next(records, None)
        if first is None:
            _check_torn_header(path, stream, expected)
            return scan
        scan.end, raw = first
        scan.header = tuple(_decode(path, 0, raw.removeprefix(_BOM)))
        scan.layout = layout_of(path, scan.header, expected)
        read = _reader(scan, scan.layout)
        for number, (end, raw) in enumerate(records, start=1):
            cells = _decode(path, number, raw)
            try:
                read(cells)
            except (ValueError, OverflowError) as error:
                raise BadInput(
                    f"not a record of this results file: {error}",
                    file=path,
                    row=number,
                    hint="The file was changed by another program. Mend it, or choose another -o.",
                ) from None
            scan.end = end
    return scan


def _reader(scan: Scan, layout: Layout) -> Callable[[list[str]], None]:
    """What notes the cells of one record. Raises ValueError or OverflowError for what is none."""
    places = dict(zip(RESULT_COLUMNS, layout.at[layout.inputs :], strict=True))
    status_at, id_at = places["status"], places["experiment_id"]
    row_at, repeat_at = places["row_number"], places["repeat"]
    shared, width = layout.shared, layout.width
    # The usual case, a million times: a slice is faster than a cell at a time.
    together = slice(0, len(shared)) if shared == tuple(range(len(shared))) else None

    def read(cells: list[str]) -> None:
        if len(cells) != width:
            _fail_width(len(cells), width)
        identity = key = repeat = 0
        if id_at is not None and row_at is not None and repeat_at is not None:
            named = cells[id_at], cells[row_at], cells[repeat_at]
            # Of the original's rows, those of no experiment have none of these to this day.
            if any(named):
                repeat = int(named[2])
                identity, key = int(named[0], 16), row_key(int(named[1]), repeat)
        values = cells[together] if together is not None else [cells[place] for place in shared]
        scan.ids.append(identity)
        scan.rows.append(key)
        scan.cells.append(cells_key(values, repeat))
        scan.statuses.append(_STATUS_CODES.get(cells[status_at or 0], len(STATUSES)))

    return read


def _fail_width(cells: int, width: int) -> NoReturn:
    raise ValueError(f"{cells} cells where the header has {width}")


def _decode(path: str, number: int, raw: bytes) -> list[str]:
    try:
        return decode_record(raw)
    except ValueError as error:
        raise BadInput(
            f"cannot be read as a results file: {error}",
            file=path,
            row=number,
            hint="Choose another -o, or give --overwrite to replace the file.",
        ) from None


def _check_torn_header(path: str, stream: BinaryIO, expected: Sequence[str]) -> None:
    """A killed run may have left a part of its header; anything else is somebody's file."""
    stream.seek(0)
    wanted = encode_record(expected)[:-1]
    found = stream.read(len(wanted) + 1)
    if not (wanted.startswith(found) or found.startswith(wanted)):
        raise ColumnsMismatch(
            "this is not a results file of this experiments file",
            file=path,
            hint="Choose another -o, or give --overwrite to replace the file.",
        )


class Finished:
    """The finished rows of one results file, to be claimed one by one: a multiset of identities.

    Input rows that are alike share an identity; each claims one result. A
    result with the same row number is claimed first (`claim_same_row` for all
    rows, then `claim_any`), so that a resumed run answers just the row numbers
    that are missing.
    """

    def __init__(self, scan: Scan) -> None:
        self._ids, self._rows = scan.ids, scan.rows
        self._errors = bytes(code == _STATUS_CODES["error"] for code in scan.statuses)
        ids, rows = scan.ids, scan.rows
        # Of an error and a result of one row, as a killed run may leave them, the result comes first.
        errors = self._errors
        self._order = array(
            "Q", sorted(range(len(ids)), key=lambda i: (ids[i] << 64 | rows[i]) << 1 | errors[i])
        )
        self._claimed = bytearray(len(ids))
        self._superseded = bytearray(len(ids))
        """Errors beside a result of the same row, as a run leaves them that was killed while it retried."""
        before = None
        for index in self._order:
            pair = ids[index], rows[index]
            if errors[index] and pair == before:
                self._superseded[index] = 1
            elif not errors[index]:
                before = pair
        self._next_free: dict[int, int] = {}

    def claim_same_row(self, identity: int, row: int) -> int | None:
        """Index in the file of an unclaimed result of this identity and `row_key`."""
        wanted = identity << 64 | row
        at = bisect_left(self._order, wanted, key=lambda i: self._ids[i] << 64 | self._rows[i])
        while at < len(self._order):
            index = self._order[at]
            if self._ids[index] != identity or self._rows[index] != row:
                return None
            if not self._claimed[index] and not self._superseded[index]:
                self._claimed[index] = 1
                return index
            at += 1
        return None

    def claim_any(self, identity: int) -> int | None:
        """Index in the file of an unclaimed result of this identity, whatever its row number."""
        at = self._next_free.get(identity)
        if at is None:
            at = bisect_left(self._order, identity, key=self._ids.__getitem__)
        while at < len(self._order) and self._ids[self._order[at]] == identity:
            index = self._order[at]
            at += 1
            if not self._claimed[index] and not self._superseded[index]:
                self._claimed[index] = 1
                # Without this note a table of equal rows would cost a walk over
                # all of them for each, as would the many that find none.
                self._next_free[identity] = at
                return index
        self._next_free[identity] = at
        return None

    def is_error(self, index: int) -> bool:
        return bool(self._errors[index])

    def is_superseded(self, index: int) -> bool:
        """An error whose row has a result besides: nobody can claim it."""
        return bool(self._superseded[index])

    def unclaimed(self) -> Iterator[int]:
        """Indexes in the file of results that no row of this run has claimed."""
        return (index for index, claimed in enumerate(self._claimed) if not claimed)
