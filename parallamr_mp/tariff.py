"""What tokens cost. A worker knows this much of a run's settings, and loads no more of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PriceTier:
    """What all tokens of a request cost, in USD a million, when its input is that large."""

    above: int
    """Holds for more input tokens than that."""
    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in USD a million."""

    input: float
    output: float
    request: float = 0.0
    """USD that each request costs besides."""
    tiers: tuple[PriceTier, ...] = ()
    """Instead of `input` and `output`, for large inputs; in rising order."""
