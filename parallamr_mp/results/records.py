"""What a results file is made of: columns, and records as bytes.

A record is one CSV row, UTF-8, quoted where RFC 4180 asks for it, ended by a
single line feed. The cells' text is kept byte for byte: a carriage return or a
line feed of a model stays what it was, inside quotes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from parallamr_mp.models import RESULT_COLUMNS

# Python's csv module (before 3.13) leaves a lone carriage return unquoted where
# the line terminator is a line feed, and then cannot read it back.
_MUST_QUOTE = re.compile(r'[",\r\n\0]|^\s|\s$')

csv.field_size_limit(2**31 - 1)  # an answer may be longer than the csv module's 128 KiB


def encode_cell(value: object) -> str:
    """One cell as CSV text: None is empty, everything else is its `str`, quoted if need be."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _MUST_QUOTE.search(text) else text


def encode_record(cells: Iterable[object]) -> bytes:
    """One record, line feed included. A lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    line = ",".join([encode_cell(cell) for cell in cells])
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
