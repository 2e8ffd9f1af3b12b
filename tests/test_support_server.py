"""The test server is itself tested: its shapes, what it remembers, each misbehaviour, and its end."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import ollama
import pytest
import requests
import trustme
from openai.types import Model
from openai.types.chat import ChatCompletion
from support.behaviours import (
    answer,
    bad_json,
    close_idle,
    cut_mid_body,
    drip,
    hang_up,
    huge,
    model_not_found,
    rate_limited,
    redirect,
    reset,
    reset_mid_body,
    sequence,
    set_cookie,
    slow,
    stall,
    status,
    wait_for,
)
from support.server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

CHATS = {
    "openai": "/v1/chat/completions",
    "openrouter": "/api/v1/chat/completions",
    "ollama": "/api/chat",
}


def body(text: str = "hello id=1 world", **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
    return {"model": "fake-small", "messages": messages, "stream": False, **more}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def chat(session: requests.Session, server: FakeServer, text: str = "hello id=1 world", **kw: Any) -> Any:
    kw.setdefault("timeout", 10)
    kw.setdefault("allow_redirects", False)
    url = server.url + kw.pop("path", CHATS["openai"])
    return session.post(url, json=kw.pop("body", None) or body(text), **kw)


# Shapes


def test_the_openai_reply_satisfies_the_openai_client(server, session):
    reply = chat(session, server)
    parsed = ChatCompletion.model_validate(reply.json(), strict=True)
    assert parsed.choices[0].message.content == "echo: hello id=1 world"
    assert parsed.choices[0].finish_reason == "stop"
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens, parsed.usage.total_tokens) == (
        6,
        5,
        11,
    )
    assert reply.headers["content-type"] == "application/json"


def test_openrouter_tells_the_cost(server, session):
    reply = chat(session, server, path=CHATS["openrouter"]).json()
    assert ChatCompletion.model_validate(reply).usage.total_tokens == 11
    assert reply["usage"]["cost"] == pytest.approx(11e-6)


def test_the_ollama_reply_satisfies_the_ollama_client(server, session):
    parsed = ollama.ChatResponse.model_validate(chat(session, server, path=CHATS["ollama"]).json())
    assert parsed.message.content == "echo: hello id=1 world"
    assert (parsed.done, parsed.done_reason, parsed.prompt_eval_count, parsed.eval_count) == (
        True,
        "stop",
        6,
        5,
    )


def test_ollama_streams_unless_told_not_to(server, session):
    sent = body()
    del sent["stream"]
    reply = chat(session, server, path=CHATS["ollama"], body=sent)
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert len(reply.text.splitlines()) == 2


def test_models_are_listed_in_each_api_with_context_windows(server, session):
    listed = session.get(server.openai_url + "/models", timeout=10).json()["data"]
    assert [Model.model_validate(entry).id for entry in listed] == list(server.models)
    assert [entry.get("max_model_len") for entry in listed] == [4096, 131_072, None]
    listed = session.get(server.openrouter_url + "/models", timeout=10).json()["data"]
    assert [entry["context_length"] for entry in listed] == [4096, 131_072, None]
    tags = ollama.ListResponse.model_validate(session.get(server.ollama_url + "/api/tags", timeout=10).json())
    assert [entry.model for entry in tags.models] == list(server.models)
    shown = session.post(server.ollama_url + "/api/show", json={"model": "fake-large"}, timeout=10).json()
    assert ollama.ShowResponse.model_validate(shown).modelinfo["llama.context_length"] == 131_072
    assert [r.path for r in server.lookups] == ["/v1/models", "/api/v1/models", "/api/tags", "/api/show"]
    assert server.requests == []


def test_azure_deployments_are_chats_whose_model_is_in_the_path(server, session):
    sent = body()
    del sent["model"]
    path = "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    assert chat(session, server, path=path, body=sent).json()["model"] == "my-gpt"
    assert server.requests[0].query == {"api-version": "2024-10-21"}


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("openai", {"message": "The model `nope` does not exist or you do not have access to it."}),
        ("openrouter", {"message": "No endpoints found for nope.", "code": 404}),
        ("ollama", "model 'nope' not found"),
    ],
)
def test_an_unknown_model_is_refused_in_the_apis_own_words(session, api, said):
    with FakeServer(models={"known": None}, strict_models=True) as server:
        reply = chat(session, server, path=CHATS[api], body=body(model="nope"))
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert error == said or said.items() <= error.items()
        assert chat(session, server, path=CHATS[api], body=body(model="known")).status_code == 200


# What is remembered


def test_requests_are_remembered_and_counted_by_experiment(server, session):
    before = time.monotonic()
    chat(session, server, "a id=7 b", headers={"X-Thing": "Yes"})
    chat(session, server, "no key here")
    parts = body([{"type": "text", "text": "again id=7"}])
    chat(session, server, body=parts)
    assert server.counts() == {"7": 2, "no key here": 1}
    assert (server.count(7), server.count("absent")) == (2, 0)
    seen = server.requests[0]
    assert (seen.method, seen.path, seen.query) == ("POST", "/v1/chat/completions", {})
    assert (seen.headers["x-thing"], seen.body, seen.connection) == ("Yes", body("a id=7 b"), 1)
    assert before <= seen.started <= time.monotonic()
    assert b'"id=7' not in seen.raw
    assert b"id=7" in seen.raw
    assert (server.connections, server.in_flight, server.peak_in_flight) == (1, 0, 1)
    server.clear()
    assert (server.requests, server.counts(), server.peak_in_flight) == ([], {}, 0)


def test_a_key_is_required_as_bearer_or_as_azure_sends_it(session):
    with FakeServer(api_key="sk-right") as server:
        assert chat(session, server).status_code == 401
        wrong = chat(session, server, headers={"Authorization": "Bearer sk-wrong"})
        assert wrong.status_code == 401
        assert wrong.json()["error"]["code"] == "invalid_api_key"
        assert chat(session, server, headers={"Authorization": "Basic sk-right"}).status_code == 401
        assert chat(session, server, headers={"Authorization": "Bearer sk-right"}).status_code == 200
        assert chat(session, server, headers={"api-key": "sk-right"}).status_code == 200
        assert len(server.requests) == 5


def test_three_hundred_requests_are_in_flight_at_once(server):
    server.behave(stall())
    payload = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(300)]
    for client in clients:
        client.sendall(payload)
    server.wait_until(lambda: server.in_flight == 300)
    server.release_all()
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        client.close()
    server.wait_until(lambda: server.open_connections == 0)
    assert (server.connections, server.peak_in_flight, server.in_flight) == (300, 300, 0)


def test_the_peak_never_exceeds_the_clients_threads(server):
    local = threading.local()
    sessions = []

    def one(number: int) -> int:
        # A new connection for every other request, so that two server threads serve one client in turn.
        if number % 2 or not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.trust_env = False
            sessions.append(local.session)
        return chat(local.session, server, f"id={number}").status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(400))) == {200}
    for made in sessions:
        made.close()
    assert server.peak_in_flight <= 4
    assert set(server.counts().values()) == {1}


def test_tls_is_verified_against_the_test_ca_and_handshakes_are_counted(session, tmp_path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with FakeServer(tls=ca) as server:
        session.verify = str(tmp_path / "ca.pem")
        assert server.url.startswith("https://127.0.0.1:")
        assert [chat(session, server).status_code for _ in range(3)] == [200] * 3
        assert (server.handshakes, server.connections) == (1, 1)
        with pytest.raises(requests.exceptions.SSLError):
            chat(session, server, verify=True)
        server.behave(reset())
        with pytest.raises(requests.ConnectionError):
            chat(session, server)
        server.behave(stall())
        with pytest.raises(requests.ReadTimeout):
            chat(session, server, timeout=(10, 0.1))
        server.wait_until(lambda: server.in_flight == 0)


# Misbehaviour


def test_an_answer_can_carry_anything(server, session):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.behave(
        sequence(
            answer("cut", finish_reason="length", usage=(3, 9)),
            answer(None, refusal="I will not", usage=None),
            answer("", reasoning_content="hm", tool_calls=[call], raw={"choices": []}),
            None,
        )
    )
    first, second, third, fourth = (chat(session, server).json() for _ in range(4))
    assert (first["choices"][0]["finish_reason"], first["usage"]["total_tokens"]) == ("length", 12)
    assert second["choices"][0]["message"]["refusal"] == "I will not"
    assert second["choices"][0]["message"]["content"] is None
    assert "usage" not in second
    assert third["choices"] == []
    assert ChatCompletion.model_validate(fourth).choices[0].message.content.startswith("echo: ")


def test_a_sequence_is_counted_per_experiment_and_the_newest_rule_wins(server, session):
    server.behave(status(500))
    server.behave(sequence(status(429), status(503)))
    server.behave(lambda r: status(418) if r.experiment == "x" else None)
    codes = [chat(session, server, f"id={key}").status_code for key in "abaxab"]
    assert codes == [429, 429, 503, 418, 500, 503]


def test_statuses_have_the_apis_own_error_shape(server, session):
    server.behave(status(500, {"x-a": "b"}))
    replies = {api: chat(session, server, path=path) for api, path in CHATS.items()}
    assert {reply.status_code for reply in replies.values()} == {500}
    assert replies["openai"].json()["error"]["type"] == "server_error"
    assert replies["openrouter"].json()["error"]["code"] == 500
    assert replies["ollama"].json() == {"error": "fake error 500"}
    assert replies["ollama"].headers["x-a"] == "b"
    server.behave(status(529, body=b"<html>"))
    assert chat(session, server).content == b"<html>"
    server.behave(model_not_found())
    assert chat(session, server).json()["error"]["code"] == "model_not_found"


def test_retry_after_comes_in_seconds_or_as_a_date(server, session):
    server.behave(rate_limited(2))
    assert chat(session, server).headers["retry-after"] == "2"
    when = datetime.now(UTC) + timedelta(seconds=30)
    server.behave(rate_limited(when, code=503))
    reply = chat(session, server)
    assert reply.status_code == 503
    assert parsedate_to_datetime(reply.headers["retry-after"]) == when.replace(microsecond=0)


@pytest.mark.parametrize("behaviour", [reset(), hang_up(), reset_mid_body(), cut_mid_body()])
def test_a_broken_connection_is_an_error_for_the_client_and_the_next_one_works(server, session, behaviour):
    server.behave(sequence(behaviour))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        chat(session, server)
    assert chat(session, server).status_code == 200
    assert server.connections == 2


def test_a_reset_is_seen_before_or_after_the_first_byte(server):
    server.behave(sequence(reset(), reset_mid_body()))
    payload = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    got: list[bytes] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(payload)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(payload)
        with pytest.raises(ConnectionResetError):
            got.extend(iter(lambda: client.recv(100), b""))
    assert b"".join(got).startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n{" in b"".join(got)


def test_an_idle_connection_closes_without_a_word(server, session):
    server.behave(sequence(close_idle()))
    assert chat(session, server).headers.get("connection") is None
    server.wait_until(lambda: server.open_connections == 0)
    assert chat(session, server).status_code == 200
    assert server.connections == 2


def test_a_stall_ends_on_release_or_when_the_client_has_gone(server, session):
    server.behave(sequence(stall(), stall(then=status(503))))
    with pytest.raises(requests.ReadTimeout):
        chat(session, server, timeout=(10, 0.1))
    server.wait_until(lambda: server.count(1) == 1 and server.in_flight == 0)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(chat, session, server)
        server.wait_until(lambda: server.in_flight == 1)
        server.release_all()
        assert pending.result().status_code == 503


def test_a_slow_answer_comes_after_its_time(server, session):
    server.behave(slow(0.1))
    start = time.monotonic()
    assert chat(session, server).status_code == 200
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("released", [True, False])
def test_a_barrier_holds_requests_until_the_event_or_a_release(server, released):
    barrier = threading.Event()
    server.behave(wait_for(barrier))
    with ThreadPoolExecutor(8) as pool, requests.Session() as shared:
        pending = [pool.submit(chat, shared, server, f"id={i}") for i in range(8)]
        server.wait_until(lambda: server.in_flight == 8)
        assert not any(call.done() for call in pending)
        server.release_all() if released else barrier.set()
        assert [call.result().status_code for call in pending] == [200] * 8


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_drip_comes_byte_by_byte_and_whole(server, session, where):
    server.behave(drip(0.0001, where))
    reply = chat(session, server, stream=True)
    assert ChatCompletion.model_validate(reply.json()).choices[0].message.content == "echo: hello id=1 world"
    server.behave(drip(60, where))
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError)):
        chat(session, server, timeout=(10, 0.1))
    server.wait_until(lambda: server.in_flight == 0)


def test_bodies_can_be_wrong_huge_or_elsewhere(server, session):
    server.behave(sequence(bad_json(), huge(3_000_001), redirect("/elsewhere"), set_cookie("a=b; Path=/")))
    with pytest.raises(requests.exceptions.JSONDecodeError):
        chat(session, server).json()
    assert chat(session, server).json()["choices"][0]["message"]["content"] == "x" * 3_000_001
    moved = chat(session, server)
    assert (moved.status_code, moved.headers["location"]) == (302, "/elsewhere")
    assert chat(session, server).cookies["a"] == "b"


def test_lookups_misbehave_by_rules_of_their_own(server, session):
    server.behave(status(500))
    assert session.get(server.openai_url + "/models", timeout=10).status_code == 200
    server.behave_lookup(status(503))
    assert session.get(server.openai_url + "/models", timeout=10).status_code == 503
    assert server.requests == []


# Waiting and the end


def test_waiting_in_vain_fails_with_the_servers_state(server):
    with pytest.raises(AssertionError, match=r"not so within 0.01 s: .*in_flight=0"):
        server.wait_until(lambda: server.in_flight == 1, timeout=0.01)


def test_closing_ends_every_thread_whatever_it_does(session):
    before = set(threading.enumerate())
    server = FakeServer()
    never = threading.Event()
    kinds = {"a": stall(), "b": slow(60), "c": drip(60), "d": wait_for(never), "e": drip(60, "headers")}
    server.behave(lambda r: kinds.get(r.experiment))
    half_sent = socket.create_connection(("127.0.0.1", server.port))
    half_sent.sendall(b"POST /v1/chat")
    with ThreadPoolExecutor(8) as pool:
        chat(session, server)  # leaves an idle connection
        url = server.openai_url + "/chat/completions"
        pending = [pool.submit(requests.post, url, json=body(f"id={kind}"), timeout=30) for kind in kinds]
        server.wait_until(
            lambda: server.in_flight == len(kinds) and server.open_connections == len(kinds) + 2
        )
        start = time.monotonic()
        server.close()
        server.close()
        assert time.monotonic() - start < 5
        for call in pending:
            assert isinstance(call.exception(), requests.RequestException)
    half_sent.close()
    assert set(threading.enumerate()) <= before
    assert server.in_flight == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_server_that_went_away_refuses_until_it_is_back_on_its_port(server):
    server.behave(stall())
    with ThreadPoolExecutor() as pool:
        broken = pool.submit(requests.post, f"{server.openai_url}/chat/completions", json={}, timeout=10)
        server.wait_until(lambda: server.in_flight == 1)
        server.go_away()
        assert isinstance(broken.exception(), requests.ConnectionError)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.openai_url}/models", timeout=10)
    server.come_back()
    assert requests.get(f"{server.openai_url}/models", timeout=10).status_code == 200
    assert not server.given()
