"""What a client does with a table, by the scenario's kind; each measures one run and checks every row.

sweep    asks all rows
resume   goes on with results in which all but a few rows are finished
connect  asks each row on a new TLS connection
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import certifi

from benchmark.check import PROMPT, begins_with, faults_of, write_contexts, write_table
from benchmark.contestants import Contestant
from benchmark.measure import BenchServer, Measures, Work, make_authority, run_client, wall_of
from benchmark.scenarios import Scenario, Size

LEFT = 16
"""Rows that a resumed run has left to ask: its workers start, too."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run: who does what, with what."""

    scenario: Scenario
    contestant: Contestant
    python: Path
    """Of the contestant's environment."""
    size: Size
    folder: Path
    """The scenario's: what its runs share."""
    place: Path
    """The run's own."""
    finished: Path
    """The folder of finished results, which scenarios share."""
    server: BenchServer | None

    @property
    def mock(self) -> bool:
        return self.server is None


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a run."""

    measures: Measures
    faults: tuple[str, ...]
    help_s: float | None = None


def sweep(task: Task) -> Done:
    """All rows are asked."""
    work = _work(task, task.size)
    measures = _run(task, task.contestant.arguments(task.python, work), work)
    faults = _faults(measures, work.output, task.size.rows, mock=task.mock)
    if task.mock and not faults and task.size == Size(task.size.rows):
        _keep(task, work.output)
    help_s = None
    if task.scenario.help and task.contestant.ours:
        help_s = wall_of([str(task.python.parent / "parallamr-mp"), "--help"], task.place)
    return Done(measures, faults, help_s)


def resume(task: Task) -> Done:
    """Results of all rows are there, made before if they are not; `LEFT` more are asked."""
    finished = _finished(task, task.size.rows)
    if not finished.exists() and (made := sweep(task)).faults:
        return made
    work = replace(_work(task, replace(task.size, rows=task.size.rows + LEFT)), resume=True)
    shutil.copytree(finished, task.place, dirs_exist_ok=True)
    measures = _run(task, task.contestant.arguments(task.python, work), work)
    faults = _faults(measures, work.output, work.rows, mock=task.mock)
    if not faults and not begins_with(work.output, finished / work.output.name):
        faults = ("what was finished is not as it was",)
    return Done(measures, faults)


def connect(task: Task) -> Done:
    """Each row is asked on a connection of its own. Time is that of the requests alone."""
    assert task.server is not None
    assert task.server.url is not None
    work = _work(task, task.size)
    assert work.ca is not None
    known, unknown = task.folder / "known.pem", task.folder / "unknown.pem"
    if not unknown.exists():
        # What a Session loads unless told otherwise is large, and loading it is what a connection costs.
        public = Path(certifi.where()).read_bytes()
        (task.folder / "other").mkdir()
        known.write_bytes(public + work.ca.read_bytes())
        unknown.write_bytes(public + make_authority(task.folder / "other").ca.read_bytes())
    work = replace(work, ca=known, url=task.server.url.replace("/v1", "/once/v1"))
    measures = _run(task, task.contestant.connecting(task.python, work, unknown), work)
    faults = list(_faults(measures, work.output, work.rows, mock=False))
    if faults:
        return Done(measures, tuple(faults))
    told = json.loads(work.output.with_suffix(".json").read_text(encoding="utf-8"))
    if not told["refused"]:
        faults.append("a server whose authority is unknown was not refused")
    if (shaken := measures.handshakes or 0) <= work.rows:  # one more was made before the clock ran
        faults.append(f"{shaken} handshakes are too few: connections were used again")
    # One that is refused may be counted by the server or not: that is for its TLS to say.
    return Done(
        replace(
            measures,
            cpu_s=told["cpu_s"],
            wall_s=told["wall_s"],
            requests=(measures.requests or 0) - 1,
            handshakes=shaken - 1,
        ),
        tuple(faults),
    )


JOBS: dict[str, Callable[[Task], Done]] = {"sweep": sweep, "resume": resume, "connect": connect}


def _work(task: Task, size: Size) -> Work:
    """The work over a table of this size, with the files that it needs."""
    prompt = task.folder / "prompt.txt"
    if not prompt.exists():
        prompt.write_text(PROMPT, encoding="utf-8")
    experiments = task.folder / f"experiments-{size.rows}-{size.columns}.csv"
    if not experiments.exists():
        write_table(experiments, size, mock=task.mock)
    return Work(
        experiments=experiments,
        prompt=prompt,
        output=task.place / "results.csv",
        procs=task.scenario.procs,
        threads=task.scenario.threads,
        rows=size.rows,
        url=task.server.url if task.server else None,
        ca=task.server.ca if task.server else None,
        contexts=tuple(write_contexts(task.folder, size)),
    )


def _run(task: Task, arguments: list[str], work: Work) -> Measures:
    return run_client(arguments, work, task.place, task.server, task.scenario.sample_s)


def _faults(measures: Measures, output: Path, rows: int, *, mock: bool) -> tuple[str, ...]:
    ended = f"it ended with code {measures.code}: {measures.last_words[:200]}"
    return (*([ended] if measures.code else []), *faults_of(output, rows, mock=mock))


def _finished(task: Task, rows: int) -> Path:
    return task.finished / str(rows)


def _keep(task: Task, output: Path) -> None:
    """Moves results, and what belongs to them, to where a resumed run finds them; only the last are kept."""
    shutil.rmtree(task.finished, ignore_errors=True)
    kept = _finished(task, task.size.rows)
    kept.mkdir(parents=True)
    for path in output.parent.glob(f"{output.name}*"):
        shutil.move(path, kept)
