"""Whatever becomes of the rows, and however a run ends: what it tells as a group is whole, and told once."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import read_rows, write_table
from support.telling import Told

from parallamr_mp import OutputError, ProviderError, Reply, create_experiment_runner, events, traffic
from parallamr_mp.policy.retry import RetryPolicy

ROWS = 12


class Scripted:
    """Answers each row's n-th request as its script says; when that is at its end, well."""

    def __init__(self, scripts: list[list[str]]) -> None:
        self._scripts = scripts
        self._turns: Counter[int] = Counter()
        self._lock = threading.Lock()

    def complete(self, request):
        row = int(request.variables["id"])
        with self._lock:
            turn = self._turns[row]
            self._turns[row] += 1
        script = self._scripts[row - 1]
        match script[turn] if turn < len(script) else "fine":
            case "cut":
                return Reply("cut", "length", 10, 10)
            case "soft":
                raise ProviderError("server", "not now", retryable=True)
            case "hard":
                raise ProviderError("bad_request", "never")
            case "bug":
                raise ZeroDivisionError("of the provider's")
        return Reply("fine", "stop", 10, 5)


def run(folder: Path, provider: Scripted, end: str, after: int, **options) -> list:
    """The execution events of a run that is ended in this way once that many light events have passed."""
    runner, told = create_experiment_runner(providers={"spy": provider}, threads=3), []
    runner.bus.subscribe(told.append, events.Execution)
    countdown = itertools.count(after, -1)

    def strike(event):
        if next(countdown) == 0:
            if end == "interrupt":
                raise KeyboardInterrupt
            if end == "output":
                (folder / "results.csv").unlink()

    def begin(started):
        # After all others: what ends a run from inside a handler is not handed on to those behind it.
        runner.bus.subscribe(strike, events.RowDone, events.AttemptStarted, events.AttemptEnded)

    runner.bus.subscribe(begin, events.RunStarted)
    try:
        runner.run_experiments(
            folder / "prompt.txt",
            folder / "table.csv",
            folder / "results.csv",
            params={"max_tokens": 10},
            retry_truncated=2.0,
            breaker_failures=1000,
            fail_fast=end == "fast",
            max_retries=2,
            **options,
        )
    except (KeyboardInterrupt, OutputError):
        assert end in {"interrupt", "output"}
    return told


@settings(max_examples=30)
@given(
    scripts=st.lists(
        st.lists(st.sampled_from(["soft", "soft", "cut", "hard", "bug", "fine"]), max_size=4),
        min_size=ROWS,
        max_size=ROWS,
    ),
    end=st.sampled_from(["", "fast", "interrupt", "interrupt", "output"]),
    after=st.integers(0, 30),
)
def test_every_row_that_begins_is_told_to_its_end_and_every_group(tmp_path_factory, scripts, end, after):
    folder = tmp_path_factory.mktemp("run")
    (folder / "prompt.txt").write_text("{{id}}")
    write_table(folder / "table.csv", [{"provider": "spy", "model": "m", "id": n + 1} for n in range(ROWS)])
    provider = Scripted(scripts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traffic, "RetryPolicy", partial(RetryPolicy, uniform=lambda low, high: high / 1000))
        told = Told(run(folder, provider, end, after))
        results = {
            address: told.last(address).status
            for address in told.rows
            if told.last(address).status != "cancelled"
        }
        if (folder / "results.csv").exists() and end != "output":
            assert len(read_rows(folder / "results.csv")) == len(results)
        resumed = Told(run(folder, provider, "", 0, resume=True))
    assert resumed.group.status == "completed"
    assert resumed.group.group_id == told.group.group_id
    if end != "output":
        # What the first has told to be done, and nothing else, is no task of the second.
        assert not results.keys() & resumed.rows.keys()
        assert (
            len(results) + len(resumed.rows) == resumed.group.total + told.group.completed + told.group.failed
        )
        assert len(results.keys() | resumed.rows.keys()) == ROWS
    if not end:
        assert told.group.status == "completed"
