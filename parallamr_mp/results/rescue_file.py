"""Where answers go that cannot get into their results file: beside it, or where programs keep their state.

    orphaned worker  ─┐
                      ├─► RescueFile ─► PLACE + pid + .csv ─► taken in by `--resume`
    parent of a run  ─┘
    whose output takes no more rows

Each process has a file of its own, so that nobody waits for anybody.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from collections.abc import Iterable, Sequence

from parallamr_mp.errors import OutputError, ParallamrError
from parallamr_mp.results.writer import IncrementalCSVWriter


class RescueFile:
    """Keeps rows in the first of `places` that takes them. A place is how the file's path begins.

    Used under the caller's lock. A file exists only once there is a row in it.
    """

    def __init__(self, places: Sequence[str], columns: Sequence[str]) -> None:
        self._places = list(places)
        self._columns = tuple(columns)
        self._writer: IncrementalCSVWriter | None = None
        self._made = False
        """The file in use was not there before."""
        self.paths: list[str] = []
        """The files that hold rows: more than one when a place has filled up."""

    def save(self, record: bytes) -> None:
        """Hands one encoded record to the system. Raises `OutputError` when no place takes it."""
        while True:
            writer = self._writer or self._open()
            try:
                writer.write_record(record)
            except OutputError:
                self._give_up(writer)
            else:
                if writer.path is not None and writer.path not in self.paths:
                    self.paths.append(writer.path)
                return

    def sync(self) -> None:
        """Puts what was saved on the disk. Raises `OutputError`."""
        if self._writer is not None:
            self._writer.sync()

    def _open(self) -> IncrementalCSVWriter:
        while self._places:
            path = f"{self._places[0]}{os.getpid()}.csv"
            self._made = False  # or what lies in wait here would be removed as if it were ours
            try:
                self._made = _claim(path)
                self._writer = IncrementalCSVWriter(path, self._columns)
            except (OSError, ParallamrError):
                if self._made:
                    _remove(path)
                self._places.pop(0)
            else:
                return self._writer
        raise OutputError("no place takes the answers that are left")

    def _give_up(self, writer: IncrementalCSVWriter) -> None:
        self.close()
        self._places.pop(0)
        if self._made and writer.path is not None and writer.path not in self.paths:
            _remove(writer.path)  # not even its first row fitted, and a header alone is of no use

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OutputError):
                writer.close()


def _claim(path: str) -> bool:
    """Makes the file, for its owner alone to read; False: it was there. Raises OSError if it is not ours.

    The temporary folder is everybody's: a file or link with this name may be a
    trap. One of our own is of an earlier process with the same number.
    """
    if os.path.dirname(path) == state_folder():
        os.makedirs(state_folder(), mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not _is_ours(path):
            raise
        return False
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_ours(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def state_folder() -> str:
    """Where programs keep what outlasts them (XDG Base Directory Specification): a folder of our own."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser(os.path.join("~", ".local", "state"))
    return os.path.join(home, "parallamr-mp")


def rescue_files(places: Iterable[str]) -> list[str]:
    """The rescue files that wait to be taken in: this user's own, by how their paths begin."""
    return sorted(path for path in _found(places) if _is_ours_still(path))


def rescue_files_of_others(places: Iterable[str]) -> list[str]:
    """Those that another user has saved: they have to be told of, for they cannot be taken in unasked."""
    return sorted(path for path in _found(places) if os.path.isfile(path) and not _is_ours_still(path))


def _found(places: Iterable[str]) -> set[str]:
    return {path for place in places if place for path in glob.glob(f"{glob.escape(place)}*.csv")}


def _is_ours_still(path: str) -> bool:
    try:
        return _is_ours(path)
    except FileNotFoundError:  # another run has just taken it in
        return False
