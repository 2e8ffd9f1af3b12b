"""The memory of a client: of all its processes together, and of each kind of them.

Each page that processes share counts once (PSS), where the system tells; else RSS.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Self

import psutil


class Memory:
    """Peaks of a process and its descendants, looked at every `every` seconds by a thread. Bytes.

    A short peak between two looks is not seen, nor is a process that lives that shortly: one on its way
    to another program shares all memory of its parent for a moment, and would count as much.
    """

    def __init__(self, pid: int, output: Path, every: float) -> None:
        self.peak = 0
        """Of all together."""
        self._pid = pid
        self._output = os.path.realpath(output)
        self._every = every
        self._peaks: dict[int, int] = {}
        self._last: set[int] = {pid}
        """Who was there at the last look."""
        self._writers: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def parent(self) -> int | None:
        """Of the first process alone."""
        return self._peaks.get(self._pid)

    @property
    def writer(self) -> int | None:
        """Of the process that has the output open, if it is not the first."""
        return self._largest(self._writers)

    @property
    def worker(self) -> int | None:
        """Of the largest of all others."""
        return self._largest(self._peaks.keys() - self._writers - {self._pid})

    def _largest(self, pids: set[int]) -> int | None:
        return max((self._peaks[pid] for pid in pids), default=None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        # The first look is early, so that a short run has one; and late enough for it to be under way.
        wait = min(0.1, self._every)
        while not self._over.wait(wait):
            self._look()
            wait = self._every

    def _look(self) -> None:
        there = bytes_of_tree(self._pid)
        now = {pid: size for pid, size in there.items() if pid in self._last}
        self._last = {self._pid, *there}
        self.peak = max(self.peak, sum(now.values()))
        for pid, size in now.items():
            self._peaks[pid] = max(size, self._peaks.get(pid, 0))
        if not self._writers:
            self._writers = {pid for pid in now if pid != self._pid and has_open(pid, self._output)}


def bytes_of_tree(pid: int) -> dict[int, int]:
    """The memory of this process and its descendants right now, by their numbers."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    return {each.pid: size for each in tree if (size := _bytes_of(each))}


def has_open(pid: int, path: str) -> bool:
    """Whether the process has the file at this real path open; False where the system does not tell."""
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                    return True
    return False


def _bytes_of(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except FileNotFoundError:
        pass
    except OSError:  # it has ended meanwhile
        return 0
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
