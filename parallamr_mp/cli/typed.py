"""The values of options, from text by what kind they are; what does not fit is a usage error.

Values by scope, times and the like stay text: `cli/settings.py` knows where they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from parallamr_mp.cli.lean import LeanCommand
from parallamr_mp.cli.options import BY_NAME, Display, Kind

_SWITCH = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("", "0", "false", "f", "no", "n", "off"), False),
}


class OptionsCommand(LeanCommand):
    """A command that reads the options of `cli/options.py` by itself, and others as Typer does."""

    def process_of(self, parameter: Any, ctx: Any) -> Callable[[Any, Any], Any] | None:
        """See `LeanCommand`."""
        option = BY_NAME.get(parameter.name)
        if option is None:
            return super().process_of(parameter, ctx)
        read, others = _READ.get(option.kind, str), parameter.process_value

        def process(context: Any, value: Any) -> Any:
            if isinstance(value, str) and not isinstance(value, Display):
                try:
                    return read(value)
                except typer.BadParameter as error:
                    source = context.get_parameter_source(parameter.name)
                    if source is not None and source.name == "ENVIRONMENT":
                        error.param_hint = f"{option.mirror} ({option.flag})"
                    raise
            if value is None:
                return () if parameter.multiple else None
            if isinstance(value, bool | int | float | list | tuple | Display):
                return value  # a default, or a list of texts
            return others(context, value)

        return process


def _read_as(convert: Callable[[str], Any], refusal: str) -> Callable[[str], Any]:
    """A reader by `convert`; `refusal` says what a text is for which that raises KeyError or ValueError."""

    def read(text: str) -> Any:
        try:
            return convert(text)
        except (KeyError, ValueError):
            raise typer.BadParameter(f"{text!r} is {refusal}.") from None

    return read


_READ: dict[Kind, Callable[[str], Any]] = {
    Kind.WHOLE: _read_as(int, "no whole number"),
    Kind.NUMBER: _read_as(float, "no number"),
    Kind.SWITCH: _read_as(lambda text: _SWITCH[text.strip().lower()], "neither yes nor no"),
    Kind.DISPLAY: _read_as(Display, f"none of {', '.join(Display)}"),
}
