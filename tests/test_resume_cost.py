"""What a finished row costs a resumed run, without a clock: calls of Python functions, bytes that stay.

A sweep of a million rows is read, scanned and matched before anything is sent.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

import parallamr_mp
from parallamr_mp.config import RunConfig
from parallamr_mp.experiments import Table
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.prepare import Injected, make_plan
from parallamr_mp.results.records import encode_record

OURS = os.path.dirname(parallamr_mp.__file__)
ROWS = 300
READ_CALLS, LOOK_CALLS, SCAN_CALLS, MATCH_CALLS, SKIP_CALLS = 2.2, 4.3, 3.3, 0.2, 2.2
"""Calls a row, a little above what they are with CPython 3.11. Look at what came in before raising them."""
LOOK_BYTES, SCAN_BYTES = 24, 30
"""Bytes a row, of which an eighth is what arrays keep to grow."""


@pytest.fixture
def sweep(tmp_path) -> Callable[..., tuple[RunConfig, Table]]:
    """A table whose rows are all answered, its prompt and its context files."""

    def make(
        rows: int = ROWS, columns: int = 3, contexts: int = 0, *, resume: bool = True, params: bool = False
    ) -> tuple[RunConfig, Table]:
        names = ["provider", "model", *(f"column {number}" for number in range(columns - 2))]
        if params:
            names += ["param:temperature", "param:max_tokens"]
        with open(tmp_path / "e.csv", "wb") as stream:
            stream.write(encode_record(names))
            for number in range(rows):
                cells = ["mock", "mock", *(f"cell {number}, {column}" for column in range(columns - 2))]
                stream.write(encode_record([*cells, *([number % 3, 100] if params else [])]))
        (tmp_path / "p.md").write_text("Tell of {{column 0}}.", encoding="utf-8")
        paths = [tmp_path / f"{number}.md" for number in range(contexts)]
        for path in paths:
            path.write_text("Known: {{column 0}}.", encoding="utf-8")
        config = RunConfig(
            prompt=str(tmp_path / "p.md"),
            experiments=str(tmp_path / "e.csv"),
            contexts=tuple(map(str, paths)),
            output=str(tmp_path / "r.csv"),
            resume=resume,
        )
        with closing(Table(config.experiments)) as table:
            plan = make_plan(config, table, Injected())
            with open(tmp_path / "r.csv", "wb") as stream:
                stream.write(encode_record(plan.columns))
                for job in plan.jobs("mock"):
                    task, answer = job.payload, 'An answer, "quoted".\n' * 5
                    found = ["ok", 10, "", 25, answer, "", task.row_number, task.repeat, task.experiment_id]
                    stream.write(encode_record([*task.values, *found, 1, 0.1, "stop", "", "mock", "now"]))
        return config, Table(config.experiments)

    return make


def calls(do: Callable[[], Any]) -> int:
    """Calls of our own functions in this thread; a generator that goes on counts, too."""
    made = 0

    def note(frame, event, _argument):
        nonlocal made
        made += event == "call" and frame.f_code.co_filename.startswith(OURS)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return made


def costs(config: RunConfig, table: Table) -> dict[str, float]:
    """Calls a row in each step."""
    plan: list[Plan] = []
    found = {"look": calls(lambda: plan.append(make_plan(config, table, Injected())))}
    if config.resume:
        past = Past(config, plan[0])
        scans: list[Any] = []
        found["scan"] = calls(lambda: scans.extend(past.scan()))
        found["match"] = calls(lambda: past.take_up(scans))
        assert past.done == plan[0].survey.experiments
        found["skip"] = calls(lambda: list(plan[0].jobs("mock")))
    return {step: number / plan[0].survey.experiments for step, number in found.items()}


def cost_of_a_row(sweep, **kind: Any) -> dict[str, float]:
    """Calls that one row more brings: what is done once is left out."""
    totals = []
    for rows in (ROWS, 2 * ROWS):
        config, table = sweep(rows, **kind)
        with closing(table):
            totals.append({step: each * rows for step, each in costs(config, table).items()})
    return {step: (totals[1][step] - totals[0][step]) / ROWS for step in totals[0]}


def test_a_finished_row_takes_few_calls(sweep):
    found = cost_of_a_row(sweep)
    assert found["look"] <= LOOK_CALLS
    assert found["scan"] <= SCAN_CALLS
    assert found["match"] <= MATCH_CALLS
    assert found["skip"] <= SKIP_CALLS


def test_reading_a_row_that_nobody_resumes_takes_few_calls(sweep):
    assert cost_of_a_row(sweep, resume=False)["look"] <= READ_CALLS


@pytest.mark.parametrize("resume", [True, False])
def test_a_row_takes_no_more_calls_with_more_columns_or_context_files(sweep, resume):
    few = cost_of_a_row(sweep, columns=5, resume=resume)
    assert cost_of_a_row(sweep, columns=50, resume=resume) == pytest.approx(few, abs=0.05)
    assert cost_of_a_row(sweep, columns=5, contexts=20, resume=resume) == pytest.approx(few, abs=0.05)


def test_parameters_that_come_again_are_not_parsed_again(sweep):
    plain, given = cost_of_a_row(sweep, resume=False), cost_of_a_row(sweep, resume=False, params=True)
    assert given["look"] <= plain["look"] + 4.2


def test_few_bytes_a_row_stay(sweep):
    def kept(rows: int) -> tuple[int, int]:
        config, table = sweep(rows)
        with closing(table):
            before = tracemalloc.get_traced_memory()[0]
            plan = make_plan(config, table, Injected())
            looked = tracemalloc.get_traced_memory()[0]
            scans = Past(config, plan).scan()
            return looked - before, tracemalloc.get_traced_memory()[0] - looked + 0 * len(scans)

    tracemalloc.start()
    try:
        kept(10)
        small, large = kept(1_000), kept(3_000)
    finally:
        tracemalloc.stop()
    assert (large[0] - small[0]) / 2_000 <= LOOK_BYTES
    assert (large[1] - small[1]) / 2_000 <= SCAN_BYTES
