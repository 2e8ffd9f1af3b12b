"""What a server or proxy echoes of keys and passwords is shown to nobody."""

from __future__ import annotations

import base64
import html
import json
import socketserver
import threading
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import requests
from support.behaviours import answer, redirect, status

from parallamr_mp.errors import ProviderError
from parallamr_mp.models import ChatRequest
from parallamr_mp.providers.endpoints import secrets_of, url_secrets
from parallamr_mp.providers.http import redact
from parallamr_mp.providers.ollama import OllamaProvider
from parallamr_mp.providers.openai import OpenAIProvider
from parallamr_mp.providers.openrouter import OpenRouterProvider

HELLO = ChatRequest("fake-small", "hello")
KEY = 'sk-a/b"c+d&e-12345'
BASIC = base64.b64encode(b"me:hush-pw").decode()
ALL = f"{KEY} {BASIC} hush-pw"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
HIDDEN = {
    KEY,
    "hush-pw",
    BASIC.rstrip("="),
    json.dumps(KEY)[1:-1],
    quote(KEY),
    quote(KEY, safe=""),
    html.escape(KEY),
    ESCAPED,
    "sk-a",
    "hush",
}


@contextmanager
def provider_for(kind, url, **more):
    """A provider with the key and, in its base URL, the password."""
    base, more = url.replace("//", "//me:hush-pw@"), {"timeout": 5, "env": {}, **more}
    made = {
        "openai": lambda: OpenAIProvider(base_url=f"{base}/v1", api_key=KEY, **more),
        "openrouter": lambda: OpenRouterProvider(base_url=f"{base}/api/v1", api_key=KEY, **more),
        "ollama": lambda: OllamaProvider(base_url=f"{base}?key={quote(KEY, safe='')}", **more),
    }[kind]()
    try:
        yield made
    finally:
        made.close()


def failure_of(call) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call()
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert not [secret for secret in HIDDEN if secret in shown], shown
    # What it was raised from may hold the whole text, and would stand in a traceback.
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("kind", ["openai", "openrouter", "ollama"])
@pytest.mark.parametrize("code", [200, 400, 401, 404, 407, 502])
@pytest.mark.parametrize(
    "echo",
    [
        f"<html>POST /v1\nAuthorization: Bearer {KEY}\nAuthorization: Basic {BASIC}\nhush-pw</html>",
        f"<html>{html.escape(KEY)} {quote(KEY)} {quote(KEY, safe='')} {BASIC.rstrip('=')}</html>",
        "x" * 195 + ALL,
        "x" * 495 + ALL,
        json.dumps([KEY, BASIC, "hush-pw"]),
        json.dumps({"debug": KEY, "auth": BASIC, "password": "hush-pw"}),
        json.dumps({"debug": KEY}).replace("/", "\\/"),
        f'{{"debug": "{ESCAPED}"}}',
        json.dumps({"error": {"message": ALL, "code": KEY}}),
        json.dumps({"choices": [{"message": {"content": ""}, "error": {"message": ALL}}]}),
        json.dumps({"choices": [{"message": ALL}], "message": BASIC, "hush-pw": 1}),
    ],
)
def test_an_echo_of_the_request_shows_no_secret(server, kind, code, echo):
    server.behave(status(code, body=echo.encode()))
    server.behave_lookup(status(code, body=echo.encode()))
    with provider_for(kind, server.url) as provider:
        failure_of(provider.list_models)
        if code != 200 or kind != "ollama" or "choices" not in echo:
            failure_of(lambda: provider.complete(HELLO))


@pytest.mark.parametrize("kind", ["openai", "openrouter", "ollama"])
def test_a_finish_reason_hides_them_and_the_models_own_text_does_not(server, kind):
    server.behave(answer(f"mine: {ALL}", finish_reason=f"stop {ALL}"))
    with provider_for(kind, server.url) as provider:
        reply = provider.complete(HELLO)
    assert reply.text == f"mine: {ALL}"
    assert reply.finish_reason == "stop [redacted] [redacted] [redacted]"
    assert reply.warnings == ()


def test_the_address_of_a_redirect_hides_them(server):
    server.behave(redirect(f"http://other/{quote(KEY, safe='')}/v1"))
    with provider_for("openai", server.url) as provider:
        assert "http://other/[redacted]/v1" in str(failure_of(lambda: provider.complete(HELLO)))


# Proxies and sessions


@pytest.mark.parametrize("named_by", ["environment", "session", "environment of the session"])
@pytest.mark.parametrize("code", [200, 400, 407, 502])
def test_a_proxy_that_echoes_the_request_shows_no_secret(server, named_by, code, monkeypatch):
    proxy = server.url.replace("http://", "http://me:hush-pw@")
    more = {"env": {"HTTP_PROXY": proxy}}
    if named_by != "environment":
        more = {"session": requests.Session()}
        if named_by == "session":
            more["session"].proxies["http"] = proxy
        else:
            monkeypatch.setenv("HTTP_PROXY", proxy)
    server.behave(lambda seen: status(code, body=f"hush-pw {seen.headers}".encode()))
    provider = OpenAIProvider(base_url="http://nowhere.invalid/v1", api_key=KEY, **{"env": {}, **more})
    assert "[redacted]" in str(failure_of(lambda: provider.complete(HELLO)))
    assert server.requests[0].headers["proxy-authorization"] == f"Basic {BASIC}"
    provider.close()


@pytest.mark.parametrize("own", [True, False])
def test_a_tunnel_that_is_refused_in_telling_words_shows_no_secret(own):
    class Refuse(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(f"HTTP/1.1 407 {ALL}\r\n\r\n".encode())

    with socketserver.TCPServer(("127.0.0.1", 0), Refuse) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://me:hush-pw@127.0.0.1:{proxy.server_address[1]}"
        more = {"env": {"HTTPS_PROXY": url}}
        if not own:
            more = {"env": {}, "session": requests.Session()}
            more["session"].proxies["https"] = url
        provider = OpenAIProvider(base_url="https://nowhere.invalid/v1", api_key=KEY, **more)
        error = failure_of(lambda: provider.complete(HELLO))
        provider.close()
        proxy.shutdown()
    assert (error.kind, error.retryable) == ("connection", False)
    assert "407 [redacted] [redacted] [redacted]" in str(error)


def test_what_an_injected_session_knows_is_hidden_too(server):
    session = requests.Session()
    session.auth = ("me", "hush-pw")
    session.headers["X-Api-Key"] = KEY
    server.behave(lambda seen: status(400, body=f"{ALL} {seen.headers}".encode()))
    provider = OpenAIProvider(base_url=server.openai_url, session=session, env={})
    assert "[redacted] [redacted] [redacted]" in str(failure_of(lambda: provider.complete(HELLO)))
    provider.close()


def test_a_password_is_hidden_as_written_as_meant_and_as_sent():
    for text in ("p%40ss", "p@ss", base64.b64encode(b"me:p@ss").decode()):
        assert redact(f"<{text}>", url_secrets("http://me:p%40ss@proxy:1")) == "<[redacted]>"
    latin = base64.b64encode("me:pässe".encode("latin-1")).decode()
    assert redact(latin, secrets_of("me", "pässe")) == "[redacted]"
    assert url_secrets("http://proxy:1") == ()
    assert "token" in url_secrets("http://token@proxy")  # a user without a password
