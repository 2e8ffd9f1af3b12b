"""What a run is told besides its arguments, and what it tells: `.env`, environment mirrors, displays."""

from __future__ import annotations

import re

import pytest
from support.behaviours import slow, status
from support.cli import Place, run_cli


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def test_a_dotenv_above_the_folder_is_read_and_the_environment_wins(tmp_path, server):
    place = Place(tmp_path / "a" / "b", None, OPENAI_API_KEY="of the environment")
    place.questions(1)
    (tmp_path / ".env").write_text(
        f"OPENAI_BASE_URL={server.openai_url}\nOPENAI_API_KEY=of the file\nPARALLAMR_PARAM=seed=5\n"
    )
    done = place.run("--procs", "1")
    assert done.code == 0, done
    assert server.requests[0].headers["authorization"] == "Bearer of the environment"
    assert server.requests[0].body["seed"] == 5
    # Nearer files count alone, as with other tools.
    (tmp_path / "a" / ".env").write_text(f"OPENAI_BASE_URL={server.url}/nearer\n")
    assert place.run("--procs", "1").code == 0
    assert server.requests[1].path == "/nearer/chat/completions"
    assert "seed" not in server.requests[1].body


def test_a_dotenv_that_cannot_be_read_is_named(place, server):
    place.questions(1)
    (place.folder / ".env").write_bytes(b"OPENAI_API_KEY=\xe9\n")
    done = place.run("-o", "results.csv")
    assert done.code == 2
    assert f"{place.folder / '.env'}: is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.requests


def test_every_option_can_be_set_in_the_environment(place, server):
    place.write("docs/one doc.md", "Mirrored.")
    place.write("two.md", "And this.")
    place.questions(5)
    mirrors = {
        "PARALLAMR_PROMPT": "prompt.txt",
        "PARALLAMR_EXPERIMENTS": "experiments.csv",
        "PARALLAMR_OUTPUT": "results.csv",
        "PARALLAMR_CONTEXT": "docs/one doc.md\ntwo.md",
        "PARALLAMR_PARAM": 'seed=3\nresponse_format={"type": "text"}\n',
        "PARALLAMR_LIMIT": "3",
        "PARALLAMR_REPEAT": "2",
        "PARALLAMR_PROCS": "1",
        "PARALLAMR_THREADS": "2",
        "PARALLAMR_MAX_RETRIES": "0",
        "PARALLAMR_QUIET": "1",
    }
    server.behave(lambda request: status(503) if "id=1" in str(request.body) else slow(0.05))
    done = run_cli(place.folder, "run", env=place.env | mirrors)
    assert (done.code, done.stdout, done.stderr) == (3, "", "")
    rows = place.rows()
    assert [row["id"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    assert [row["attempts"] for row in rows] == ["1"] * 6
    assert "## Document: one doc.md\n\nMirrored." in rows[2]["output"]
    assert "And this." in rows[2]["output"]
    assert server.requests[0].body["seed"] == 3
    assert server.requests[0].body["response_format"] == {"type": "text"}
    assert server.peak_in_flight <= 2
    # What is on the command line wins.
    done = run_cli(place.folder, "run", "-n", "1", "-o", "other.csv", env=place.env | mirrors)
    assert len(place.rows("other.csv")) == 2


def test_a_mistyped_variable_is_not_ignored_and_one_of_somebody_else_is(place, server):
    place.questions(1)
    done = place.run("-o", "results.csv", PARALLAMR_THREDS="2")
    assert done.code == 2
    assert "PARALLAMR_THREDS: there is no such option" in done.stderr
    assert "PARALLAMR_THREADS?" in done.stderr
    assert not server.requests
    others = {"PARALLAMR_HOME": "/opt", "PARALLAMR_EXPERIMENTS_DIR": "/opt", "PARALLAMR_CONCURRENCY_MAX": "9"}
    assert place.run("-o", "results.csv", **others).code == 0


def test_a_quiet_run_says_nothing(place):
    place.questions(3)
    done = place.run("-o", "results.csv", "-q", "-v")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert len(place.rows()) == 3


def test_a_verbose_run_has_a_line_for_each_row(place, server):
    server.behave(lambda request: status(400) if request.experiment == "2" else None)
    place.questions(3)
    done = place.run("-o", "results.csv", "-v", "--procs", "2", "--display", "none")
    assert done.code == 3
    lines = done.stderr.splitlines()
    said = {int(match[1]): match[2] for line in lines if (match := re.match(r"row (\d+): (.*)", line))}
    assert set(said) == {1, 2, 3}
    assert re.fullmatch(r"ok · openai/fake-small · \d+\.\d\d s", said[1])
    assert re.fullmatch(r"error · openai/fake-small · \d+\.\d\d s · HTTP 400: fake error 400", said[2])
    assert any(re.fullmatch(r"worker \d is up \(pid \d+\)", line) for line in lines)


def test_a_run_without_a_terminal_has_plain_lines(place, server):
    server.behave(lambda request: slow(5.3) if request.experiment == "4" else None)
    place.questions(4)
    done = place.run("-o", "results.csv", "--threads", "4")
    assert done.code == 0, done
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    pattern = (
        r"3/4 rows \(75%\) · [\d.]+ rows/s · \S+ left · ok 3 · warning 0 · error 0"
        r" · in flight 1/\d+ · oldest [\d.]+s \(row 4\) · [\d,]+ tok/s"
    )
    assert any(re.fullmatch(pattern, line) for line in done.stderr.splitlines()), done


def test_the_summary_tells_rows_tokens_cost_times_and_place(place, server):
    place.questions(4, provider="openrouter")
    server.behave(slow(0.03))
    done = place.run("-o", "results.csv", "--display", "none")
    assert done.code == 0, done
    rows = place.rows()
    summary = dict(line.split(maxsplit=1) for line in done.stderr.splitlines())
    assert list(summary) == ["rows", "tokens", "cost", "time", "latency", "results"]
    assert summary["rows"] == "4 ok · 0 warning · 0 error"
    sent, got = (sum(int(row[f"{way}put_tokens"]) for row in rows) for way in ("in", "out"))
    assert summary["tokens"] == f"{sent} in · {got} out"
    assert summary["cost"] == f"{sum(float(row['cost_usd']) for row in rows):.6f} USD"
    assert summary["results"] == "results.csv"
    p50, p95 = (float(number) for number in re.findall(r"p\d\d ([\d.]+) s", summary["latency"]))
    assert 0.025 < p50 <= p95 < 5


def test_context_windows_come_from_the_server_and_overflow_is_a_warning(place, server):
    server.models["tiny"] = 6
    place.table(
        [
            {"provider": provider, "model": model, "id": f"{provider}-{model}"}
            for provider in ("openai", "ollama")
            for model in ("tiny", "fake-large", "fake-mute")
        ]
    )
    place.write("prompt.txt", "id={{id}} " + "word " * 10)
    assert place.run("-o", "results.csv").code == 0
    rows = {row["id"]: row for row in place.rows()}
    assert [row["context_window"] for row in rows.values()] == ["6", "131072", "", "6", "131072", ""]
    for name, row in rows.items():
        exceeded = "the input may exceed the context window of 6 tokens" in row["error_message"]
        assert (row["status"] == "warning") is exceeded is name.endswith("tiny")


def test_a_server_that_tells_nothing_about_its_models_is_asked_all_the_same(place, server):
    server.behave_lookup(status(500))
    place.questions(3)
    done = place.run("-o", "results.csv")
    assert done.code == 0, done
    assert {row["context_window"] for row in place.rows()} == {""}
    assert len(server.lookups) == 1
