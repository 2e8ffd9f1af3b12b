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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

from parallamr_mp.errors import BadInput, ColumnsMismatch
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.records import decode_record, encode_record

_BOM = b"\xef\xbb\xbf"


def complete_records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each complete record, with the offset of its end. Stops before a torn one."""
    end, quotes = 0, 0
    parts: list[bytes] = []
    for line in stream:
        quotes += line.count(b'"')
        parts.append(line)
        # Inside a quoted cell the number of quotes seen so far is odd: quotes
        # within it are doubled, and a line feed never stands between the two.
        if quotes % 2 == 0 and line.endswith(b"\n"):
            record = parts[0] if len(parts) == 1 else b"".join(parts)
            end += len(record)
            yield end, record
            parts, quotes = [], 0


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
    errors: bytearray = field(default_factory=bytearray)
    """1 where the row's status is `error`."""

    @property
    def torn(self) -> int:
        """Bytes behind the last complete record."""
        return self.size - self.end


def row_key(row_number: int, repeat: int) -> int:
    """Row number and repeat index as one number."""
    return row_number << 24 | repeat


def cells_key(values: Sequence[str], repeat: int) -> int:
    """What tells whether two rows have the same input cells, within this process."""
    return hash((repeat, *values))


def extra_columns(header: Sequence[str], expected: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of `header` behind `expected`, or None when it does not begin with `expected`."""
    if tuple(header[: len(expected)]) != tuple(expected):
        return None
    return tuple(header[len(expected) :])


def scan_results(path: str, expected: Sequence[str]) -> Scan:
    """Reads a results file that a run with the columns `expected` wants to go on with.

    Columns behind the expected ones are those of `--flatten`. Raises
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
        _check_columns(path, scan.header, expected)
        width = len(scan.header)
        offset = len(expected) - len(RESULT_COLUMNS)
        id_at = offset + RESULT_COLUMNS.index("experiment_id")
        row_at = offset + RESULT_COLUMNS.index("row_number")
        repeat_at = offset + RESULT_COLUMNS.index("repeat")
        status_at = offset + RESULT_COLUMNS.index("status")
        for number, (end, raw) in enumerate(records, start=1):
            cells = _decode(path, number, raw)
            try:
                if len(cells) != width:
                    _fail_width(len(cells), width)
                scan.ids.append(int(cells[id_at], 16))
                repeat = int(cells[repeat_at])
                scan.rows.append(row_key(int(cells[row_at]), repeat))
                scan.cells.append(cells_key(cells[:offset], repeat))
            except (ValueError, OverflowError) as error:
                raise BadInput(
                    f"not a record of this results file: {error}",
                    file=path,
                    row=number,
                    hint="The file was changed by another program. Mend it, or choose another -o.",
                ) from None
            scan.errors.append(cells[status_at] == "error")
            scan.end = end
    return scan


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


def _check_columns(path: str, header: Sequence[str], expected: Sequence[str]) -> None:
    if extra_columns(header, expected) is not None:
        return
    missing = [name for name in expected if name not in header]
    foreign = [name for name in header if name not in expected]
    if not missing and not foreign:
        detail = "they stand in another order"
    else:
        detail = "; ".join(
            f"{word}: {', '.join(names)}"
            for word, names in (("missing", missing), ("not expected", foreign))
            if names
        )
    raise ColumnsMismatch(
        f"its columns do not fit the rows to be added ({detail})",
        file=path,
        hint="Resume with the experiments file it was made from, choose another -o, or give --overwrite.",
    )


class Finished:
    """The finished rows of one results file, to be claimed one by one: a multiset of identities.

    Input rows that are alike share an identity; each claims one result. A
    result with the same row number is claimed first (`claim_same_row` for all
    rows, then `claim_any`), so that a resumed run answers just the row numbers
    that are missing.
    """

    def __init__(self, scan: Scan) -> None:
        self._ids, self._rows, self._errors = scan.ids, scan.rows, scan.errors
        ids, rows = scan.ids, scan.rows
        # Of an error and a result of one row, as a killed run may leave them, the result comes first.
        errors = scan.errors
        self._order = array(
            "Q", sorted(range(len(ids)), key=lambda i: (ids[i] << 64 | rows[i]) << 1 | errors[i])
        )
        self._claimed = bytearray(len(ids))
        self._next_free: dict[int, int] = {}

    def claim_same_row(self, identity: int, row: int) -> int | None:
        """Index in the file of an unclaimed result of this identity and `row_key`."""
        wanted = identity << 64 | row
        at = bisect_left(self._order, wanted, key=lambda i: self._ids[i] << 64 | self._rows[i])
        while at < len(self._order):
            index = self._order[at]
            if self._ids[index] != identity or self._rows[index] != row:
                return None
            if not self._claimed[index]:
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
            if not self._claimed[index]:
                self._claimed[index] = 1
                # Without this note a table of equal rows would cost a walk over
                # all of them for each.
                self._next_free[identity] = at
                return index
        return None

    def is_error(self, index: int) -> bool:
        return bool(self._errors[index])

    def unclaimed(self) -> Iterator[int]:
        """Indexes in the file of results that no row of this run has claimed."""
        return (index for index, claimed in enumerate(self._claimed) if not claimed)
