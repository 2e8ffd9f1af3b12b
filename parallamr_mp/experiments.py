"""The table of experiments: CSV, JSON Lines or standard input, read row by row.

A table is read twice: once to check every row before anything is sent, and
once to run it. Neither pass keeps rows. Standard input and pipes can be read only once,
so they are spooled to an unnamed temporary file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

import orjson

from parallamr_mp.errors import BadInput
from parallamr_mp.models import RESERVED_PARAMS, RESULT_COLUMNS
from parallamr_mp.text import nearest, one_line

REQUIRED_COLUMNS = ("provider", "model")
PARAM_PREFIX = "param:"
STDIN = "-"
_LONE = re.compile("[\ud800-\udfff]")
_LONG_NUMBER = re.compile(r"\d{19}")
_SPOOL_IN_MEMORY = 8 << 20
MAX_PARAM_DEPTH = 200
"""Levels of a parameter's value: what is written as JSON can hold few more around it."""

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole document


class Experiment(NamedTuple):
    """One row of the table, as text. `values` are in the order of the table's columns.

    A tuple, as one is made for each row in each pass.
    """

    row_number: int
    """1 for the first row below the header."""
    provider: str
    model: str
    values: tuple[str, ...]


class Table:
    """The experiments file. `columns` is known after `check`; `rows` may be iterated any number of times.

    `name` is the file's path, or `-` for standard input. Raises `BadInput`,
    naming file, row, line and column, for anything that is not a table of
    experiments in UTF-8.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = "standard input" if name == STDIN else name
        self._spool: BinaryIO | None = None
        self.json_lines = name.lower().endswith((".jsonl", ".ndjson"))
        if name != STDIN and os.path.isdir(name):
            raise BadInput("is a folder; expected a CSV or JSON Lines file", file=name)
        if name == STDIN or _is_stream(name):
            self._spool = _spool(name)
            start = self._spool.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            self.json_lines = self.json_lines or start.startswith(b"{")
        try:
            self.columns: tuple[str, ...] = self._json_columns() if self.json_lines else self._csv_columns()
            self._check_columns()
        except BaseException:
            self.close()
            raise
        self._provider_at = self.columns.index("provider")
        self._model_at = self.columns.index("model")
        self.param_columns = tuple(
            (index, name.removeprefix(PARAM_PREFIX))
            for index, name in enumerate(self.columns)
            if name.startswith(PARAM_PREFIX)
        )

    # ── rows ─────────────────────────────────────────────────────────────────

    def rows(self) -> Iterator[Experiment]:
        """Every experiment in order. Raises `BadInput` at the first row that is none."""
        provider_at, model_at = self._provider_at, self._model_at
        make = tuple.__new__  # a named tuple's own constructor is a Python function
        cells = self._json_rows() if self.json_lines else self._csv_rows()
        for number, (line, values) in enumerate(cells, start=1):
            provider, model = values[provider_at].strip(), values[model_at].strip()
            if not provider or not model:
                self._fail(
                    "is empty",
                    row=number,
                    line=line,
                    column="provider" if not provider else "model",
                    hint="Every row needs a provider and a model.",
                )
            yield make(Experiment, (number, provider, model, values))

    def variables(self, experiment: Experiment) -> dict[str, str]:
        """The row's template variables by column name."""
        return dict(zip(self.columns, experiment.values, strict=True))

    def params(self, experiment: Experiment) -> dict[str, Any]:
        """The row's body parameters: its `param:NAME` cells that are not empty, as typed values."""
        params = {}
        for index, name in self.param_columns:
            text = experiment.values[index].strip()
            if text:
                try:
                    params[name] = parse_param(text)
                except ValueError as error:
                    malformed = isinstance(error, json.JSONDecodeError)
                    self._fail(
                        f"{'is not JSON' if malformed else 'cannot be sent'}: {error}",
                        row=experiment.row_number,
                        column=self.columns[index],
                        hint='Expected a JSON value such as 0.7, true, "text" or {"type": "json_object"}.',
                    )
        return params

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    # ── CSV ──────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _text(self) -> Iterator[io.TextIOBase]:
        """The input as text from its beginning; decoding errors become `BadInput`."""
        try:
            if self._spool is not None:
                self._spool.seek(0)
                raw: Any = io.BufferedReader(_Borrowed(self._spool))
            else:
                raw = open(self.name, "rb")  # noqa: SIM115  - closed by the with below
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror}", file=self.label) from error
        with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
            try:
                yield text
            except UnicodeDecodeError:
                self._fail_decoding()

    def _csv_columns(self) -> tuple[str, ...]:
        with self._text() as text:
            try:
                header = next(filter(None, csv.reader(text, strict=True)), None)
            except csv.Error as error:
                self._fail(f"is not CSV: {error}", line=1)
        if not header:
            self._fail("is empty", hint="Expected a header line with the columns provider and model.")
        return tuple(name.strip() for name in header)

    def _csv_rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        width = len(self.columns)
        with self._text() as text:
            reader = csv.reader(text, strict=True)
            number = 0
            try:
                # Blank lines are no rows, above the header neither; below it, nor are lines of commas,
                # as spreadsheets leave them.
                next(filter(None, reader), None)
                for cells in filter(any, reader):
                    number += 1
                    if len(cells) != width:
                        self._fail(
                            f"{len(cells)} fields where the header has {width} columns",
                            row=number,
                            line=reader.line_num,
                            hint="A field that contains a comma, a quote or a line break must be quoted.",
                        )
                    yield reader.line_num, tuple(cells)
            except csv.Error as error:
                self._fail(f"is not CSV: {error}", row=number + 1, line=reader.line_num)

    # ── JSON Lines ───────────────────────────────────────────────────────────

    def _json_objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._text() as text:
            row = 0
            for line, content in enumerate(text, start=1):
                if not content.strip():
                    continue
                row += 1
                try:
                    # Not orjson: it would make a float of an integer beyond 64 bits.
                    value = json.loads(content)
                except ValueError as error:
                    self._fail(f"is not JSON: {error}", row=row, line=line)
                if not isinstance(value, dict):
                    self._fail("expected one JSON object a line", row=row, line=line)
                yield line, value

    def _json_columns(self) -> tuple[str, ...]:
        # The first pass over the file: keys may turn up in any line.
        names: dict[str, None] = {}
        for _, value in self._json_objects():
            names.update(dict.fromkeys(value))
        if not names:
            self._fail("is empty", hint="Expected one JSON object a line, with the keys provider and model.")
        return tuple(names)

    def _json_rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        columns = self.columns
        for line, value in self._json_objects():
            yield line, tuple(_json_cell(name, value.get(name)) for name in columns)

    # ── errors ───────────────────────────────────────────────────────────────

    def _check_columns(self) -> None:
        for index, name in enumerate(self.columns, start=1):
            if not name:
                self._fail(f"column {index} of the header has no name", line=1)
            if name == PARAM_PREFIX:
                self._fail("lacks the parameter's name", line=1, column=name, hint="Write param:NAME.")
            prefix, colon, parameter = name.partition(":")
            if colon and f"{prefix}:" != PARAM_PREFIX and nearest(prefix.strip().lower(), ["param"], 0.8):
                # As a variable that no text uses it would say nothing, and change no request.
                hint = f"Did you mean {PARAM_PREFIX}{parameter}? Else rename the column."
                self._fail("looks like a parameter and is none", line=1, column=name, hint=hint)
            if name in RESULT_COLUMNS:
                self._fail(
                    "is a column of the results and cannot be one of the experiments",
                    line=1,
                    column=name,
                    hint="Rename the column.",
                )
            if name.removeprefix(PARAM_PREFIX) in RESERVED_PARAMS and name.startswith(PARAM_PREFIX):
                self._fail("cannot be set by a parameter", line=1, column=name, hint="Remove the column.")
        seen = set()
        for name in self.columns:
            if name in seen:
                self._fail("is there twice", line=1, column=name, hint="Column names must be unique.")
            seen.add(name)
        missing = [name for name in REQUIRED_COLUMNS if name not in self.columns]
        if missing:
            hint = f"Found: {one_line(', '.join(self.columns), 200)}."
            if self.columns[0].startswith("PK\x03\x04"):
                hint = "It looks like an Excel workbook. Save it as CSV (UTF-8)."
            elif any("\0" in name for name in self.columns):
                hint = "It looks like UTF-16. Save it as UTF-8."
            elif self.columns[0].lstrip()[:1] in ("{", "["):
                hint = "It looks like JSON. Expected CSV, or one JSON object a line in a file named .jsonl."
            elif len(self.columns) == 1 and any(mark in self.columns[0] for mark in ";\t|"):
                hint += " Expected commas between columns."
            elif all(name in {column.lower() for column in self.columns} for name in missing):
                hint += " Column names are in lower case."
            self._fail(f"missing column{'s' * (len(missing) > 1)}: {', '.join(missing)}", line=1, hint=hint)

    def _fail(self, what: str, **where: Any) -> NoReturn:
        raise BadInput(what, file=self.label, **where)

    def _fail_decoding(self) -> NoReturn:
        """Finds the line that is not UTF-8: the decoder works ahead of the row at hand."""
        stream = self._spool if self._spool is not None else open(self.name, "rb")  # noqa: SIM115
        try:
            stream.seek(0)
            start = stream.read(2)
            hint = "Save the file as UTF-8."
            if start in (b"\xff\xfe", b"\xfe\xff"):
                self._fail("is UTF-16, not UTF-8", hint=hint)
            stream.seek(0)
            for line, content in enumerate(stream, start=1):
                try:
                    content.decode("utf-8")
                except UnicodeDecodeError as error:
                    self._fail(f"is not UTF-8: {error.reason}", line=line, hint=hint)
            self._fail("is not UTF-8", hint=hint)
        finally:
            if stream is not self._spool:
                stream.close()


class _Borrowed(io.RawIOBase):
    """Reads from a stream without closing it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_stream(path: str) -> bool:
    """Whether a second opening would not begin at the start again: a pipe, such as a shell's `<(…)`."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False  # opening it will tell why


def _spool(name: str) -> BinaryIO:
    if name == STDIN and sys.stdin is None:
        raise BadInput("is closed", file="standard input")
    spool = tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY)  # noqa: SIM115  - closed by the table
    if name == STDIN:
        shutil.copyfileobj(sys.stdin.buffer, spool)
    else:
        try:
            with open(name, "rb") as stream:
                shutil.copyfileobj(stream, spool)
        except OSError as error:
            spool.close()
            raise BadInput(f"cannot be read: {error.strerror}", file=name) from error
    spool.seek(0)
    return spool  # type: ignore[return-value]


def _json_cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and not name.startswith(PARAM_PREFIX):
        return _LONE.sub("\ufffd", value)  # UTF-8 has no place for half a pair
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_param(text: str) -> Any:
    """A body parameter's value: JSON, or a bare word taken as a string (`high`).

    Raises ValueError for text that starts like JSON and is none, and for what
    would not reach the server as it is written here.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        if text[:1] in '{["':
            raise
        return text
    check_sendable(value, text)
    return value


def check_sendable(value: Any, text: str) -> None:
    """Raises ValueError where `value`, as read from `text`, is not what the text says or fits in no body."""
    if _depth(value) > MAX_PARAM_DEPTH:
        raise ValueError(f"nested deeper than {MAX_PARAM_DEPTH} levels")
    if _LONG_NUMBER.search(text):
        # It would have become a float: another number, and no whole one.
        json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{one_line(digits, 40)} is beyond 64 bits")
    return int(digits)


def _depth(value: Any) -> int:
    """Levels of arrays and objects, counted up to one more than are allowed."""
    depth, level = 0, [value]
    while depth <= MAX_PARAM_DEPTH and (level := [each for each in level if isinstance(each, dict | list)]):
        depth += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def in_range(rows: Iterator[Experiment], first: int, last: int | None) -> Iterator[Experiment]:
    """Rows number `first` to `last`, both included."""
    return itertools.islice(rows, first - 1, last)
