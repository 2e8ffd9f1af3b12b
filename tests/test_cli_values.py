"""The values of options, from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.cli import values
from parallamr_mp.errors import BadInput
from parallamr_mp.tariff import Price

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",="), min_size=1)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF))


@given(st.lists(st.integers(0, 10_000) | st.none(), min_size=4, max_size=4).filter(lambda n: n != [None] * 4))
def test_times_are_sums_of_units_in_falling_order(numbers):
    said = [(number, unit) for number, unit in zip(numbers, UNITS, strict=True) if number is not None]
    text = "".join(f"{number}{unit}" for number, unit in said)
    assert values.duration(text, "--x") == sum(number * UNITS[unit] for number, unit in said)


@given(st.floats(allow_nan=False))
def test_a_plain_number_is_a_time_in_seconds(number):
    assert values.duration(str(number), "--x") == number


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1h30m", 5400), ("1.5h", 5400), ("2D", 172800), (" 5m ", 300)]
)
def test_times(text, seconds):
    assert values.duration(text, "--x") == seconds


@pytest.mark.parametrize("text", ["", " ", "m", "30m1h", "5 m", "1h30", "1w", "-5m", "1m1m", "५m"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(BadInput, match=r"^--x .*: expected a time, as in 90, 90s, 5m"):
        values.duration(text, "--x")


@pytest.mark.parametrize(
    ("text", "amount"), [("500", 500), ("200k", 2e5), ("1.5M", 1.5e6), (".5", 0.5), ("2K", 2000), ("3m", 3e6)]
)
def test_amounts(text, amount):
    assert values.amount(text, "--x") == amount


@pytest.mark.parametrize("text", ["", "k", "1kk", "1G", "-1", "nan", "inf", "1e3", "1,5"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(BadInput, match=r"^--x .*: expected a number, as in 500, 200k or 1.5M"):
        values.amount(text, "--x")


@given(st.lists(st.tuples(names, names), min_size=1))
def test_scopes_and_values_come_back_as_they_were_said(pairs):
    said = ",".join(f"{scope}={value}" for scope, value in pairs)
    assert values.by_scope(said, "--x") == pairs


def test_a_value_is_what_follows_the_last_equals_sign():
    assert values.by_scope("ollama/a=b:7b=2", "--x") == [("ollama/a=b:7b", "2")]


@pytest.mark.parametrize("text", ["", "openai", "openai=", "=3", "openai=3,", "openai=3,ollama"])
def test_a_scope_without_a_value_is_refused(text):
    with pytest.raises(BadInput, match="expected SCOPE=VALUE"):
        values.by_scope(text, "--x")


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_prices(input_, output):
    assert values.price(f"{input_}:{output}", "--x") == Price(input_, output)


@pytest.mark.parametrize(
    ("text", "allowed"), [("0", (0, None)), ("5", (5, None)), ("10%", (None, 0.1)), ("0 %", (None, 0.0))]
)
def test_errors_allowed(text, allowed):
    assert values.errors_allowed(text, "--x") == allowed


PARSERS = [
    values.duration,
    values.amount,
    values.number,
    values.whole,
    values.price,
    values.errors_allowed,
    values.by_scope,
    values.param,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=printable)
def test_any_text_is_a_value_or_is_refused_by_name(parse, text):
    refused = None
    try:
        parse(text, "--x")
    except BadInput as error:
        refused = str(error)
    assert refused is None or refused.startswith("--x")
