"""The openrouter provider."""

from __future__ import annotations

import pydantic
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from support.behaviours import answer, model_not_found, status

from parallamr_mp.errors import BadInput, MissingKey, ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo
from parallamr_mp.providers.base import PriceList, ProviderSettings
from parallamr_mp.providers.openrouter import OpenRouterProvider

HELLO = ChatRequest("meta/llama:free", "hello")


@pytest.fixture
def provider(server):
    env = {"OPENROUTER_API_KEY": "or-secret-1", "OPENROUTER_BASE_URL": server.openrouter_url}
    made = OpenRouterProvider.from_settings(ProviderSettings(timeout=10, env=env))
    yield made
    made.close()


def test_a_request_asks_for_its_cost_and_gets_it(server, provider):
    reply = provider.complete(HELLO)
    (seen,) = server.requests
    pydantic.TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(seen.body)
    assert seen.body["model"] == "meta/llama:free"
    assert seen.body["usage"] == {"include": True}
    assert seen.headers["authorization"] == "Bearer or-secret-1"
    assert (reply.input_tokens, reply.output_tokens) == (1, 2)
    assert reply.cost_usd == pytest.approx(3e-6)
    assert reply.endpoint == server.openrouter_url


@pytest.mark.parametrize("cost", [None, "1", True])
def test_a_cost_that_is_none_is_none(server, provider, cost):
    server.behave(answer("x", usage={"prompt_tokens": 1, "cost": cost}))
    assert provider.complete(HELLO).cost_usd is None


def test_the_usage_parameter_can_be_turned_off(server, provider):
    provider.complete(ChatRequest("m", "hello", params={"usage": {"include": False}}))
    assert server.requests[0].body["usage"] == {"include": False}


@pytest.mark.parametrize(
    "behaviour",
    [
        model_not_found(),
        status(400, body={"error": {"message": "meta/llama:free is not a valid model ID", "code": 400}}),
    ],
)
def test_an_unknown_model_is_named(server, provider, behaviour):
    server.behave(behaviour)
    with pytest.raises(ProviderError, match=r"^Model meta/llama:free not found or unavailable: ") as caught:
        provider.complete(HELLO)
    assert caught.value.kind == "model_not_found"


def test_models_and_windows_are_asked_for_once(server, provider):
    assert provider.list_models()[0] == ModelInfo("fake-small", 4096)
    server.clear()
    assert provider.context_window("fake-large") == 131_072
    assert provider.context_window("fake-mute") is None
    assert len(server.lookups) == 1


def test_a_key_is_required_and_never_shown(provider):
    assert "or-secret" not in repr(provider)
    with pytest.raises(MissingKey, match="OPENROUTER_API_KEY"):
        OpenRouterProvider.from_settings(ProviderSettings(env={"OPENAI_API_KEY": "x"}))
    with pytest.raises(BadInput, match="OPENROUTER_BASE_URL"):
        OpenRouterProvider(api_key="k", base_url="openrouter.ai", env={})
    made = OpenRouterProvider(api_key="k", env={})
    assert repr(made) == "<OpenRouterProvider https://openrouter.ai/api/v1>"
    made.close()


def test_prices_come_with_the_list_of_models_which_is_asked_for_once(server, provider):
    pricing = {"prompt": "0.000001", "completion": "0.000002"}
    server.behave_lookup(status(200, body={"data": [{"id": "m", "context_length": 9, "pricing": pricing}]}))
    assert isinstance(provider, PriceList)
    price = provider.price("m")
    assert (price.input, price.output) == pytest.approx((1, 2))
    assert (provider.context_window("m"), provider.price("other")) == (9, None)
    assert len(server.lookups) == 1
