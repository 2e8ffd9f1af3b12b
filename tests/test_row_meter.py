"""What rows may cost, before they are asked: an upper bound, and two guesses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.answered import RowTask
from parallamr_mp.attempt import _render, _texts
from parallamr_mp.errors import BadInput
from parallamr_mp.estimate import (
    CHAT_TOKENS,
    LIKELY,
    LOW,
    Measured,
    RowMeter,
    check_budget,
    choices,
    longest_answer,
)
from parallamr_mp.lookups import Known
from parallamr_mp.models import Inputs
from parallamr_mp.policy.cost import FREE, cost_of
from parallamr_mp.tariff import Price, PriceTier

COLUMNS = ("provider", "model", "topic")
TIERED = Price(1, 10, 0.25, (PriceTier(300, 2, 20),))
KNOWN = Known(
    {("openai", "narrow"): 1000},
    {("openai", "m"): Price(1, 10), ("openai", "narrow"): Price(1, 10), ("mock", "m"): FREE},
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60).map(
    lambda text: f"{text}{{{{topic}}}}"
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 5000),
        "max_completion_tokens": st.integers(1, 5000),
        "n": st.integers(1, 5),
        "temperature": st.floats(0, 2),
        "response_format": st.just({"type": "json_object"}),
    },
)


def task(model="m", provider="openai", topic="cats", params=None, inputs=None):
    return RowTask(1, 0, "id", 0, provider, model, (provider, model, topic), params or {}, inputs)


def meter(prompt="Explain {{topic}}.", known=KNOWN, **more):
    return RowMeter(COLUMNS, Inputs(prompt, **more), known)


@given(
    texts,
    st.lists(st.tuples(st.text(max_size=5), texts), max_size=3),
    st.none() | texts,
    texts,
    st.booleans(),
)
def test_the_input_is_as_long_as_what_is_sent(prompt, documents, system, topic, own):
    inputs = Inputs(prompt, tuple(documents), system)
    row = task(topic=topic, params={"max_tokens": 10}, inputs=inputs if own else None)
    measured = RowMeter(COLUMNS, None if own else inputs, KNOWN).measure(row)
    sent, of_system, _ = _render(*_texts(inputs), dict(zip(COLUMNS, row.values, strict=True)))
    assert measured.characters == len(sent) + len(of_system or "")
    size = len((sent + (of_system or "")).encode("utf-8", "surrogatepass"))
    assert measured.cost == pytest.approx((size + CHAT_TOKENS + 100) / 1e6)


@given(texts, limits, st.integers(0, 5000), st.integers(0, 5000))
def test_no_request_costs_more_than_the_worst(prompt, params, tokens_in, tokens_out):
    row = task(params={"max_tokens": 1, **params})
    known = Known({}, {("openai", "m"): TIERED})
    measured = meter(prompt, known).measure(row)
    sent, _, _ = _render(*_texts(Inputs(prompt)), dict(zip(COLUMNS, row.values, strict=True)))
    tokens_in = min(tokens_in, len(sent.encode()))
    tokens_out = min(tokens_out, measured.max_tokens)
    assert cost_of(TIERED, tokens_in, tokens_out) <= measured.cost
    expected = [meter(prompt, known).expected(row, measured, assumed) for assumed in (LOW, LIKELY)]
    assert expected[0] <= expected[1] <= measured.cost


@pytest.mark.parametrize(
    ("params", "longest", "number"),
    [
        ({}, None, 1),
        ({"max_tokens": 10}, 10, 1),
        ({"max_tokens": 10, "max_completion_tokens": 20, "n": 3}, 60, 3),
        ({"max_tokens": 10.0, "n": 1.0}, 10, 1),
        ({"max_tokens": "ten", "n": True}, None, 1),
        ({"max_tokens": 0, "n": -1}, None, 1),
        ({"max_tokens": float("inf"), "n": None}, None, 1),
    ],
)
def test_limits_of_answers_are_read_from_parameters(params, longest, number):
    assert (longest_answer(params), choices(params)) == (longest, number)


def test_schemas_and_tools_count_as_input():
    plain, schema = (
        meter().measure(task()),
        meter().measure(task(params={"response_format": {"a": "b" * 50}})),
    )
    assert schema.characters == plain.characters + len('{"a":""}') + 50


def test_without_a_limit_an_answer_may_fill_the_context_window():
    measured = meter().measure(task("narrow"))
    assert measured == Measured(len("Explain cats."), None, (13 + CHAT_TOKENS + 10 * 1000) / 1e6)
    assert meter().measure(task("narrow", topic="x" * 9000)).cost == pytest.approx((1000 + 10_000) / 1e6)


def test_what_nobody_can_tell_is_not_guessed():
    assert meter().measure(task("m")).cost is None
    assert meter().measure(task("unknown", params={"max_tokens": 5})).cost is None
    row = task("unknown")
    assert meter().expected(row, meter().measure(row), LIKELY) is None


def test_what_is_free_costs_nothing_at_the_worst():
    assert meter().measure(task(provider="mock")).cost == 0.0


def test_a_budget_needs_a_price_for_every_model():
    models = [("openai", name) for name in ("m", "a", "b", "c", "d", "e")]
    with pytest.raises(BadInput) as caught:
        check_budget(5, models, set(), KNOWN)
    told = str(caught.value)
    assert "--max-cost 5: no price is known for openai/a, openai/b, openai/c, 2 other models" in told
    assert "--price openai/a=INPUT:OUTPUT" in told
    assert "pip install" not in told
    with pytest.raises(BadInput, match=r"pip install 'parallamr-mp\[cost\]'"):
        check_budget(5, [("openai", "a")], set(), Known(tableless=True))


def test_a_budget_needs_an_end_of_every_answer():
    models = [("openai", "m"), ("openai", "narrow"), ("mock", "m")]
    check_budget(5, models, {("openai", "narrow"), ("mock", "m")}, KNOWN)
    with pytest.raises(BadInput, match=r"nothing limits the answers of openai/m\n.*max_tokens"):
        check_budget(5, models, models, KNOWN)
