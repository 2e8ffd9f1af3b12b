"""The ollama provider."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ollama._types import ChatRequest as Judge
from support.behaviours import answer, model_not_found, status, wait_for
from support.server import FakeServer

from parallamr_mp.errors import BadInput, ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo
from parallamr_mp.providers.base import ModelCatalogue, ProviderSettings
from parallamr_mp.providers.ollama import OllamaProvider, chat_body

HELLO = ChatRequest("llama3.2:1b-instruct-q4_0", "hello")


@pytest.fixture
def provider(server):
    env = {"OLLAMA_BASE_URL": server.ollama_url + "/"}
    made = OllamaProvider.from_settings(ProviderSettings(timeout=10, env=env))
    yield made
    made.close()


def test_a_request_is_one_the_ollama_client_could_have_sent(server, provider):
    params = {
        "temperature": 0.5,
        "seed": 1,
        "stop": "x",
        "top_p": 0.9,
        "max_tokens": 7,
        "num_ctx": 512,
        "keep_alive": "5m",
        "think": False,
        "response_format": {"type": "json_object"},
    }
    provider.complete(ChatRequest(HELLO.model, "hello", system="be brief", params=params))
    body = server.requests[0].body
    Judge.model_validate(body)
    assert body == {
        "model": "llama3.2:1b-instruct-q4_0",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "stream": False,
        "format": "json",
        "keep_alive": "5m",
        "think": False,
        "options": {
            "temperature": 0.5,
            "seed": 1,
            "stop": ["x"],
            "top_p": 0.9,
            "num_predict": 7,
            "num_ctx": 512,
        },
    }


def test_without_parameters_only_the_conversation_is_sent():
    assert chat_body(HELLO) == {
        "model": HELLO.model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
    }


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("response_format", "sent"),
    [
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_object"}, "json"),
        ({"type": "text"}, None),
        ({"type": "json_schema"}, None),
        ("json", "json"),
        (None, None),
    ],
)
def test_response_formats_become_ollamas(response_format, sent):
    body = chat_body(ChatRequest("m", "x", params={"response_format": response_format}))
    assert body.get("format") == sent
    Judge.model_validate(body)


def test_a_format_of_ollamas_own_wins_and_options_are_merged():
    params = {
        "response_format": {"type": "json_object"},
        "format": SCHEMA,
        "options": {"seed": 1, "num_gpu": 0},
        "seed": 2,
        "tools": [],
        "stream": True,
        "model": "other",
        "messages": [],
    }
    body = chat_body(ChatRequest("m", "x", params=params))
    assert body["format"] == SCHEMA
    assert body["options"] == {"seed": 2, "num_gpu": 0}
    assert (body["model"], body["stream"], len(body["messages"])) == ("m", False, 1)
    with pytest.raises(ProviderError, match="options"):
        chat_body(ChatRequest("m", "x", params={"options": 7}))


def test_an_answer_is_read_with_its_counts(server, provider):
    reply = provider.complete(HELLO)
    assert (reply.text, reply.finish_reason, reply.warnings) == ("echo: hello", "stop", ())
    assert (reply.input_tokens, reply.output_tokens, reply.cost_usd) == (1, 2, None)
    assert reply.endpoint == server.url


CALLS = [{"function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize(
    ("behaviour", "text", "warnings"),
    [
        (answer("cut", finish_reason="length"), "cut", 1),
        (answer("", thinking="Hm."), "Hm.", 1),
        (answer("", thinking="Hm.", finish_reason="length"), "Hm.", 2),
        (answer("fine", thinking="Hm."), "fine", 0),
        (answer(""), "", 1),
        (answer("", tool_calls=CALLS), '[{"function":{"name":"f","arguments":{}}}]', 0),
    ],
)
def test_answers_that_deserve_a_look_come_with_warnings(server, provider, behaviour, text, warnings):
    server.behave(behaviour)
    reply = provider.complete(HELLO)
    assert (reply.text, len(reply.warnings)) == (text, warnings)


@pytest.mark.parametrize("behaviour", [model_not_found(), status(404, body=b"404 page not found")])
def test_any_404_of_a_chat_means_the_model(server, provider, behaviour):
    server.behave(behaviour)
    with pytest.raises(ProviderError, match=f"^Model {HELLO.model} not found or unavailable: ") as caught:
        provider.complete(HELLO)
    assert (caught.value.kind, caught.value.retryable) == ("model_not_found", False)


@pytest.mark.parametrize(
    ("behaviour", "kind", "retryable"),
    [
        (status(500), "server", True),
        (status(503), "server", True),
        (status(400), "bad_request", False),
        (status(200, body={"error": "runner died"}), "server", True),
        (status(200, body=b"{"), "bad_reply", False),
        (status(200, body={}), "bad_reply", False),
    ],
)
def test_what_is_no_answer_is_judged(server, provider, behaviour, kind, retryable):
    server.behave(behaviour)
    with pytest.raises(ProviderError) as caught:
        provider.complete(HELLO)
    assert (caught.value.kind, caught.value.retryable) == (kind, retryable)


def test_the_context_window_is_asked_for_once_a_model(server, provider):
    assert isinstance(provider, ModelCatalogue)
    for _ in range(3):
        assert provider.context_window("fake-large") == 131_072
        assert provider.context_window("fake-mute") is None
    assert [seen.body for seen in server.lookups] == [{"model": "fake-large"}, {"model": "fake-mute"}]


@pytest.mark.parametrize(
    ("shown", "window"),
    [
        ({"parameters": "stop x\nnum_ctx     8192\n", "model_info": {"llama.context_length": 4096}}, 8192),
        ({"parameters": 'stop "num_ctx 1"', "model_info": {"gemma3.context_length": 4096}}, 4096),
        ({"parameters": None, "model_info": {"a.context_length": None, "b.context_length": 7}}, 7),
        ({"model_info": {"context_length_other": 1}}, None),
        ({"model_info": []}, None),
    ],
)
def test_num_ctx_of_the_model_file_counts_before_the_models_own(server, provider, shown, window):
    server.behave_lookup(status(200, body=shown))
    assert provider.context_window("m") == window


def test_windows_of_different_models_are_asked_for_side_by_side(server, provider):
    models, both = ["fake-small", "fake-large"], threading.Event()

    def once_all_are_here(_):
        if len(server.lookups) == len(models):
            both.set()
        return wait_for(both, status(200, body={"model_info": {"a.context_length": 7}}))

    server.behave_lookup(once_all_are_here)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(provider.context_window, models * 4)) == [7] * 8
    assert len(server.lookups) == len(models)


def test_a_look_up_that_fails_is_no_error():
    with FakeServer(strict_models=True) as server:
        provider = OllamaProvider(base_url=server.ollama_url, env={})
        assert provider.context_window("nowhere") is None
        provider.close()


def test_models_are_listed(server, provider):
    assert provider.list_models()[0] == ModelInfo("fake-small", None)
    server.behave_lookup(status(200, body={"models": 1}))
    with pytest.raises(ProviderError, match="no list of models"):
        provider.list_models()
    server.behave_lookup(status(404))
    with pytest.raises(ProviderError) as caught:
        provider.list_models()
    assert caught.value.kind == "not_found"


def test_the_base_url_needs_a_scheme_and_may_hold_a_password(server):
    with pytest.raises(BadInput, match="OLLAMA_BASE_URL"):
        OllamaProvider.from_settings(ProviderSettings(env={"OLLAMA_BASE_URL": "localhost:11434"}))
    made = OllamaProvider(base_url=server.url.replace("//", "//me:hush@"), env={})
    assert made.complete(HELLO).endpoint == server.url
    assert server.requests[0].headers["authorization"] == "Basic bWU6aHVzaA=="
    made.close()
    made = OllamaProvider(env={})
    assert repr(made) == "<OllamaProvider http://localhost:11434>"
    made.close()
