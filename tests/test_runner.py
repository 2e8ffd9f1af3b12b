"""The library's front door: one factory, where everything can be injected."""

from __future__ import annotations

import io
import os
import sys
import threading
from dataclasses import replace

import pytest
import requests
from support.behaviours import slow, status, wait_for
from support.cli import FAKE_KEY, read_rows, write_table

import parallamr_mp
from parallamr_mp import (
    BadInput,
    ExperimentRunner,
    MissingKey,
    OutputExists,
    ProviderError,
    Reply,
    create_experiment_runner,
    events,
)


class Spy:
    """A provider that remembers what it is asked, and answers once `together` calls are in flight."""

    def __init__(self, together: int = 1) -> None:
        self.requests = []
        self.in_flight = self.peak = 0
        self._barrier = threading.Barrier(together)
        self._lock = threading.Lock()

    def complete(self, request):
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        self._barrier.wait(timeout=10)
        with self._lock:
            self.in_flight -= 1
        if request.prompt == "fail":
            raise ProviderError("bad_request", "as asked")
        return Reply(f"answer to {request.prompt}", "stop", 10, 5, cost_usd=0.5, endpoint="spy")


class CountingSession(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.sent = []

    def send(self, request, **options):
        self.sent.append(request.url)
        return super().send(request, **options)


@pytest.fixture
def job(tmp_path, server, monkeypatch):
    """Prompt, table and output in a folder; the server in the environment."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", FAKE_KEY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("id={{id}}")
    return tmp_path


def table(folder, count, provider="spy"):
    rows = [{"provider": provider, "model": "m", "id": number} for number in range(1, count + 1)]
    return write_table(folder / "table.csv", rows)


def run(runner, folder, **options):
    return runner.run_experiments(
        folder / "prompt.txt", folder / "table.csv", folder / "out" / "results.csv", **options
    )


def test_parallel_five_really_has_five_calls_in_flight(job):
    table(job, 15)
    spy = Spy(together=5)
    runner = create_experiment_runner(providers={"spy": spy}, parallel=5)
    assert isinstance(runner, ExperimentRunner)
    summary = run(runner, job)
    assert spy.peak == 5
    assert summary.ok == summary.written == summary.total == 15
    assert sorted(request.prompt for request in spy.requests) == sorted(f"id={n}" for n in range(1, 16))
    assert len(read_rows(job / "out" / "results.csv")) == 15


def test_the_request_is_what_the_row_says_and_the_summary_counts(job):
    write_table(
        job / "table.csv",
        [
            {"provider": "spy", "model": "a", "id": "x", "param:seed": "3"},
            {"provider": "spy", "model": "b", "id": "y", "param:seed": ""},
        ],
    )
    (job / "ctx.md").write_text("about {{model}}")
    (job / "system.txt").write_text("be {{id}}")
    spy = Spy()
    runner = create_experiment_runner(providers={"spy": spy}, threads=2, params={"seed": 1})
    summary = run(runner, job, context_files=[job / "ctx.md"], system="system.txt", repeat=2)
    asked = sorted(spy.requests, key=lambda request: request.model)
    assert [request.model for request in asked] == ["a", "a", "b", "b"]
    assert asked[0].prompt == "id=x\n\n---\n\n## Document: ctx.md\n\nabout a"
    assert (asked[0].system, asked[3].system) == ("be x", "be y")
    assert (asked[0].params, asked[3].params) == ({"seed": 3}, {"seed": 1})
    assert asked[0].variables == {"provider": "spy", "model": "a", "id": "x", "param:seed": "3"}
    assert (summary.total, summary.ok, summary.warning, summary.error) == (4, 4, 0, 0)
    assert (summary.input_tokens, summary.output_tokens, summary.cost_usd) == (40, 20, 2.0)
    assert (summary.retries, summary.workers_lost, summary.missing, summary.resumed) == (0, 0, 0, 0)
    assert summary.outputs == (str(job / "out" / "results.csv"),)
    assert summary.signum is None
    assert 0 <= summary.latency_p50 <= summary.latency_p95 < summary.seconds


def test_an_injected_session_makes_every_request(job, server):
    table(job, 12, "openai")
    with CountingSession() as session:
        summary = run(create_experiment_runner(session=session, threads=4), job)
        assert summary.ok == 12
        chats = [url for url in session.sent if url.endswith("/chat/completions")]
        assert len(chats) == len(server.requests) == 12
        assert len(session.sent) == 12 + len(server.lookups)
        # It is the caller's: still usable.
        assert session.get(f"{server.openai_url}/models", timeout=5).status_code == 200
    assert len({request.connection for request in server.requests}) <= 4


@pytest.mark.parametrize("injected", [{"session": requests.Session()}, {"providers": {"spy": Spy()}}])
def test_what_cannot_cross_a_process_says_so(injected):
    with pytest.raises(BadInput, match=r"injected (a session|providers) cannot cross to 2 worker processes"):
        create_experiment_runner(procs=2, **injected)
    create_experiment_runner(procs=0, **injected)


def test_a_provider_that_was_not_injected_is_unknown(job):
    table(job, 1, "openai")
    with pytest.raises(BadInput, match="unknown provider 'openai'"):
        run(create_experiment_runner(providers={"spy": Spy()}), job)


def test_an_injected_loader_reads_every_text(job):
    table(job, 2)
    asked = []

    class Loader:
        def read_text(self, path):
            asked.append(path)
            return {"p://prompt": "{{id}} from nowhere", "p://1": "one", "p://2": "two"}[path]

    spy = Spy()
    runner = create_experiment_runner(providers={"spy": spy}, file_loader=Loader())
    runner.run_experiments("p://prompt", job / "table.csv", job / "r.csv", ["p://{{id}}"])
    assert set(asked) == {"p://prompt", "p://1", "p://2"}
    assert {request.prompt for request in spy.requests} == {
        "1 from nowhere\n\n---\n\n## Document: 1\n\none",
        "2 from nowhere\n\n---\n\n## Document: 2\n\ntwo",
    }


@pytest.mark.parametrize("procs", [0, 2])
def test_a_run_works_in_any_thread(job, server, procs):
    table(job, 6, "openai")
    summaries = []
    runner = create_experiment_runner(procs=procs, threads=2)
    thread = threading.Thread(target=lambda: summaries.append(run(runner, job)))
    thread.start()
    thread.join(30)
    assert [summary.ok for summary in summaries] == [6]
    assert len(server.requests) == 6


def test_events_are_published_in_order_in_the_callers_thread(job, server):
    server.behave(lambda request: status(503) if server.count(request.experiment) == 1 else slow(0.3))
    table(job, 2, "openai")
    runner = create_experiment_runner(procs=1, threads=2)
    seen, threads = [], set()

    def broken(event):
        if event == events.RunFinished():
            raise RuntimeError("a handler's own trouble")

    def handler(event):
        seen.append(event)
        threads.add(threading.current_thread())

    runner.bus.subscribe(broken)
    unsubscribe = runner.bus.subscribe(handler)
    summary = run(runner, job)
    kinds = [type(event) for event in seen if not isinstance(event, events.Pulse)]
    assert kinds[0] is events.RunStarted
    assert kinds[-1] is events.RunFinished
    assert (kinds.count(events.WorkerStarted), kinds.count(events.AttemptFailed)) == (1, 2)
    assert kinds.count(events.RowDone) == 2
    started = seen[0]
    assert (started.total, started.done, started.procs, started.threads) == (2, 0, 1, 2)
    assert any(isinstance(event, events.Pulse) and event.in_flight for event in seen)
    row = next(event for event in seen if isinstance(event, events.RowDone))
    assert (row.provider, row.model, row.status, row.attempts) == ("openai", "m", "ok", 2)
    assert threads == {threading.current_thread()}
    assert summary.retries == 2
    unsubscribe()
    count = len(seen)
    run(runner, job, overwrite=True)
    assert len(seen) == count


def test_an_existing_output_is_refused_resumed_or_replaced(job):
    table(job, 3)
    spy = Spy()
    runner = create_experiment_runner(providers={"spy": spy}, threads=1)
    run(runner, job)
    path = job / "out" / "results.csv"
    before = path.read_bytes()
    with pytest.raises(OutputExists, match="exists already"):
        run(runner, job)
    assert path.read_bytes() == before
    resumed = run(runner, job, resume=True)
    assert (resumed.total, resumed.resumed, resumed.written) == (3, 3, 0)
    assert path.read_bytes() == before
    assert len(spy.requests) == 3
    assert run(runner, job, overwrite=True).written == 3
    assert len(read_rows(path)) == 3


def test_errors_of_a_provider_are_rows_and_of_its_code_too(job):
    class Buggy(Spy):
        def complete(self, request):
            if request.prompt == "id=2":
                raise ZeroDivisionError("a bug of the provider")
            return super().complete(replace(request, prompt="fail"))

    table(job, 3)
    summary = run(create_experiment_runner(providers={"spy": Buggy()}), job)
    assert (summary.ok, summary.error) == (0, 3)
    messages = {row["id"]: row["error_message"] for row in read_rows(job / "out" / "results.csv")}
    assert messages["1"] == "as asked"
    assert "ZeroDivisionError" in messages["2"]
    assert "a bug of the provider" in messages["2"]


def test_results_may_go_to_stdout(job, capfd):
    table(job, 2)
    summary = create_experiment_runner(providers={"spy": Spy()}).run_experiments("prompt.txt", "table.csv")
    assert summary.outputs == ()
    assert capfd.readouterr().out.count("answer to id=") == 2


def test_verbose_prints_a_line_for_each_row(job, capsys):
    table(job, 2)
    runner = create_experiment_runner(providers={"spy": Spy()}, verbose=True)
    run(runner, job)
    assert capsys.readouterr().err.count(": ok · spy/m · ") == 2


def test_validation_makes_every_check_and_sends_nothing(job, server, monkeypatch):
    table(job, 4, "openai")
    runner = create_experiment_runner(procs=0)
    plan = runner.validate_experiments("prompt.txt", "table.csv", "r.csv", last_row=3)
    assert plan.survey.experiments == 3
    assert plan.survey.models == {("openai", "m"): 3}
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        runner.validate_experiments("prompt.txt", "table.csv")
    with pytest.raises(BadInput, match="both be read from standard input"):
        runner.validate_experiments("-", "-")
    assert not server.requests
    assert not server.lookups
    assert not (job / "r.csv").exists()


def test_settings_that_make_no_sense_are_bad_input(job):
    table(job, 1)
    for settings, words in (
        ({"threads": 0}, "--threads 0"),
        ({"timeout": 0}, "--timeout 0"),
        ({"timeout": float("nan")}, "--timeout nan"),
        ({"limits": {"spy": 0}}, "spy: 0 requests at once"),
    ):
        runner = create_experiment_runner(providers={"spy": Spy()}, **settings)
        with pytest.raises(BadInput, match=words):
            run(runner, job)
    with pytest.raises(BadInput, match="parallel"):
        create_experiment_runner(parallel=0)


def test_stdin_is_read_where_the_library_is_told_to(job, monkeypatch):
    table(job, 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed {{id}}")))
    spy = Spy()
    create_experiment_runner(providers={"spy": spy}).run_experiments("-", "table.csv", "r.csv")
    assert [request.prompt for request in spy.requests] == ["typed 1"]


def test_the_version_is_public():
    assert parallamr_mp.__version__.count(".") >= 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
def test_no_two_workers_keep_to_the_same_processor(job, server):
    """One for whom there is none, for other runs have them, may use all."""
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("there is one processor")
    table(job, 4, "openai")
    both_up = threading.Event()
    server.behave(wait_for(both_up))
    runner = create_experiment_runner(procs=2, threads=2)
    found = []

    def look(event):
        found.append(os.sched_getaffinity(event.pid))
        if len(found) == 2:
            both_up.set()

    runner.bus.subscribe(look, events.WorkerStarted)
    assert runner.run_experiments("prompt.txt", "table.csv", "results.csv").ok == 4
    first, second = found
    assert {len(first), len(second)} <= {1, len(ours)}
    assert first != second or first == ours
    assert first | second <= ours == os.sched_getaffinity(0)
