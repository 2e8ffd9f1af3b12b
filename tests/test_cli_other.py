"""The commands beside `run`, and the ways to start them."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support.behaviours import status, unauthorized
from support.cli import SCRIPT, Place, environment, read_rows, run_cli

from parallamr_mp.cli.app import COMMANDS

MODULE = (sys.executable, "-m", "parallamr_mp")


@pytest.mark.parametrize("command", [(SCRIPT,), MODULE], ids=["script", "module"])
def test_help_and_version(tmp_path, command):
    done = run_cli(tmp_path, "--version", command=command)
    assert (done.code, done.stdout, done.stderr) == (0, f"parallamr-mp {version('parallamr-mp')}\n", "")
    done = run_cli(tmp_path, "--help", command=command)
    assert done.code == 0
    assert {"run", "init", "providers", "models"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line
    }
    done = run_cli(tmp_path, "run", "-h", command=command)
    assert done.code == 0
    for option in (
        "--procs",
        "--threads",
        "--resume",
        "--flatten",
        "--param",
        "--range",
        "--openai-concurrency",
    ):
        assert option in done.stdout
    assert "\\" not in done.stdout, "formatting left over"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_of_a_command_what_it_says_of_itself(name):
    function = getattr(importlib.import_module(f"parallamr_mp.cli.{name}"), name)
    assert inspect.getdoc(function).splitlines()[0] == COMMANDS[name]


def test_help_loads_nothing_that_only_commands_need(tmp_path):
    code = (
        "import sys; from parallamr_mp.__main__ import main; sys.argv = ['parallamr-mp', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = run_cli(tmp_path, "-c", code, command=(sys.executable,))
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    heavy = {"requests", "urllib3", "tqdm", "pydantic", "jsonschema"}  # what measures coverage has others
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("parallamr_mp.")}
    assert not ours & {"parallamr_mp.sweep", "parallamr_mp.config", "parallamr_mp.cli.options"}


def test_no_or_an_unknown_command_is_a_usage_error(tmp_path):
    assert "Usage:" in "".join(run_cli(tmp_path).stdout + run_cli(tmp_path).stderr)
    assert run_cli(tmp_path).code == 2
    done = run_cli(tmp_path, "rnu")
    assert done.code == 2
    assert "rnu" in done.stderr


@pytest.mark.parametrize("command", [(SCRIPT,), MODULE], ids=["script", "module"])
def test_a_newcomer_has_a_result_with_what_init_writes(tmp_path, command):
    done = run_cli(tmp_path, "init", command=command)
    assert done.code == 0, done
    assert sorted(os.listdir(tmp_path)) == [".env.example", "context.txt", "experiments.csv", "prompt.txt"]
    # The command it tells is the one that works.
    [told] = [
        line.split() for line in done.stdout.splitlines() if line.lstrip().startswith("parallamr-mp run")
    ]
    done = run_cli(tmp_path, *told[1:], "--procs", "2", "--threads", "4", command=command)
    assert done.code == 0, done
    rows = read_rows(tmp_path / "results.csv")
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        assert f"Explain {row['topic']} to {row['audience']}" in row["output"]
        assert "## Document: context.txt" in row["output"]


@pytest.mark.parametrize("name", [".env.example", "context.txt", "experiments.csv", "prompt.txt"])
def test_init_never_overwrites(tmp_path, name):
    (tmp_path / name).write_text("mine")
    done = run_cli(tmp_path, "init")
    assert done.code == 2
    assert f"{name}: exists already" in done.stderr
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_init_writes_no_csv_under_another_name(tmp_path):
    done = run_cli(tmp_path, "init", "-o", "table.jsonl")
    assert done.code == 2
    assert "table.jsonl: the example table is CSV" in done.stderr
    assert os.listdir(tmp_path) == []


def test_init_writes_elsewhere_and_overwrites_when_told(tmp_path):
    done = run_cli(tmp_path, "init", "-o", "new/folder/table.csv")
    assert done.code == 0, done
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == [
        ".env.example",
        "context.txt",
        "prompt.txt",
        "table.csv",
    ]
    assert "-e new/folder/table.csv" in done.stdout
    (tmp_path / "new" / "folder" / "prompt.txt").write_text("mine")
    assert run_cli(tmp_path, "init", "-o", "new/folder/table.csv", "--overwrite").code == 0
    assert (tmp_path / "new" / "folder" / "prompt.txt").read_text() != "mine"
    done = run_cli(tmp_path, "init", "-o", "new/folder/table.csv/below/it.csv")
    assert done.code == 2
    assert "cannot be written" in done.stderr


def test_providers_tell_whether_they_are_ready(tmp_path, server):
    done = run_cli(tmp_path, "providers")
    assert done.code == 0
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told["mock"].startswith("set up")
    assert told["openai"] == "not set up: OPENAI_API_KEY is not set"
    assert told["openrouter"] == "not set up: OPENROUTER_API_KEY is not set"
    assert told["ollama"].startswith("set up")
    env = environment(server, OPENAI_BASE_URL="http://user:secret-word@127.0.0.1:1/v1")
    done = run_cli(tmp_path, "providers", env=env)
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {words.split(":")[0] for words in told.values()} == {"set up"}
    assert "secret-word" not in done.stdout
    assert not server.requests
    assert not server.lookups


@pytest.mark.parametrize("provider", ["openai", "openrouter", "ollama"])
def test_models_lists_what_a_server_offers(tmp_path, server, provider):
    done = run_cli(tmp_path, "models", provider, env=environment(server))
    assert (done.code, done.stderr) == (0, "")
    told = [line.split("\t") for line in done.stdout.splitlines()]
    windows = {"fake-large": "131072", "fake-small": "4096", "fake-mute": ""}
    assert [name for name, *_ in told] == sorted(windows)
    for name, *window in told:
        # Ollama's list does not tell, and asking for each model would be slow.
        assert "".join(window) == ("" if provider == "ollama" else windows[name])


def test_models_explains_what_went_wrong(tmp_path, server):
    env = environment(server)
    assert run_cli(tmp_path, "models", "mock", env=env).stdout == "mock\n"
    done = run_cli(tmp_path, "models", "opnai", env=env)
    assert done.code == 2
    assert "unknown provider 'opnai'" in done.stderr
    assert "openrouter" in done.stderr
    done = run_cli(tmp_path, "models", "mock", "--timeout", "soon", env=env)
    assert done.code == 2
    assert "--timeout soon: expected a time, as in 90, 90s, 5m" in done.stderr
    assert run_cli(tmp_path, "models", "mock", "--timeout", "5m", env=env).code == 0
    done = run_cli(tmp_path, "models", "openrouter")
    assert done.code == 2
    assert "OPENROUTER_API_KEY is not set" in done.stderr
    server.behave_lookup(unauthorized("abcdef"))
    done = run_cli(tmp_path, "models", "openai", env=env)
    assert done.code == 1
    assert "HTTP 401: Incorrect API key provided" in done.stderr
    server.behave_lookup(status(200, body={"object": "list", "data": []}))
    done = run_cli(tmp_path, "models", "openai", env=env)
    assert (done.code, done.stdout) == (0, "")
    assert "offers no models" in done.stderr
    done = run_cli(tmp_path, "models", "openai", env=env | {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    assert done.code == 1
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_works_from_another_folder_and_with_absolute_paths(tmp_path, server):
    place = Place(tmp_path / "data", server)
    place.questions(2)
    (tmp_path / "elsewhere").mkdir()
    paths = ["-p", place.folder / "prompt.txt", "-e", "../data/experiments.csv"]
    done = run_cli(
        tmp_path / "elsewhere", "run", *paths, "-o", tmp_path / "out" / "new" / "results.csv", env=place.env
    )
    assert done.code == 0, done
    assert len(read_rows(tmp_path / "out" / "new" / "results.csv")) == 2
    assert os.listdir(tmp_path / "elsewhere") == []


def test_the_package_does_not_need_its_checkout(tmp_path):
    """No path of the repository is spoken of in the package: what is installed stands alone."""
    package = Path(__file__).parent.parent / "parallamr_mp"
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert ".ci/" not in text, path
        assert "/work/" not in text, path
