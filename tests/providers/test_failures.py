"""What servers say when they refuse, and what becomes of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.providers.http import failure_from_status, redact, retry_after_seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


def failure(status, body=b"", headers=None, **more):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return failure_from_status(status, headers or {}, body, "m-1", "https://me:pw@host/v1?key=k", **more)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "bad_request", False),
        (401, "auth", False),
        (402, "bad_request", False),
        (403, "auth", False),
        (404, "not_found", False),
        (405, "bad_request", False),
        (408, "timeout", True),
        (409, "server", True),
        (413, "bad_request", False),
        (422, "bad_request", False),
        (429, "rate_limit", True),
        (500, "server", True),
        (502, "server", True),
        (503, "server", True),
        (529, "server", True),
    ],
)
def test_the_status_decides_whether_to_try_again(status, kind, retryable):
    error = failure(status, {"error": {"message": "no, because"}})
    assert (error.kind, error.retryable) == (kind, retryable)
    assert str(error).startswith(f"HTTP {status}: no, because")
    assert error.endpoint == "https://host/v1"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "said so"}}, "said so"),
        ({"error": "said so"}, "said so"),
        ({"detail": "said so"}, "said so"),
        ({"message": "said so"}, "said so"),
        ({"object": "error", "message": "said so", "code": 400}, "said so"),
        ({"detail": [{"loc": ["body", "top_p"], "msg": "said so"}]}, "body.top_p: said so"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "said so"}}},
            "Provider returned error: said so",
        ),
        ({"error": {"code": "odd"}}, "odd"),
        ({"odd": 1}, '{"odd":1}'),
        (["odd"], '["odd"]'),
        (b"<html>\n  <b>said</b> so", "<html> <b>said</b> so"),
        (b"\xff" * 3, "\ufffd" * 3),
        (b"x" * 600, "x" * 500 + "…"),
    ],
)
def test_the_servers_words_are_found_in_every_shape(body, words):
    assert str(failure(400, body)) == f"HTTP 400: {words}"


def test_no_words_at_all_leave_the_status():
    assert str(failure(500)) == "HTTP 500"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error": {"message": "The model `m-1` does not exist", "code": "model_not_found"}}),
        (404, {"error": {"message": "The model `m-1` does not exist or you do not have access to it."}}),
        (403, {"error": {"message": "Project has no access to model", "code": "model_not_found"}}),
        (404, {"object": "error", "message": "The model `m-1` does not exist.", "type": "NotFoundError"}),
        (404, {"error": "model 'm-1' not found"}),
        (404, {"error": {"message": "No endpoints found for m-1.", "code": 404}}),
        (400, {"error": {"message": "m-1 is not a valid model ID", "code": 400}}),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}),
    ],
)
def test_an_unknown_model_is_told_in_one_way(status, body):
    error = failure(status, body)
    assert (error.kind, error.retryable) == ("model_not_found", False)
    assert str(error).startswith("Model m-1 not found or unavailable: ")


def test_an_unknown_model_without_words_has_no_colon():
    assert str(failure(404, any_404_is_the_model=True)) == "Model m-1 not found or unavailable"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
        (400, {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}),
        (400, {"object": "error", "message": "This model's maximum context length is 8 tokens."}),
        (500, {"error": {"message": "the request exceeds the available context size"}}),
    ],
)
def test_an_overlong_prompt_is_final(status, body):
    error = failure(status, body)
    assert (error.kind, error.retryable) == ("context_overflow", False)


def test_a_redirect_names_where_it_leads_without_its_query():
    error = failure(302, headers={"Location": "https://me:pw@other/v1?token=abc"})
    assert (error.kind, error.retryable) == ("redirect", False)
    assert "https://other/v1;" in str(error)
    assert "abc" not in str(error)
    assert "pw" not in str(error)
    assert "redirects to nowhere" in str(failure(307))


@pytest.mark.parametrize(("wish", "status", "retryable"), [("false", 429, False), ("true", 500, True)])
def test_the_server_may_say_whether_to_retry(wish, status, retryable):
    assert failure(status, headers={"X-Should-Retry": wish}).retryable is retryable
    assert failure(400, headers={"x-should-retry": "true"}).retryable is False


def test_the_key_is_taken_out_of_the_servers_words_also_where_they_are_cut():
    key = "sk-secret-123"
    error = failure(401, {"error": f"no such key: {key}"}, secrets=[key])
    assert str(error) == "HTTP 401: no such key: [redacted]"
    error = failure(500, b"x" * 494 + key.encode(), secrets=[key])
    assert "sk-" not in str(error)


def test_longer_secrets_go_first_and_fillers_are_none():
    assert redact("abcdef abcd x", ["abcd", "abcdef", "x", ""]) == "[redacted] [redacted] x"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"RETRY-AFTER": "0"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:35 GMT"}, 30.0),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:35 -0000"}, 30.0),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:00 GMT"}, None),
        ({"retry-after": "Fri, 99 Jan 2026 03:04:00 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after_seconds(headers, NOW) == seconds


@given(value=st.text(), milliseconds=st.none() | st.text(), now=st.floats(0, 1e11))
def test_retry_after_never_raises_and_is_never_negative(value, milliseconds, now):
    headers = {"retry-after": value} | ({} if milliseconds is None else {"retry-after-ms": milliseconds})
    seconds = retry_after_seconds(headers, now)
    assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(0, 10**7))
def test_a_date_says_the_same_as_seconds(wait):
    when = format_datetime(datetime.fromtimestamp(NOW + wait, UTC), usegmt=True)
    assert retry_after_seconds({"Retry-After": when}, NOW) == wait
    assert retry_after_seconds({"Retry-After": str(wait)}, NOW) == wait


def test_retry_after_comes_with_the_failure():
    assert failure(429, headers={"retry-after": "2"}).retry_after == 2.0
    assert failure(429, headers={"retry-after": "Fri, 02 Jan 2026 03:04:35 GMT"}, now=NOW).retry_after == 30.0
