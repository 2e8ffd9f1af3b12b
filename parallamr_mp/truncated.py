"""Answers that were cut by their limit of tokens, asked again with a larger one. Pure; used by the parent.

The larger limit is no part of what is asked: `experiment_id` stays, and with it
what `--resume` and `verify` know of the row. The cut answer travels along, so
that whoever ends up with the task alone, a worker without a parent too, still
has what was paid for.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from parallamr_mp.answered import RowResult, RowTask

MAX_ENLARGED = 3
"""How often the limit of one row is raised."""

_LIMITS = ("max_completion_tokens", "max_tokens")
_OLLAMAS = "num_predict"


def enlarged(task: RowTask, result: RowResult, factor: float, window: int | None) -> RowTask | None:
    """The task to lease in place of the `result` that was cut: its limits `factor` (> 1) times as large.

    A row without a limit gets one from what it answered. `window` is the
    model's context window in tokens, as far as it is known: with the input, no
    limit goes beyond it. None: the answer was not cut, was enlarged often
    enough, or its limit cannot grow; then `result` is the row.
    """
    if not result.truncated or task.enlarged >= MAX_ENLARGED:
        return None
    room = math.inf if window is None else window - result.input_tokens
    larger: dict[str, Any] = {}
    for name, limit in _limits(task, result).items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
            return None  # the server's business: -1 may stand for no limit at all
        wanted = min(math.ceil(limit * factor), room)
        if wanted > limit:
            larger[name] = int(wanted)
    if not larger:
        return None
    return replace(
        task,
        params={**task.params, **larger},
        enlarged=task.enlarged + 1,
        earlier=result,
        spent=result.cost_usd,
    )


def _limits(task: RowTask, result: RowResult) -> dict[str, Any]:
    """The row's limits by the parameters to set. Several are there where one is meant for all rows."""
    names = (*_LIMITS, _OLLAMAS) if task.provider == "ollama" else _LIMITS
    limits = {name: task.params[name] for name in names if task.params.get(name) is not None}
    if limits:
        return limits
    options = task.params.get("options") if task.provider == "ollama" else None
    if isinstance(options, dict) and options.get(_OLLAMAS) is not None:
        return {"max_tokens": options[_OLLAMAS]}  # it wins over `options`
    name = next((name for name in _LIMITS if name in task.params), "max_tokens")
    return {name: max(1, result.output_tokens)}
