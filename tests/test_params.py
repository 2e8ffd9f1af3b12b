"""Body parameters on their way from a cell to the wire: through the real run, and through each provider."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import Place

from parallamr_mp.experiments import parse_param
from parallamr_mp.models import ChatRequest
from parallamr_mp.providers.base import ProviderSettings
from parallamr_mp.providers.ollama import chat_body
from parallamr_mp.providers.openai import OpenAIProvider
from parallamr_mp.providers.openrouter import OpenRouterProvider

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}, "required": ["größe"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
PARAMS = {
    "response_format": FORMAT,
    "seed": 2**53 + 1,
    "stop": ["\n\n", "END"],
    "max_completion_tokens": 77,
    "logit_bias": {"50256": -100},
    "temperature": 0.1,
    "top_p": 1,
    "frequency_penalty": -0.5,
    "logprobs": True,
    "user": "7",
    "reasoning_effort": "low",
    "metadata": {"empty": {}, "nothing": None, "text": "ü \U0001f600 \"'\\,"},
}
IN_OPTIONS = {
    "seed",
    "stop",
    "temperature",
    "top_p",
    "frequency_penalty",
    "logit_bias",
    "user",
    "reasoning_effort",
    "metadata",
}


def cells(params):
    return {f"param:{name}": json.dumps(value, ensure_ascii=False) for name, value in params.items()}


def typed(value):
    """Equal only to what has the same types throughout: `1 == 1.0 == True` otherwise."""
    return json.dumps(value, sort_keys=True)


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


@pytest.mark.parametrize("provider", ["openai", "openrouter"])
@pytest.mark.parametrize("table", ["csv", "jsonl", "flags"])
def test_parameters_reach_a_chat_completions_server_as_they_are_written(place, server, provider, table):
    row = {"provider": provider, "model": "fake-small", "id": 1}
    flags = []
    if table == "csv":
        place.table([row | cells(PARAMS)])
    elif table == "jsonl":
        line = row | {f"param:{name}": value for name, value in PARAMS.items()}
        place.write("e.jsonl", json.dumps(line))
        flags = ["-e", "e.jsonl"]
    else:
        place.table([row])
        for name, value in PARAMS.items():
            flags += ["--param", f"{name}={json.dumps(value)}"]
    done = place.run("-o", "results.csv", *flags)
    assert done.code == 0, done
    body = dict(server.requests[0].body)
    assert body.pop("model") == "fake-small"
    assert body.pop("messages") == [{"role": "user", "content": "id=1"}]
    if provider == "openrouter":
        assert body.pop("usage") == {"include": True}
    assert typed(body) == typed(PARAMS)


def test_parameters_reach_ollama_where_it_looks_for_them(place, server):
    place.table([{"provider": "ollama", "model": "fake-small", "id": 1} | cells(PARAMS)])
    done = place.run("-o", "results.csv")
    assert done.code == 0, done
    body = server.requests[0].body
    assert typed(body["format"]) == typed(SCHEMA)
    assert body["logprobs"] is True
    wanted = {name: PARAMS[name] for name in IN_OPTIONS} | {"num_predict": 77}
    assert typed(body["options"]) == typed(wanted)
    assert set(body) == {"model", "messages", "stream", "format", "logprobs", "options"}


def test_a_row_wins_over_the_parameters_of_all_rows(place, server):
    rows = [
        {"provider": "openai", "model": "m", "id": 1, "param:stop": "STOP"},
        {"provider": "openai", "model": "m", "id": 2, "param:stop": ""},
    ]
    place.table(rows)
    done = place.run("--param", 'stop=["a", "b"]', "--param", "max_tokens=5", "-o", "results.csv")
    assert done.code == 0, done
    bodies = {request.experiment: request.body for request in server.requests}
    assert bodies["1"]["stop"] == "STOP"
    assert bodies["2"]["stop"] == ["a", "b"]
    assert bodies["1"]["max_tokens"] == bodies["2"]["max_tokens"] == 5


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("aü\"', \n{}", max_size=5), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("made", [OpenAIProvider, OpenRouterProvider])
def test_whatever_json_a_cell_holds_is_what_the_body_holds(server, made):
    url = {OpenAIProvider: server.openai_url, OpenRouterProvider: server.openrouter_url}[made]
    names = ("OPENAI", "OPENROUTER")
    env = {f"{name}_API_KEY": "k" for name in names} | {f"{name}_BASE_URL": url for name in names}
    provider = made.from_settings(ProviderSettings(timeout=10, env=env))

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(JSON)
    def check(value):
        server.clear()
        provider.complete(ChatRequest("m", "x", params={"p": parse_param(json.dumps(value))}))
        assert typed(server.requests[0].body["p"]) == typed(value)

    try:
        check()
    finally:
        provider.close()


@given(JSON)
def test_whatever_json_a_cell_holds_is_what_ollamas_options_hold(value):
    params = {"p": parse_param(json.dumps(value)), "q": 1}
    assert typed(chat_body(ChatRequest("m", "x", params=params))["options"]) == typed({"p": value, "q": 1})


@pytest.mark.parametrize(
    ("stop", "sent"),
    [("END", ["END"]), ('"\\n"', ["\n"]), ('["a", "b"]', ["a", "b"]), ('"[]"', ["[]"]), ("[]", [])],
)
def test_ollama_gets_every_stop_as_a_list(stop, sent):
    body = chat_body(ChatRequest("m", "x", params={"stop": parse_param(stop)}))
    assert body["options"] == {"stop": sent}


@pytest.mark.parametrize(
    ("params", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"num_predict": 7}, 7),
        ({"options": {"num_predict": 8}}, 8),
        ({"options": {"num_predict": 8}, "max_tokens": 9}, 9),
    ],
)
def test_every_name_of_the_limit_is_ollamas_num_predict(params, limit):
    assert chat_body(ChatRequest("m", "x", params=params))["options"] == {"num_predict": limit}


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_a_schema_beside_the_type_of_a_format_is_ollamas_format_too(kind):
    # As llama.cpp, vLLM's forerunners and several hosts write it.
    body = chat_body(ChatRequest("m", "x", params={"response_format": {"type": kind, "schema": SCHEMA}}))
    assert body["format"] == SCHEMA
