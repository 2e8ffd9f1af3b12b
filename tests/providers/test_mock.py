"""The mock provider: no network, no surprises."""

from __future__ import annotations

import pytest

from parallamr_mp.errors import BadInput, ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo
from parallamr_mp.providers.base import ModelCatalogue, ProviderSettings
from parallamr_mp.providers.mock import MockProvider


def ask(prompt="hello world", model="mock", params=None, provider=None, **variables):
    provider = provider or MockProvider(env={})
    return provider.complete(ChatRequest(model, prompt, params=params or {}, variables=variables))


def test_the_answer_echoes_what_was_asked():
    reply = ask(topic="AI", provider=MockProvider(env={}), ü="ö")
    assert reply.text == (
        "MOCK RESPONSE\nInput tokens: 2\nModel: mock\n"
        'Variables: {\n  "topic": "AI",\n  "ü": "ö"\n}\n--- Original Input ---\nhello world'
    )
    assert reply.input_tokens == 2
    assert reply.output_tokens == len(reply.text) // 4
    assert (reply.endpoint, reply.finish_reason, reply.warnings) == ("mock", "stop", ())


def test_provider_and_model_are_no_variables():
    request = ChatRequest("mock", "x", variables={"provider": "mock", "model": "mock", "a": "1"})
    assert 'Variables: {\n  "a": "1"\n}' in MockProvider(env={}).complete(request).text
    assert "Variables: {}" in ask("x").text


@pytest.mark.parametrize("model", ["mock", "mock-large", "mock/large"])
def test_names_that_begin_with_mock_are_models(model):
    assert f"Model: {model}\n" in ask(model=model).text


@pytest.mark.parametrize("model", ["gpt-4", "mocking", "", "Mock"])
def test_other_names_are_not(model):
    with pytest.raises(ProviderError) as caught:
        ask(model=model)
    assert (caught.value.kind, caught.value.retryable) == ("model_not_found", False)
    assert str(caught.value) == f"Model {model} not found or unavailable"


def failing(rate, count=400):
    provider = MockProvider(error_rate=rate, env={})
    failed = set()
    for number in range(count):
        try:
            ask(f"prompt {number}", provider=provider)
        except ProviderError:
            failed.add(number)
    return failed


def test_a_failure_on_demand_is_final():
    with pytest.raises(ProviderError) as caught:
        ask(params={"error_rate": 1})
    assert (caught.value.kind, caught.value.retryable, caught.value.endpoint) == ("mock", False, "mock")


def test_the_same_prompts_fail_every_time_and_about_as_many_as_asked():
    assert failing(0) == set()
    assert len(failing(1)) == 400
    assert failing(0.25) == failing(0.25)
    assert 60 < len(failing(0.25)) < 140
    assert failing(0.1) < failing(0.3)


@pytest.mark.parametrize("tokens", [1, 5, 1000])
def test_the_answer_has_the_length_asked_for(tokens):
    reply = ask(params={"output_tokens": tokens})
    assert (len(reply.text), reply.output_tokens) == (tokens * 4, tokens)
    assert reply.text.startswith("MOCK")


def test_settings_come_from_row_argument_and_environment_in_this_order():
    slept: list[float] = []
    env = {"MOCK_LATENCY": "3", "MOCK_OUTPUT_TOKENS": "9", "MOCK_ERROR_RATE": ""}
    provider = MockProvider(latency=2, env=env, sleep=slept.append)
    assert ask(provider=provider).output_tokens == 9
    ask(provider=provider, params={"latency": 1, "output_tokens": None})
    ask(provider=MockProvider(env=env, sleep=slept.append))
    assert slept == [2, 1, 3]
    assert repr(provider) == "<MockProvider latency=2 output_tokens=9>"


def test_an_answer_slower_than_the_timeout_is_a_timeout():
    slept: list[float] = []
    with pytest.raises(ProviderError) as caught:
        ask(provider=MockProvider(timeout=0.5, latency=9, env={}, sleep=slept.append))
    error = caught.value
    assert (error.kind, error.retryable, error.unknown, slept) == ("timeout", False, True, [0.5])
    assert "outcome unknown" in str(error)


BAD = [
    ("latency", -1),
    ("latency", "soon"),
    ("latency", float("inf")),
    ("latency", float("nan")),
    ("latency", True),
    ("error_rate", 1.1),
    ("error_rate", "x"),
    ("output_tokens", 0),
    ("output_tokens", 1.5),
    ("output_tokens", [1]),
    ("output_tokens", 1e300),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_unusable_settings_are_named(name, value):
    with pytest.raises(BadInput, match=f"^{name} has to be"):
        MockProvider(**{name: value}, env={})
    with pytest.raises(BadInput, match=f"^MOCK_{name.upper()} has to be"):
        MockProvider.from_settings(ProviderSettings(env={f"MOCK_{name.upper()}": str(value)}))
    with pytest.raises(ProviderError, match=f"^param:{name} has to be") as caught:
        ask(params={name: value})
    assert (caught.value.kind, caught.value.retryable) == ("bad_request", False)


def test_the_mock_has_one_model_and_no_limit():
    provider = MockProvider(env={})
    assert isinstance(provider, ModelCatalogue)
    assert provider.list_models() == [ModelInfo("mock")]
    assert provider.context_window("mock") is None
    provider.close()
