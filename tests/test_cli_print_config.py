"""`--print-config`: every option, its final value and where that comes from, fit to be read again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import environment, run_cli
from support.options import main

from parallamr_mp.cli.options import ALIASES, BY_NAME, IN_FILES, OPTIONS
from parallamr_mp.errors import BadInput


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for option in OPTIONS:
        monkeypatch.delenv(option.mirror, raising=False)


def not_run(given):
    raise AssertionError("it was to be printed only")


@pytest.fixture
def printed(monkeypatch):
    """What `run WORDS --print-config` prints."""

    def printed(*words: str, **env: str) -> str:
        lines: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(typer, "echo", lines.append)
            main(not_run, *words, "--print-config", **env)
        return "\n".join(lines) + "\n"

    return printed


EVERYTHING = (
    *("-p", 'a "b"\\c.txt', "-e", "e.csv", "-o", "out/{{model}}.csv", "-c", "a.md", "-c", "ü.md"),
    *("--param", "stop=[1, {}]", "--param", "top p=1.0", "--param", 'x={"a": [true, "ü"]}', "--resume"),
    *("--procs", "2", "--threads", "3", "--range", "2:5", "--limit", "2", "--no-adaptive"),
    *("--concurrency", "openai=3,openrouter/a/b=2", "--mock-concurrency", "7", "--limit-rpm", "openai=1k"),
    *(
        "--limit-tpm",
        'openai/g "4"=1.5M',
        "--price",
        "openai/g=0.15:2",
        "--max-wait",
        "1h",
        "--timeout",
        "1.5",
    ),
    *("--endpoint", "openai=http://n1/v1?api-version=2 weight=0.5 rpm=1.5", "--endpoint", "openai=http://n2"),
    *("--fail-on-error", "5%", "--stop-after", "2h", "--max-cost", "2.25", "--display", "none"),
    *("--orphan-grace", "inf"),
)


@pytest.mark.parametrize(
    "words",
    [
        (),
        EVERYTHING,
        ("-j", "20"),
        ("-j", "20", "--procs", "1", "--max-concurrent", "15"),
        ("--sequential",),
        ("--procs", "0"),
        ("--param", "stop=null", "--param", "seed=1"),
        ("--fail-on-error", "3"),
        ("--overwrite", "--quiet"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_what_is_printed_gives_the_same_values_again(printed, words):
    first = printed(*words)
    Path("parallamr.toml").write_text(first, encoding="utf-8")
    again = printed()
    assert tomllib.loads(first) == tomllib.loads(again)
    assert "command line" not in again


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.dictionaries(st.text(min_size=1), st.text() | st.floats(allow_nan=False) | st.booleans(), max_size=4)
)
def test_any_text_can_be_printed_and_read_again(table):
    from parallamr_mp.cli.print_config import _key, _toml

    said = "\n".join(f"{_key(name)} = {_toml(value)}" for name, value in table.items())
    assert tomllib.loads(said) == table
    assert tomllib.loads(f"all = {_toml(table)}") == {"all": table}


def test_every_option_is_told(printed):
    said = printed()
    for name in set(IN_FILES) - set(ALIASES) - {"concurrency", "limit_rpm", "limit_tpm", "price", "endpoint"}:
        key = BY_NAME[name].key
        assert any(line.startswith((f"{key} = ", f"# {key}: ")) for line in said.splitlines()), key


def test_each_value_tells_where_it_comes_from(printed, monkeypatch):
    monkeypatch.setattr("parallamr_mp.runner.default_procs", lambda: 3)
    Path("parallamr.toml").write_text(
        'max-retries = 2\nparam = {seed = 1}\n[providers.openai]\nrpm = 5\ntpm = 7\nendpoints = ["http://n1"]\n'
    )
    lines = printed("--repeat", "3", "--limit-rpm", "openai=6", TIMEOUT="1m", PARAM="top_p=0.5").splitlines()
    for line in (
        "repeat = 3  # command line",
        "timeout = 60  # PARALLAMR_TIMEOUT",
        "max-retries = 2  # parallamr.toml",
        "breaker-failures = 5  # default",
        "# procs: default: 3, the usable CPUs, at most 4",
        "threads = 8  # default",
        "# drain-timeout: default: 60, as --timeout",
        "# output: default: standard output",
        "# max-cost: not set  # default",
        "seed = 1  # parallamr.toml",
        "top_p = 0.5  # PARALLAMR_PARAM",
        "rpm = 6  # command line",
        "tpm = 7  # parallamr.toml",
        '  {url = "http://n1", weight = 1},  # parallamr.toml',
        "# concurrency: default: 1 at each endpoint",
    ):
        assert line in lines
    lines = printed("-j", "12", SEQUENTIAL="1").splitlines()
    assert "sequential = false  # PARALLAMR_SEQUENTIAL, and outdone by a stronger source" in lines
    assert "# max-concurrent: 12, follows from --parallel" in lines
    lines = printed("--resume", OVERWRITE="1", OUTPUT="r.csv").splitlines()
    assert "overwrite = false  # PARALLAMR_OVERWRITE, and outdone by a stronger source" in lines


def test_passwords_and_keys_are_not_printed(printed):
    said = printed(
        *(
            "--endpoint",
            "openai=http://user:hush@n1:8000/v1?api-version=1&key=hush",
            "--param",
            "api_key=hush",
        ),
        ENDPOINT="ollama=http://hush@n2",
    )
    assert "hush" not in said
    assert '{url = "http://n1:8000/v1?api-version=1", weight = 1},  # command line, without its' in said
    assert "# api_key: not shown" in said


def test_what_makes_no_sense_is_printed_first_so_that_one_sees_where_it_comes_from(tmp_path):
    (tmp_path / "parallamr.toml").write_text("retry-errors = true\n")
    done = run_cli(tmp_path, "run", "--print-config", env=environment())
    assert done.code == 2
    assert "retry-errors = true  # parallamr.toml\n" in done.stdout
    assert "--retry-errors needs --resume" in done.stderr
    assert "It is set by parallamr.toml: retry-errors." in done.stderr


def test_it_reads_and_sends_nothing_but_the_settings(tmp_path):
    done = run_cli(tmp_path, "plan", "--print-config", "-p", "no.txt", "-e", "no.csv", "-o", "no/r.csv")
    assert (done.code, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["experiments"] == "no.csv"
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_unicode_cannot_be_said(printed):
    with pytest.raises(BadInput, match="--output: is not UTF-8"):
        printed("-o", "r\udce9.csv")
