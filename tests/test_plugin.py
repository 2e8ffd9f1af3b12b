"""A third party's provider, found through its entry point: by the command line, and by its workers."""

from __future__ import annotations

import os

import pytest
from support.cli import Place, run_cli

PARROT = """
from parallamr_mp import ModelInfo, ProviderError, Reply


class Parrot:
    def __init__(self, settings):
        self.timeout, self.threads = settings.timeout, settings.threads
        if settings.env.get("PARROT_SINGS") == "no":
            from parallamr_mp import MissingKey
            raise MissingKey("PARROT_SINGS says no")

    def complete(self, request):
        import os
        if request.prompt.endswith("3"):
            raise ProviderError("mood", "the parrot is silent")
        text = f"{request.prompt}! {request.prompt}! {self.timeout:g} {self.threads} {os.getpid()}"
        return Reply(text, "squawk", 3, 6, endpoint="cage")

    def list_models(self):
        return [ModelInfo("polly", 40)]

    def context_window(self, model):
        return {"polly": 40}.get(model)
"""


COUNTS_PROCESSORS = """
import os
from parallamr_mp import Reply


class Counter:
    def __init__(self, settings):
        pass

    def complete(self, request):
        return Reply(str(len(os.sched_getaffinity(0))), "stop", 1, 1)
"""

GUESSES = """
from parallamr_mp import Reply


class Guesser:
    def __init__(self, settings):
        self.session = settings.session

    def complete(self, request):
        import requests

        response = requests.Response()
        response._content = "na\u00efve caf\u00e9, d\u00e9j\u00e0 vu, gar\u00e7on".encode("latin-1")
        return Reply(f"{type(self.session).__name__}: {response.text}", "stop", 1, 1)
"""


def install(folder, name, module, provider, target, version="1.2"):
    """What an installer would leave behind: a module, and metadata that names an entry point."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[parallamr_mp.providers]\n{provider} = {name}:{target}\n")


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "work")
    place.env["PYTHONPATH"] = str(tmp_path / "site")
    return place


def test_a_plug_ins_rows_are_answered_by_worker_processes(place, tmp_path):
    install(tmp_path / "site", "cage", PARROT, "parrot", "Parrot")
    place.questions(6, "parrot", "polly")
    place.write("prompt.txt", "say {{id}}")
    options = ["--procs", "2", "--threads", "3", "--timeout", "9"]
    done = place.run("-o", "results.csv", *options)
    assert done.code == 3, done
    rows = place.rows()
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert rows[2]["error_message"] == "the parrot is silent"
    assert rows[0]["output"].startswith("say 1! say 1! 9 3 ")
    columns = ("context_window", "input_tokens", "output_tokens", "finish_reason", "endpoint")
    assert [rows[0][name] for name in columns] == ["40", "3", "6", "squawk", "cage"]
    workers = {row["output"].split()[-1] for row in rows if row["output"]}
    assert 1 <= len(workers) <= 2
    assert str(os.getpid()) not in workers


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
def test_a_plug_in_may_compute_on_all_processors(place, tmp_path):
    install(tmp_path / "site", "cage", COUNTS_PROCESSORS, "counter", "Counter")
    place.questions(2, "counter", "m")
    assert place.run("-o", "results.csv", "--procs", "1", "--threads", "2").code == 0
    assert {row["output"] for row in place.rows()} == {str(len(os.sched_getaffinity(0)))}


def test_a_plug_in_has_a_session_and_requests_as_it_is(place, tmp_path):
    """It may ask what tells no encoding, for which `requests` guesses one."""
    install(tmp_path / "site", "cage", GUESSES, "guesser", "Guesser")
    place.questions(1, "guesser", "m")
    assert place.run("-o", "results.csv", "--procs", "1", "--threads", "1").code == 0
    (row,) = place.rows()
    kind, _, text = row["output"].partition(": ")
    assert kind == "Session"
    assert text.endswith("gar\u00e7on")


def test_a_session_that_workers_could_not_make_for_a_plug_in_is_told_before_anything_begins(place, tmp_path):
    install(tmp_path / "site", "cage", PARROT, "parrot", "Parrot")
    place.questions(1, "parrot", "polly")
    for procs in ("0", "2"):
        done = place.run("-o", "results.csv", "--procs", procs, SSL_CERT_FILE="nowhere.pem")
        assert done.code == 2
        assert "SSL_CERT_FILE" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (place.folder / "results.csv").exists()


def test_the_other_commands_know_a_plug_in(place, tmp_path):
    install(tmp_path / "site", "cage", PARROT, "parrot", "Parrot")
    told = dict(
        line.split(maxsplit=1) for line in run_cli(tmp_path, "providers", env=place.env).stdout.splitlines()
    )
    assert told["parrot"] == "set up"
    assert list(told) == ["mock", "openai", "openrouter", "ollama", "parrot"]
    done = run_cli(tmp_path, "models", "parrot", env=place.env)
    assert (done.code, done.stdout) == (0, "polly\t40\n")
    place.env["PARROT_SINGS"] = "no"
    told = run_cli(tmp_path, "providers", env=place.env).stdout
    assert "not set up: PARROT_SINGS says no" in told
    place.questions(1, "parrot", "polly")
    done = place.run("-o", "results.csv")
    assert done.code == 2
    assert "PARROT_SINGS says no" in done.stderr


@pytest.mark.parametrize(
    ("module", "target", "says"),
    [
        ("import no_such_module", "Parrot", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "Parrot", "AttributeError"),
        ("def Parrot(settings): raise RuntimeError('no seeds')", "Parrot", "RuntimeError: no seeds"),
        ("def Parrot(settings): return object()", "Parrot", "has no method `complete`"),
    ],
)
def test_a_broken_plug_in_is_named_and_nothing_is_made(place, tmp_path, module, target, says):
    install(tmp_path / "site", "cage", module, "parrot", target)
    place.questions(2, "parrot", "polly")
    done = place.run("-o", "results.csv", "--procs", "2")
    assert done.code == 2, done
    assert "the provider 'parrot' of cage 1.2" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.folder / "results.csv").exists()
    # Who does not use it, does not notice.
    place.questions(2, "mock", "mock")
    assert place.run("-o", "results.csv").code == 0
    told = run_cli(tmp_path, "providers", env=place.env)
    assert told.code == 0
    assert any(line.startswith("parrot") and "not set up" in line for line in told.stdout.splitlines())


def test_two_plug_ins_of_one_name_are_refused_and_a_built_in_name_is_never_taken(place, tmp_path):
    install(tmp_path / "site", "cage", PARROT, "parrot", "Parrot")
    install(tmp_path / "site", "jungle", PARROT, "parrot", "Parrot", version="0.1")
    install(tmp_path / "site", "thief", PARROT, "mock", "Parrot")
    place.questions(1, "parrot", "polly")
    done = place.run("-o", "results.csv")
    assert done.code == 2
    assert "comes from several plug-ins: cage 1.2 and jungle 0.1" in done.stderr
    place.questions(1, "mock", "mock")
    assert place.run("-o", "results.csv").code == 0
    assert place.rows()[0]["endpoint"] == "mock"
