"""Appending whole records to one results file.

    any thread ──write_result/write_record──► lock ──► os.write until done ──► file
                                                       └─ on any failure: ftruncate to the last good offset

One raw descriptor, no buffer of ours: what `write_record` has returned for is
with the operating system and outlives this process. The offset of the last
whole record is remembered, so that a disk that fills up in the middle of one
leaves no torn row behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from parallamr_mp.errors import BadInput, ColumnsMismatch, OutputError, WriterClosed
from parallamr_mp.results.records import complete_records, decode_record, encode_record

_STDOUT = 1
READER_SECONDS = 5.0
"""How long a named pipe may be without a reader."""


class IncrementalCSVWriter:
    """Writes result rows to a CSV file as they come, each one whole.

    Safe from many threads of one process; only one process may write a file at
    a time. It is the writer that a sweep's writer process runs.

    `path` None means standard output. Without `columns`, those of an existing
    file or else the keys of the first row count. A file that exists is appended
    to: a torn last record is cut off first, and other columns than `columns`
    raise `ColumnsMismatch`. `resume_at` (bytes) cuts the file there instead of
    looking for the end of its last record; 0 starts it anew.

    Raises `OutputError` when the file cannot be opened or written, and
    `WriterClosed` on a write after `close`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        columns: Sequence[str] | None = None,
        *,
        resume_at: int | None = None,
        header: bytes | None = None,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.columns = tuple(columns) if columns is not None else None
        self._header = header
        self._lock = threading.Lock()
        self._closed = False
        self._dirty = False
        self._fd = _STDOUT if self.path is None else self._open(self.path)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode) and self.path is not None
        self._offset = 0
        try:
            if self._regular:
                self._find_end(resume_at)
            if self._offset == 0 and (self._header is not None or self.columns is not None):
                self._append(self._header_record())
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _open(path: str) -> int:
        try:
            folder = os.path.dirname(path)
            if folder:
                os.makedirs(folder, exist_ok=True)
            close_on_exec = getattr(os, "O_CLOEXEC", 0)
            if _is_fifo(path):
                return _open_fifo(path, close_on_exec)
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | close_on_exec, 0o666)
            except PermissionError:
                # A device may allow writing only.
                return os.open(path, os.O_WRONLY | close_on_exec)
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened for writing: {error.strerror}") from error

    def _find_end(self, resume_at: int | None) -> None:
        size = os.fstat(self._fd).st_size
        if resume_at is None:
            resume_at = self._end_of_last_record()
        if resume_at > size:
            raise OutputError(f"{self.path}: is {size} bytes long where {resume_at} had been written")
        os.ftruncate(self._fd, resume_at)
        os.lseek(self._fd, resume_at, os.SEEK_SET)
        self._offset = resume_at

    def _end_of_last_record(self) -> int:
        end = 0
        with open(os.dup(self._fd), "rb") as stream:
            for offset, record in complete_records(stream):
                if end == 0:
                    self._check_header(record)
                end = offset
            stream.seek(0)
            # A torn header is nothing to keep; anything else without a line end is somebody's file.
            if end == 0 and not self._header_record().startswith(stream.read(1 << 20)):
                raise ColumnsMismatch(
                    "is not a CSV file with a header", file=self.path, hint="Choose another path."
                )
        return end

    def _check_header(self, record: bytes) -> None:
        try:
            found = tuple(decode_record(record.removeprefix(b"\xef\xbb\xbf")))
        except ValueError:
            raise ColumnsMismatch("is not a CSV file", file=self.path, hint="Choose another path.") from None
        if self.columns is None:
            self.columns = found
        if found != self.columns:
            raise ColumnsMismatch(
                f"has the columns {', '.join(found)}; the rows to be added have {', '.join(self.columns)}",
                file=self.path,
                hint="Append rows with the same columns in the same order, or choose another path.",
            )

    def _header_record(self) -> bytes:
        return self._header if self._header is not None else encode_record(self.columns or ())

    def write_result(self, row: Mapping[str, object]) -> None:
        """Appends one row, given by column name. A missing column is left empty.

        Raises `BadInput` for a name that is not a column.
        """
        with self._lock:
            self._check_open()
            if self.columns is None:
                self.columns = tuple(row)
                self._append(encode_record(self.columns))
            foreign = [name for name in row if name not in self.columns]
            if foreign:
                raise BadInput(
                    f"no such column: {', '.join(foreign)}",
                    file=self.path,
                    hint=f"The columns are: {', '.join(self.columns)}.",
                )
            self._append(encode_record([row.get(name) for name in self.columns]))

    def write_record(self, records: bytes) -> int:
        """Appends one or more encoded records, all or nothing; returns the offset behind them in bytes."""
        with self._lock:
            self._check_open()
            self._append(records)
            return self._offset

    def _check_open(self) -> None:
        if self._closed:
            raise WriterClosed(f"{self.path or 'standard output'}: this writer has been closed")

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            if self._regular and os.fstat(self._fd).st_nlink == 0:
                # Writes to a removed file succeed and vanish with the descriptor.
                raise OutputError(f"{self.path}: was removed while results were being written to it")
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            if self._regular:
                # The reserved blocks of a full disk may keep even this from
                # working; then the torn record is cut off by the next run.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._offset)
                    os.lseek(self._fd, self._offset, os.SEEK_SET)
            name = self.path or "standard output"
            raise OutputError(f"{name}: cannot be written: {error.strerror}") from error
        self._offset += len(data)
        self._dirty = True

    @property
    def offset(self) -> int:
        """Bytes of whole records in the file, header included."""
        return self._offset

    def sync(self) -> None:
        """Puts what has been written on the disk. Raises `OutputError`."""
        with self._lock:
            if self._dirty and self._regular and not self._closed:
                try:
                    os.fsync(self._fd)
                except OSError as error:
                    raise OutputError(f"{self.path}: cannot be written to disk: {error.strerror}") from error
                self._check_place()
                self._dirty = False

    def _check_place(self) -> None:
        """Whether the file is still there by its name: renamed or replaced, no resumed run would find it."""
        try:
            found = os.stat(self.path or "")
        except OSError:
            found = None
        if found is None or not os.path.samestat(found, os.fstat(self._fd)):
            raise OutputError(f"{self.path}: was removed or replaced while results were being written to it")

    def close(self) -> None:
        """Syncs and closes the file; does nothing the second time. Standard output stays open."""
        try:
            self.sync()
        finally:
            with self._lock:
                if not self._closed:
                    self._closed = True
                    if self.path is not None:
                        os.close(self._fd)

    @property
    def closed(self) -> bool:
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_fifo(path: str, flags: int) -> int:
    """Opens a named pipe once it has a reader, waiting a while only: a blocking open knows no signal.

    Were it open for reading too, it would take rows for nobody, and never tell
    that its reader has gone.
    """
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | flags)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= deadline:
                raise OutputError(f"{path}: nobody reads this pipe") from None
            time.sleep(0.02)
        else:
            os.set_blocking(fd, True)
            return fd


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
