"""Changing a whole results file: into a new file beside it, which then takes its place in one step.

Whoever looks at the file at any moment sees the old one or the new one, whole.
One record in memory at a time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

from parallamr_mp.errors import OutputError
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.extract import extract_json
from parallamr_mp.results.flatten import ColumnNames, exceeds, flatten
from parallamr_mp.results.records import complete_records, decode_record, encode_record, guard, unguarded
from parallamr_mp.results.scan import Scan, row_of

MAX_DEPTH = 6
MAX_ITEMS = 50
MAX_COLUMNS = 1000
_GO_ON_EVERY = 100
_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def replacing(path: str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends well and vanishes when it does not.

    `durable`: it is on the disk before it takes the place of the old one.
    Raises `OutputError`.
    """
    real = os.path.realpath(path)
    folder, name = os.path.split(real)
    mark = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    prefix, suffix = f".{name[:40]}-{mark}.", ".tmp"
    for stale in glob.glob(f"{glob.escape(os.path.join(folder, prefix))}*{suffix}"):
        # Of a run that was killed while it rewrote: whoever rewrites holds the lock.
        with contextlib.suppress(OSError):
            os.unlink(stale)
    if os.path.lexists(real) and not os.path.isfile(real):
        raise OutputError(f"{path}: is no regular file, and is not replaced by one")
    try:
        # 40 characters are at most 160 bytes: with what is added, the name fits where the old one just did.
        fd, temporary = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
    except OSError as error:
        raise OutputError(f"{path}: no new file can be made beside it: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as stream:
            os.chmod(temporary, _mode_of(real))
            yield stream
            stream.flush()
            if durable:
                os.fsync(fd)
        os.replace(temporary, real)
    except OSError as error:
        raise OutputError(f"{path}: cannot be rewritten: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _mode_of(path: str) -> int:
    """Permissions of the file, or those that a new one gets from whoever runs this."""
    try:
        return os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def drop_records(path: str, drop: Callable[[int], bool]) -> tuple[int, int]:
    """Takes records out of a results file; `drop` is asked by their index, 0 for the first below the header.

    A torn last record goes as well. Returns how many were dropped, and the new
    length in bytes. Raises `OutputError`, leaving the file as it was.
    """
    dropped = length = 0
    with open(path, "rb") as old, replacing(path) as new:
        for number, (_, record) in enumerate(complete_records(old), start=-1):
            if number >= 0 and drop(number):
                dropped += 1
            else:
                new.write(record)
                length += len(record)
    return dropped, length


def relayout(
    path: str,
    scan: Scan,
    columns: Sequence[str],
    fill: Callable[[int], Mapping[str, str] | None],
    *,
    excel_safe: bool = False,
) -> None:
    """Brings a results file into the layout of `columns`; those of `--flatten` stay behind them.

    `scan` says what identity, row and repeat each record bears from now on.
    `fill` gives the input's cells of the experiment of a record, by its index,
    for those columns that the file lacks; None: there is no such experiment,
    they stay empty; `excel_safe` guards them. A torn last record goes. Raises `OutputError`, leaving the
    file as it was.
    """
    layout = scan.layout
    if layout is None:
        raise ValueError(f"{path}: there is no header")
    lacks = [(number, columns[number]) for number in layout.missing]
    first = layout.inputs
    own = {name: first + RESULT_COLUMNS.index(name) for name in ("row_number", "repeat", "experiment_id")}
    with open(path, "rb") as old, replacing(path) as new:
        records = complete_records(old)
        next(records, None)
        new.write(encode_record((*columns, *(scan.header[place] for place in layout.extra))))
        for index, (_, record) in enumerate(records):
            found = decode_record(record)
            cells = ["" if place is None else found[place] for place in layout.at]
            if lacks and (filled := fill(index)) is not None:
                for number, name in lacks:
                    cells[number] = guard(filled[name]) if excel_safe else filled[name]
            if scan.ids[index]:
                cells[own["experiment_id"]] = f"{scan.ids[index]:016x}"
                row_number, repeat = row_of(scan.rows[index])
                cells[own["row_number"]], cells[own["repeat"]] = str(row_number), str(repeat)
            new.write(encode_record((*cells, *(found[place] for place in layout.extra))))


@dataclass(frozen=True, slots=True)
class Flattened:
    """What `--flatten` made of a file."""

    columns: int
    rows: int
    """Rows whose answer held JSON."""
    folded: int
    """Of these, rows with JSON so deep or long that a part of it stays together as JSON text."""
    dropped: int
    """Values left out because of the cap on columns; they are in `output`."""


def flatten_results(
    path: str,
    base: tuple[str, ...],
    go_on: Callable[[], None] = lambda: None,
    *,
    excel_safe: bool = False,
) -> Flattened:
    """Gives every key of the JSON in the answers a column of its own, behind the columns `base`.

    Reads the file twice: once for the names, once for the values. Columns of an
    earlier flattening are made anew from `output`, so that it can be repeated
    after more rows have come. `go_on` is called now and then, and may raise to
    end it. `excel_safe` guards all cells, also of rows written without it, and
    the names of the new columns. Raises `OutputError`. Whatever is raised, the
    file is as it was.
    """
    output_at = len(base) - len(RESULT_COLUMNS) + RESULT_COLUMNS.index("output")
    names = ColumnNames(base, max_columns=MAX_COLUMNS, excel_safe=excel_safe)
    rows = folded = 0
    for cells in _rows(path, go_on):
        value = extract_json(unguarded(cells[output_at]))
        if value is not None:
            rows += 1
            folded += exceeds(value, max_depth=MAX_DEPTH, max_items=MAX_ITEMS)
            for parts, _ in flatten(value, max_depth=MAX_DEPTH, max_items=MAX_ITEMS):
                names.name(parts)
    dropped = names.dropped
    columns = tuple(names.columns)
    place = {name: index for index, name in enumerate(columns)}

    with replacing(path) as stream:
        stream.write(encode_record((*base, *columns)))
        for cells in _rows(path, go_on):
            extra = [""] * len(columns)
            value = extract_json(unguarded(cells[output_at]))
            values = flatten(value, max_depth=MAX_DEPTH, max_items=MAX_ITEMS) if value is not None else ()
            for parts, text in values:
                name = names.name(parts)
                if name is not None:
                    extra[place[name]] = text
            stream.write(encode_record((*cells[: len(base)], *extra), excel_safe=excel_safe))
    return Flattened(len(columns), rows, folded, dropped)


def _rows(path: str, go_on: Callable[[], None]) -> Iterator[list[str]]:
    with open(path, "rb") as stream:
        records = complete_records(stream)
        next(records, None)
        for number, (_, record) in enumerate(records):
            if number % _GO_ON_EVERY == 0:
                go_on()
            yield decode_record(record)
