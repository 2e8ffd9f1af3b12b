"""Where each option's value comes from: the command line, the environment, `parallamr.toml`, the default."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from parallamr_mp.cli import values
from parallamr_mp.cli.config_file import ConfigFile, read_config
from parallamr_mp.cli.options import ALIASES, BY_NAME, MIRRORS, OPTIONS, REPEATABLE, Kind
from parallamr_mp.config import EndpointSpec
from parallamr_mp.errors import BadInput
from parallamr_mp.fleet import parse_endpoint
from parallamr_mp.providers.registry import known_providers
from parallamr_mp.text import nearest

T = TypeVar("T")

_NEAR, _LONGER = 0.9, 2
"""How alike a variable's name and a mirror's are of which one is the other, mistyped, 1 being the same; and
how many characters longer or shorter it is: `PARALLAMR_EXPERIMENTS_DIR` is another name, and no mistake."""


class Layer(enum.IntEnum):
    """The sources of values, weakest first."""

    DEFAULT = enum.auto()
    FILE = enum.auto()
    ENVIRONMENT = enum.auto()
    COMMAND_LINE = enum.auto()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found."""

    layer: Layer
    where: str
    """What messages call it: `--threads`, `PARALLAMR_THREADS`, `parallamr.toml: threads`."""
    source: str
    """`command line`, `PARALLAMR_THREADS`, `parallamr.toml`, `default`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One scope's value, of an option that has values by scope: text, or parsed."""

    scope: str
    value: Any
    origin: Origin


class Settings:
    """What a command was told, and where each value comes from.

    Raises `BadInput` for what cannot be read. `given` is what Typer found, by
    the options' names; a file may set others, too, which do not count then.
    """

    def __init__(self, ctx: typer.Context, given: Mapping[str, Any]) -> None:
        self._values = dict(given)
        self._origins: dict[str, Origin] = {}
        self._repeated: dict[str, list[tuple[Origin, Any]]] = {}
        """Of repeatable options: everything that is said, weakest source first."""
        _check_mirrors(os.environ)
        file = read_config(given["config"])
        self.config_file = file.path if file is not None else None
        for name, value in given.items():
            if BY_NAME[name].kind in REPEATABLE:
                self._repeated[name] = _said(name, value, file)
            else:
                self._values[name], self._origins[name] = _found(ctx, name, value, file)

    def __getitem__(self, name: str) -> Any:
        """The value of an option that is not repeatable; times are in seconds."""
        value = self._values[name]
        if value is not None and BY_NAME[name].kind is Kind.TIME:
            return values.duration(str(value), self._origins[name].where)
        return value

    def origin(self, name: str) -> Origin:
        """Where that value comes from."""
        return self._origins[name]

    def layer(self, name: str) -> Layer:
        """How strong that source is; `DEFAULT` if it was not given."""
        return self._origins[name].layer

    def files(self, name: str) -> tuple[list[str], Origin | None]:
        """The values of a repeatable option of files: those of its strongest source, and which that is."""
        said = self._repeated[name]
        if not said:
            return [], None
        return [text for origin, text in said if origin.layer == said[-1][0].layer], said[-1][0]

    def params(self) -> dict[str, tuple[Any, Origin]]:
        """Body parameters by name."""
        found: dict[str, tuple[Any, Origin]] = {}
        for origin, said in self._repeated["param"]:
            name, value = values.param(said, origin.where) if isinstance(said, str) else said
            found[name] = value, origin
        return found

    def scoped(
        self, name: str, parse: Callable[[str, str], T], *, model: bool = False
    ) -> dict[str, tuple[T, Origin]]:
        """What was said for each scope, the strongest source's word. `model`: scopes are models only."""
        found: dict[str, tuple[T, Origin]] = {}
        entries = self._entries(name)
        known = known_providers() if entries else ()
        for entry in sorted(entries, key=lambda entry: entry.origin.layer):
            where = entry.origin.where
            values.check_scope(entry.scope, where, known, model=model)
            value = (
                parse(entry.value, f"{where} {entry.scope}") if isinstance(entry.value, str) else entry.value
            )
            earlier = found.get(entry.scope)
            if earlier and earlier[1].layer == entry.origin.layer and earlier[0] != value:
                both = dict.fromkeys((earlier[1].where, where))
                raise BadInput(
                    f"{' and '.join(both)}: {entry.scope} has two values", hint="Give one of them."
                )
            found[entry.scope] = value, entry.origin
        return found

    def _entries(self, name: str) -> list[Entry]:
        entries: list[Entry] = []
        for origin, said in self._repeated[name]:
            pairs = values.by_scope(said, origin.where) if isinstance(said, str) else [said]
            entries += [Entry(scope, value, origin) for scope, value in pairs]
        if name == "concurrency":
            entries += [
                Entry(provider, self._values[alias], self._origins[alias])
                for alias, provider in ALIASES.items()
                if self._values[alias] is not None
            ]
        return entries

    def endpoints(self) -> dict[str, list[tuple[EndpointSpec, Origin]]]:
        """Where requests go: of each provider, what the strongest source that names it says."""
        found: dict[str, list[tuple[EndpointSpec, Origin]]] = {}
        said = self._repeated["endpoint"]
        known = known_providers() if said else ()
        for origin, line in said:
            spec = parse_endpoint(line, origin.where) if isinstance(line, str) else line
            values.check_provider(spec.provider, origin.where, known)
            those = found.setdefault(spec.provider, [])
            if those and those[0][1].layer < origin.layer:
                those.clear()
            those.append((spec, origin))
        return found


def _check_mirrors(environment: Mapping[str, str]) -> None:
    """Raises `BadInput` for a variable that was meant to be an option's mirror. Others may begin alike."""
    mirrors = {option.mirror for option in OPTIONS}
    for name in environment:
        if not name.startswith(MIRRORS) or name in mirrors:
            continue
        alike = [mirror for mirror in mirrors if abs(len(mirror) - len(name)) <= _LONGER]
        if near := nearest(name, alike, _NEAR):
            hint = f"Did you mean {near}? Else unset {name}."
            raise BadInput(f"{name}: there is no such option", hint=hint)


def _said(name: str, typed: list[str] | None, file: ConfigFile | None) -> list[tuple[Origin, Any]]:
    """What the sources say of a repeatable option. Its mirror has one value a line."""
    option = BY_NAME[name]
    said: list[tuple[Origin, Any]] = []
    if file is not None:
        for key, item in file.repeated.get(name, ()):
            said.append((Origin(Layer.FILE, f"{file.path}: {key}", file.path), item))
    lines = [line for line in os.environ.get(option.mirror, "").splitlines() if line.strip()]
    said += [(Origin(Layer.ENVIRONMENT, option.mirror, option.mirror), line) for line in lines]
    said += [(Origin(Layer.COMMAND_LINE, option.flag, "command line"), text) for text in typed or ()]
    return said


def _found(ctx: typer.Context, name: str, value: Any, file: ConfigFile | None) -> tuple[Any, Origin]:
    """The value that counts; `value` is what Typer makes of command line, mirror and default."""
    option = BY_NAME[name]
    source = ctx.get_parameter_source(name)
    match source.name if source is not None else "DEFAULT":
        case "COMMANDLINE":
            return value, Origin(Layer.COMMAND_LINE, option.flag, "command line")
        case "ENVIRONMENT":
            return value, Origin(Layer.ENVIRONMENT, option.mirror, option.mirror)
    if file is not None and name in file.values:
        return file.values[name], Origin(Layer.FILE, f"{file.path}: {file.keys[name]}", file.path)
    return value, Origin(Layer.DEFAULT, option.flag, "default")
