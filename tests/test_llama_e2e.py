"""The command line against llama.cpp's real server: real tokens, real limits, real error messages."""

from __future__ import annotations

import json

import pytest
from support.cli import Place
from support.llama import llama_server

from parallamr_mp import create_experiment_runner

pytestmark = pytest.mark.real_model

CONTEXT = 256
KEY = "a-key-of-ours"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with llama_server(tmp_path_factory.mktemp("llama"), ctx=CONTEXT) as running:
        yield f"{running}/v1"


@pytest.fixture(scope="module")
def locked_url(tmp_path_factory):
    with llama_server(tmp_path_factory.mktemp("llama"), api_key=KEY) as running:
        yield f"{running}/v1"


def ask(folder, url, rows, *options, **env):
    place = Place(folder, OPENAI_BASE_URL=url, **env)
    place.table([{"provider": "openai", "model": "tiny"} | row for row in rows])
    place.write("prompt.txt", "{{prompt}}")
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "2", "--max-retries", "0", *options)
    return done, place.rows()


def test_answers_have_the_models_own_token_counts(tmp_path, url):
    prompts = ["river", "river river river", "What do rivers do?", "river"]
    rows = [
        {"prompt": prompt, "param:seed": seed, "param:max_tokens": 40} for seed, prompt in enumerate(prompts)
    ]
    done, rows = ask(tmp_path, url, rows)
    assert done.code == 0, done
    assert {row["error_message"].partition(":")[0] for row in rows} <= {"", "truncated"}
    assert all(row["output"] for row in rows)
    counts = [int(row["input_tokens"]) for row in rows]
    assert counts[1] == counts[0] + 2
    assert counts[3] == counts[0]
    assert all(1 <= int(row["output_tokens"]) <= 40 for row in rows)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert {row["endpoint"] for row in rows} == {url}
    assert {row["context_window"] for row in rows} == {str(CONTEXT)}
    total = f"{sum(counts)} in · {sum(int(row['output_tokens']) for row in rows)} out"
    assert total in done.stderr


def test_the_same_seed_gives_the_same_answer(tmp_path, url):
    rows = [{"prompt": "Tell me.", "param:seed": seed, "param:max_tokens": 30} for seed in (7, 7, 8)]
    _, rows = ask(tmp_path, url, rows)
    first, same, other = (row["output"] for row in rows)
    assert first == same != other


def test_a_real_server_takes_the_schema_of_a_run_and_its_answers_fit(tmp_path, url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.chdir(tmp_path)
    colour = {"enum": ["red", "grün"]}
    schema = {
        "type": "object",
        "properties": {"one": {"$ref": "#/$defs/colour"}, "two": {"anyOf": [colour, {"type": "null"}]}},
        "required": ["one", "two"],
        "additionalProperties": False,
        "$defs": {"colour": colour},
    }
    place = Place(tmp_path)
    place.write("schema.json", json.dumps(schema))
    place.table([{"provider": "openai", "model": "tiny", "id": n, "param:seed": n} for n in range(4)])
    run = create_experiment_runner(procs=1, threads=2).run_experiments
    summary = run("prompt.txt", "experiments.csv", "results.csv", json_schema="schema.json")
    assert (summary.ok, summary.total) == (4, 4), place.rows()
    for row in place.rows():
        answer = json.loads(row["output"])
        assert answer["one"] in {"red", "grün"}
        assert answer["two"] in {"red", "grün", None}


def test_an_answer_cut_at_max_tokens_is_a_warning(tmp_path, url):
    # The model is random: which seeds make it stop of itself cannot be said here.
    asked = [{"prompt": "Go on and on.", "param:seed": seed} for seed in range(8)]
    done, rows = ask(tmp_path, url, asked, "--param", "max_tokens=2")
    assert done.code == 0, done
    cut = [row for row in rows if row["finish_reason"] == "length"]
    assert cut
    for row in cut:
        assert (row["status"], row["output_tokens"]) == ("warning", "2")
        assert "truncated" in row["error_message"]
    assert {row["finish_reason"] for row in rows} <= {"length", "stop"}


def test_a_json_schema_gives_json_whose_keys_become_columns(tmp_path, url):
    wanted = json.dumps({"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}})
    rows = [
        {"prompt": "A person.", "param:response_format": wanted, "param:max_tokens": 150, "param:seed": seed}
        for seed in range(4)
    ]
    done, rows = ask(tmp_path, url, rows, "--flatten")
    assert done.code == 0, done
    for row in rows:
        person = json.loads(row["output"])
        assert isinstance(person["age"], int)
        assert (row["name"], row["age"]) == (person["name"], str(person["age"]))


def test_a_prompt_over_the_context_is_an_error_row_and_the_others_go_on(tmp_path, url):
    rows = [{"prompt": "water " * (CONTEXT + 50)}, {"prompt": "river"}]
    done, rows = ask(tmp_path, url, rows, "--param", "max_tokens=5")
    assert done.code == 3, done
    too_long, fits = rows
    assert too_long["status"] == "error"
    assert too_long["error_message"].startswith("HTTP 400: ")
    assert "context size" in too_long["error_message"]
    assert too_long["attempts"] == "1"
    assert fits["status"] in {"ok", "warning"}
    assert fits["output"]


def test_a_wrong_key_is_an_error_row_and_is_not_shown(tmp_path, locked_url):
    wrong = "not-the-right-one"
    done, rows = ask(tmp_path, locked_url, [{"prompt": "river"}] * 2, OPENAI_API_KEY=wrong)
    assert done.code == 3, done
    for row in rows:
        assert row["status"] == "error"
        assert "401" in row["error_message"]
        assert "api key" in row["error_message"].lower()
        assert row["attempts"] == "1"
    assert wrong not in done.stderr + str(rows)


def test_the_right_key_is_answered(tmp_path, locked_url):
    done, rows = ask(
        tmp_path, locked_url, [{"prompt": "river"}], "--param", "max_tokens=20", OPENAI_API_KEY=KEY
    )
    assert done.code == 0, done
    assert rows[0]["output"]
