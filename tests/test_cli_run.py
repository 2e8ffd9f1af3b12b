"""The main job through the installed console script: real processes, a real server, what is on the wire."""

from __future__ import annotations

import pytest
from support.behaviours import answer, model_not_found, rate_limited, reset, sequence, status, unauthorized
from support.cli import FAKE_KEY, Place, read_rows

from parallamr_mp.models import RESULT_COLUMNS

PROVIDERS = ["openai", "openrouter", "ollama"]


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


# --- the main job ------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_row_of_the_table_is_asked_once_and_written_once(place, server, provider):
    place.write("prompt.txt", "id={{id}} Explain {{topic}}.")
    table = [
        {"provider": provider, "model": model, "id": f"{model}-{n}", "topic": topic}
        for model in ("fake-small", "fake-large")
        for n, topic in enumerate(("rivers", "the “sea”, and\nmore", "Übung"))
    ]
    place.table(table)
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "4")
    assert (done.code, done.stdout) == (0, ""), done
    assert server.counts() == dict.fromkeys((row["id"] for row in table), 1)
    rows = place.rows()
    assert list(rows[0]) == [*table[0], *RESULT_COLUMNS]
    assert [{name: row[name] for name in table[0]} for row in rows] == table
    by_experiment = {request.experiment: request for request in server.requests}
    for number, row in enumerate(rows, start=1):
        prompt = f"id={row['id']} Explain {row['topic']}."
        request = by_experiment[row["id"]]
        assert request.body["messages"] == [{"role": "user", "content": prompt}]
        assert request.body["model"] == row["model"]
        assert row["output"] == f"echo: {prompt}"
        assert row["input_tokens"] == str(len(prompt) // 4)
        assert row["output_tokens"] == str(len(row["output"]) // 4)
        assert row["context_window"] == {"fake-small": "4096", "fake-large": "131072"}[row["model"]]
        assert (row["status"], row["error_message"], row["finish_reason"]) == ("ok", "", "stop")
        assert (row["row_number"], row["repeat"], row["attempts"]) == (str(number), "0", "1")
        assert row["endpoint"] == place.env[f"{provider.upper()}_BASE_URL"]
        assert float(row["latency_s"]) >= 0
        assert row["completed_at"].endswith("Z")
        if provider == "openrouter":
            tokens = int(row["input_tokens"]) + int(row["output_tokens"])
            assert float(row["cost_usd"]) == pytest.approx(tokens * 1e-6)
            assert request.body["usage"] == {"include": True}
        else:
            assert row["cost_usd"] == {"ollama": "0.0", "openai": ""}[provider]
        if provider != "ollama":
            assert request.headers["authorization"] == f"Bearer {FAKE_KEY}"
    assert len({row["experiment_id"] for row in rows}) == len(rows)
    assert len(server.lookups) == (2 if provider == "ollama" else 1), "one look-up a model, not a row"
    assert "6 ok · 0 warning · 0 error" in done.stderr


def test_a_table_may_mix_providers_and_be_json_lines(place, server):
    lines = [f'{{"provider": "{name}", "model": "fake-small", "id": "{name}", "n": 3}}' for name in PROVIDERS]
    lines.append('{"model": "mock", "provider": "mock", "id": null, "param:max_tokens": 7}')
    place.write("table.jsonl", "\n".join(lines) + "\n")
    done = place.run("-e", "table.jsonl", "-o", "results.csv", "--procs", "2", "--threads", "2")
    assert done.code == 0, done
    rows = place.rows()
    assert list(rows[0])[:5] == ["provider", "model", "id", "n", "param:max_tokens"]
    assert [row["provider"] for row in rows] == [*PROVIDERS, "mock"]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "warning"]
    assert rows[3]["error_message"] == "no value for {{id}}"
    assert rows[3]["endpoint"] == "mock"
    assert {request.path for request in server.requests} == {
        "/v1/chat/completions",
        "/api/v1/chat/completions",
        "/api/chat",
    }


def test_parameters_system_and_context_reach_the_wire_and_the_row_wins(place, server):
    base = {"model": "fake-small", "word": "blue", "param:temperature": "0.2"}
    schema = '{"type": "json_object"}'
    place.table(
        [
            base | {"provider": "openai", "id": "a", "param:response_format": schema},
            base
            | {"provider": "openai", "id": "b", "param:temperature": "", "param:response_format": "null"},
            base | {"provider": "ollama", "id": "c", "param:response_format": schema},
        ]
    )
    place.write("system.txt", "You like {{word}}.")
    place.write("one.md", "First about {{ word }}.")
    place.write("docs/two.md", "Second.")
    params = ["--param", "temperature=1", "--param", "max_tokens=9", "--param", 'stop=["x"]']
    params += ["--param", "effort=high"]
    done = place.run("-o", "r.csv", "--system", "system.txt", "-c", "one.md", "-c", "docs/two.md", *params)
    assert done.code == 0, done
    bodies = {request.body["messages"][-1]["content"][:4]: request.body for request in server.requests}
    assert bodies["id=a"]["messages"] == [
        {"role": "system", "content": "You like blue."},
        {
            "role": "user",
            "content": "id=a\n\n---\n\n## Document: one.md\n\nFirst about blue."
            "\n\n---\n\n## Document: two.md\n\nSecond.",
        },
    ]
    ours = {"max_tokens": 9, "stop": ["x"], "effort": "high"}
    a, b, c = (
        {name: value for name, value in bodies[f"id={id_}"].items() if name not in {"model", "messages"}}
        for id_ in "abc"
    )
    assert a == ours | {"temperature": 0.2, "response_format": {"type": "json_object"}}
    assert b == ours | {"temperature": 1, "response_format": None}
    assert c["format"] == "json"
    assert c["options"] == {"temperature": 0.2, "num_predict": 9, "stop": ["x"], "effort": "high"}
    assert c["stream"] is False
    assert [row["param:temperature"] for row in place.rows("r.csv")] == ["0.2", "", "0.2"]


# --- what servers answer otherwise -------------------------------------------------------------


def test_failures_that_may_pass_are_retried_until_they_do(place, server):
    troubles = {"1": rate_limited(0.2), "2": status(503), "3": reset(), "4": status(408), "5": status(409)}
    rules = {id_: sequence(trouble) for id_, trouble in troubles.items()}
    server.behave(lambda request: rules[request.experiment](request) if request.experiment in rules else None)
    place.questions(6)
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "4", "-v")
    assert done.code == 0, done
    assert server.counts() == {"1": 2, "2": 2, "3": 2, "4": 2, "5": 2, "6": 1}
    rows = place.rows()
    assert [row["attempts"] for row in rows] == ["2", "2", "2", "2", "2", "1"]
    assert {row["status"] for row in rows} == {"ok"}
    first, second = (request.started for request in server.requests if request.experiment == "1")
    assert second - first >= 0.2, "sooner than Retry-After"
    assert "retries: 5" in done.stderr
    assert "attempt 1 failed: HTTP 429: Rate limit reached" in done.stderr


def test_retries_end_with_an_error_row_in_the_servers_words(place, server):
    server.behave(status(503))
    place.questions(2)
    done = place.run("-o", "results.csv", "--max-retries", "1")
    assert done.code == 3, done
    assert server.counts() == {"1": 2, "2": 2}
    for row in place.rows():
        assert (row["status"], row["attempts"], row["output"]) == ("error", "2", "")
        assert row["error_message"] == "HTTP 503: fake error 503 (after 2 attempts)"
        assert row["endpoint"] == server.openai_url


def test_final_failures_cost_one_request_and_the_others_go_on(place, server):
    words = {"error": {"message": "temperature: must be below 2", "type": "invalid_request_error"}}
    finals = {"1": status(400, body=words), "2": unauthorized("abcdef"), "3": model_not_found()}
    server.behave(lambda request: finals.get(request.experiment))
    rows = [{"provider": "openai", "model": "fake-small", "id": id_} for id_ in "123"]
    rows += [{"provider": provider, "model": "nobody/knows", "id": provider} for provider in PROVIDERS]
    rows += [{"provider": provider, "model": "fake-small", "id": f"{provider}-ok"} for provider in PROVIDERS]
    server.strict_models = True
    place.table(rows)
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "4")
    assert done.code == 3, done
    assert "3 ok · 0 warning · 6 error" in done.stderr
    assert set(server.counts().values()) == {1}
    rows = {row["id"]: row for row in place.rows()}
    assert rows["1"]["error_message"] == "HTTP 400: temperature: must be below 2"
    assert rows["2"]["error_message"].startswith("HTTP 401: Incorrect API key provided")
    assert rows["3"]["error_message"].startswith("Model fake-small not found or unavailable")
    for provider in PROVIDERS:
        lament = rows[provider]
        assert lament["status"] == "error"
        assert lament["error_message"].startswith("Model nobody/knows not found or unavailable")
        assert lament["output_tokens"] == ""
        assert rows[f"{provider}-ok"]["status"] == "ok"
    assert FAKE_KEY not in done.stderr + (place.folder / "results.csv").read_text()


def test_answers_that_need_a_look_are_warnings_and_exit_0(place, server):
    said = {
        "1": answer("cut of", finish_reason="length"),
        "2": answer(None, refusal="I would rather not."),
        "3": answer(""),
        "4": answer(None, reasoning_content="Hm, hm."),
        "5": answer("no usage told", usage=None),
    }
    server.behave(lambda request: said.get(request.experiment))
    place.questions(6)
    place.write("prompt.txt", "id={{id}} {{tone}}")
    done = place.run("-o", "results.csv")
    assert done.code == 0, done
    rows = place.rows()
    assert {row["status"] for row in rows} == {"warning"}
    messages = [row["error_message"] for row in rows]
    assert all(message.startswith("no value for {{tone}}") for message in messages)
    assert "truncated" in messages[0]
    assert rows[0]["finish_reason"] == "length"
    assert "refused" in messages[1]
    assert [row["output"] for row in rows[:5]] == [
        "cut of",
        "I would rather not.",
        "",
        "Hm, hm.",
        "no usage told",
    ]
    assert (rows[4]["input_tokens"], rows[4]["output_tokens"]) == (str(len("id=5 {{tone}}") // 4), "3")
    assert "0 ok · 6 warning · 0 error" in done.stderr


def test_the_answer_is_kept_byte_for_byte(place, server):
    texts = [
        'a "quote", a comma',
        "line\r\nends\rof\nall kinds\n",
        " blanks ",
        "nul \x00 and 🙂",
        "x" * 300_000,
    ]
    server.behave(lambda request: answer(texts[int(request.experiment) - 1]))
    place.questions(len(texts))
    assert place.run("-o", "results.csv").code == 0
    assert [row["output"] for row in place.rows()] == texts


# --- which rows, from where --------------------------------------------------------------------


def test_limit_range_and_repeat_choose_the_rows(place, server):
    place.questions(9)
    for options, asked in (
        (["--limit", "2"], {"1": 1, "2": 1}),
        (["--range", "4:5", "--repeat", "3"], {"4": 3, "5": 3}),
        (["--range", "8:"], {"8": 1, "9": 1}),
        (["--range", ":7", "--limit", "1"], {"1": 1}),
    ):
        server.clear()
        done = place.run("-o", "results.csv", "--overwrite", "--procs", "0", *options)
        assert done.code == 0, done
        assert server.counts() == asked
        rows = place.rows()
        assert [row["row_number"] for row in rows] == [n for n, times in asked.items() for _ in range(times)]
    repeated = place.run("--range", "4:4", "--repeat", "2", "--procs", "0").rows
    assert sorted(row["repeat"] for row in repeated) == ["0", "1"]
    assert len({row["experiment_id"] for row in repeated}) == 2


def test_results_without_an_output_are_csv_on_stdout_and_nothing_else(place):
    place.questions(5)
    done = place.run("--procs", "2", "--threads", "2", "-v")
    assert done.code == 0, done
    assert sorted(row["id"] for row in done.rows) == ["1", "2", "3", "4", "5"]
    assert list(done.rows[0]) == ["provider", "model", "id", *RESULT_COLUMNS]
    assert not list(place.folder.glob("*result*"))


def test_the_prompt_or_the_table_may_come_from_stdin_but_not_both(place, server):
    place.questions(2)
    done = place.run("-p", "-", "-o", "a.csv", stdin="id=p{{id}}")
    assert done.code == 0, done
    assert server.counts() == {"p1": 1, "p2": 1}
    server.clear()
    table = (place.folder / "experiments.csv").read_text()
    assert place.run("-e", "-", "-o", "b.csv", stdin=table).code == 0
    assert server.counts() == {"1": 1, "2": 1}
    assert len(read_rows(place.folder / "b.csv")) == 2
    server.clear()
    done = place.run("-p", "-", "-e", "-", "-o", "c.csv", stdin=table)
    assert done.code == 2
    assert "--prompt and --experiments cannot both be read from standard input" in done.stderr
    assert not server.requests
    assert not (place.folder / "c.csv").exists()


def test_validate_only_checks_and_sends_nothing(place, server):
    place.questions(3)
    done = place.run("-o", "results.csv", "--validate-only")
    assert (done.code, done.stdout) == (0, "")
    assert "Valid: 3 experiments; nothing was sent." in done.stderr
    assert "openai/fake-small: 3 rows" in done.stderr
    place.write("experiments.csv", "provider,model,id\nopenai,fake-small\n")
    assert place.run("-o", "results.csv", "--validate-only").code == 2
    assert not server.requests
    assert not server.lookups
    assert not (place.folder / "results.csv").exists()


def test_a_run_goes_on_where_another_stopped(place, server):
    place.questions(6)
    assert place.run("-o", "results.csv", "--limit", "2").code == 0
    server.clear()
    server.behave(lambda request: status(400) if request.experiment == "4" else None)
    done = place.run("-o", "results.csv", "--resume", "--procs", "2")
    assert done.code == 3, done
    assert server.counts() == {"3": 1, "4": 1, "5": 1, "6": 1}
    assert "3 ok · 0 warning · 1 error · 2 done before" in done.stderr
    server.clear()
    done = place.run("-o", "results.csv", "--resume")
    assert done.code == 3, "an error row of an earlier run is still an error row"
    assert not server.requests
    server.behave(answer("mended"))
    done = place.run("-o", "results.csv", "--resume", "--retry-errors")
    assert done.code == 0, done
    assert server.counts() == {"4": 1}
    rows = place.rows()
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[3]["output"] == "mended"
