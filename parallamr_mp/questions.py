"""What a row asks, besides its texts: parameters and identity; worked out once where rows share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallamr_mp.experiments import Experiment, Table
from parallamr_mp.identity import Identifier, picker
from parallamr_mp.schemas import FORMAT_PARAMS

_KEPT = 64
"""Sets of parameters that are kept: a table has few, and a value may be a long schema."""


class Questions:
    """Reads the rows of one table. Used by one thread."""

    def __init__(self, table: Table, common: Mapping[str, Any], form: Mapping[str, Any]) -> None:
        """`common`: parameters of all rows; `form`: those of rows that name no format of their own."""
        self._table, self._common, self._form = table, common, form
        self.identifier = Identifier(table.columns)
        self._param_cells = picker([index for index, _ in table.param_columns])
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
        """The row's `experiment_id`."""
        provider, model, values = experiment.provider, experiment.model, experiment.values
        return self.identifier.digest(provider, model, values, params, sources, repeat).hex()
