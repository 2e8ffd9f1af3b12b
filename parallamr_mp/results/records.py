"""What a results file is made of: columns, and records as bytes.

A record is one CSV row, UTF-8, quoted where RFC 4180 asks for it, ended by a
single line feed. The cells' text is kept byte for byte: a carriage return or a
line feed of a model stays what it was, inside quotes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from parallamr_mp.models import RESULT_COLUMNS

# Python's csv module (before 3.13) leaves a lone carriage return unquoted where
# the line terminator is a line feed, and then cannot read it back.
_MUST_QUOTE = re.compile(r'[",\r\n\0]')  # besides, blanks at a cell's ends

_FORMULA = frozenset("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")
"""What a cell begins with that a spreadsheet may run; the last four are full-width forms of the first.

Source: OWASP's "CSV Injection", and its ASVS 5.0, 1.2.10.
"""
_GUARDED = frozenset("'" + sign for sign in _FORMULA)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)

csv.field_size_limit(2**31 - 1)  # an answer may be longer than the csv module's 128 KiB


def encode_cell(value: object) -> str:
    """One cell as CSV text: None is empty, everything else is its `str`, quoted if need be."""
    text = "" if value is None else str(value)
    quoted = _MUST_QUOTE.search(text) or text.strip() != text
    return '"' + text.replace('"', '""') + '"' if quoted else text


def guard(text: str) -> str:
    """The cell as text for a spreadsheet: with an apostrophe before what it would run as a formula.

    Plain numbers, signs and exponents included, stay. Holds for who reads the
    file as it is meant: told to split cells at semicolons, say, a spreadsheet
    finds other cells, which may begin with anything.
    """
    return "'" + text if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The cell without a guard's apostrophe. Of a text that had one of its own, it goes as well:

    to compare two cells, one guarded and one not, take it from both.
    """
    return text[1:] if text[:2] in _GUARDED else text


def encode_record(cells: Iterable[object], *, excel_safe: bool = False) -> bytes:
    """One record, line feed included. A lone surrogate, which UTF-8 cannot hold, becomes `?`.

    `excel_safe`: every cell goes through `guard`.
    """
    if excel_safe:
        cells = [None if cell is None else guard(str(cell)) for cell in cells]
    must_quote = _MUST_QUOTE.search
    # As `encode_cell` has it; a call for each cell would be half of what a row costs.
    line = ",".join(
        [
            str(cell)
            if type(cell) is int
            else cell
            if type(cell) is str and (cell.isalnum() or (not must_quote(cell) and cell.strip() == cell))
            else encode_cell(cell)
            if cell is not None
            else ""
            for cell in cells
        ]
    )
    # A record of one empty cell would be an empty line, which readers skip.
    return ((line or '""') + "\n").encode("utf-8", "replace")


def decode_record(record: bytes) -> list[str]:
    """The cells of one complete record. Raises ValueError (UnicodeDecodeError, too) when it is none."""
    try:
        rows = list(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), strict=True))
    except csv.Error as error:  # not a ValueError
        raise ValueError(str(error)) from None
    if len(rows) != 1:
        raise ValueError(f"expected one record, found {len(rows)}")
    return rows[0]


def columns_for(input_columns: Sequence[str]) -> tuple[str, ...]:
    """The header of the results of an input with these columns."""
    return (*input_columns, *RESULT_COLUMNS)


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
