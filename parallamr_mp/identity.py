"""The `experiment_id`: what stands for a question, so that its answer is found again in any results file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import compress
from operator import itemgetter
from typing import Any

import orjson

from parallamr_mp.experiments import PARAM_PREFIX, REQUIRED_COLUMNS

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class Identifier:
    """Computes the identities of the rows of one table. Used by one thread.

    Variables without a value do not count, nor does the order of columns or
    parameters, so that a reordered table asks the same questions. A row costs
    the same few calls however many columns there are.
    """

    def __init__(self, columns: Sequence[str], *, without: Collection[str] = ()) -> None:
        """`columns`: of the table. Those in `without` count as if they were not there."""
        counted = sorted(
            (name, place)
            for place, name in enumerate(columns)
            if name not in REQUIRED_COLUMNS and name not in without and not name.startswith(PARAM_PREFIX)
        )
        self._names = tuple(name for name, _ in counted)
        self._pick = picker([place for _, place in counted])
        self._sources: bytes | None = None
        self._keyed = blake2b(digest_size=8)

    def digest(
        self,
        provider: str,
        model: str,
        values: tuple[str, ...],
        params: Mapping[str, Any],
        sources: bytes,
        repeat: int,
    ) -> bytes:
        """The identity as 8 bytes; their hexadecimal digits are the `experiment_id`.

        `values` are in the order of the columns, `sources` is the digest of
        prompt, context and system texts.
        """
        if sources != self._sources:
            self._keyed = blake2b(digest_size=8, key=sources)
            self._sources = sources
        cells = self._pick(values)
        filled = list(compress(zip(self._names, cells), cells))  # noqa: B905 - as many, by construction
        keyed = self._keyed.copy()
        keyed.update(orjson.dumps([provider, model, filled, params, repeat], option=_OPTIONS))
        return keyed.digest()


def picker(places: Sequence[int]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """What takes the cells at these places out of a row, without a call of Python for each."""
    if len(places) > 1:
        return itemgetter(*places)
    # An itemgetter of one place gives the cell itself.
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))
