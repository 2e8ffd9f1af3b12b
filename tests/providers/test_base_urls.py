"""Base URLs: one or several in a variable, or named by the run; and that none of their secrets gets out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.behaviours import status

from parallamr_mp.errors import BadInput, MissingKey, ProviderError
from parallamr_mp.models import ChatRequest
from parallamr_mp.providers.base import ProviderSettings
from parallamr_mp.providers.endpoints import parse_base_url, split_base_urls
from parallamr_mp.providers.registry import BASE_URL_VARIABLES, build_provider
from parallamr_mp.providers.secrets import environment_secrets, route_secrets

HELLO = ChatRequest("fake-small", "hello")
KEYS = {"OPENROUTER_API_KEY": "or-secret-1"}


def base_of(server, name):
    return getattr(server, f"{name}_url")


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("", ()),
        (" , ", ()),
        ("http://n1/v1", ("http://n1/v1",)),
        ("http://n1/v1,", ("http://n1/v1",)),
        ("http://n1:8000/v1,http://n2:8000/v1", ("http://n1:8000/v1", "http://n2:8000/v1")),
        (" http://n1 ,\n HTTPS://n2 ", ("http://n1", "HTTPS://n2")),
        ("http://h/a,b/v1,https://h/c,d", ("http://h/a,b/v1", "https://h/c,d")),
        ("http://u:p,q@h/v1", ("http://u:p,q@h/v1",)),
    ],
)
def test_a_list_is_split_where_a_url_begins(value, urls):
    assert split_base_urls(value) == urls


PATHS = st.text("ab,;=%2/-", max_size=12).filter(lambda path: not path.endswith(","))


@given(st.lists(st.tuples(st.sampled_from(["http", "https"]), PATHS), min_size=1, max_size=5))
def test_whatever_paths_urls_have_the_list_gives_them_back(parts):
    urls = tuple(f"{scheme}://host/{path}" for scheme, path in parts)
    assert split_base_urls(",".join(urls)) == urls
    assert split_base_urls(" , ".join(urls)) == urls


@pytest.mark.parametrize("value", ["http://n1:8000/v1,n2:8000/v1", "http://n1,n2/v1", "http://n1,n2:80"])
def test_a_second_url_without_its_scheme_is_not_taken_for_a_path(value):
    with pytest.raises(BadInput, match="X"):
        parse_base_url(value, "X")


def test_a_comma_in_a_path_does_no_harm():
    assert parse_base_url("http://h:1/a,b/v1", "X").join("/m") == "http://h:1/a,b/v1/m"


@pytest.mark.parametrize("name", BASE_URL_VARIABLES)
def test_the_runs_base_url_wins_over_the_environment(server, name):
    env = {BASE_URL_VARIABLES[name]: "http://nowhere.invalid/v1", **KEYS}
    provider = build_provider(name, ProviderSettings(10, base_url=base_of(server, name), env=env))
    assert provider.complete(HELLO).endpoint == base_of(server, name)
    assert len(server.requests) == 1
    provider.close()


@pytest.mark.parametrize("name", BASE_URL_VARIABLES)
def test_of_several_base_urls_a_provider_by_itself_asks_the_first(server, name):
    env = {BASE_URL_VARIABLES[name]: f"{base_of(server, name)}, http://nowhere.invalid/v1", **KEYS}
    provider = build_provider(name, ProviderSettings(10, env=env))
    assert provider.complete(HELLO).endpoint == base_of(server, name)
    provider.close()


def test_the_mock_has_no_place_and_takes_any():
    build_provider("mock", ProviderSettings(base_url="http://n1/v1", env={})).complete(
        ChatRequest("mock", "hi")
    )


def test_the_runs_base_url_makes_openais_key_optional_and_openrouters_not():
    provider = build_provider("openai", ProviderSettings(base_url="http://n1:8000/v1", env={}))
    assert repr(provider) == "<OpenAIProvider http://n1:8000/v1 without a key>"
    provider.close()
    with pytest.raises(MissingKey):
        build_provider("openrouter", ProviderSettings(base_url="http://n1:8000/v1", env={}))


def test_each_base_is_looked_at_for_azure(server):
    env = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "https://x.openai.azure.com/openai/v1"}
    provider = build_provider("openai", ProviderSettings(10, base_url=server.openai_url, env=env))
    provider.complete(HELLO)
    assert server.requests[0].headers["authorization"] == "Bearer sk-1"
    assert "api-key" not in server.requests[0].headers
    provider.close()


@pytest.mark.parametrize("name", BASE_URL_VARIABLES)
def test_a_password_in_the_runs_base_url_is_shown_nowhere(server, name):
    url = base_of(server, name).replace("://", "://me:hush-pw@")
    server.behave(status(500, body=b"hush-pw bWU6aHVzaC1wdw=="))
    settings = ProviderSettings(10, base_url=url, env=KEYS)
    provider = build_provider(name, settings)
    with pytest.raises(ProviderError) as caught:
        provider.complete(HELLO)
    shown = f"{caught.value} {vars(caught.value)} {provider!r} {settings!r}"
    assert "hush" not in shown
    assert "bWU6" not in shown
    provider.close()


def test_secrets_of_all_base_urls_are_known():
    env = {"OPENAI_BASE_URL": "http://u1:first-pw@n1/v1, http://only-a-token@n2/v1 ,http://n3/v1?key=k3k3k3"}
    found = environment_secrets(env)
    assert {"first-pw", "only-a-token", "k3k3k3"} <= found
    assert not found & {"u1", "n1", "n2"}
    assert route_secrets(split_base_urls(env["OPENAI_BASE_URL"])) == found
    lines = (
        "openai=http://u1:first-pw@n1/v1 weight=2\nollama=http://only-a-token@n2 openai=http://n3?key=k3k3k3"
    )
    assert environment_secrets({"PARALLAMR_ENDPOINT": lines}) >= found
    assert environment_secrets({"OTHER": lines}) >= {"first-pw", "k3k3k3"}
    assert route_secrets(["", "http://n1/v1", "http://[broken"]) == {"http://[broken"}
