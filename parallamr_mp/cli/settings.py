"""Where each option's value comes from: the command line, else the environment, else the default."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from parallamr_mp.cli import values
from parallamr_mp.cli.options import ALIASES, BY_NAME, REPEATABLE, Kind
from parallamr_mp.config import EndpointSpec
from parallamr_mp.errors import BadInput
from parallamr_mp.fleet import parse_endpoint
from parallamr_mp.providers.registry import known_providers

T = TypeVar("T")


class Layer(enum.IntEnum):
    """The sources of values, weakest first."""

    DEFAULT = enum.auto()
    ENVIRONMENT = enum.auto()
    COMMAND_LINE = enum.auto()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found, and what messages call it there: `--threads`, `PARALLAMR_THREADS`."""

    layer: Layer
    where: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One scope's value, as text, of an option that has values by scope."""

    scope: str
    text: str
    origin: Origin


class Settings:
    """What a command was told, and where each value comes from.

    Raises `BadInput` for what cannot be read.
    """

    def __init__(self, ctx: typer.Context, given: Mapping[str, Any]) -> None:
        self._values = dict(given)
        self._origins: dict[str, Origin] = {}
        self._repeated: dict[str, list[tuple[Origin, list[str]]]] = {}
        """Of repeatable options: what each source says, weakest first."""
        for name in given:
            option = BY_NAME[name]
            if option.kind in REPEATABLE:
                mirrored = [line for line in os.environ.get(option.mirror, "").splitlines() if line.strip()]
                sources = [
                    (Origin(Layer.ENVIRONMENT, option.mirror), mirrored),
                    (Origin(Layer.COMMAND_LINE, option.flag), given[name] or []),
                ]
                self._repeated[name] = [(origin, texts) for origin, texts in sources if texts]
                continue
            source = ctx.get_parameter_source(name)
            match source.name if source is not None else "DEFAULT":
                case "COMMANDLINE":
                    self._origins[name] = Origin(Layer.COMMAND_LINE, option.flag)
                case "ENVIRONMENT":
                    self._origins[name] = Origin(Layer.ENVIRONMENT, option.mirror)
                case _:
                    self._origins[name] = Origin(Layer.DEFAULT, option.flag)

    def __getitem__(self, name: str) -> Any:
        """The value of an option that is not repeatable; times are in seconds."""
        value, option = self._values[name], BY_NAME[name]
        if value is not None and option.kind is Kind.TIME:
            return values.duration(value, self._origins[name].where)
        return value

    def origin(self, name: str) -> Origin:
        """Where that value comes from."""
        return self._origins[name]

    def layer(self, name: str) -> Layer:
        """How strong that source is; `DEFAULT` if it was not given."""
        return self._origins[name].layer

    def texts(self, name: str) -> list[str]:
        """The values of a repeatable option: those of its strongest source."""
        sources = self._repeated[name]
        return sources[-1][1] if sources else []

    def params(self) -> dict[str, Any]:
        """Body parameters by name."""
        sources = self._repeated["param"]
        return dict(values.param(text, origin.where) for origin, texts in sources for text in texts)

    def scoped(
        self, name: str, parse: Callable[[str, str], T], *, model: bool = False
    ) -> dict[str, tuple[T, Origin]]:
        """What was said for each scope, the strongest source's word. `model`: scopes are models only."""
        found: dict[str, tuple[T, Origin]] = {}
        entries = self._entries(name)
        known = known_providers() if entries else ()
        for entry in sorted(entries, key=lambda entry: entry.origin.layer):
            values.check_scope(entry.scope, entry.origin.where, known, model=model)
            value = parse(entry.text, f"{entry.origin.where} {entry.scope}")
            earlier = found.get(entry.scope)
            if earlier and earlier[1].layer == entry.origin.layer and earlier[0] != value:
                both = dict.fromkeys((earlier[1].where, entry.origin.where))
                raise BadInput(
                    f"{' and '.join(both)}: {entry.scope} has two values", hint="Give one of them."
                )
            found[entry.scope] = value, entry.origin
        return found

    def _entries(self, name: str) -> list[Entry]:
        entries = [
            Entry(scope, text, origin)
            for origin, lines in self._repeated[name]
            for line in lines
            for scope, text in values.by_scope(line, origin.where)
        ]
        if name == "concurrency":
            entries += [
                Entry(provider, str(self._values[alias]), self._origins[alias])
                for alias, provider in ALIASES.items()
                if self._values[alias] is not None
            ]
        return entries

    def endpoints(self) -> list[tuple[EndpointSpec, Origin]]:
        """Where requests go: of each provider, what the strongest source that names it says."""
        found: dict[str, list[tuple[EndpointSpec, Origin]]] = {}
        known: Collection[str] = ()
        for origin, lines in self._repeated["endpoint"]:
            said: dict[str, list[tuple[EndpointSpec, Origin]]] = {}
            known = known or known_providers()
            for line in lines:
                spec = parse_endpoint(line, origin.where)
                values.check_provider(spec.provider, origin.where, known)
                said.setdefault(spec.provider, []).append((spec, origin))
            found |= said
        return [endpoint for those in found.values() for endpoint in those]
