"""What a row asks, besides its texts: parameters and identity; worked out once where rows share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from parallamr_mp.experiments import PARAM_PREFIX, REQUIRED_COLUMNS, Experiment, Table, identity_of
from parallamr_mp.schemas import FORMAT_PARAMS

_KEPT = 64
"""Sets of parameters that are kept: a table has few, and a value may be a long schema."""


class Questions:
    """Reads the rows of one table. Used by one thread."""

    def __init__(self, table: Table, common: Mapping[str, Any], form: Mapping[str, Any]) -> None:
        """`common`: parameters of all rows; `form`: those of rows that name no format of their own."""
        self._table, self._common, self._form = table, common, form
        self._names = sorted(
            name
            for name in table.columns
            if name not in REQUIRED_COLUMNS and not name.startswith(PARAM_PREFIX)
        )
        self._variables = _picker([table.columns.index(name) for name in self._names])
        self._param_cells = _picker([index for index, _ in table.param_columns])
        self._params: dict[tuple[str, ...], dict[str, Any]] = {}
        """By the cells that they come from."""

    def params(self, experiment: Experiment) -> dict[str, Any]:
        """The row's body parameters. Not to be changed: other rows have the same. Raises `BadInput`."""
        cells = self._param_cells(experiment.values)
        params = self._params.get(cells)
        if params is None:
            params = {**self._common, **self._table.params(experiment)}
            if not params.keys() & FORMAT_PARAMS:
                params = {**self._form, **params}
            if len(self._params) >= _KEPT:
                self._params.clear()
            self._params[cells] = params
        return params

    def identity(self, experiment: Experiment, params: dict[str, Any], sources: bytes, repeat: int) -> str:
        """The row's `experiment_id`: see `experiments.identify`."""
        cells = self._variables(experiment.values)
        filled = [pair for pair in zip(self._names, cells, strict=True) if pair[1]]
        return identity_of(experiment.provider, experiment.model, filled, params, sources, repeat)


def _picker(places: Sequence[int]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """What takes the cells at these places out of a row, in this order."""
    if len(places) > 1:
        return itemgetter(*places)
    start = places[0] if places else 0
    return itemgetter(slice(start, start + len(places)))  # of one place alone it would not make a tuple
