"""How large a row's request is and what it may cost, before it is made: without rendering or counting tokens.

    RowTask ─► RowMeter.measure ─► Measured (characters, longest answer, worst cost) ─► Job, budget
                                └► expected(…) low and likely cost ─► `plan`

Runs in the parent. About 5 µs a row where the texts are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from parallamr_mp.answered import RowTask
from parallamr_mp.errors import BadInput
from parallamr_mp.lookups import Known, Model
from parallamr_mp.models import Inputs
from parallamr_mp.policy.cost import FREE, cost_of, worst_cost
from parallamr_mp.prices import EXTRA
from parallamr_mp.prompts import Template, combine
from parallamr_mp.text import count

CHAT_TOKENS = 256
"""What a chat template adds to an input at most: roles, dates, standing instructions (gpt-oss: about 80)."""
_TOLD = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One row's request."""

    characters: int
    """Of its input, with what its parameters bring along (a schema, tools)."""
    max_tokens: int | None
    """The longest output it asks for, all choices together; None: it does not say."""
    cost: float | None
    """USD at the worst; None: there is no price, or nothing limits its answer."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """How long inputs and answers are taken to be."""

    characters_a_token: float
    answer: int
    """Tokens; less where a row allows less than `of_limit` of it."""
    of_limit: float


LOW = Assumption(5.0, 20, 0.25)
LIKELY = Assumption(4.0, 300, 0.5)
ASSUMPTIONS = (
    "low: 5 characters a token, answers of 20 tokens; likely: 4 and 300, or half of max_tokens where that is"
    " less; high: a token for each byte, answers as long as they may be"
)


class RowMeter:
    """Measures the rows of one run. Used by one thread.

    The worst case is an upper bound in practice: byte-level BPE, which all
    large APIs use, and SentencePiece with byte fallback never make more tokens
    of a text than it has bytes in UTF-8 (each token stands for at least one);
    `CHAT_TOKENS` come on top. An answer is as long as the row allows, or else as
    the model's context window. Not in it: tools that a server runs and charges
    for by itself, and prices other than the standard ones (priority, caches).
    """

    def __init__(self, columns: Sequence[str], static: Inputs | None, known: Known) -> None:
        """`static`: the texts where they are the same for every row."""
        self._columns, self._known = tuple(columns), known
        self._free = frozenset(model for model, price in known.prices.items() if price == FREE)
        self._static = None if static is None else _templates(static)

    def measure(self, task: RowTask, values: Mapping[str, str] | None = None) -> Measured:
        """`values`: the row's variables by column, where the caller has them at hand."""
        if values is None:
            values = dict(zip(self._columns, task.values, strict=True))
        texts = self._static if task.inputs is None else _templates(task.inputs)
        characters, size = texts.size(values) if texts is not None else (0, 0)
        if task.params:
            extra = _extra(task.params)
            characters, size = characters + extra, size + extra
        longest = longest_answer(task.params)
        return Measured(characters, longest, self._worst(task, size, longest))

    def expected(self, task: RowTask, measured: Measured, assumed: Assumption) -> float | None:
        """USD, if inputs and answers are as assumed; None: there is no price."""
        price = self._known.prices.get((task.provider, task.model))
        if price is None:
            return None
        answer = assumed.answer * choices(task.params)
        if measured.max_tokens is not None:
            answer = min(answer, math.ceil(measured.max_tokens * assumed.of_limit))
        return cost_of(price, math.ceil(measured.characters / assumed.characters_a_token), answer)

    def _worst(self, task: RowTask, size: int, longest: int | None) -> float | None:
        model = task.provider, task.model
        if model in self._free:
            return 0.0
        price = self._known.prices.get(model)
        if price is None:
            return None
        given, window = size + CHAT_TOKENS, self._known.windows.get(model)
        if window is not None:
            given = min(given, window)  # beyond it, servers refuse or cut
            longest = window * choices(task.params) if longest is None else longest
        return None if longest is None else worst_cost(price, given, longest)


class _Texts:
    """The templates of a row, and what goes between them."""

    def __init__(self, inputs: Inputs) -> None:
        texts = [inputs.prompt, *(text for _, text in inputs.documents)]
        if inputs.system is not None:
            texts.append(inputs.system)
        frame = combine("", [(name, "") for name, _ in inputs.documents])
        templates = [Template(text) for text in texts]
        self._filled = [template for template in templates if not template.is_static]
        fixed = [template.size({}) for template in templates if template.is_static]
        fixed.append((len(frame), len(frame.encode("utf-8", "surrogatepass"))))
        self._fixed = sum(characters for characters, _ in fixed), sum(size for _, size in fixed)

    def size(self, values: Mapping[str, str]) -> tuple[int, int]:
        """Characters and bytes of a row's whole input."""
        characters, size = self._fixed
        for template in self._filled:
            more = template.size(values)
            characters, size = characters + more[0], size + more[1]
        return characters, size


@lru_cache(maxsize=16)
def _templates(inputs: Inputs) -> _Texts:
    return _Texts(inputs)


def _extra(params: Mapping[str, Any]) -> int:
    """Bytes of parameters that become part of the input: schemas, tools."""
    size = 0
    for value in params.values():
        if isinstance(value, dict | list):
            size += len(orjson.dumps(value))
    return size


def longest_answer(params: Mapping[str, Any]) -> int | None:
    """The most tokens that these parameters allow all answers to a request; None: there is no limit."""
    longest = max(_number(params.get("max_completion_tokens")), _number(params.get("max_tokens")))
    return longest * choices(params) if longest else None


def choices(params: Mapping[str, Any]) -> int:
    """How many answers a request asks for."""
    return _number(params.get("n")) or 1


def _number(value: Any) -> int:
    """0 for what is no number above that."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 < value < math.inf else 0


# ── before anything is sent ──────────────────────────────────────────────────


def check_budget(
    max_cost: float, models: Sequence[Model], unlimited: Collection[Model], known: Known
) -> None:
    """Raises `BadInput` where nobody can tell what a request may cost: the cap could not be kept.

    `unlimited`: the models with a row that does not limit its answer.
    """
    unpriced = [model for model in models if model not in known.prices]
    if unpriced:
        names = _names(unpriced)
        raise BadInput(
            f"--max-cost {max_cost:g}: no price is known for {names}",
            hint=f"Give one, in USD a million tokens: --price {'/'.join(unpriced[0])}=INPUT:OUTPUT"
            " (0:0 for a server of your own)." + _table_hint(known),
        )
    endless = [model for model in unlimited if known.prices[model] != FREE and model not in known.windows]
    if endless:
        raise BadInput(
            f"--max-cost {max_cost:g}: nothing limits the answers of {_names(endless)}",
            hint="Limit them: --param max_tokens=1000, or a column param:max_tokens.",
        )


def _table_hint(known: Known) -> str:
    return f" Or get a table of prices: {EXTRA}" if known.tableless else ""


def _names(models: Sequence[Model]) -> str:
    names = ["/".join(model) for model in models[:_TOLD]]
    if len(models) > _TOLD:
        names.append(count(len(models) - _TOLD, "other model"))
    return ", ".join(names)
