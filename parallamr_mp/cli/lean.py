"""Typer's command and group, without what they load to find out that no help was asked for.

Typer has a value of every parameter judged by a Pydantic validator, and loads
Pydantic for that: a seventh of the time in which a run starts. A plain bool
is let through without; but a `--help` that was not given is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    Process = Callable[[Any, Any], Any]
    """`Parameter.process_value`: takes the context and the value as it was found."""
    _Base = TyperCommand
else:
    _Base = object


class _Lean(_Base):
    _is_lean = False

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, the one for help among them; with our own ways to read their values."""
        parameters: list[Any] = super().get_params(ctx)
        if not self._is_lean:
            self._is_lean = True
            for parameter in parameters:
                process = self.process_of(parameter, ctx)
                if process is not None:
                    parameter.process_value = process
        return parameters

    def process_of(self, parameter: Any, ctx: Any) -> Process | None:
        """What is to read this parameter's value instead of its own `process_value`, if anything."""
        asks_for_help: Any = self.get_help_option(ctx)
        if parameter is not asks_for_help:
            return None
        judge: Process = parameter.process_value
        return lambda context, value: judge(context, False if value is None else value)


class LeanGroup(_Lean, TyperGroup):
    """The application itself."""


class LeanCommand(_Lean, TyperCommand):
    """One command."""
