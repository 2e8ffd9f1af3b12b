"""What providers pass on of what a server says about its limits, and of whether there is a server."""

from __future__ import annotations

import socket

import pytest
import requests
from support.behaviours import answer, bad_json, hang_up, interim, rate_limited, reset, reset_mid_body, status

from parallamr_mp.errors import ProviderError
from parallamr_mp.models import Allowance, ChatRequest
from parallamr_mp.providers.base import ProviderSettings
from parallamr_mp.providers.registry import build_provider

HELLO = ChatRequest("fake-small", "hello")
NAMES = ("openai", "openrouter", "ollama")
HEADERS = {
    "X-RateLimit-Limit-Requests": "10",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "2s",
}


@pytest.fixture(params=NAMES)
def provider(request, server):
    settings = ProviderSettings(
        10, base_url=getattr(server, f"{request.param}_url"), env={"OPENROUTER_API_KEY": "or-secret-1"}
    )
    built = build_provider(request.param, settings)
    yield built
    built.close()


def failure_of(provider) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        provider.complete(HELLO)
    return caught.value


def test_an_answer_brings_the_allowance_along(provider, server):
    assert provider.complete(HELLO).allowance is None
    server.behave(answer(headers=HEADERS))
    assert provider.complete(HELLO).allowance == Allowance(10, 0, 2)


def test_a_refusal_brings_it_along_too(provider, server):
    server.behave(status(429, headers=HEADERS))
    error = failure_of(provider)
    assert (error.kind, error.status, error.refused, error.retry_after) == ("rate_limit", 429, True, 2)
    assert error.allowance == Allowance(10, 0, 2)
    assert not error.unreached


def test_an_overloaded_server_has_refused(provider, server):
    server.behave(rate_limited(3, code=503))
    error = failure_of(provider)
    assert (error.kind, error.status, error.refused, error.retry_after) == ("overloaded", 503, True, 3)


@pytest.mark.parametrize(
    ("behaviour", "code"), [(status(500), 500), (status(401), 401), (bad_json(), 200), (interim(101), 101)]
)
def test_the_status_is_told_whatever_it_was(provider, server, behaviour, code):
    server.behave(behaviour)
    error = failure_of(provider)
    assert (error.status, error.refused, error.unreached) == (code, False, False)


@pytest.mark.parametrize("behaviour", [reset(), hang_up(), reset_mid_body()])
def test_a_server_that_breaks_off_was_reached(provider, server, behaviour):
    server.behave(behaviour)
    error = failure_of(provider)
    assert (error.kind, error.status, error.unreached) == ("connection", None, False)


def test_a_server_that_has_gone_is_not_reached(provider, server):
    server.go_away()
    error = failure_of(provider)
    assert (error.kind, error.unreached, error.retryable) == ("connection", True, True)
    server.come_back()
    assert provider.complete(HELLO).text


def test_an_error_within_an_answer_has_the_status_it_stands_for(server):
    settings = ProviderSettings(10, base_url=server.openai_url, env={})
    provider = build_provider("openai", settings)
    server.behave(answer(raw={"error": {"type": "overloaded_error", "message": "no"}}))
    error = failure_of(provider)
    assert (error.kind, error.status, error.refused) == ("overloaded", 503, True)
    provider.close()


@pytest.mark.parametrize(
    "env", [{}, {"HTTP_PROXY": "http://127.0.0.1:{closed}"}, {"ALL_PROXY": "http://127.0.0.1:{closed}"}]
)
@pytest.mark.parametrize("own_session", [True, False])
def test_nobody_listening_is_not_reached_directly_or_by_a_proxy(env, own_session):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        port = closed.getsockname()[1]
        env = {name: value.format(closed=port) for name, value in env.items()}
        session = None if own_session else requests.Session()
        if session is not None:
            session.proxies.update(dict.fromkeys(["http"] if env else [], "".join(env.values())))
        provider = build_provider(
            "openai", ProviderSettings(5, session, base_url=f"http://127.0.0.1:{port}/v1", env=env)
        )
        error = failure_of(provider)
        assert (error.kind, error.unreached, error.unknown) == ("connection", True, False)
        assert ("through the proxy" in str(error)) is bool(env)
        provider.close()
        if session is not None:
            session.close()


def test_a_name_that_nobody_has_is_not_reached(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    provider = build_provider("openai", ProviderSettings(5, base_url="http://n1.invalid/v1", env={}))
    error = failure_of(provider)
    assert (error.kind, error.unreached) == ("connection", True)
    provider.close()


def test_a_handshake_that_takes_too_long_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        provider = build_provider("openai", ProviderSettings(0.2, base_url=url, env={}))
        error = failure_of(provider)
        assert (error.kind, error.unreached, error.unknown) == ("timeout", True, False)
        provider.close()
