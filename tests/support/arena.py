"""A run that is struck, the folder and server it has, and what must hold of them whatever the blows were.

    Arena ── start ──► Run (parallamr-mp, in a session of its own, with hooks on its PYTHONPATH)
      ├─ check_file   after every step: whole records, each row at most once, with its own answer
      └─ check_all    at the end: every row once, nothing paid for in vain, nothing left behind

Needs Linux: /proc, /dev/shm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from .behaviours import answer, stall
from .cli import SCRIPT, Place, parse_rows
from .server import FakeServer

HOOKS: Final = Path(__file__).parent / "hooks"
WAIT_S = 20.0
"""For a state that has to come; on a machine with much else to do it takes its time."""
GONE_S = 2.5
"""For the last process of a run, once its parent has ended and nothing is held."""
PROMPT = 'id={{id}}\n"second, line"'
"""Answers echo it: with a line break, quotes and a comma, so that a torn record shows."""
MANIFEST = "results.csv.manifest.json"
_ALARMING = re.compile(r"Traceback|leaked|UserWarning|Exception ignored|Fatal Python")

Rule = dict[str, Any]


class Run:
    """`parallamr-mp run -v` in a session of its own, and what it has said so far."""

    def __init__(self, arena: Arena, arguments: Sequence[str], rules: str, shell: str | None) -> None:
        wrapped = [] if shell is None else ["sh", "-c", f'{shell} && exec "$@"', "sh"]
        self._arena = arena
        self.process = subprocess.Popen(
            [*wrapped, str(SCRIPT), *arguments],
            cwd=arena.place.folder,
            env=arena.place.env | {"CHAOS_RULES": rules},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        # All its children hold the pipe too: its end of file says that nobody is left.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The last of `count` matches of the pattern, once so many lines have one."""

        def found() -> re.Match[str] | None:
            matches = [match for line in self.lines if (match := re.search(pattern, line))]
            return matches[count - 1] if len(matches) >= count else None

        with self._changed:
            assert self._changed.wait_for(found, WAIT_S), f"no {pattern!r} in:\n{self.said}"
            match = found()
        assert match is not None
        return match

    def pids(self, role: str, count: int = 1) -> list[int]:
        """The living processes of this run that are workers, or writers, once there are so many."""
        found: list[int] = []

        def there() -> bool:
            found.clear()
            for child in psutil.Process(self.process.pid).children():
                mark = self._arena.marks / f"pid.{child.pid}"
                if child.status() != psutil.STATUS_ZOMBIE and mark.exists() and mark.read_text() == role:
                    found.append(child.pid)
            return len(found) >= count

        until(there, f"{count} {role}")
        return sorted(found)

    def end(self, timeout: float = WAIT_S) -> int:
        """The exit code, once the run and all its children are gone."""
        code = self.process.wait(timeout)
        self._reader.join(GONE_S)
        assert not self._reader.is_alive(), f"children outlive the run:\n{self.said}"
        alarming = [line for line in self.lines if _ALARMING.search(line)]
        assert not alarming, self.said
        return code

    def close(self) -> None:
        """Frees what belongs to a run that has ended."""
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


def until(predicate: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Waits for a state that nobody announces."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"not so within {seconds:.0f} s: {what}"
        time.sleep(0.005)


class Arena:
    """A folder with a job, a server, the runs of that job, and what the blows so far may have cost."""

    def __init__(
        self, folder: Path, server: FakeServer, *, rows: int = 30, procs: int = 2, threads: int = 3
    ) -> None:
        self.server, self.procs, self.threads = server, procs, threads
        self.mark = uuid.uuid4().hex[:8]
        self.marks, self.tmp = folder / "marks", folder / "tmp"
        for made in (folder / "job", self.marks, self.tmp):
            made.mkdir(parents=True, exist_ok=True)
        self.place = Place(
            folder / "job",
            server,
            TMPDIR=str(self.tmp),
            PYTHONPATH=str(HOOKS),
            CHAOS_MARK=self.mark,
            CHAOS_MARKS=str(self.marks),
        )
        self.prompt = PROMPT
        self.place.write("prompt.txt", self.prompt)
        self.expect_rows(rows)
        self.output = self.place.folder / "results.csv"
        self.inputs = {"prompt.txt", "experiments.csv"}
        self.runs: list[Run] = []
        self.rules: list[str] = []
        self.stopped: list[int] = []
        """Processes that `let_go` lets continue."""
        self.holding = True
        """Until the first `let_go`."""
        self.broken = 0
        """Requests that blows may have left without an answer, at most."""
        self.lost = 0
        """Answers that blows may have taken away after the server gave them, at most."""
        self.blows = 0
        """How many of them may have hit one and the same experiment."""
        self.torn = False
        """The writer was killed, and nobody has cut off yet what it may have been writing."""

    @property
    def capacity(self) -> int:
        return self.procs * self.threads

    # ── runs ─────────────────────────────────────────────────────────────────

    def start(self, *more: str, rules: Sequence[Rule] = (), shell: str | None = None) -> Run:
        """Starts a run; `rules` as in `hooks/sitecustomize.py`; `shell` comes first, as `ulimit -n 40`."""
        options = ["-o", os.path.relpath(self.output, self.place.folder), "-v"]
        options += ["--procs", str(self.procs), "--threads", str(self.threads)]
        options += ["--max-retries", "30", "--orphan-grace", "15", *more]
        # Marks are for ever: a rule of an earlier run of this job has had its turn.
        rules = [{**rule, "name": f"{rule['name']}-{len(self.runs)}"} for rule in rules]
        self.rules = [rule["name"] for rule in rules]
        self.runs.append(Run(self, self.place.job(*options), json.dumps(rules), shell))
        return self.runs[-1]

    def arrived(self, name: str, count: int = 1) -> list[int]:
        """The pids of the processes that wait where the last run's rule of this name holds them."""
        name = next(rule for rule in self.rules if rule.startswith(name))
        paths = [self.marks / f"{name}.{turn}" for turn in range(count)]
        until(lambda: all(path.exists() and path.read_text() for path in paths), f"held at {name}")
        return [int(path.read_text()) for path in paths]

    def arm(self, name: str) -> None:
        """From now on the last run's rule of this name counts; one that has `armed`."""
        name = next(rule for rule in self.rules if rule.startswith(name))
        (self.marks / f"{name}.armed").touch()

    def expect_rows(self, count: int) -> None:
        """Makes the table so long."""
        self.rows = count
        self.place.questions(count)

    def long_answers(self, size: int) -> None:
        """Makes prompts, and so answers, longer by that many bytes."""
        self.prompt += "x" * size
        self.place.write("prompt.txt", self.prompt)

    def hold_after(self, answered: int) -> None:
        """The server answers the rows up to this one, and holds all others."""
        self.server.behave(lambda request: stall() if int(request.experiment) > answered else answer())

    def wait_for_held(self, count: int | None = None) -> None:
        count = self.capacity if count is None else count
        self.server.wait_until(lambda: self.server.in_flight == count, WAIT_S)

    def wait_for_rows(self, count: int) -> None:
        """Until that many rows are in the file, whole."""
        until(lambda: self.output.exists() and len(self.rows_now()) >= count, f"{count} rows")

    def let_go(self) -> None:
        """Whatever is held goes on, in the server and in the processes."""
        self.holding = False
        self.server.behave(answer())
        self.server.release_all()
        self.let_processes_go()

    def let_processes_go(self) -> None:
        """Those that are stopped, or wait in a call, go on."""
        while self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.stopped.pop(), signal.SIGCONT)
        for name in self.rules:
            (self.marks / f"{name}.go").touch()

    def resume(self) -> None:
        """Goes on with `--resume` until every row has its answer."""
        more: tuple[str, ...] = ()
        for _ in range(3):
            run = self.start("--resume", *more)
            code = run.end()
            self.torn = False
            self.check_file()
            if code == 0:
                return
            assert code == 3, (code, run.said)
            more = ("--retry-errors",)
        raise AssertionError("error rows do not go away")

    def close(self) -> None:
        """Ends whatever a scenario that failed has left, and removes what nobody else can."""
        for process in self.processes():
            process.kill()
        for run in self.runs:
            run.close()
        for semaphore in self.semaphores():
            os.unlink(semaphore)

    # ── what must hold ───────────────────────────────────────────────────────

    def rows_now(self) -> list[dict[str, str]]:
        """The rows that are whole now; behind them may be the beginning of another."""
        return parse_rows(whole_records(self.output.read_bytes()).decode())

    def check_file(self) -> None:
        """Whole records only, each experiment at most once, each with its own answer."""
        if not self.output.exists():
            return
        content = self.output.read_bytes()
        whole = whole_records(content)
        assert self.torn or whole == content, content[len(whole) :]
        rows = [row for row in parse_rows(whole.decode()) if row["status"] != "error"]
        numbers = [int(row["row_number"]) for row in rows]
        assert len(numbers) == len(set(numbers)), sorted(numbers)
        for row in rows:
            assert row["id"] == row["row_number"], row
            assert row["output"] == "echo: " + self.prompt.replace("{{id}}", row["id"]), row

    def check_all(self, *, verify: bool = False) -> None:
        """The promise: every row once and whole, nothing paid for in vain, nothing left behind."""
        self.check_file()
        rows = self.rows_now()
        assert {row["status"] for row in rows} <= {"ok"}, [row for row in rows if row["status"] != "ok"]
        assert sorted(int(row["row_number"]) for row in rows) == list(range(1, self.rows + 1))
        self.check_requests()
        self.check_nothing_left()
        if verify:
            self._verify()

    def check_requests(self) -> None:
        """What the server was asked, against what the blows so far may have cost."""
        server = self.server
        server.wait_until(lambda: server.in_flight == 0)
        given, asked = server.given(), server.counts()
        twice = {experiment: count for experiment, count in given.items() if count > 1}
        assert sum(count - 1 for count in twice.values()) <= self.lost, f"paid for twice: {twice}"
        assert all(count <= 1 + self.blows for count in twice.values()), twice
        failed = sum((asked - given - server.refused()).values())
        assert failed <= self.broken, f"{failed} requests had no answer, at most {self.broken} may: {asked}"

    def check_nothing_left(self) -> None:
        """No process, no file but the results, no semaphore."""
        until(lambda: not self.processes(), f"processes are left: {self.processes()}", GONE_S)
        left = set(os.listdir(self.place.folder)) | set(os.listdir(self.output.parent))
        left -= self.inputs | {self.output.parent.name, "results.csv", MANIFEST}
        assert not left, f"left in the folder: {left}"
        assert not os.listdir(self.tmp), f"left in the temporary folder: {os.listdir(self.tmp)}"
        assert not self.semaphores(), f"left in /dev/shm: {self.semaphores()}"

    def semaphores(self) -> list[str]:
        return [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if self.mark in name]

    def processes(self) -> list[psutil.Process]:
        """Processes that run with this arena's environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("CHAOS_MARK") == self.mark and lives(process):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _verify(self) -> None:
        done = subprocess.run(
            [SCRIPT, "verify", self.output, "-e", "experiments.csv", "-p", "prompt.txt"],
            cwd=self.place.folder,
            env=self.place.env,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done


def whole_records(content: bytes) -> bytes:
    """The records that are complete: up to the last line feed outside of quotes."""
    end = seen = quotes = 0
    for stop in (match.end() for match in re.finditer(b"\n", content)):
        quotes += content.count(b'"', seen, stop)
        seen = stop
        if quotes % 2 == 0:
            end = stop
    return content[:end]


def lives(process: psutil.Process) -> bool:
    """Whether any thread is left: the first may be a zombie long before the last lets go of the files."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE or len(os.listdir(f"/proc/{process.pid}/task")) > 1
    except (psutil.NoSuchProcess, OSError):
        return False
