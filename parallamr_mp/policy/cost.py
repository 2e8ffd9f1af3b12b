"""What a request costs."""

from __future__ import annotations

from parallamr_mp.config import Price


def cost_of(price: Price, input_tokens: int, output_tokens: int) -> float:
    """USD for a request that took that many tokens."""
    rate = next((tier for tier in reversed(price.tiers) if input_tokens > tier.above), price)
    return price.request + (input_tokens * rate.input + output_tokens * rate.output) / 1e6


def worst_cost(price: Price, input_tokens: int, output_tokens: int) -> float:
    """USD for a request that takes that many tokens or fewer, at the most: a large input may be cheaper."""
    inputs = [input_tokens, *(tier.above for tier in price.tiers if tier.above < input_tokens)]
    return max(cost_of(price, tokens, output_tokens) for tokens in inputs)
