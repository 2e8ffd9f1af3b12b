"""`json_schema`: every request asks for it, it is part of what is asked, and answers are held to it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.behaviours import answer
from support.cli import Place, read_rows, write_table
from support.server import FakeServer

from parallamr_mp import BadInput, create_experiment_runner
from parallamr_mp.answered import AttemptSpec, RowTask
from parallamr_mp.attempt import Asker
from parallamr_mp.models import Inputs, Reply
from parallamr_mp.schemas import response_format

SCHEMA = {
    "title": "Größe",
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}},
    "required": ["items"],
    "$defs": {"item": {"type": "object", "properties": {"price": {"type": "number"}, "ü": {}}}},
}
GOOD = '{"items": [{"price": 1.5, "ü": "é\\n"}]}'
BAD = '{"items": [{"price": 1}, {"price": 2}, {"price": "x"}]}'
MISFIT = "the answer does not fit the schema at $.items[2].price: 'x' is not of type 'number'"
TRUNCATED = "truncated: the answer was cut at the token limit"


@pytest.fixture
def job(tmp_path, server, monkeypatch):
    """Prompt, schema and output in a folder; the server in the environment."""
    place = Place(tmp_path, server)
    for name, value in place.env.items():
        if name.endswith(("_KEY", "_URL")):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    place.write("schema.json", json.dumps(SCHEMA, ensure_ascii=False))
    return tmp_path


def table(folder, rows):
    return write_table(folder / "table.csv", [{"provider": "openai", "model": "m", **row} for row in rows])


def run(procs=0, **options):
    runner = create_experiment_runner(procs=procs, threads=2)
    options = {"json_schema": "schema.json", **options}
    return runner.run_experiments("prompt.txt", "table.csv", "results.csv", **options)


def rows():
    return {row["id"]: row for row in read_rows(Path("results.csv"))}


@pytest.mark.parametrize("procs", [0, 1])
def test_every_request_asks_for_the_schema_and_a_row_s_own_form_wins(job, server, procs):
    own = {"type": "json_object"}
    table(
        job,
        [
            {"id": 1, "param:response_format": "", "param:format": ""},
            {"id": 2, "param:response_format": json.dumps(own), "param:format": ""},
            {"id": 3, "provider": "openrouter", "param:response_format": "", "param:format": ""},
            {"id": 4, "provider": "ollama", "param:response_format": "", "param:format": ""},
            {"id": 5, "provider": "ollama", "param:response_format": json.dumps(own), "param:format": ""},
            {"id": 6, "provider": "ollama", "param:response_format": "", "param:format": '"json"'},
            {"id": 7, "param:response_format": "null", "param:format": ""},
        ],
    )
    server.behave(answer(GOOD))
    assert run(procs).ok == 7
    bodies = {request.experiment: request.body for request in server.requests}
    asked = {
        "type": "json_schema",
        "json_schema": {"name": "Gr_e", "schema": SCHEMA, "strict": True},
    }
    assert bodies["1"]["response_format"] == bodies["3"]["response_format"] == asked
    assert bodies["2"]["response_format"] == own
    assert bodies["4"]["format"] == SCHEMA
    assert bodies["5"]["format"] == bodies["6"]["format"] == "json"
    assert bodies["7"]["response_format"] is None
    assert not {"response_format", "options"} & (bodies["4"].keys() | bodies["6"].keys())
    assert {row["output"] for row in rows().values()} == {GOOD}


@pytest.mark.parametrize("procs", [0, 1])
def test_an_answer_that_does_not_fit_is_a_warning_that_says_where(job, server, procs):
    texts = {
        "1": GOOD,
        "2": BAD,
        "3": "I cannot say.",
        "4": f"Here:\n```json\n{BAD}\n```",
        "5": f"```\n{GOOD}\n```",
    }
    table(job, [{"id": id_} for id_ in texts])
    server.behave(lambda request: answer(texts[request.experiment]))
    summary = run(procs)
    assert (summary.ok, summary.warning, summary.error) == (2, 3, 0)
    found = rows()
    assert {id_: row["output"] for id_, row in found.items()} == texts
    assert {id_: row["status"] for id_, row in found.items() if row["status"] != "ok"} == {
        "2": "warning",
        "3": "warning",
        "4": "warning",
    }
    assert found["1"]["error_message"] == found["5"]["error_message"] == ""
    assert found["2"]["error_message"] == found["4"]["error_message"] == MISFIT
    assert found["3"]["error_message"] == "the answer is no JSON: Expecting value (line 1, column 1)"


@pytest.mark.parametrize(
    ("provider", "param", "value"),
    [
        ("openai", "response_format", response_format(SCHEMA)),
        ("openrouter", "response_format", response_format(SCHEMA)),
        ("ollama", "response_format", response_format(SCHEMA)),
        ("ollama", "format", SCHEMA),
    ],
)
def test_a_schema_of_the_row_s_own_is_held_against_its_answer_too(job, server, provider, param, value):
    table(job, [{"id": 1, "provider": provider, f"param:{param}": json.dumps(value)}])
    server.behave(answer(BAD))
    assert run(json_schema=None).warning == 1
    assert rows()["1"]["error_message"] == MISFIT


def test_a_changed_schema_is_a_changed_question(job, server):
    table(job, [{"id": 1}, {"id": 2}])
    server.behave(answer(GOOD))
    assert run().ok == 2
    # Another name, other spaces and another order of keys ask the same.
    (job / "other.json").write_text(json.dumps(dict(reversed(SCHEMA.items())), indent=3))
    summary = run(json_schema="other.json", resume=True)
    assert (summary.resumed, summary.written) == (2, 0)
    verify = create_experiment_runner(procs=0).verify_experiments
    files = "prompt.txt", "table.csv", "results.csv"
    assert verify(*files, json_schema="schema.json").whole
    assert not verify(*files).whole
    (job / "schema.json").write_text(json.dumps(SCHEMA | {"additionalProperties": False}))
    preview = create_experiment_runner(procs=0).preview_experiments(
        "prompt.txt", "table.csv", "results.csv", json_schema="schema.json"
    )
    assert (preview.changed, preview.new) == (2, 0)
    assert run(resume=True).written == 0
    assert run(resume=True, redo_changed=True).written == 2
    assert [request.body["response_format"]["json_schema"]["schema"] for request in server.requests[2:]] == [
        SCHEMA | {"additionalProperties": False}
    ] * 2
    assert run(json_schema=None, resume=True, redo_changed=True).written == 2
    assert "response_format" not in server.requests[-1].body


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"--json-schema schema.json: cannot be read: No such file"),
        (b"\xff\xfe{\0}\0", "--json-schema schema.json: is UTF-16"),
        (b'{\n"type": }', "schema.json, line 2: is not JSON"),
        (
            b'{"type": "object", "properties": {"a": {"type": "int"}}}',
            r"schema.json: .*\$\.properties\.a\.type",
        ),
        (b'{"$ref": "http://127.0.0.1:1/x"}', "nothing is fetched"),
    ],
)
def test_what_is_no_schema_ends_the_run_before_anything_is_sent(job, server, content, said):
    table(job, [{"id": 1}])
    os.remove("schema.json")
    if content is not None:
        (job / "schema.json").write_bytes(content)
    runner = create_experiment_runner(procs=0)
    with pytest.raises(BadInput, match=said):
        run()
    for check in (runner.validate_experiments, runner.preview_experiments):
        with pytest.raises(BadInput, match=said):
            check("prompt.txt", "table.csv", "results.csv", json_schema="schema.json")
    assert not server.requests
    assert not os.path.exists("results.csv")


def test_a_form_for_all_rows_and_a_schema_exclude_each_other(job):
    table(job, [{"id": 1}])
    with pytest.raises(BadInput, match="--json-schema and --param response_format exclude each other"):
        run(params={"response_format": {"type": "json_object"}})


def test_the_schema_file_is_never_an_output_and_is_told_in_the_manifest(job, server):
    table(job, [{"id": 1}])
    before = (job / "schema.json").read_bytes()
    runner = create_experiment_runner(procs=0)
    with pytest.raises(BadInput, match=r"schema\.json"):
        runner.run_experiments(
            "prompt.txt", "table.csv", "schema.json", json_schema="schema.json", overwrite=True
        )
    assert (job / "schema.json").read_bytes() == before
    assert not server.requests
    server.behave(answer(GOOD))
    run()
    manifest = json.loads((job / "results.csv.manifest.json").read_text())
    (told,) = [each for each in manifest["runs"][0]["inputs"] if each["role"] == "json_schema"]
    assert told["path"] == "schema.json"
    assert len(told["sha256"]) == 64


def test_an_injected_loader_reads_the_schema(job, server):
    table(job, [{"id": 1}])
    server.behave(answer(BAD))

    class Loader:
        def read_text(self, path):
            return {"p": "id={{id}}", "db:schema": json.dumps(SCHEMA)}[path]

    runner = create_experiment_runner(procs=0, file_loader=Loader())
    assert runner.run_experiments("p", "table.csv", "results.csv", json_schema="db:schema").warning == 1
    assert rows()["1"]["error_message"] == MISFIT


# --- answers that were cut ---------------------------------------------------------------------


class Saying:
    """A provider that gives one reply."""

    def __init__(self, reply):
        self.reply = reply

    def complete(self, request):
        return self.reply


def row_of(reply, schema=SCHEMA):
    ask = Asker(AttemptSpec((), Inputs("x"), 10.0, 1, providers={"p": Saying(reply)}))
    return ask(RowTask(1, 0, "", 0, "p", "m", (), {"response_format": response_format(schema)}), 1, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"items": [{"pri', f"{TRUNCATED}, and what there is of it is no JSON"),
        (BAD, TRUNCATED),
        (GOOD, TRUNCATED),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_a_cut_answer_is_not_accused_of_not_fitting(job, server, provider, text, said):
    table(job, [{"id": 1, "provider": provider}])
    server.behave(answer(text, finish_reason="length"))
    assert run().warning == 1
    assert rows()["1"]["error_message"] == said


def test_of_an_empty_or_refused_answer_that_is_said_first(job, server):
    table(job, [{"id": 1}, {"id": 2}])
    server.behave(
        lambda request: answer("") if request.experiment == "1" else answer(None, refusal="I will not.")
    )
    assert run().warning == 2
    assert rows()["1"]["error_message"] == "the answer is empty"
    assert rows()["2"]["error_message"].startswith("refused: the model declined to answer; the answer is no")


def test_a_provider_of_one_s_own_that_says_nothing_of_an_empty_answer(job):
    assert "the answer is no JSON" in row_of(Reply("", "stop")).message
    assert "no JSON" in row_of(Reply("{", "length")).message
    assert row_of(Reply(GOOD, "stop")).message == ""


def test_a_secret_in_an_answer_is_not_repeated_in_what_is_said_of_it(job, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-long-secret-0123456789")
    text = '{"items": "sk-a-long-secret-0123456789"}'
    result = row_of(Reply(text, "stop"))
    assert "$.items" in result.message
    assert "sk-a-long-secret" not in result.message


def test_many_threads_check_at_once(job):
    with ThreadPoolExecutor(8) as pool:
        texts = [GOOD, BAD, "no"] * 30
        # Schemas of their own for some, so that compiling and checking overlap.
        found = list(
            pool.map(
                lambda numbered: row_of(
                    Reply(numbered[1], "stop"), SCHEMA | {"$comment": str(numbered[0] % 5)}
                ),
                enumerate(texts),
            )
        )
    assert [result.message for result in found[:2]] == ["", MISFIT]
    assert [result.status for result in found] == ["ok", "warning", "warning"] * 30


def test_the_server_of_another_process_gets_nothing_but_questions(job):
    """A remote reference in a row's own schema is not fetched when its answer is checked."""
    with FakeServer() as elsewhere:
        result = row_of(Reply(GOOD, "stop"), {"$ref": f"{elsewhere.url}/schema.json"})
        assert "was not checked against its schema" in result.message
        assert not elsewhere.connections
