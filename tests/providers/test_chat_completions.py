"""What OpenAI-compatible servers are sent, and what is made of what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pydantic
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from support.behaviours import answer, bad_json, model_not_found, rate_limited, status

from parallamr_mp.errors import ProviderError
from parallamr_mp.models import ChatRequest, JsonText
from parallamr_mp.prompts import Template
from parallamr_mp.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

JUDGE = pydantic.TypeAdapter(CompletionCreateParamsNonStreaming)
HELLO = ChatRequest("fake-small", "hello id=1 world")


@pytest.fixture
def provider(server) -> Iterator[OpenAIProvider]:
    made = OpenAIProvider(base_url=server.openai_url, api_key="sk-secret-123", timeout=10, env={})
    yield made
    made.close()


def failure_of(provider, request=HELLO) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        provider.complete(request)
    return caught.value


# What is sent


def test_a_request_is_one_the_openai_client_could_have_sent(server, provider):
    params = {
        "temperature": 0.5,
        "max_tokens": 7,
        "seed": 1,
        "stop": ["x"],
        "response_format": {"type": "json_object"},
    }
    provider.complete(ChatRequest("fake-small", "hello", system="be brief", params=params))
    body = server.requests[0].body
    JUDGE.validate_python(body)
    assert body == {
        **params,
        "model": "fake-small",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    }
    assert "Authorization" not in body
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret-123"


def test_parameters_cannot_change_whom_and_what_is_asked_or_ask_for_a_stream(server, provider):
    params = {"model": "other", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    provider.complete(ChatRequest("fake-small", "hello", params=params))
    assert server.requests[0].body == {
        "model": "fake-small",
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_an_empty_system_prompt_is_sent_and_a_missing_one_is_not(server, provider):
    provider.complete(ChatRequest("fake-small", "hello", system=""))
    provider.complete(ChatRequest("fake-small", "hello"))
    roles = [[message["role"] for message in seen.body["messages"]] for seen in server.requests]
    assert roles == [["system", "user"], ["user"]]


def test_any_text_survives_the_way(server, provider):
    text = 'ü "quotes" \\ \n\r\t\0 \u2028 😀'
    assert provider.complete(ChatRequest("fake-small", text)).text == f"echo: {text}"


def test_a_long_text_that_was_encoded_before_is_sent_as_any_other(server, provider):
    template = Template('A "line" of text, with \\ and é.\n' * 100 + "{{a}}")
    prompt, _ = template.render({"a": 'x"\u2028→'})
    assert type(prompt) is JsonText
    assert type(prompt[:]) is str
    for system in (None, prompt):
        provider.complete(ChatRequest("fake-small", prompt, system))
        provider.complete(ChatRequest("fake-small", prompt[:], None if system is None else prompt[:]))
    assert server.requests[0].raw == server.requests[1].raw
    assert server.requests[2].raw == server.requests[3].raw


def test_a_long_text_that_a_plug_in_changed_is_sent_as_changed(server, provider):
    prompt, _ = Template("long " * 300).render({})
    provider.complete(replace(ChatRequest("fake-small", prompt), prompt="Briefly: " + prompt))
    assert server.requests[0].body["messages"][0]["content"] == "Briefly: " + "long " * 300


@pytest.mark.parametrize(
    "request_", [ChatRequest("m", "\ud800"), ChatRequest("m", "x", params={"seed": 2**70})]
)
def test_what_json_cannot_hold_is_a_final_error(server, provider, request_):
    error = failure_of(provider, request_)
    assert (error.kind, error.retryable) == ("bad_request", False)
    assert not server.requests


# What comes back


def test_a_good_answer_is_read_whole(server, provider):
    reply = provider.complete(HELLO)
    assert reply.text == "echo: hello id=1 world"
    assert reply.finish_reason == "stop"
    assert (reply.input_tokens, reply.output_tokens, reply.cost_usd) == (4, 5, None)
    assert reply.endpoint == server.openai_url
    assert reply.warnings == ()


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ({"prompt_tokens": "7", "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 2.0}, (None, 2)),
        ({"prompt_tokens": 1.5, "completion_tokens": None}, (None, None)),
    ],
)
def test_counts_that_are_none_are_none(server, provider, usage, counts):
    server.behave(answer("x", usage=usage))
    reply = provider.complete(HELLO)
    assert (reply.input_tokens, reply.output_tokens) == counts


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("behaviour", "text", "warning"),
    [
        (
            answer("cut o", finish_reason="length"),
            "cut o",
            "truncated: the answer was cut at the token limit",
        ),
        (answer("part", finish_reason="content_filter"), "part", "content filter:"),
        (answer("", finish_reason="stop"), "", "the answer is empty"),
        (answer(None), "", "the answer is empty"),
        (answer(" \n"), " \n", "the answer is empty"),
        (answer(None, refusal="I can't."), "I can't.", "refused: the model declined to answer"),
        (answer("Sorry.", refusal="I can't."), "Sorry.", "refused:"),
        (
            answer(raw={"choices": [{"message": {"content": [{"type": "refusal", "refusal": "No."}]}}]}),
            "No.",
            "refused:",
        ),
        (
            answer("", reasoning_content="Hm."),
            "Hm.",
            "the answer is empty: the output holds the model's reasoning",
        ),
        (answer(None, reasoning="Hm."), "Hm.", "the answer is empty: the output holds the model's reasoning"),
        (
            answer("", finish_reason="length", reasoning="Hm"),
            "Hm",
            "reasoning, the token limit came before the answer",
        ),
    ],
)
def test_answers_that_deserve_a_look_come_with_a_warning(server, provider, behaviour, text, warning):
    server.behave(behaviour)
    reply = provider.complete(HELLO)
    assert reply.text == text
    assert warning in "; ".join(reply.warnings)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (answer("fine", reasoning_content="Hm.", reasoning="Hm."), "fine"),
        (
            answer(None, tool_calls=CALLS, finish_reason="tool_calls"),
            json.dumps(CALLS, separators=(",", ":")),
        ),
        (answer(None, function_call={"name": "f"}), '[{"name":"f"}]'),
        (answer("calling", tool_calls=CALLS), "calling"),
        (answer("x", finish_reason=None), "x"),
        (
            answer(
                raw={
                    "choices": [
                        {
                            "message": {
                                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 1]
                            }
                        }
                    ]
                }
            ),
            "ab",
        ),
    ],
)
def test_answers_that_are_in_order_come_without(server, provider, behaviour, text):
    server.behave(behaviour)
    reply = provider.complete(HELLO)
    assert (reply.text, reply.warnings) == (text, ())


# What is no answer


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"message": "slow down", "code": 429}, "rate_limit", True),
        ({"message": "broke", "code": 502}, "server", True),
        ({"message": "broke", "code": "502"}, "server", True),
        ({"message": "no", "code": 403}, "auth", False),
        ({"message": "no", "code": "rate_limit_exceeded"}, "rate_limit", True),
        ({"message": "no", "type": "server_error"}, "server", True),
        ({"message": "no"}, "bad_request", False),
        ({"message": "this is not a valid model ID", "code": 400}, "model_not_found", False),
        ("no", "bad_request", False),
    ],
)
@pytest.mark.parametrize("inside_choice", [False, True])
def test_an_error_inside_a_200_is_judged_by_its_code(server, provider, error, kind, retryable, inside_choice):
    body = {"error": error}
    if inside_choice:
        body = {"choices": [{"message": {"content": "half"}, "finish_reason": "error", "error": error}]}
    server.behave(status(200, body=body))
    failed = failure_of(provider)
    assert (failed.kind, failed.retryable) == (kind, retryable)


@pytest.mark.parametrize("body", [b'{"choices": [', b"<html>", b""])
def test_an_answer_that_is_no_json_is_not_paid_for_twice(server, provider, body):
    server.behave(bad_json(body))
    error = failure_of(provider)
    # Not unknown either: it was answered in full, and would be answered so again.
    assert (error.kind, error.retryable, error.unknown) == ("bad_reply", False, False)
    assert body.decode() in str(error)


GOOD = b'{"choices": [{"message": {"content": "@"}, "finish_reason": "stop"}], "usage": {"cost": 0.5}}'


@pytest.mark.parametrize(
    ("body", "text", "cost"),
    [
        (GOOD.replace(b"@", rb"a\ud800b"), "a\ud800b", 0.5),
        (GOOD.replace(b"@", b"caf\xe9"), "caf\ufffd", 0.5),
        (GOOD.replace(b"@", b"two\nlines"), "two\nlines", 0.5),
        (b"\xef\xbb\xbf" + GOOD, "@", 0.5),
        (GOOD.replace(b"0.5", b"NaN"), "@", None),
        (GOOD.replace(b"0.5", b"1e999"), "@", None),
        (GOOD.replace(b'"cost": 0.5', b'"prompt_tokens": -Infinity'), "@", None),
        (GOOD.replace(b'"cost": 0.5', b'"prompt_tokens": 1e999'), "@", None),
        (GOOD.replace(b'"cost": 0.5', b'"prompt_tokens": 1' + b"0" * 400), "@", None),
        (GOOD.replace(b"0.5", b"1" + b"0" * 400), "@", None),
    ],
)
def test_an_answer_in_careless_json_is_still_an_answer(server, provider, body, text, cost):
    server.behave(status(200, body=body))
    reply = provider.complete(HELLO)
    assert (reply.text, reply.cost_usd, reply.input_tokens, reply.warnings) == (text, cost, None, ())


def test_tool_calls_in_careless_json_are_still_json(server, provider):
    calls = '[{"x":"\\ud800","y":' + "1" * 30 + "}]"
    server.behave(status(200, body=b'{"choices": [{"message": {"tool_calls": ' + calls.encode() + b"}}]}"))
    assert provider.complete(HELLO).text.startswith('[{"x":"\\ud800","y":1')


@pytest.mark.parametrize("depth", [300, 100_000])
def test_json_without_end_is_a_final_error(server, provider, depth):
    server.behave(status(200, body=b"[" * depth + b"]" * depth))
    error = failure_of(provider)
    assert (error.kind, error.retryable) == ("bad_reply", False)
    server.behave(status(400, body=b'{"error": ' + b"[" * depth + b"]" * depth + b"}"))
    assert failure_of(provider).kind == "bad_request"


@pytest.mark.parametrize(
    "body", ["[]", '"x"', "{}", '{"choices": []}', '{"choices": [1]}', '{"choices": [{"message": "x"}]}']
)
def test_json_of_another_kind_is_final_and_shown_in_part(server, provider, body):
    server.behave(status(200, body=body.encode() + b" " * 1000))
    error = failure_of(provider)
    assert (error.kind, error.retryable) == ("bad_reply", False)
    assert body in str(error)
    assert len(str(error)) < 300


def test_an_unknown_model_is_named(server, provider):
    server.behave(model_not_found())
    error = failure_of(provider)
    assert error.kind == "model_not_found"
    assert str(error).startswith("Model fake-small not found or unavailable: The model `fake-small`")


def test_the_servers_wish_to_wait_is_passed_on(server, provider):
    server.behave(rate_limited(1.5))
    error = failure_of(provider)
    assert (error.kind, error.retryable, error.retry_after) == ("rate_limit", True, 1.5)


def test_the_key_is_in_no_message(server, provider):
    server.behave(status(401, body={"error": "what is sk-secret-123?"}))
    error = failure_of(provider)
    assert str(error) == "HTTP 401: what is [redacted]?"
    assert "sk-secret" not in repr(provider)
    assert "sk-secret" not in repr(vars(error))
