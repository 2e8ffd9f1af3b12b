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
        (402, "quota", False),
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


# Refusals: come back later, come back never, or mend the request

OPENAI_RATE = {
    "error": {
        "message": "Rate limit reached for m-1 in organization org-x on requests per min (RPM): Limit 3.",
        "type": "requests",
        "code": "rate_limit_exceeded",
    }
}
OPENAI_QUOTA = {
    "error": {
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "type": "insufficient_quota",
        "code": "insufficient_quota",
    }
}
GOOGLE_RATE = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
    }
}
OPENAI_TOO_LARGE = {
    "error": {
        "message": "Request too large for m-1 on tokens per min (TPM): Limit 10000, Requested 12001.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
}
OPENROUTER_FREE = {
    "error": {
        "message": "Rate limit exceeded: free-models-per-min. ",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": f"{(NOW + 40) * 1000:.0f}",
            },
            "provider_name": None,
        },
    }
}
OPENROUTER_UPSTREAM = {
    "error": {
        "message": "Provider returned error",
        "code": 429,
        "metadata": {
            "raw": "m-1 is temporarily rate-limited upstream. Please retry shortly, or add your own key.",
            "provider_name": "Somebody",
        },
    }
}


def verdict(error):
    return error.kind, error.retryable, error.refused


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (429, b"", {}, ("rate_limit", True, True)),
        (429, OPENAI_RATE, {}, ("rate_limit", True, True)),
        (429, GOOGLE_RATE, {}, ("rate_limit", True, True)),
        (429, OPENROUTER_FREE, {}, ("rate_limit", True, True)),
        (429, OPENROUTER_UPSTREAM, {}, ("rate_limit", True, True)),
        (429, b"", {"x-should-retry": "false"}, ("rate_limit", False, False)),
        (429, OPENAI_QUOTA, {"retry-after": "5"}, ("quota", False, False)),
        (429, OPENAI_QUOTA, {"x-should-retry": "true"}, ("quota", False, False)),
        (403, OPENAI_QUOTA, {}, ("quota", False, False)),
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, {}, ("quota", False, False)),
        (429, OPENAI_TOO_LARGE, {"retry-after": "5"}, ("bad_request", False, False)),
        (503, b"", {}, ("server", True, False)),
        (503, b"upstream connect error", {}, ("server", True, False)),
        (503, b"", {"retry-after": "5"}, ("overloaded", True, True)),
        (503, b"", {"retry-after": "5", "x-should-retry": "false"}, ("overloaded", False, False)),
        (529, b"", {"retry-after-ms": "50"}, ("overloaded", True, True)),
        (500, b"", {"retry-after": "5"}, ("server", True, False)),
        (502, b"the upstream is overloaded", {}, ("server", True, False)),
        (
            529,
            {"error": {"type": "overloaded_error", "message": "Overloaded"}},
            {},
            ("overloaded", True, True),
        ),
        (500, {"error": {"code": "server_overloaded", "message": "no"}}, {}, ("overloaded", True, True)),
        (503, {"error": {"message": "The engine is currently overloaded"}}, {}, ("overloaded", True, True)),
        (
            503,
            {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
            {},
            ("overloaded", True, True),
        ),
        (
            503,
            {"error": "server busy, please try again.  maximum pending requests exceeded"},
            {},
            ("overloaded", True, True),
        ),
    ],
)
def test_what_a_refusal_asks_for(status, body, headers, expected):
    error = failure(status, body, headers, now=NOW)
    assert verdict(error) == expected
    assert error.status == status


def test_openrouter_says_in_the_body_when_to_come_back():
    error = failure(429, OPENROUTER_FREE, now=NOW)
    assert error.retry_after == pytest.approx(40, abs=0.01)
    assert (error.allowance.requests_limit, error.allowance.requests_left) == (20, 0)
    assert not error.one_model
    assert failure(429, OPENROUTER_FREE, {"Retry-After": "3"}, now=NOW).retry_after == 3


def test_a_limit_of_the_provider_behind_says_nothing_of_other_models():
    error = failure(429, OPENROUTER_UPSTREAM, now=NOW)
    assert error.one_model
    assert "temporarily rate-limited upstream" in str(error)
    assert failure(502, {"error": {"message": "no", "metadata": {"provider_name": "Somebody"}}}).one_model
    assert not failure(429, OPENAI_RATE).one_model
    assert not failure(400, {"error": {"message": "no", "metadata": {"provider_name": "Somebody"}}}).one_model


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}, 20),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m"}, 60),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m",
            },
            60,
        ),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "1m"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m", "retry-after": "2"}, 2),
    ],
)
def test_where_nothing_else_says_so_the_reset_of_what_is_used_up_tells_when(headers, seconds):
    assert failure(429, headers=headers, now=NOW).retry_after == seconds
    assert failure(500, headers=headers, now=NOW).retry_after == (2 if "retry-after" in headers else None)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(
                    ["error", "metadata", "headers", "provider_name", "X-RateLimit-Reset", "code"]
                ),
                inner,
            )
            | st.lists(inner)
        ),
    ),
    st.integers(300, 599),
)
def test_whatever_a_body_holds_it_becomes_an_error(body, status):
    error = failure(status, json.dumps(body).encode(), now=NOW)
    assert error.status == status
    assert not error.refused or error.retryable
