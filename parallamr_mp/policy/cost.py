"""What a request costs."""

from __future__ import annotations

import math

from parallamr_mp.tariff import Price, PriceTier

FREE = Price(0.0, 0.0)


def cost_of(price: Price, input_tokens: int, output_tokens: int) -> float:
    """USD for a request that took that many tokens."""
    rate: Price | PriceTier = price
    for tier in price.tiers:
        if input_tokens > tier.above:
            rate = tier
    return price.request + (input_tokens * rate.input + output_tokens * rate.output) / 1e6


def worst_cost(price: Price, input_tokens: int, output_tokens: int) -> float:
    """USD for a request that takes that many tokens or fewer, at the most: a large input may be cheaper."""
    if not price.tiers:
        return cost_of(price, input_tokens, output_tokens)
    inputs = [input_tokens, *(tier.above for tier in price.tiers if tier.above < input_tokens)]
    return max(cost_of(price, tokens, output_tokens) for tokens in inputs)


def paid(
    told: float | None, price: Price | None, input_tokens: int | None, output_tokens: int | None
) -> float | None:
    """USD for an answer: what the server has told, else the price of what it counted; None: nobody knows.

    What a plug-in tells may be anything; what is no sum of money does not count.
    """
    if isinstance(told, int | float) and 0 <= told < math.inf:
        return told
    if price is None:
        return None
    if price == FREE:
        return 0.0  # whatever it took
    if input_tokens is None or output_tokens is None:
        return None
    # Sums of a few rates have no more digits than that; the others come from adding floats.
    return round(cost_of(price, input_tokens, output_tokens), 12)
