"""How many tokens a request will take, before anybody has counted them."""

from __future__ import annotations

import math

FIRST_SHARE = 1 / 3
"""Tokens a character before anything is known: four characters a token is the rule of thumb for English."""
FIRST_OUTPUT = 512
"""Tokens of an answer before anything is known, where its length has no limit."""
_FORGETS = 1 / 16
"""How far one answer draws an estimate that was too high towards itself: by half within eleven answers."""


class TokenEstimator:
    """Learns from what one model's requests took what its next ones will take. Pure; used by one thread.

    Limits of tokens a minute are charged with this before a request leaves. So
    it follows at once what was more than expected, and slowly what was less: a
    decaying maximum, not a mean. Tokens a character are learnt apart for each
    size of input (by powers of two), for short ones consist mostly of what a
    chat template adds.
    """

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}
        """Tokens a character of input, by size."""
        self._output = 0.0
        """Tokens of an answer."""
        self._doubt = 1.0
        """How far the longest answer that is allowed is expected rather than those that came."""

    def expect(self, characters: int, max_tokens: int | None) -> int:
        """Input and output tokens of a request. `max_tokens`: what its answer may have at most."""
        most = FIRST_OUTPUT if max_tokens is None else max_tokens
        output = self._output
        if most > output:
            output += (most - output) * self._doubt
        if max_tokens is not None and output > max_tokens:
            output = max_tokens
        share = self._shares.get(characters.bit_length()) or self._share(characters)
        # An empty input has tokens, too: those of the chat template.
        # The small sum keeps rounding from adding a token to what comes out whole.
        return math.ceil((characters or 1) * share + output - 1e-6) or 1

    def learn(self, characters: int, input_tokens: int, output_tokens: int) -> None:
        """Takes in what the provider counted for a request with that many characters."""
        size, seen = characters.bit_length(), input_tokens / (characters or 1)
        expected = self._shares.get(size) or self._share(characters)
        # At once upwards, slowly downwards: the larger of the two is that.
        self._shares[size] = max(seen, expected + (seen - expected) * _FORGETS)
        self._output = max(output_tokens, self._output + (output_tokens - self._output) * _FORGETS)
        self._doubt *= 1 - _FORGETS

    def _share(self, characters: int) -> float:
        size = characters.bit_length()
        if size in self._shares or not self._shares:
            return self._shares.get(size, FIRST_SHARE)
        nearest = min(self._shares, key=lambda known: abs(known - size))
        return max(FIRST_SHARE, self._shares[nearest])
