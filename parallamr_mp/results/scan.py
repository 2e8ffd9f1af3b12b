"""Reading a results file from its beginning: where it stops being whole, and what is done in it.

A record is complete when its line feed is there and its quotes are closed. A
run that is killed in the middle of a write leaves at most one incomplete
record, at the end; everything before it was written by whole records. One pass,
one record in memory at a time.
"""

from __future__ import annotations

import csv
import itertools
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from parallamr_mp.errors import BadInput, ColumnsMismatch
from parallamr_mp.models import RESULT_COLUMNS, Status
from parallamr_mp.results.layout import Layout, layout_of
from parallamr_mp.results.records import complete_records, decode_record, encode_record, unguarded

_BOM = b"\xef\xbb\xbf"

STATUSES = tuple(Status)
_STATUS_CODES = {status.value: code for code, status in enumerate(STATUSES)}
ERROR_CODE = STATUSES.index(Status.ERROR)
"""An error's place in `Scan.statuses`."""
REPEAT_BITS = 24
REPEAT_MASK = (1 << REPEAT_BITS) - 1
"""The part of a `row_key` that is the repeat index; the rest is the row number."""


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
    return row_number << REPEAT_BITS | repeat


def row_of(key: int) -> tuple[int, int]:
    """Row number and repeat index of a `row_key`."""
    return key >> REPEAT_BITS, key & REPEAT_MASK


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
        try:
            _note(scan, scan.layout, records)
        except (ValueError, OverflowError, csv.Error) as error:
            number = len(scan.ids) + 1
            _decode(path, number, _record(path, number))
            raise BadInput(
                f"not a record of this results file: {error}",
                file=path,
                row=number,
                hint="The file was changed by another program. Mend it, or choose another -o.",
            ) from None
    return scan


def _note(scan: Scan, layout: Layout, records: Iterator[tuple[int, bytes]]) -> None:
    """Notes all records. Raises ValueError, OverflowError or csv.Error at the first that is none."""
    places = dict(zip(RESULT_COLUMNS, layout.at[layout.inputs :], strict=True))
    status_at = places["status"] or 0
    id_at, row_at, repeat_at = places["experiment_id"], places["row_number"], places["repeat"]
    shared, width = layout.shared, layout.width
    # The usual case, a million times: a slice is faster than a cell at a time.
    together = slice(0, len(shared)) if shared == tuple(range(len(shared))) else None

    def texts() -> Iterator[str]:
        for end, raw in records:
            if raw.endswith(b"\r\r\n"):
                raise ValueError("expected one record")  # and an empty one behind it, which the reader skips
            scan.end = end
            yield raw.decode("utf-8")

    # One reader for all of them, as making one costs as much as its work. To it a record is a line.
    reader = csv.reader(texts(), strict=True)
    for number, cells in enumerate(reader, start=1):
        if reader.line_num != number:
            raise ValueError("a quote in a cell that is not quoted")
        if len(cells) != width:
            raise ValueError(f"{len(cells)} cells where the header has {width}")
        identity = key = repeat = 0
        if id_at is not None and row_at is not None and repeat_at is not None:
            named, row, repeated = cells[id_at], cells[row_at], cells[repeat_at]
            # Of the original's rows, those of no experiment have none of these to this day.
            if named or row or repeated:
                repeat = int(repeated)
                identity, key = int(named, 16), int(row) << REPEAT_BITS | repeat  # as `row_key`
        values = cells[together] if together is not None else [cells[place] for place in shared]
        scan.rows.append(key)
        scan.cells.append(cells_key(values, repeat))
        scan.statuses.append(_STATUS_CODES.get(cells[status_at], len(STATUSES)))
        scan.ids.append(identity)  # last: their number says which record is at fault


def _record(path: str, number: int) -> bytes:
    """A complete record by its number; 0 is the header."""
    with open(path, "rb") as stream:
        return next((raw for _, raw in itertools.islice(complete_records(stream), number, None)), b"")


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
