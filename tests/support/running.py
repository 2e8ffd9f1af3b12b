"""A `parallamr-mp run` in the background, what it has said so far, and what must hold of what it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import psutil

from .cli import SCRIPT, Done, Place, Row, run_cli

WAIT_S = 30.0
"""For a state that has to come; on a machine with much else to do it takes its time."""
TABLE = ("-p", "prompt.txt", "-e", "experiments.csv")


class Run:
    """In a process group of its own. Use it as a context manager, and `end` it."""

    def __init__(self, place: Place, *options: object, **env: str) -> None:
        self.process = subprocess.Popen(
            [str(SCRIPT), *place.job(*options)],
            cwd=place.folder,
            env=place.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        # All its children hold the pipe too: its end of file says that nobody is left.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of the pattern in the lines, once it is there."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._changed:
            assert self._changed.wait_for(found, WAIT_S), (pattern, self.lines)
            match = found()
        assert match is not None
        return match

    def worker(self, slot: int) -> int:
        """The pid of the first process in this slot; needs -v."""
        return int(self.wait_for(rf"worker {slot} is up \(pid (\d+)\)")[1])

    def end(self) -> Done:
        """How it has ended, once the run and all its children are gone."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert not self._reader.is_alive(), "children outlive the run"
        assert [line for line in self.lines if "Traceback" in line or "leaked" in line] == []
        return Done(code, "", "\n".join(self.lines))

    def cpu_seconds(self) -> float:
        """Processor time that the parent has used so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def wait_until(condition: Callable[[], object]) -> None:
    """For what nobody tells of: a file that another process writes."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def entries(place: Place, name: str = "log.jsonl") -> list[dict[str, Any]]:
    """The lines of the attempts log."""
    content = (place.folder / name).read_text()
    assert content.endswith("\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def assert_answered(rows: list[Row], count: int) -> None:
    """Exactly this many rows, each with its own answer."""
    assert [int(row["row_number"]) for row in rows] == list(range(1, count + 1))
    assert [row["output"] for row in rows if row["status"] != "ok"] == []
    assert [row["output"] for row in rows] == [f"echo: id={row['id']}" for row in rows]


def assert_whole(place: Place, *options: object) -> None:
    """`verify`, told the options that belong to what was asked, finds nothing amiss."""
    done = run_cli(place.folder, "verify", "results.csv", *TABLE, *options, env=place.env)
    assert done.code == 0, done


def assert_to_be_resumed(place: Place, missing: int, *options: object) -> None:
    """`verify` says that just this many rows are missing, and that a run can go on."""
    done = run_cli(place.folder, "verify", "results.csv", *TABLE, *options, env=place.env)
    assert done.code == 3, done
    assert f" {missing:,} experiment" in done.stdout, done.stdout
    assert "--resume" in done.stdout
    assert "another prompt" not in done.stdout


def go_on(place: Place, done: Done, **replaced: str) -> Done:
    """Runs what the last line of a run told, as it stands there; words in `replaced` by others."""
    last = done.stderr.splitlines()[-1]
    program, *words = shlex.split(last.partition("To go on: ")[2])
    assert (program, "--resume" in words) == ("parallamr-mp", True), done.stderr
    return run_cli(place.folder, *(replaced.get(word, word) for word in words), env=place.env)
