"""What goes wrong around a run: readers that pause, files that change, closed streams, few resources.

Each ends well or with a clear error, and what was answered is kept.
"""

import itertools
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.behaviours import answer, stall, unauthorized
from support.cli import SCRIPT, Place, parse_rows, read_rows, run_cli, write_table
from support.dispatching import Clock, Handler, Results, Signals, Table, at_once, jobs, only, run

from parallamr_mp import events
from parallamr_mp.config import RunConfig
from parallamr_mp.engine import worker
from parallamr_mp.engine.dispatcher import Ending
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.errors import EngineError, InputChanged, OutputError
from parallamr_mp.experiments import Table as ExperimentTable
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.policy.job import Job
from parallamr_mp.policy.schedule import Schedule
from parallamr_mp.prepare import Injected, make_plan
from parallamr_mp.results.flatten import exceeds, flatten
from parallamr_mp.results.records import columns_for, encode_record
from parallamr_mp.results.rewrite import drop_records, flatten_results

FEW = ("--procs", "1", "--threads", "2")
WRITER_S = 5.0
"""What a writer gets for its last rows; one that hangs in a full pipe is killed then."""
SOON_S = WRITER_S + 3.0


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


@contextmanager
def running(place, *options):
    """`parallamr-mp run` in a process group of its own; nothing is read ahead from its pipes."""
    process = subprocess.Popen(
        [SCRIPT, *place.job(*options)],
        cwd=place.folder,
        env=place.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_line(process, text):
    """Until standard error has a line with this text."""
    lines, deadline = [], time.monotonic() + 15
    while not lines or text not in lines[-1]:
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, lines
        line = process.stderr.readline().decode()
        assert line, lines
        lines.append(line)


def in_shell(place, script, *arguments):
    """Runs a shell's script in which `"$@"` is the command."""
    return run_cli(
        place.folder, *place.job(*arguments), env=place.env, command=["sh", "-c", script, "sh", SCRIPT]
    )


def mock_table(place, count, **cells):
    place.table([{"provider": "mock", "model": "mock", "id": number + 1, **cells} for number in range(count)])


def ids(rows):
    return sorted(int(row["id"]) for row in rows)


# --- an output that does not take rows ---------------------------------------------------------

UNREAD_ROWS = 300
"""With prompts of 4 KB they are more than a pipe, or two of them, can hold."""


@pytest.fixture
def unread(place):
    """A run whose rows are all answered, and whose standard output nobody reads."""
    place.write("prompt.txt", "id={{id}} " + "x" * 4000)
    mock_table(place, UNREAD_ROWS)
    with running(place, *FEW) as process:
        wait_for_line(process, "waiting for the output")
        yield process


def test_a_reader_that_pauses_gets_all_rows(unread):
    stdout, stderr = unread.communicate(timeout=20)
    assert unread.returncode == 0, stderr
    assert ids(parse_rows(stdout.decode())) == list(range(1, UNREAD_ROWS + 1))


def test_a_signal_ends_the_wait_for_a_reader_and_tells_that_rows_are_missing(unread):
    started = time.monotonic()
    os.killpg(unread.pid, signal.SIGINT)
    assert unread.wait(10) == 1
    assert time.monotonic() - started < SOON_S
    stdout, stderr = unread.communicate(timeout=10)
    assert "did not take all rows" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert 0 < len(stdout) < UNREAD_ROWS * 4000


class SlowResults(Results):
    """Safe only after it has been asked that often since its end."""

    def __init__(self, looks, on_look=lambda: None, hold=None):
        self.looks, self.on_look, self.ending = looks, on_look, False
        super().__init__(hold)

    @property
    def finished(self):
        if self.ending:
            self.looks -= 1
            self.on_look()
        return self.ending and self.looks <= 0

    @finished.setter
    def finished(self, value):
        self.ending = value


def test_an_output_is_waited_for_however_long_it_takes():
    seen, results = [], SlowResults(looks=6)
    ending, _ = run(jobs(5), lambda payload, attempt: payload, results=results, clock=Clock(100.0), seen=seen)
    assert ending == Ending(None, aborted=False)
    assert sorted(only(results)) == list(range(5))
    assert results.looks <= 0
    told = [event.text for event in seen if isinstance(event, events.Notice)]
    assert len(told) == 1
    assert "waiting for the output" in told[0]


def test_workers_keep_their_answers_until_the_output_has_them_all():
    alive = []

    def look():
        alive.append(any(thread.name.startswith("lease") for thread in threading.enumerate()))

    run(jobs(5), lambda payload, attempt: payload, results=SlowResults(looks=6, on_look=look))
    assert alive[:6] == [True] * 6


def test_a_signal_while_the_output_is_waited_for_is_an_error():
    signals = Signals()
    sent = iter([signals.send])

    def once():
        for send in sent:
            send(signal.SIGINT)

    results = SlowResults(looks=10**9, on_look=once, hold=100)
    try:
        with pytest.raises(OutputError, match="did not take all rows"):
            run(jobs(5), lambda payload, attempt: payload, results=results, signals=signals)
    finally:
        signals.close()


def test_a_signal_while_an_output_is_closed_that_has_taken_all_rows_is_only_a_signal():
    signals = Signals()
    sent = iter([signals.send])

    def once():
        for send in sent:
            send(signal.SIGINT)

    results = SlowResults(looks=10**9, on_look=once)
    try:
        ending, _ = run(jobs(5), lambda payload, attempt: payload, results=results, signals=signals)
    finally:
        signals.close()
    assert ending == Ending(signal.SIGINT, aborted=True)


# --- two runs and one file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("r.csv", "link.csv"),
        ("link.csv", "r.csv"),
        ("o/openai.csv", "o/{{provider}}.csv"),
        ("o/{{provider}}.csv", "o/openai.csv"),
    ],
)
def test_a_file_that_is_being_written_is_refused_by_whatever_name(place, server, first, second):
    place.questions(4)
    place.write("r.csv", "")
    (place.folder / "link.csv").symlink_to("r.csv")
    server.behave(stall())
    with running(place, "-o", first, *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        refused = place.run("-o", second, "--resume")
        assert refused.code == 2, refused
        assert "is writing this output" in refused.stderr
        assert len(server.requests) == 2
        server.behave(answer())
        server.release_all()
        assert process.wait(10) == 0
    assert ids(read_rows(place.folder / first.replace("{{provider}}", "openai"))) == [1, 2, 3, 4]
    # What is free again can be gone on with, by the other name too.
    again = place.run("-o", second, "--resume")
    assert again.code == 0, again
    assert len(server.requests) == 4


# --- overwriting -------------------------------------------------------------------------------


def kill(process):
    process.kill()


def interrupt_twice(process):
    os.killpg(process.pid, signal.SIGINT)
    wait_for_line(process, "SIGINT: no new requests")
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [kill, interrupt_twice])
def test_an_overwriting_run_that_is_ended_and_resumed_keeps_no_old_answer(place, server, end):
    groups = ("openai", "openrouter")
    place.table(
        [
            {"provider": name, "model": "fake-small", "id": f"{name}-{number}"}
            for name in groups
            for number in range(4)
        ]
    )
    options = ("-o", "o/{{provider}}.csv", *FEW)
    server.behave(answer("OLD"))
    assert place.run(*options).code == 0
    assert {row["output"] for name in groups for row in place.rows(f"o/{name}.csv")} == {"OLD"}
    server.behave(stall())
    server.clear()
    with running(place, *options, "--overwrite", "--orphan-grace", "0") as process:
        server.wait_until(lambda: server.in_flight == 2)
        assert {request.api for request in server.requests} == {"openai"}
        end(process)
        process.wait(10)
    server.wait_until(lambda: server.in_flight == 0)
    server.behave(answer("NEW"))
    resumed = place.run(*options, "--resume")
    assert resumed.code == 0, resumed
    for name in groups:
        assert [row["output"] for row in place.rows(f"o/{name}.csv")] == ["NEW"] * 4


# --- a signal before the first request ----------------------------------------------------------


@pytest.mark.parametrize("procs", ["0", "1"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_are_looked_up_ends_the_run_in_order(place, server, procs, signum):
    place.questions(3)
    server.behave_lookup(stall())
    with running(place, "-o", "results.csv", "--procs", procs) as process:
        server.wait_until(lambda: len(server.lookups) == 1)
        os.kill(process.pid, signum)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signum, stderr
    assert b"3 of 3 rows have no result yet. To go on:" in stderr
    assert b"Traceback" not in stderr
    assert server.requests == []
    assert sorted(os.listdir(place.folder)) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]


# --- a table that changes while it is read -----------------------------------------------------


def table_of(path, count):
    return write_table(path, [{"provider": "mock", "model": "mock", "id": number} for number in range(count)])


@pytest.mark.parametrize("now", [3, 9, 11, 30])
@pytest.mark.parametrize("repeat", [1, 2])
def test_a_table_with_other_rows_than_at_first_is_told_after_the_rows_that_were_there(tmp_path, now, repeat):
    path, prompt = table_of(tmp_path / "experiments.csv", 10), tmp_path / "prompt.txt"
    prompt.write_text("id={{id}}")
    config = RunConfig(str(prompt), str(path), output=str(tmp_path / "results.csv"), repeat=repeat)
    table = ExperimentTable(str(path))
    plan = make_plan(config, table, Injected())
    table_of(path, now)
    read = []
    with pytest.raises(InputChanged, match=r"experiments\.csv: was changed while .* --resume"):
        read.extend(map(lambda job: read.append(job.id), plan.jobs()))  # noqa: C417
    assert [id_ for id_ in read if id_ is not None] == list(range(repeat * min(10, now)))
    table.close()


def test_a_table_cut_during_the_run_ends_it_with_what_was_asked_in_the_file(place, server):
    def write(count):
        # Lines of 64 bytes, so that the reader's block ends with a line.
        lines = ["provider,model,id".ljust(63, "x")]
        lines += [f"openai,fake-small,{number + 1:04}".ljust(63, "y") for number in range(count)]
        place.write("experiments.csv", "".join(line + "\n" for line in lines))

    place.write("prompt.txt", "hello")
    write(1000)
    server.behave(stall())
    with running(place, "-o", "results.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        write(5)
        server.behave(answer())
        server.release_all()
        _, stderr = process.communicate(timeout=15)
    assert process.returncode == 1, stderr
    assert "experiments.csv: was changed while the run was reading it" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    rows = place.rows()
    assert 0 < len(rows) == len(server.requests) < 1000
    assert {row["status"] for row in rows} == {"ok"}
    assert [int(row["row_number"]) for row in rows] == list(range(1, len(rows) + 1))


# --- closed standard streams -------------------------------------------------------------------


@pytest.mark.parametrize("procs", ["0", "2"])
@pytest.mark.parametrize("more", [(), ("--flatten",)])
def test_a_closed_standard_output_is_told_before_anything_is_asked(place, server, procs, more):
    place.questions(3)
    done = in_shell(place, 'exec "$@" >&-', "--procs", procs, *more)
    assert (done.code, done.stdout) == (2, ""), done
    assert done.stderr.startswith("Error: standard output is closed")
    assert "-o" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert server.requests == []


@pytest.mark.parametrize("procs", ["0", "2"])
@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-", ">&-"])
def test_with_a_file_for_the_results_closed_streams_do_not_matter(place, server, procs, closed):
    place.questions(3)
    done = in_shell(place, f'exec "$@" {closed}', "-o", "results.csv", "--procs", procs)
    assert (done.code, done.stdout) == (0, ""), done
    assert [row["output"] for row in place.rows()] == ["echo: id=1", "echo: id=2", "echo: id=3"]
    assert sorted(os.listdir(place.folder)) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]


@pytest.mark.parametrize("option", ["-p", "-e"])
def test_a_closed_standard_input_cannot_be_read(place, server, option):
    place.questions(3)
    done = in_shell(place, 'exec "$@" <&-', option, "-", "-o", "results.csv")
    assert done.code == 2, done
    assert done.stderr.startswith("Error: standard input: is closed")
    assert "Traceback" not in done.stderr
    assert server.requests == []


# --- few resources -----------------------------------------------------------------------------


class StingyPool(ThreadPoolExecutor):
    """The system gives it three threads."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked = itertools.count(1)

    def submit(self, *args, **options):
        if next(self.asked) > 3:
            raise RuntimeError("can't start new thread")
        return super().submit(*args, **options)


def test_a_worker_whose_threads_cannot_start_ends_the_run(monkeypatch):
    """The fixture of all tests sees to it that the three threads end."""
    monkeypatch.setattr(worker, "ThreadPoolExecutor", StingyPool)
    made = []

    def make_seat(number):
        made.append(ThreadSeat(worker.worker_main, (8, Handler, (None,)), name=f"worker {number}"))
        return made[-1]

    with pytest.raises(EngineError, match=r"(?s)worker 0: .* 3 times .*can't start new thread"):
        run(jobs(5), make_seat=make_seat, slots=1, threads=8, clock=Clock(0.1))
    assert len(made) == 3


def test_threads_that_do_not_fit_into_memory_end_the_run(place):
    mock_table(place, 3)
    script = 'ulimit -v 1500000; exec "$@"'
    done = in_shell(place, script, "-o", "results.csv", "--procs", "1", "--threads", "400")
    if done.code == 0:
        pytest.skip("400 threads fit")
    if re.search(r"MemoryError|cannot allocate|failed to map", done.stderr):
        pytest.skip("not even the parent fits")
    assert done.code == 1, done
    assert "Error: worker 0: its process ended 3 times before it was ready" in done.stderr
    assert "can't start new thread" in done.stderr
    assert "--resume" in done.stderr


def test_more_outputs_than_descriptors_get_all_their_rows(place):
    place.table([{"provider": "mock", "model": "mock", "group": n % 120, "id": n + 1} for n in range(240)])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard >= 64
    done = in_shell(
        place, 'ulimit -n 64; exec "$@"', "-o", "o/{{group}}.csv", "--procs", "1", "--threads", "4"
    )
    assert done.code == 0, done
    found = {path.name: ids(read_rows(path)) for path in (place.folder / "o").glob("*.csv")}
    assert found == {f"{n}.csv": [n + 1, n + 121] for n in range(120)}


def test_jobs_that_keep_much_memory_are_not_read_far_ahead():
    """One key is full, slots are free: the table is read on for other keys, but not without end."""
    table = Table(Job(number, "a", number, size=1 << 20) for number in range(300))
    read_while_held = []
    gate_open = []

    def attend(payload, attempt):
        deadline = time.monotonic() + 10
        while not gate_open and time.monotonic() < deadline:
            time.sleep(0.005)
        return payload

    def look(event):
        if isinstance(event, events.Pulse) and event.in_flight and not gate_open:
            read_while_held.append(table.read)
            gate_open.append(True)

    _, results = run(table, attend, schedule=Schedule(at_once({"a": 1})), seen=(look,))
    assert 60 <= read_while_held[0] <= 66
    assert sorted(only(results)) == list(range(300))


# --- flattening --------------------------------------------------------------------------------


def test_flattened_rows_that_a_full_output_does_not_take_are_kept_in_a_file(place):
    mock_table(place, 50)
    done = in_shell(place, 'exec "$@" > /dev/full', "--flatten", *FEW)
    kept = Path(re.search(r"The results are kept in (.+)", done.stderr)[1])
    try:
        assert done.code == 1, done
        assert done.stderr.count("Error:") == 1
        assert "standard output: cannot be written: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
        assert ids(read_rows(kept)) == list(range(1, 51))
    finally:
        shutil.rmtree(kept.parent)


BASE = columns_for(("provider", "model", "topic"))


def results_file(path, count):
    records = [encode_record(BASE)]
    for row in range(1, count + 1):
        named = {"status": "ok", "output": json.dumps({f"k{row % 3}": row}), "row_number": row, "repeat": 0}
        records.append(encode_record(["mock", "m", "t", *(named.get(name) for name in RESULT_COLUMNS)]))
    path.write_bytes(b"".join(records))
    return path.read_bytes()


class Signalled(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
def test_flattening_that_is_ended_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path, at):
    path = tmp_path / "r.csv"
    content = results_file(path, 250)  # it is asked three times in each of two passes
    calls = itertools.count(1)

    def go_on():
        if next(calls) == at:
            raise Signalled

    with pytest.raises(Signalled):
        flatten_results(str(path), BASE, go_on)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["r.csv"]
    assert flatten_results(str(path), BASE).columns == 3


@pytest.mark.parametrize(
    "rewrite", [lambda path: flatten_results(path, BASE), lambda path: drop_records(path, {1}.__contains__)]
)
def test_what_a_killed_rewrite_left_goes_with_the_next_one(tmp_path, rewrite):
    path, other = tmp_path / "r.csv", tmp_path / "r"
    left = []
    for each in (path, other):
        results_file(each, 3)

        def look(each=each):
            left.extend(str(name) for name in tmp_path.glob(f".{each.name}-*.tmp"))

        flatten_results(str(each), BASE, look)
    ours, foreign = left[0], left[-1]
    assert ours != foreign
    for name in (ours, foreign, tmp_path / "r.csv.tmp"):
        with open(name, "wb") as stream:
            stream.write(b"half")
    rewrite(str(path))
    assert sorted(os.listdir(tmp_path)) == sorted(["r", "r.csv", os.path.basename(foreign), "r.csv.tmp"])


DEEP = {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}


@pytest.mark.parametrize(
    ("value", "folds"),
    [
        ({}, False),
        ([], False),
        ({"a": 1}, False),
        ({"a": list(range(50))}, False),
        ({"a": list(range(51))}, True),
        (list(range(50)), False),
        (list(range(51)), True),
        ({str(n): n for n in range(200)}, False),
        ({str(n): n for n in range(201)}, True),
        (DEEP["a"], False),
        (DEEP, True),
        ([DEEP["a"]["b"]["c"]], False),
        ([DEEP["a"]["b"]], True),
        ({"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}, False),
    ],
)
def test_what_is_folded_is_known(value, folds):
    assert exceeds(value) is folds
    assert any(text[0] in "{[" and len(text) > 2 for _, text in flatten(value)) is folds


trees = st.recursive(
    st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)


@given(trees.filter(lambda value: not isinstance(value, int)))
def test_exceeding_is_what_flatten_folds(value):
    bounds = {"max_depth": 3, "max_items": 2, "max_keys": 2}
    folded = any(text[0] in "{[" and len(text) > 2 for _, text in flatten(value, **bounds))
    assert exceeds(value, **bounds) is folded


def test_answers_that_are_folded_are_told(place, server):
    place.questions(3)
    said = {"1": json.dumps(DEEP), "2": json.dumps(list(range(60))), "3": '{"a": 1}'}
    server.behave(lambda request: answer(said[request.experiment]))
    done = place.run("-o", "results.csv", "--flatten")
    assert done.code == 0, done
    lines = [line for line in done.stderr.splitlines() if "stays together as JSON text" in line]
    assert len(lines) == 1, done
    assert lines[0].startswith(
        "results.csv: 2 answers with JSON deeper than 6 levels or longer than 50 items"
    )
    server.behave(answer('{"a": 1}'))
    assert "stays together" not in place.run("-o", "results.csv", "--flatten", "--overwrite").stderr


# --- what goes through unchanged, and what is told ---------------------------------------------


def test_an_integer_of_30_digits_reaches_prompt_and_results_as_it_is(place, server):
    number = "123456789012345678901234567890"
    line = (
        f'{{"provider": "openai", "model": "fake-small", "id": -{number}, "of": {{"n": [{number}, "é"]}}}}\n'
    )
    place.write("experiments.jsonl", line)
    place.write("prompt.txt", "id={{id}} of={{of}}")
    done = place.run("-e", "experiments.jsonl", "-o", "results.csv")
    assert done.code == 0, done
    [row] = place.rows()
    assert row["id"] == f"-{number}"
    assert row["of"] == f'{{"n":[{number},"é"]}}'
    assert row["output"] == f"echo: id={row['id']} of={row['of']}"
    again = place.run("-e", "experiments.jsonl", "-o", "results.csv", "--resume")
    assert again.code == 0, again
    assert len(server.requests) == 1


@pytest.mark.parametrize("more", [("--procs", "2"), ("--procs", "0"), ("--procs", "2", "--display", "bar")])
def test_a_failure_of_all_rows_is_told_once_while_running_and_counted_in_the_end(place, server, more):
    place.questions(20)
    server.behave(unauthorized("sk-wrong"))
    done = place.run("-o", "results.csv", *more)
    words = "Incorrect API key provided"
    told = [line for line in done.stderr.splitlines() if words in line]
    assert len(told) == 2, done
    assert re.match(r".*row \d+: error: .*\(told once for all rows\)", told[0])
    assert re.match(r" +20 error: ", told[1])
    assert {row["status"] for row in place.rows()} == {"error"}


# --- what is no file ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_a_regular_file_is_replaced_by_its_flattened_self(place, server, kind):
    place.questions(2)
    path = place.folder / "results.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    done = place.run("-o", "results.csv", *FEW, "--flatten")
    assert done.code == 2, done
    assert "results.csv: is no regular file" in done.stderr
    assert server.requests == []
    assert not path.is_file()


def test_half_a_pair_in_a_table_is_a_character_that_cannot_be_read(place, server):
    place.write("t.jsonl", '{"provider":"openai","model":"fake-small","id":"1\\ud800"}\n')
    done = place.run("-e", "t.jsonl", "-o", "results.csv", *FEW)
    assert done.code == 0, done
    assert [row["id"] for row in place.rows()] == ["1\ufffd"]


# --- answers that somebody else has saved ------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_answers_that_another_user_has_saved_are_told_of(place):
    place.questions(2)
    assert place.run("-o", "results.csv", *FEW).code == 0
    rescue = place.folder / "results.csv.rescue-7.csv"
    rescue.write_bytes((place.folder / "results.csv").read_bytes())
    os.chown(rescue, 12345, -1)
    resumed = place.run("-o", "results.csv", *FEW, "--resume")
    assert "results.csv.rescue-7.csv: answers that another user has saved" in resumed.stderr
    assert rescue.exists()
    assert run_cli(place.folder, "verify", "results.csv", env=place.env).code == 3


def test_overwriting_one_file_leaves_what_others_have_saved(place, server):
    place.table([{"provider": "openai", "model": f"fake-{size}", "id": size} for size in ("small", "large")])
    server.behave(stall())
    with running(place, "-o", "o/{{model}}.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        process.kill()
        process.wait(10)
    server.behave(answer())
    server.release_all()
    server.wait_until(lambda: server.in_flight == 0)
    small = next((place.folder / "o").glob("fake-small*.csv"))
    place.table([{"provider": "openai", "model": "fake-small", "id": "other"}], "one.csv")
    assert place.run("-o", small, "-e", "one.csv", "--overwrite", *FEW).code == 0
    assert place.run("-o", "o/{{model}}.csv", "--resume", *FEW).code == 0
    assert server.counts() == {"small": 1, "large": 1, "other": 1}
