"""What servers say of their limits, in all the ways they say it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from parallamr_mp.models import Allowance
from parallamr_mp.providers.allowance import allowance_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


def headers_of(text):
    return CaseInsensitiveDict(line.split(": ", 1) for line in text.strip().splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # OpenAI, Azure
            """x-ratelimit-limit-requests: 10000
x-ratelimit-limit-tokens: 2000000
x-ratelimit-remaining-requests: 9999
x-ratelimit-remaining-tokens: 1999994
x-ratelimit-reset-requests: 8.64s
x-ratelimit-reset-tokens: 6m0s""",
            Allowance(10000, 9999, 8.64, 2_000_000, 1_999_994, 360),
        ),
        (  # Cerebras
            """X-RateLimit-Limit-Requests-Day: 1000000000
x-ratelimit-limit-tokens-minute: 1000
x-ratelimit-remaining-requests-day: 999999999
x-ratelimit-remaining-tokens-minute: 0
x-ratelimit-reset-requests-day: 33011.382867
x-ratelimit-reset-tokens-minute: 11.382867""",
            Allowance(1e9, 999_999_999, 33011.382867, 1000, 0, 11.382867),
        ),
        (  # Anthropic
            """anthropic-ratelimit-requests-limit: 50
anthropic-ratelimit-requests-remaining: 49
anthropic-ratelimit-requests-reset: 2026-01-02T03:04:35Z
anthropic-ratelimit-tokens-limit: 60000
anthropic-ratelimit-tokens-remaining: 0
anthropic-ratelimit-tokens-reset: 2026-01-02T04:05:05+01:00
anthropic-ratelimit-input-tokens-limit: 1""",
            Allowance(50, 49, 30, 60000, 0, 60),
        ),
        (  # OpenRouter
            f"""X-RateLimit-Limit: 20
X-RateLimit-Remaining: 0
X-RateLimit-Reset: {(NOW + 12.5) * 1000:.0f}""",
            Allowance(20, 0, 12.5),
        ),
        ("RateLimit-Limit: 100, 100;w=60\nRateLimit-Remaining: 7\nRateLimit-Reset: 5", Allowance(100, 7, 5)),
        ("RateLimit: limit=100, remaining=50, reset=5", Allowance(100, 50, 5)),
        ('RateLimit-Policy: "p";q=100;w=60\nRateLimit: "p";r=50;t=30', Allowance(100, 50, 30)),
        ("x-ratelimit-limit: 5\nx-ratelimit-limit-requests: 7\nratelimit: limit=9", Allowance(7)),
        ("x-ratelimit-remaining-tokens: 12.5", Allowance(tokens_left=12.5)),
    ],
)
def test_every_way_of_saying_it(text, expected):
    found = allowance_of(headers_of(text), NOW)
    assert found is not None
    for name in Allowance.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=0.01), name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("120ms", 0.12),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800),
        ("0", 0),
        (" 17.5 ", 17.5),
        (f"{NOW + 60:.0f}", 60),
        (f"{(NOW + 60) * 1000:.0f}", 60),
        (f"{NOW - 60:.0f}", 0),
        ("2026-01-02T03:05:05Z", 60),
        ("2026-01-02T03:05:05.250", 60.25),
        ("2020-01-02T03:05:05Z", 0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("1s2", None),
        ("5 s", None),
        ("9" * 400, None),
        ("99999999h", None),
        ("9999-12-31T23:59:59Z", None),
    ],
)
def test_when_the_allowance_is_full_again(text, seconds):
    found = allowance_of({"x-ratelimit-reset-requests": text}, NOW)
    assert (found and found.requests_reset) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "date": "x", "x-request-id": "ratelimit"},
        {"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-tokens": "-1"},
        {"x-ratelimit-scope": "5", "ratelimit": "remaining=-5", "ratelimit-policy": ""},
    ],
)
def test_nothing_that_makes_sense_is_nothing(headers):
    assert allowance_of(headers, NOW) is None


NAMES = st.sampled_from(
    [
        *(
            f"x-ratelimit-{word}-{what}"
            for word in ("limit", "remaining", "reset")
            for what in ("requests", "tokens")
        ),
        *(f"anthropic-ratelimit-tokens-{word}" for word in ("limit", "remaining", "reset")),
        *("X-RateLimit-Reset", "RateLimit", "RateLimit-Policy", "RateLimit-Limit"),
    ]
)
VALUES = st.text() | st.from_regex(r"[0-9.,;=smhdTZ:wqrt -]{0,30}", fullmatch=True)


@given(st.dictionaries(NAMES | st.text(), VALUES), st.floats(0, 1e11))
def test_it_never_raises_and_never_says_what_cannot_be(headers, now):
    found = allowance_of(headers, now)
    if found is not None:
        values = [getattr(found, name) for name in Allowance.__slots__]
        assert any(value is not None for value in values)
        assert all(value is None or 0 <= value < 1e12 for value in values)


@given(st.integers(0, 1000), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours, minutes, seconds, milliseconds):
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    found = allowance_of({"x-ratelimit-reset-tokens": text}, NOW)
    assert found.tokens_reset == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
