"""The attempts log: a whole line for each request, beside what is there, whatever happens to its disk."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp import attempts_log, events
from parallamr_mp.attempt import RowResult, RowTask
from parallamr_mp.attempts_log import AttemptsLog, check_attempts_log
from parallamr_mp.config import RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.models import Failure, Status
from parallamr_mp.prepare import validate
from parallamr_mp.sweep import run_sweep

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
TASK = RowTask(7, 2, "id-7", 0, "openai", "gpt-x", (), {})
ANSWER = RowResult(b"...", Status.WARNING, "the answer is empty", 1.5, 11, 22, 0.003)


class Log:
    """A log whose run began at `START`, when the monotonic clock said 1000."""

    def __init__(self, path, **more):
        self.path, self.notices = path, []
        self.bus = events.EventBus()
        self.bus.subscribe(self._note)
        self.log = AttemptsLog(str(path), self.bus, clock=lambda: START, monotonic=lambda: 1000.0, **more)
        self.bus.subscribe(self.log)

    def _note(self, event):
        if isinstance(event, events.Notice):
            self.notices.append(event.text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.close()

    def end(
        self, *, value=None, failure=None, route="", attempt=1, payload=TASK, started=1001.0, ended=1002.5
    ):
        self.bus.publish(
            events.AttemptEnded(3, "row 7", attempt, started, ended, route, payload, value, failure)
        )

    def entries(self):
        content = self.path.read_bytes()
        assert content.endswith(b"\n") or not content
        return [orjson.loads(line) for line in content.splitlines()]


def test_an_answer_and_a_failure_are_told_in_full(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.end(value=ANSWER, route="http://me:hush@n1:8000/v1?key=hush", attempt=2)
        failure = Failure("rate_limit", "HTTP 429: no", endpoint="http://n2/v1", status=429, refused=True)
        log.end(failure=failure, route="http://n1/v1")
    assert log.entries() == [
        {
            "row": 7,
            "repeat": 2,
            "experiment_id": "id-7",
            "attempt": 2,
            "provider": "openai",
            "model": "gpt-x",
            "endpoint": "http://n1:8000/v1",
            "start": "2026-01-02T03:04:06.000Z",
            "end": "2026-01-02T03:04:07.500Z",
            "seconds": 1.5,
            "status": "warning",
            "http_status": None,
            "kind": None,
            "message": "the answer is empty",
            "input_tokens": 11,
            "output_tokens": 22,
            "cost_usd": 0.003,
            "known": True,
        },
        {
            "row": 7,
            "repeat": 2,
            "experiment_id": "id-7",
            "attempt": 1,
            "provider": "openai",
            "model": "gpt-x",
            "endpoint": "http://n2/v1",
            "start": "2026-01-02T03:04:06.000Z",
            "end": "2026-01-02T03:04:07.500Z",
            "seconds": 1.5,
            "status": "failed",
            "http_status": 429,
            "kind": "rate_limit",
            "message": "HTTP 429: no",
            "input_tokens": None,
            "output_tokens": None,
            "cost_usd": None,
            "known": True,
        },
    ]
    assert b"hush" not in log.path.read_bytes()


def test_where_nobody_knows_what_became_of_a_request_it_says_so(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.end(failure=Failure("worker_died", "the worker died", unknown=True))
    (entry,) = log.entries()
    assert (entry["status"], entry["kind"], entry["known"]) == ("failed", "worker_died", False)


def test_a_provider_that_was_told_no_endpoint_has_its_own(tmp_path):
    with Log(tmp_path / "log.jsonl", homes={"openai": "https://api.openai.com/v1"}) as log:
        log.end(value=ANSWER)
        log.end(failure=Failure("timeout", "no"))
    assert {entry["endpoint"] for entry in log.entries()} == {"https://api.openai.com/v1"}


def test_secrets_are_taken_out(tmp_path):
    hide = lambda text: text.replace("hush", "[redacted]")  # noqa: E731
    with Log(tmp_path / "log.jsonl", hide=hide) as log:
        log.end(failure=Failure("internal", "said hush", endpoint="http://hush/v1"))
        log.end(value=RowResult(b"", Status.OK, "hush", 0, 1, 1, None), route="http://n1/hush")
    assert b"hush" not in log.path.read_bytes()


def test_lines_are_added_to_what_is_there(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"row":1}\n')
    with Log(path) as log:
        log.end(value=ANSWER)
    assert [entry["row"] for entry in log.entries()] == [1, 7]


def test_a_torn_line_is_ended_and_stays_the_only_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"row":1}\n{"row":')
    with Log(path) as log:
        log.end(value=ANSWER)
        log.end(value=ANSWER)
    lines = path.read_bytes().splitlines()
    assert lines[:2] == [b'{"row":1}', b'{"row":']
    assert [orjson.loads(line)["row"] for line in lines[2:]] == [7, 7]


def test_a_torn_line_is_left_as_it_is_where_nothing_is_added(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"row":')
    with Log(path):
        pass
    assert path.read_bytes() == b'{"row":'


def test_two_runs_share_a_file_line_by_line(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as one, Log(path) as two:

        def write(log, row):
            for attempt in range(200):
                log.end(
                    value=ANSWER, payload=RowTask(row, 1, "x" * 500, 0, "p", "m", (), {}), attempt=attempt
                )

        threads = [threading.Thread(target=write, args=(log, row)) for row, log in ((1, one), (2, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    entries = one.entries()
    for row in (1, 2):
        assert [entry["attempt"] for entry in entries if entry["row"] == row] == list(range(200))


def test_a_disk_that_fails_is_told_once_and_a_disk_that_recovers_is_used(tmp_path, monkeypatch):
    real = os.write
    answers = iter([5, OSError(28, "No space left on device"), 0, None, None])

    def write(fd, data):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return real(fd, data if answer is None else data[:answer])

    with Log(tmp_path / "log.jsonl") as log:
        monkeypatch.setattr(attempts_log.os, "write", write)
        for attempt in range(1, 6):
            log.end(value=ANSWER, attempt=attempt)
        monkeypatch.undo()
    (notice,) = log.notices
    assert "log.jsonl: cannot be written: No space left" in notice
    torn, *whole = log.path.read_bytes().splitlines()
    assert torn == b'{"row'
    assert [orjson.loads(line)["attempt"] for line in whole] == [4, 5]


def test_a_closed_log_takes_no_more(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.log.close()
    log.log.close()
    log.end(value=ANSWER)
    assert log.entries() == []


@given(message=st.text(), endpoint=st.text(), route=st.text(), name=st.text(), seconds=st.floats(-1e6, 1e6))
def test_whatever_is_told_it_is_one_line(tmp_path_factory, message, endpoint, route, name, seconds):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with Log(path) as log:
        task = RowTask(1, 1, name, 0, name, name, (), {})
        failure = Failure("internal", message + "\ud800", endpoint=endpoint)
        log.end(payload=task, failure=failure, ended=1000.0 + seconds)
        log.end(payload=task, value=ANSWER, route=route)
        log.end(payload=object(), value=object())
    assert len(log.entries()) == 3
    assert log.entries()[0]["seconds"] >= 0


# Before the run


def config(tmp_path, log, **more):
    (tmp_path / "p.txt").write_text("hello {{id}}")
    (tmp_path / "e.csv").write_text("provider,model,id\nmock,mock,1\nmock,mock,2\n")
    (tmp_path / "nodes.txt").write_text("mock=http://n1\n")
    return RunConfig(
        str(tmp_path / "p.txt"),
        str(tmp_path / "e.csv"),
        output=str(tmp_path / "r.csv"),
        procs=0,
        endpoints_file=str(tmp_path / "nodes.txt"),
        attempts_log=str(tmp_path / log),
        **more,
    )


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("p.txt", "is an input or an output"),
        ("e.csv", "is an input or an output"),
        ("nodes.txt", "is an input or an output"),
        ("r.csv", "is an input or an output"),
        ("x/../r.csv", "is an input or an output"),
        ("linked.csv", "is an input or an output"),
        ("r.csv.manifest.json", "is an input or an output"),
        ("r.csv.lock", "is an input or an output"),
        (".", "it is a folder"),
        ("pipe", "it is no regular file"),
        ("nowhere/log.jsonl", "there is no folder"),
        ("notes.txt", "it holds something else than such a log"),
        ("other.csv", "it holds something else than such a log"),
    ],
)
def test_a_log_that_cannot_be_is_refused_before_anything_is_made(tmp_path, log, said):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").mkdir()
    (tmp_path / "linked.csv").symlink_to(tmp_path / "r.csv")
    others = {"notes.txt": "{\n", "other.csv": "provider,model\n"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    for call in (validate, lambda config: run_sweep(config, events.EventBus())):
        with pytest.raises(BadInput) as caught:
            call(config(tmp_path, log))
        assert said in str(caught.value)
        assert "--attempts-log" in str(caught.value)
    assert not (tmp_path / "r.csv").exists()
    assert {name: (tmp_path / name).read_text() for name in others} == others


def test_a_log_that_is_there_is_gone_on_with_however_little_of_it_there_is(tmp_path):
    for start in ("", "{", '{"row":1,"rep'):
        (tmp_path / "log.jsonl").write_text(start)
        check_attempts_log(str(tmp_path / "log.jsonl"), [])


def test_a_hard_link_to_an_input_is_that_input(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    with pytest.raises(BadInput, match="is an input"):
        check_attempts_log(str(tmp_path / "b"), [str(tmp_path / "a")])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_without_permission_is_refused(tmp_path):
    (tmp_path / "log").write_text("")
    (tmp_path / "log").chmod(0o400)
    with pytest.raises(BadInput, match="Permission denied"):
        check_attempts_log(str(tmp_path / "log"), [])


def test_the_log_of_a_run_is_there_at_its_end(tmp_path):
    assert run_sweep(config(tmp_path, "log.jsonl"), events.EventBus()).ok == 2
    assert (tmp_path / "log.jsonl").exists()
