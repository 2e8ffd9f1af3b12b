"""The openai provider: its settings, Azure, and what it knows of models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.behaviours import stall, status
from support.server import FakeServer

from parallamr_mp.errors import BadInput, MissingKey, ProviderError
from parallamr_mp.models import ChatRequest, ModelInfo
from parallamr_mp.providers import catalogue
from parallamr_mp.providers.base import ModelCatalogue, ProviderSettings
from parallamr_mp.providers.http import make_session
from parallamr_mp.providers.openai import OpenAIProvider

HELLO = ChatRequest("fake-small", "hello")


def settings(env, **more) -> ProviderSettings:
    return ProviderSettings(env=env, timeout=10, **more)


def test_settings_come_from_the_environment_that_is_given(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-this-one")
    env = {"OPENAI_BASE_URL": server.openai_url + "/", "OPENAI_API_KEY": " sk-1 \n", "OPENAI_ORG_ID": "org-1"}
    provider = OpenAIProvider.from_settings(settings(env))
    provider.complete(HELLO)
    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer sk-1"
    assert seen.headers["openai-organization"] == "org-1"
    provider.close()


def test_arguments_win_over_the_environment(server):
    env = {"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "http://nowhere.invalid", "OPENAI_ORG_ID": "env"}
    provider = OpenAIProvider(api_key="mine", base_url=server.openai_url, organization="mine", env=env)
    provider.complete(HELLO)
    assert server.requests[0].headers["authorization"] == "Bearer mine"
    assert server.requests[0].headers["openai-organization"] == "mine"
    provider.close()


def test_openai_itself_needs_a_key():
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        OpenAIProvider.from_settings(settings({}))
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        OpenAIProvider.from_settings(settings({"OPENAI_API_KEY": " "}))
    provider = OpenAIProvider.from_settings(settings({"OPENAI_API_KEY": "k"}))
    assert repr(provider) == "<OpenAIProvider https://api.openai.com/v1 with a key>"
    provider.close()


def test_a_base_url_alone_is_asked_without_a_key(server):
    provider = OpenAIProvider.from_settings(settings({"OPENAI_BASE_URL": server.openai_url}))
    provider.complete(HELLO)
    assert "authorization" not in server.requests[0].headers
    provider.close()


def test_a_password_in_the_base_url_is_sent_as_such_but_never_instead_of_a_key(server):
    url = server.openai_url.replace("http://", "http://me:hush@")
    for key in ({}, {"OPENAI_API_KEY": "sk-1"}):
        provider = OpenAIProvider.from_settings(settings({"OPENAI_BASE_URL": url, **key}))
        assert provider.complete(HELLO).endpoint == server.openai_url
        assert "hush" not in repr(provider)
        provider.close()
    sent = [seen.headers["authorization"] for seen in server.requests]
    assert sent == ["Basic bWU6aHVzaA==", "Bearer sk-1"]


def test_a_base_url_without_a_scheme_names_its_variable():
    with pytest.raises(BadInput, match="OPENAI_BASE_URL"):
        OpenAIProvider.from_settings(settings({"OPENAI_BASE_URL": "localhost:8000/v1"}))


@pytest.mark.parametrize("key", ["sk-\u00e4bc", "sk-a\nb", "\u201csk-abc\u201d"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key):
    with pytest.raises(BadInput, match="OPENAI_API_KEY") as caught:
        OpenAIProvider(api_key=key)
    assert key not in str(caught.value)


# Azure


@pytest.mark.parametrize(
    "env",
    [
        {"OPENAI_API_VERSION": "2024-06-01"},
        {"OPENAI_API_VERSION": "2024-06-01", "OPENAI_API_TYPE": "azure"},
    ],
)
def test_azure_gets_its_own_key_header_and_version(server, env):
    base = f"{server.url}/openai/deployments/gpt"
    provider = OpenAIProvider.from_settings(
        settings({"OPENAI_BASE_URL": base, "OPENAI_API_KEY": "az-key", **env})
    )
    assert provider.complete(HELLO).endpoint == base
    (seen,) = server.requests
    assert seen.path == "/openai/deployments/gpt/chat/completions"
    assert seen.query == {"api-version": "2024-06-01"}
    assert seen.headers["api-key"] == "az-key"
    assert "authorization" not in seen.headers
    provider.close()


def test_a_version_in_the_base_urls_query_is_kept(server):
    env = {"OPENAI_BASE_URL": f"{server.openai_url}/?api-version=2025-01-01&x=1", "OPENAI_API_KEY": "az-key"}
    provider = OpenAIProvider(api_version="2024-06-01", env=env)
    provider.complete(HELLO)
    assert server.requests[0].query == {"api-version": "2025-01-01", "x": "1"}
    provider.close()


def test_azure_is_known_by_its_host_or_by_name(server):
    with requests.Session() as session:
        seen: list[requests.PreparedRequest] = []

        class Adapter(requests.adapters.HTTPAdapter):
            def send(self, request, **_):
                seen.append(request)
                raise requests.ConnectionError

        session.mount("https://", Adapter())
        for url, env in [
            ("https://x.openai.azure.com/openai/v1", {}),
            ("https://gateway.example/v1", {"OPENAI_API_TYPE": "Azure"}),
            ("https://azure.com.example/v1", {}),
        ]:
            provider = OpenAIProvider(base_url=url, api_key="az-key", session=session, env=env)
            with pytest.raises(ProviderError):
                provider.complete(HELLO)
            provider.close()
    assert ["api-key" in request.headers for request in seen] == [True, True, False]


# Sessions


def test_the_injected_session_is_used_for_everything_and_not_closed(server):
    class Spy(requests.Session):
        closed = False
        calls = 0

        def request(self, *args, **kwargs):
            self.calls += 1
            return super().request(*args, **kwargs)

        def close(self):
            self.closed = True
            super().close()

    with Spy() as session:
        env = {"OPENAI_BASE_URL": server.openai_url}
        provider = OpenAIProvider.from_settings(settings(env, session=session))
        provider.complete(HELLO)
        provider.list_models()
        provider.context_window("fake-small")
        provider.close()
        assert session.calls == 3
        assert not session.closed
    assert server.connections == 1


def test_providers_can_share_one_pooled_session(server):
    with make_session(2, {}) as session:
        for _ in range(2):
            provider = OpenAIProvider(base_url=server.openai_url, session=session, env={})
            provider.complete(HELLO)
            provider.close()
    assert server.connections == 1


# Models


def test_models_are_listed_with_their_windows(server):
    provider = OpenAIProvider(base_url=server.openai_url, env={})
    assert isinstance(provider, ModelCatalogue)
    assert provider.list_models() == [
        ModelInfo("fake-small", 4096),
        ModelInfo("fake-large", 131_072),
        ModelInfo("fake-mute", None),
    ]
    provider.close()


def test_context_windows_are_asked_for_once_by_however_many_threads(server):
    provider = OpenAIProvider(base_url=server.openai_url, env={})
    with ThreadPoolExecutor(8) as pool:
        windows = list(
            pool.map(provider.context_window, ["fake-small", "fake-large", "other", "fake-mute"] * 4)
        )
    assert windows == [4096, 131_072, None, None] * 4
    assert len(server.lookups) == 1
    provider.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        status(500),
        status(200, body=b"<html>"),
        status(200, body={"data": 1}),
        status(200, body={"data": [1, {}]}),
    ],
)
def test_a_server_that_does_not_tell_windows_is_asked_once(server, behaviour):
    server.behave_lookup(behaviour)
    provider = OpenAIProvider(base_url=server.openai_url, env={})
    assert provider.context_window("fake-small") is None
    assert provider.context_window("fake-small") is None
    assert len(server.lookups) == 1
    provider.close()


def test_a_server_that_does_not_answer_holds_nobody_up(server, monkeypatch):
    monkeypatch.setattr("parallamr_mp.providers.chat_completions.LOOKUP_SECONDS", 0.2)
    server.behave_lookup(stall())
    provider = OpenAIProvider(base_url=server.openai_url, env={})
    assert provider.context_window("fake-small") is None
    provider.close()


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"max_model_len": 8192}, 8192),
        ({"context_length": 1, "max_model_len": 2}, 2),
        ({"context_window": 131_072}, 131_072),
        ({"meta": {"n_ctx_train": 2048}}, 2048),
        ({"meta": {"n_ctx_train": 2048, "n_ctx": 512}}, 512),
        ({"meta": "x", "context_length": "8192"}, None),
        ({"context_length": 0, "max_context_length": 7}, 7),
        ({}, None),
    ],
)
def test_windows_go_by_many_names(entry, window):
    assert catalogue.window_of(entry) == window


def test_llama_cpp_serves_its_one_model_under_any_name(server):
    entry = {"id": "/models/x.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 2048}}
    server.behave_lookup(status(200, body={"data": [entry]}))
    provider = OpenAIProvider(base_url=server.openai_url, env={})
    assert provider.context_window("whatever") == 2048
    provider.close()


def test_models_that_cannot_be_listed_are_an_error():
    with FakeServer(api_key="right") as server:
        provider = OpenAIProvider(base_url=server.openai_url, api_key="wrong-key", env={})
        with pytest.raises(ProviderError) as caught:
            provider.list_models()
        assert caught.value.kind == "auth"
        assert "wrong-key" not in str(caught.value)
        server.behave_lookup(status(200, body={"models": []}))
        provider.close()
        provider = OpenAIProvider(base_url=server.openai_url, api_key="right", env={})
        with pytest.raises(ProviderError, match="no list of models"):
            provider.list_models()
        provider.close()
