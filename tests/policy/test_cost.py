"""What requests cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.policy.cost import FREE, cost_of, paid, worst_cost
from parallamr_mp.tariff import Price, PriceTier

TIERED = Price(1, 10, request=0.5, tiers=(PriceTier(100, 2, 15), PriceTier(1000, 0.5, 5)))
rates = st.floats(0, 1e4)
prices = st.builds(
    Price,
    rates,
    rates,
    rates,
    st.lists(st.builds(PriceTier, st.integers(0, 10_000), rates, rates), max_size=3).map(
        lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above))
    ),
)


@pytest.mark.parametrize(
    ("tokens", "usd"),
    [(0, 0.5 + 100e-6), (100, 0.5 + 200e-6), (101, 0.5 + (202 + 150) / 1e6), (2000, 0.5 + 1050e-6)],
)
def test_a_large_input_makes_all_tokens_cost_what_its_tier_says(tokens, usd):
    assert cost_of(TIERED, tokens, 10) == pytest.approx(usd)


@given(prices, st.integers(0, 20_000), st.integers(0, 20_000), st.data())
def test_nothing_that_takes_less_costs_more_than_the_worst(price, input_tokens, output_tokens, data):
    less = data.draw(st.integers(0, input_tokens)), data.draw(st.integers(0, output_tokens))
    assert cost_of(price, *less) <= worst_cost(price, input_tokens, output_tokens) * (1 + 1e-12)


@pytest.mark.parametrize("told", [None, -1, float("nan"), float("inf"), "much"])
def test_what_is_no_sum_of_money_does_not_count(told):
    assert paid(told, None, 1, 1) is None
    assert paid(told, Price(1, 2), 1000, 500) == 0.002
    assert paid(told, Price(1, 2), 1000, None) is None
    assert paid(told, FREE, None, None) == 0.0


def test_what_the_server_tells_wins():
    assert paid(0.25, Price(1, 2), 1000, 500) == 0.25
    assert paid(0, Price(1, 2), 1000, 500) == 0
