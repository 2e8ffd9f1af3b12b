"""A sweep tells of its rows as tasks of a parallel group: in order, each with one end, and so the group."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from support.behaviours import answer, stall, status, wait_for
from support.cli import FAKE_KEY, read_rows, write_table
from support.telling import Told

from parallamr_mp import OutputError, OutputExists, create_experiment_runner, events
from parallamr_mp.models import Failure, Status
from parallamr_mp.parallel.models import ExecutionEvent, ParallelGroupTracker
from parallamr_mp.sweep_events import SweepEvents, group_of
from parallamr_mp.tariff import Price

PROCS = pytest.mark.parametrize("procs", [0, 2])


class Sweep:
    """A table of rows with ids from 1 on, run in this process; `told` are the execution events of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[ExecutionEvent] = []
        self.table(4)

    def table(self, count: int, **more: object) -> None:
        row = {"provider": "openai", "model": "fake-small"} | more
        write_table(self.folder / "table.csv", [row | {"id": number + 1} for number in range(count)])

    def runner(self, procs: int = 0, threads: int = 4, **options):
        runner = create_experiment_runner(procs=procs, threads=threads, **options)
        self.told = []
        runner.bus.subscribe(self.told.append, events.Execution)
        return runner

    def run(self, runner=None, output: str | None = "results.csv", prompt: str = "prompt.txt", **options):
        return (runner or self.runner()).run_experiments(prompt, "table.csv", output, **options)

    def whole(self) -> Told:
        return Told(self.told)


@pytest.fixture
def sweep(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", FAKE_KEY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("id={{id}}")
    return Sweep(tmp_path)


# --- rows --------------------------------------------------------------------------------------


@PROCS
def test_answers_warnings_retries_and_errors_are_told_each_in_order(sweep, server, procs):
    server.behave(
        lambda request: {
            "2": answer("cut", finish_reason="length"),
            "3": status(503) if server.count("3") == 1 else None,
            "4": status(400),
        }.get(request.experiment)
    )
    summary = sweep.run(sweep.runner(procs))
    told = sweep.whole()
    assert told.statuses("results.csv/row 1") == ["started", "completed"]
    assert told.statuses("results.csv/row 2") == ["started", "completed"]
    assert told.statuses("results.csv/row 3") == ["started", "retrying", "completed"]
    assert told.statuses("results.csv/row 4") == ["started", "failed"]
    fine, warned, _, failed = (told.last(f"results.csv/row {number}") for number in (1, 2, 3, 4))
    assert (fine.name, fine.parallel_index, fine.attempt) == ("row 1", 0, 1)
    assert (fine.error_message, fine.error_type) == (None, None)
    row = read_rows(Path("results.csv"))
    messages = {line["row_number"]: line["error_message"] for line in row}
    assert (warned.error_message, warned.error_type) == (messages["2"], None)
    assert (failed.error_message, failed.error_type) == (messages["4"], "bad_request")
    retrying = told.rows["results.csv/row 3"][1]
    assert (retrying.attempt, retrying.error_type) == (1, "server")
    assert "503" in retrying.error_message
    assert retrying.delay >= 0
    assert told.last("results.csv/row 3").attempt == 2
    group = told.group
    assert (group.name, group.address, group.max_workers) == ("results.csv", "results.csv", 4 * max(1, procs))
    assert (group.status, group.total, group.completed, group.failed) == ("completed", 4, 3, 1)
    assert 0 < told.end.execution_time <= summary.seconds
    # What a tracker has counted in the end is what the summary says.
    tracker = told.tracker
    assert (tracker.total, tracker.started) == (summary.total, summary.written) == (4, 4)
    assert (tracker.completed, tracker.failed) == (summary.ok + summary.warning, summary.error)
    assert (tracker.retries, tracker.cancelled, tracker.replayed) == (summary.retries, summary.missing, 0)
    assert tracker.completion_percentage == 100.0


def test_times_are_those_of_the_rows(sweep, server):
    server.behave(lambda request: status(503) if server.count(request.experiment) == 1 else None)
    sweep.run()
    told = sweep.whole()
    latencies = {row["row_number"]: float(row["latency_s"]) for row in read_rows(Path("results.csv"))}
    for address, lot in told.rows.items():
        _, retrying, completed = lot
        last_attempt = completed.execution_time - retrying.execution_time
        # The request is a part of it. The file has milliseconds.
        assert last_attempt > latencies[address.rpartition(" ")[2]] - 0.001
    assert told.tracker.busy_time == pytest.approx(sum(lot[-1].execution_time for lot in told.rows.values()))


def test_a_row_whose_input_is_missing_has_failed_without_having_started(sweep):
    for number in (1, 2, 3):
        (sweep.folder / f"{number}.txt").write_text(f"id={number}")
    sweep.run(prompt="{{id}}.txt")
    told = sweep.whole()
    assert told.statuses("results.csv/row 4") == ["failed"]
    last = told.last("results.csv/row 4")
    assert (last.attempt, last.started_at, last.error_type) == (0, None, "input_file")
    assert "4.txt" in last.error_message
    assert told.group.failed == 1


def test_each_repeat_is_a_task_of_its_own(sweep):
    sweep.table(2)
    sweep.run(repeat=3)
    told = sweep.whole()
    assert {(lot[0].name, lot[0].parallel_index) for lot in told.rows.values()} == {
        ("row 1", 0),
        ("row 1 repeat 1", 1),
        ("row 1 repeat 2", 2),
        ("row 2", 3),
        ("row 2 repeat 1", 4),
        ("row 2 repeat 2", 5),
    }
    assert set(told.rows) == {f"results.csv/{lot[0].name}" for lot in told.rows.values()}
    assert told.group.total == 6


def test_rows_of_a_dead_worker_are_told_to_be_tried_again(sweep, server):
    server.behave(lambda request: stall() if server.count(request.experiment) == 1 else None)
    runner = sweep.runner(procs=1)
    pids = []
    runner.bus.subscribe(lambda event: pids.append(event.pid), events.WorkerStarted)

    def kill(pulse):
        if server.in_flight == 4 and len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)
            pids.append(0)

    runner.bus.subscribe(kill, events.Pulse)
    summary = sweep.run(runner)
    told = sweep.whole()
    assert len(told.rows) == summary.ok == 4
    for address, lot in told.rows.items():
        assert told.statuses(address) == ["started", "retrying", "completed"]
        assert (lot[1].delay, lot[1].error_type, lot[1].attempt) == (0.0, "worker_died", 1)
        assert "worker process died" in lot[1].error_message
        assert lot[2].attempt == 2


def test_a_row_that_kills_its_workers_fails_once_and_is_tried_again_between(sweep, server):
    sweep.table(1)
    server.behave(stall())
    runner = sweep.runner(procs=1)
    pids = []
    runner.bus.subscribe(lambda event: pids.append(event.pid), events.WorkerStarted)

    def kill(pulse):
        if server.count("1") == len(pids) and pids and pids[-1]:
            os.kill(pids[-1], signal.SIGKILL)
            pids[-1] = 0

    runner.bus.subscribe(kill, events.Pulse)
    assert sweep.run(runner).error == 1
    told = sweep.whole()
    assert told.statuses("results.csv/row 1") == ["started", "retrying", "retrying", "failed"]
    last = told.last("results.csv/row 1")
    assert (last.error_type, last.attempt) == ("worker_died", 3)


def test_an_answer_that_is_asked_for_again_since_it_was_cut_is_a_retry(sweep, server):
    server.behave(
        lambda request: answer("half", finish_reason="length") if request.body["max_tokens"] < 20 else None
    )
    sweep.run(params={"max_tokens": 10}, retry_truncated=2.0)
    told = sweep.whole()
    for address, lot in told.rows.items():
        assert told.statuses(address) == ["started", "retrying", "completed"]
        assert (lot[1].delay, lot[1].error_type) == (0.0, "truncated")
        assert "cut" in lot[1].error_message


# --- which group -------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_group_and_has_what_is_left_as_its_tasks(sweep, server):
    runner = sweep.runner()
    sweep.run(runner, last_row=2)
    before = sweep.whole()
    sweep.told.clear()
    sweep.run(runner, resume=True)
    told = sweep.whole()
    assert told.group.group_id == before.group.group_id
    assert (before.group.total, told.group.total, told.group.completed, told.group.replayed) == (2, 2, 2, 0)
    assert set(before.rows) == {"results.csv/row 1", "results.csv/row 2"}
    assert set(told.rows) == {"results.csv/row 3", "results.csv/row 4"}
    assert [told.last(f"results.csv/row {number}").parallel_index for number in (3, 4)] == [2, 3]
    # A printer that has seen both counts the second anew.
    tracker = ParallelGroupTracker(group_id=told.group.group_id)
    for event in before.events + told.events:
        tracker.update(event)
    assert tracker == told.tracker
    sweep.told.clear()
    sweep.run(runner, resume=True)
    nothing = sweep.whole()
    assert (nothing.group.total, nothing.group.status, len(nothing.events)) == (0, "completed", 2)
    assert len(server.requests) == 4


def test_a_row_has_the_same_address_when_it_is_asked_again(sweep, server):
    server.behave(lambda request: status(400) if server.count(request.experiment) == 1 else None)
    sweep.run(last_row=2, repeat=2)
    before = sweep.whole()
    assert before.group.failed == 2
    sweep.run(sweep.runner(), resume=True, retry_errors=True, last_row=2, repeat=2)
    failed = {address for address in before.rows if before.last(address).status == "failed"}
    assert set(sweep.whole().rows) == failed


def test_the_part_of_a_table_that_is_run_keeps_its_row_numbers(sweep):
    sweep.run(first_row=3, last_row=4)
    told = sweep.whole()
    assert {(address, lot[0].parallel_index) for address, lot in told.rows.items()} == {
        ("results.csv/row 3", 0),
        ("results.csv/row 4", 1),
    }
    assert told.group.total == 2


def test_several_output_files_are_one_group(sweep):
    sweep.run(output="out/{{id}}.csv")
    told = sweep.whole()
    assert (told.group.name, told.group.address) == ("{{id}}.csv", "out/{{id}}.csv")
    assert set(told.rows) == {f"out/{{{{id}}}}.csv/row {number}" for number in (1, 2, 3, 4)}


@pytest.mark.parametrize("flatten", [False, True])
def test_without_an_output_the_group_is_known_by_its_table(sweep, capfdbinary, flatten):
    ids = set()
    for _ in range(2):
        sweep.run(sweep.runner(), output=None, flatten=flatten)
        told = sweep.whole()
        assert (told.group.name, told.group.address) == ("table.csv", "table.csv")
        assert len(told.rows) == 4
        ids.add(told.group.group_id)
    assert len(ids) == 1
    assert capfdbinary.readouterr().out.count(b"\n") == 2 * 5


def test_a_group_is_known_by_where_its_output_is_and_not_by_how_that_is_written(sweep, monkeypatch):
    config = sweep.runner(procs=3, threads=5).config

    def group(output, **more):
        return group_of(replace(config, experiments="table.csv", output=output, **more))

    here = group("results.csv")
    assert group(os.path.abspath("results.csv")).id == group("./x/../results.csv").id == here.id
    assert group("other.csv").id != here.id != group("table.csv").id
    assert group(None).id != group("table.csv").id
    assert (here.max_workers, group("r.csv", total_limit=7).max_workers) == (15, 7)
    assert group("r.csv", procs=0).max_workers == 5
    odd = group(os.fsdecode(b"caf\xe9.csv"))
    assert (odd.name, odd.address) == ("caf?.csv", "caf?.csv")


# --- how a group ends --------------------------------------------------------------------------


def test_rows_that_wait_or_fly_when_the_time_is_up_are_cancelled(sweep, server):
    server.behave(lambda request: stall() if request.experiment == "2" else status(503))
    summary = sweep.run(sweep.runner(drain_timeout=0.1), stop_after=1.0, breaker_failures=1000)
    assert (summary.stop.kind, summary.written) == ("time", 0)
    told = sweep.whole()
    assert (told.group.status, told.group.error_message) == ("cancelled", summary.stop.text)
    assert told.group.cancelled == len(told.rows) == 4
    for address in told.rows:
        assert "retrying" not in told.statuses(address) or address != "results.csv/row 2"
        assert told.last(address).error_type == "CancelledError"
        assert told.last(address).attempt >= 1
    assert told.last("results.csv/row 2").execution_time > 0.5


def test_rows_that_had_not_begun_when_a_run_stopped_are_not_told_of(sweep, server):
    sweep.table(30)
    server.behave(answer(usage=(10, 10)))
    summary = sweep.run(
        sweep.runner(),
        params={"max_tokens": 10},
        max_cost=0.4,
        prices={"openai/fake-small": Price(1000, 1000)},
    )
    assert summary.stop.kind == "budget"
    assert 0 < summary.written < 30
    told = sweep.whole()
    assert (told.group.status, told.group.error_message) == ("cancelled", summary.stop.text)
    assert (told.group.total, told.group.completed, told.group.cancelled) == (30, summary.written, 0)
    assert len(told.rows) == summary.written


def test_too_many_error_rows_are_a_failed_group_unless_nothing_was_left(sweep, server):
    server.behave(lambda request: status(400) if request.experiment == "4" else None)
    summary = sweep.run(fail_fast=True)
    assert (summary.stop.kind, summary.missing) == ("errors", 0)
    assert sweep.whole().group.status == "completed"
    server.behave(status(400))
    sweep.table(30)
    summary = sweep.run(sweep.runner(threads=1), fail_fast=True, overwrite=True)
    told = sweep.whole()
    assert (told.group.status, told.group.error_message) == ("failed", summary.stop.text)
    assert (told.group.failed, told.group.total) == (summary.error, 30)


@PROCS
def test_an_output_that_is_gone_is_a_failed_group(sweep, server, procs):
    sweep.table(40)
    server.behave(lambda request: stall() if int(request.experiment) > 20 else None)
    runner = sweep.runner(procs)
    completed = []

    def note(event):
        completed.append(event.status == "completed")

    def remove(pulse):
        # Not before something is in it: a writer that is not up yet would make another one.
        if any(completed) and os.path.exists("results.csv") and os.path.getsize("results.csv"):
            os.unlink("results.csv")
            server.behave(answer())
            server.release_all()

    runner.bus.subscribe(note, events.Execution)
    runner.bus.subscribe(remove, events.Pulse)
    with pytest.raises(OutputError) as caught:
        sweep.run(runner)
    told = sweep.whole()
    assert (told.group.status, told.group.error_type) == ("failed", "OutputError")
    assert told.group.error_message == str(caught.value)
    assert told.group.completed > 0  # how many more were answered before the writer noticed, nobody knows


def test_what_ends_a_run_from_inside_a_handler_ends_its_group_too(sweep, server):
    over = threading.Event()
    server.behave(lambda request: wait_for(over) if request.experiment == "2" else None)
    runner = sweep.runner()

    def interrupt(event):
        leave()
        server.wait_until(lambda: server.count("2"))
        raise KeyboardInterrupt

    leave = runner.bus.subscribe(interrupt, events.RowDone)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(runner)
    over.set()
    told = sweep.whole()
    assert (told.group.status, told.group.error_type) == ("cancelled", "KeyboardInterrupt")
    assert told.last("results.csv/row 2").status == "cancelled"


def test_a_run_that_is_refused_tells_of_no_group(sweep):
    sweep.run()
    with pytest.raises(OutputExists):
        sweep.run(sweep.runner())
    assert sweep.told == []


WATCHED = """
import sys
from parallamr_mp import create_experiment_runner, events

runner = create_experiment_runner(procs=2, threads=2, drain_timeout=float(sys.argv[1]))
with open("told.jsonl", "w") as told:
    tell = lambda event: print(event.model_dump_json(), file=told, flush=True)
    runner.bus.subscribe(tell, events.Execution)
    runner.bus.subscribe(lambda event: print("stopping", flush=True), events.Stopping)
    print(runner.run_experiments("prompt.txt", "table.csv", "results.csv").signum)
"""


@pytest.mark.parametrize("again", [False, True])
def test_a_signal_cancels_the_group_and_what_was_given_up(sweep, server, again):
    sweep.table(30)
    server.behave(lambda request: stall() if int(request.experiment) > 10 else None)
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED, "60"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        try:
            server.wait_until(lambda: len(server.requests) == 14 and server.in_flight == 4)
            run.send_signal(signal.SIGINT)
            assert run.stdout.readline() == "stopping\n"
            if again:
                run.send_signal(signal.SIGINT)
            else:
                server.behave(answer())
                server.release_all()
            assert run.stdout.readline() == f"{signal.SIGINT.value}\n"
            assert run.wait(30) == 0
        finally:
            run.kill()
    sweep.told = [
        ExecutionEvent.model_validate_json(line) for line in Path("told.jsonl").read_text().splitlines()
    ]
    told = sweep.whole()
    assert (told.group.status, told.group.error_message) == ("cancelled", "stopped by SIGINT")
    done = 10 if again else 14
    assert (told.group.total, told.group.completed, told.group.cancelled) == (30, done, 14 - done)
    assert len(read_rows(Path("results.csv"))) == done


# --- who listens -------------------------------------------------------------------------------


def test_execution_events_come_after_what_they_are_made_from_in_the_callers_thread(sweep):
    runner, seen = sweep.runner(), []
    runner.bus.subscribe(seen.append)
    sweep.run(runner)
    seen = [event for event in seen if not isinstance(event, events.Pulse | events.WorkerStarted)]
    assert isinstance(seen[0], events.RunStarted)
    assert (seen[1].event_type, seen[-2].event_type) == ("group_started", "group_completed")
    assert seen[-1] == events.RunFinished()
    for before, event in pairwise(seen):
        if isinstance(event, ExecutionEvent) and event.group is None:
            made_from = {"started": events.AttemptStarted, "completed": events.RowDone}[event.status]
            assert isinstance(before, made_from)
    assert [event for event in seen if isinstance(event, events.Execution)] == sweep.told


def test_handlers_may_be_async_raise_and_leave(sweep, server, caplog):
    runner, heard, some = sweep.runner(), [], []

    async def slow(event):
        await asyncio.sleep(0)
        heard.append(event)

    def bad(event):
        raise ValueError("no such screen")

    def brief(event):
        some.append(event)
        leave()

    runner.bus.subscribe(bad, events.Execution)
    runner.bus.subscribe(slow, events.Execution)
    leave = runner.bus.subscribe(brief, events.Execution)
    assert sweep.run(runner).ok == 4
    assert heard == sweep.told == sweep.whole().events
    assert len(some) == 1
    assert caplog.text.count("failed at ExecutionEvent") == 1


def test_who_leaves_in_the_middle_has_no_more_made_for_them(sweep, monkeypatch):
    runner = create_experiment_runner(procs=0, threads=1)
    some = []

    def brief(event):
        some.append(event)
        leave()

    leave = runner.bus.subscribe(brief, events.Execution)
    assert sweep.run(runner).ok == 4
    assert [event.event_type for event in some] == ["group_started"]


def test_the_handler_that_readme_shows_follows_a_run(sweep, monkeypatch, capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## As a library")[2].partition("\n## ")[0]
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "follow" in block
    ]
    shown: dict = {}
    exec(block, shown)
    assert sweep.run(shown["runner"]).ok == 4
    (tracker,) = shown["trackers"].values()
    assert (tracker.completed, tracker.status) == (4, "completed")
    assert "results.csv/row 3 completed" in capsys.readouterr().out


UNWATCHED = """
import sys
from parallamr_mp import create_experiment_runner, events
from parallamr_mp.__main__ import main

made = []
for kind in (events.AttemptStarted, events.AttemptEnded):
    real = kind.__init__
    kind.__init__ = lambda self, *args, real=real: (made.append(self), real(self, *args))[1]

if sys.argv[1:]:
    sys.argv += ["-p", "prompt.txt", "-e", "table.csv", "-o", "results.csv"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
else:
    runner = create_experiment_runner(procs=0, threads=2)
    done = []
    runner.bus.subscribe(done.append, events.RowDone, events.Pulse)
    assert runner.run_experiments("prompt.txt", "table.csv", "results.csv").ok == 4
    assert len(done) >= 4
    assert "pydantic" not in sys.modules
assert not made
# Typer brings Pydantic along when it likes; we do not.
assert not {"parallamr_mp.sweep_events", "parallamr_mp.parallel.models"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    "words", [[], ["run"], ["run", "-v", "--display", "plain"], ["run", "-v", "--display", "bar"]]
)
def test_a_sweep_that_nobody_watches_so_makes_no_such_events_and_loads_no_pydantic(sweep, words):
    done = subprocess.run(
        [sys.executable, "-c", UNWATCHED, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    assert len(read_rows(Path("results.csv"))) == 4


# --- by hand -----------------------------------------------------------------------------------


class Payload:
    def __init__(self, row_number):
        self.row_number, self.repeat = row_number, 0


def test_only_rows_that_have_begun_are_kept():
    bus, told, now = events.EventBus(), [], [0.0]
    bus.subscribe(told.append, events.Execution)
    config = create_experiment_runner(procs=0, threads=2).config
    sweep = SweepEvents(group_of(config), bus, wall=lambda: 1000 + now[0], monotonic=lambda: now[0])
    sweep(events.RunStarted(200, 100, 0, 0, 2, "r.csv"))
    for job in range(100):
        sweep(events.AttemptStarted(job, "", 1, Payload(job + 1)))
        now[0] += 1
        sweep(events.AttemptEnded(job, "", 1, now[0] - 1, now[0], "", None, None, Failure("timeout", "late")))
        sweep(events.AttemptFailed(job, "", 1, 2.0, Failure("timeout", "late")))
        now[0] += 2
        sweep(events.AttemptStarted(job, "", 2, Payload(job + 1)))
        if job < 98:
            now[0] += 3
            sweep(events.AttemptEnded(job, "", 2, now[0] - 3, now[0], "", None, None, None))
            sweep(events.RowDone(job + 1, 0, "p", "m", Status.OK, "", 2, 3.0, 1, 1, None, job))
        assert len(sweep._rows) == max(0, job - 97)
    now[0] += 5
    sweep.fail(OutputError("the disk is full"))
    sweep.fail(OutputError("again"))
    assert sweep._rows == {}
    whole = Told(told)
    assert (whole.group.completed, whole.group.cancelled, whole.group.total) == (98, 2, 100)
    assert {lot[-1].execution_time for lot in whole.rows.values()} == {1.0 + 3.0, 1.0 + 8.0, 1.0 + 5.0}
    assert whole.group.error_message == "the disk is full"
