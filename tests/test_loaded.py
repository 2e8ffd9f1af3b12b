"""What each process of a run has loaded: it pays for that in time at every start, and in memory throughout.

A change that makes one of these lists longer has to be worth it, and says so here.
"""

from __future__ import annotations

import select
import subprocess
import sys

import pytest
from support.cli import Place, environment, run_cli
from support.telling_worker import Telling
from support.telling_writer import write_and_tell

from parallamr_mp import attempt, crew
from parallamr_mp.answered import AttemptSpec, RowTask
from parallamr_mp.attempt import Asker
from parallamr_mp.config import RunConfig
from parallamr_mp.engine.messages import Ack, Append, CloseOutputs, Lease, OpenOutput, Outcome, Stop
from parallamr_mp.engine.seat import ProcessSeat
from parallamr_mp.engine.spawning import Thrift
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.events import EventBus
from parallamr_mp.models import Inputs
from parallamr_mp.providers.registry import UNUSED
from parallamr_mp.sweep import run_sweep

HTTP = {"requests", "urllib3", "certifi", "idna"}
"""requests, and what it loads itself, but for what a worker has no use for."""
OPTIONAL = {
    "brotli",
    "brotlicffi",
    "chardet",
    "h2",
    "simplejson",
    "socks",
    "zstandard",
    "backports",
    "OpenSSL",
}
"""What requests and urllib3 load besides where it is installed."""

EVERY_CHILD = [
    "__init__",
    "_version",
    "crossing",
    "errors",
    "values",
    "models",
    "engine",
    "engine.channels",
    "engine.messages",
    "engine.seat",
    "engine.spawning",
]
WRITER = ["engine.writer", "results", "results.records", "results.writer"]
WORKER = [
    "answered",
    "attempt",
    "prompts",
    "schemas",
    "tariff",
    "text",
    "engine.affinity",
    "engine.custody",
    "engine.worker",
    "policy",
    "policy.cost",
    "providers",
    "providers.allowance",
    "providers.answers",
    "providers.arrivals",
    "providers.base",
    "providers.catalogue",
    "providers.chat_completions",
    "providers.connection",
    "providers.deadlines",
    "providers.endpoints",
    "providers.ends",
    "providers.environment",
    "providers.exchange",
    "providers.failures",
    "providers.http",
    "providers.json_text",
    "providers.openai",
    "providers.pools",
    "providers.registry",
    "providers.secrets",
    "providers.transport",
    "providers.watched",
    "providers.wire",
    "results",
    "results.records",
    "results.rescue_file",
    "results.writer",
]


@pytest.fixture(scope="module")
def bare():
    """What every interpreter here has loaded, whoever measures coverage or the like included."""
    code = "import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True
        ).stdout.split()
    )


def said_by(main, args, *messages, until, last, thrift=None):
    """All that an actor in a process of its own says. `last` is sent when it has said an `until`."""
    seat = ProcessSeat(main, args, name="the actor", thrift=thrift)
    said, ended, over = [], False, False
    try:
        for message in messages:
            seat.outbox.post(message)
        while not ended:
            if not over and any(isinstance(message, until) for message in said):
                over = True
                seat.outbox.post(last)
            seat.outbox.flush()
            assert select.select([seat.inbox], [], [], 20)[0], said
            some, ended = seat.inbox.read()
            said += some
    finally:
        seat.kill()
        assert seat.join(10)
    return said


def ours(names):
    return {
        name.removeprefix("parallamr_mp").removeprefix(".") or "__init__"
        for name in names
        if name.split(".")[0] == "parallamr_mp"
    }


def foreign(names):
    """Packages that are neither Python's nor ours; without what compiled ones make of themselves."""
    tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    made = ("_", "cython_runtime", "parallamr_mp", "support")
    return {top for top in tops if not top.startswith(made) and not top.endswith("__mypyc")}


def loaded_to_ask(provider, model):
    """All that a worker has loaded that a sweep has started, when it has asked."""
    spec = AttemptSpec((), Inputs("Hello"), 20.0, 1)
    task = RowTask(1, 0, "id", 0, provider, model, (), {})
    said = said_by(
        worker_main,
        (1, Telling, (spec,), 1.0),
        Lease(0, 1, task),
        until=Outcome,
        last=Stop(),
        thrift=Thrift(without=UNUSED),
    )
    (outcome,) = [message for message in said if isinstance(message, Outcome)]
    assert outcome.failure is None
    return set(outcome.value)


def test_a_worker_that_has_asked_has_loaded_nothing_else(bare, server, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    loaded = loaded_to_ask("openai", "m-1")
    assert ours(loaded) == {*EVERY_CHILD, *WORKER}
    assert foreign(loaded - bare) - OPTIONAL == HTTP | {"orjson"}
    assert capfd.readouterr().err == ""


def test_a_worker_that_needs_no_http_has_loaded_none(bare):
    loaded = loaded_to_ask("mock", "mock")
    assert foreign(loaded - bare) == {"orjson"}
    assert "ssl" not in loaded - bare
    assert ours(loaded) - {"providers.mock"} < {*EVERY_CHILD, *WORKER} - {"providers.http"}


def test_a_session_is_made_before_the_first_row(monkeypatch):
    """Else the rows that a worker has taken would wait for that, and others overtake them."""
    made = []
    monkeypatch.setattr(attempt, "session_for", lambda name, *_: made.append(name))
    Asker(AttemptSpec((), Inputs("Hello"), 20.0, 1, asked=("mock", "openai")))
    assert made == ["mock", "openai"]


@pytest.mark.parametrize("threads", [8, 64])
def test_a_run_has_its_workers_get_by_with_that(tmp_path, monkeypatch, threads):
    started = []

    class Noted(ProcessSeat):
        def __init__(self, main, args, **options):
            started.append((main, args, options))
            super().__init__(main, args, **options)

    monkeypatch.setattr(crew, "ProcessSeat", Noted)
    (tmp_path / "p.txt").write_text("hello {{id}}")
    rows = "".join(f"mock,mock,{number}\n" for number in range(100))
    (tmp_path / "e.csv").write_text(f"provider,model,id\n{rows}")
    paths = [str(tmp_path / name) for name in ("p.txt", "e.csv", "r.csv")]
    config = RunConfig(*paths[:2], output=paths[2], procs=1, threads=threads)
    assert run_sweep(config, EventBus()).ok == 100
    [(args, options)] = [(args, options) for main, args, options in started if main is worker_main]
    assert options["thrift"] == Thrift(shares=threads >= 64, without=UNUSED)
    [spec] = [each for arg in args if isinstance(arg, tuple) for each in arg]
    assert spec.asked == ("mock",)


def test_what_requests_says_of_itself_is_heard_where_nothing_is_left_out():
    told = (
        "import warnings\n"
        "from parallamr_mp.providers.registry import session_for\n"
        "session_for('openai', 1, {}).close()\n"
        "print([kind.__name__ for _, _, kind, *_ in warnings.filters])\n"
        "print([str(text) for _, text, *_ in warnings.filters if text])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=True
    )
    kinds, texts = done.stdout.splitlines()
    assert "FileModeWarning" in kinds
    assert "character detection" not in texts


def test_the_writer_has_loaded_nothing_else(bare, tmp_path):
    said = said_by(
        write_and_tell,
        (),
        OpenOutput(0, str(tmp_path / "results.csv"), b"a\n", 0),
        Append(0, 0, b"1\n"),
        until=Ack,
        last=CloseOutputs(),
    )
    assert (tmp_path / "results.csv").read_text() == "a\n1\n"
    loaded = set(said[-1])
    assert ours(loaded) == {*EVERY_CHILD, *WRITER}
    assert foreign(loaded - bare) == set()


def test_a_command_has_loaded_nothing_that_it_was_not_told_to_use(bare, tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(2)
    code = (
        "import sys; from parallamr_mp.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    words = [
        "run",
        "-p",
        "prompt.txt",
        "-e",
        "experiments.csv",
        "-o",
        "results.csv",
        "--procs",
        "1",
        "--threads",
        "1",
        "--display",
        "bar",
    ]
    done = run_cli(tmp_path, "-c", code, *words, env=environment(server), command=(sys.executable,))
    code, *loaded = done.stdout.split()
    assert code in {"0", "None"}, done
    # typer's own needs differ by its version; what it validates with, if let, is none of them.
    assert foreign(set(loaded) - bare).isdisjoint(
        {"pydantic", "pydantic_core", "rich", "jsonschema", "json_repair", "genai_prices", "cloudpickle"}
    )
    assert "asyncio" not in loaded
    assert ours(loaded).isdisjoint(
        {"preview", "verify", "sweep_events", "mailbox", "parallel", "cli.plan", "cli.verify", "cli.models"}
    )
