"""`parallamr.toml`: the options of `run` in a file, by their long names, and tables of limits by provider.

    threads = 16
    context = ["style.md"]
    max-wait = "1h"
    param = {temperature = 0.2}

    [providers.openai]
    rpm = 500
    endpoints = ["http://n1:8000/v1", {url = "http://n2:8000/v1", weight = 2}]

    [providers.openai.models."gpt-4o"]
    concurrency = 8
    price = {input = 2.5, output = 10}

Everything in it is checked when it is read, also what the command at hand does
not need: a name that is spelt wrong would otherwise go unnoticed.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from parallamr_mp.cli import values
from parallamr_mp.cli.options import BY_NAME, IN_FILES, Display, Kind, Option
from parallamr_mp.errors import BadInput
from parallamr_mp.fleet import parse_endpoint
from parallamr_mp.providers.endpoints import query_secrets, url_secrets
from parallamr_mp.providers.registry import BASE_URL_VARIABLES, known_providers
from parallamr_mp.tariff import Price
from parallamr_mp.text import nearest

DEFAULT_FILE = "parallamr.toml"

_SECRET = re.compile(r"(?:key|token|secret|passw(?:or)?d|credentials?|authorization)$", re.IGNORECASE)
_LARGEST = 2**63 - 1
_NAMES_OF = {"concurrency": "concurrency", "rpm": "limit_rpm", "tpm": "limit_tpm", "price": "price"}
"""What a provider's or model's table may hold: the options that say it elsewhere."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says, by the names of options (`max_wait`)."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    """Numbers and switches as they are; times and the like as text where they are text."""
    keys: dict[str, str] = field(default_factory=dict)
    """How the file writes the name."""
    repeated: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    """Of repeatable options: the key, and a file, a pair (name and parameter, scope and value), an endpoint.

    A scope's value is text, or parsed.
    """


def read_config(path: str | None) -> ConfigFile | None:
    """The file at `path`; without one, `parallamr.toml` in the working folder, or None. Raises `BadInput`."""
    name = path or DEFAULT_FILE
    try:
        with open(name, "rb") as stream:
            text = stream.read().decode("utf-8-sig")
        content = tomllib.loads(text)
    except FileNotFoundError:
        if path is None:
            return None
        raise BadInput(f"--config {path}: there is no such file") from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=name) from None
    except UnicodeDecodeError:
        raise BadInput("is not UTF-8", file=name, hint="Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not TOML: {error}", file=name) from None
    return _Reader(name).read(content)


class _Reader:
    """Checks a file's content, table by table."""

    def __init__(self, path: str) -> None:
        self._found = ConfigFile(path)
        self._providers: Collection[str] = ()

    def read(self, content: Mapping[str, Any]) -> ConfigFile:
        for key, value in content.items():
            name = key.replace("-", "_")
            if name == "providers":
                self._read_providers(value)
            elif name not in IN_FILES:
                self._refuse_name(key, key, [*(BY_NAME[known].key for known in IN_FILES), "providers"])
            elif name in self._found.keys:
                self._refuse(f"{key} and {self._found.keys[name]}", "one of them", "both")
            else:
                self._found.keys[name] = key
                self._read_option(BY_NAME[name], key, value)
        return self._found

    def _read_option(self, option: Option, key: str, value: Any) -> None:
        match option.kind:
            case Kind.FILES:
                for text in self._texts(key, value, 'a list of files, as ["a.md", "b.md"]'):
                    self._add(option.name, key, text)
            case Kind.PARAMS:
                for param in self._params(key, value):
                    self._add(option.name, key, param)
            case Kind.COUNTS | Kind.RATES | Kind.PRICES:
                self._read_scopes(option, key, value)
            case Kind.ENDPOINTS:
                wish = 'a list of strings, as ["openai=http://n1:8000/v1 weight=2"]'
                for text in self._texts(key, value, wish):
                    self._add_endpoint(key, text)
            case _:
                self._found.values[option.name] = self._plain(option.kind, key, value)

    def _plain(self, kind: Kind, key: str, value: Any) -> Any:
        good, wish = {
            Kind.TEXT: (
                isinstance(value, str) and "\0" not in value,
                "a string without NUL" if isinstance(value, str) else "a string",
            ),
            Kind.WHOLE: (_is_whole(value), "a whole number"),
            Kind.NUMBER: (_is_number(value), "a number"),
            Kind.SWITCH: (isinstance(value, bool), "true or false"),
            Kind.TIME: (
                _is_number(value) or isinstance(value, str),
                'a time: a number of seconds, or as "90s" or "1h30m"',
            ),
            Kind.ERRORS: (_is_whole(value) or isinstance(value, str), 'a number, or a share as "5%"'),
            Kind.DISPLAY: (value in list(Display), "one of " + ", ".join(Display)),
        }[kind]
        if not good:
            self._refuse(key, wish, value)
        match kind:
            case Kind.DISPLAY:
                return Display(value)
            case Kind.NUMBER:
                return float(value)
        return value

    def _texts(self, key: str, value: Any, wish: str) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(
            isinstance(text, str) and "\0" not in text for text in texts
        ):
            self._refuse(key, wish, value)
        return list(texts)

    def _params(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            for text in self._texts(key, value, "a table, as {temperature = 0.2}"):
                yield values.param(text, self._where(key))
            return
        for name, setting in value.items():
            if is_secret_name(name):
                self._refuse_secret(f"{key}.{name}")
            if not _is_json(setting):
                self._refuse(f"{key}.{name}", "what can be said in JSON", setting)
            yield name, setting

    def _read_scopes(self, option: Option, key: str, value: Any) -> None:
        if not isinstance(value, dict):
            wish = f"a table, as {{openai = {'64' if option.kind is Kind.COUNTS else '500'}}}"
            if option.kind is Kind.PRICES:
                wish = 'a table, as {"openai/gpt-4o" = {input = 2.5, output = 10}}'
            for text in self._texts(key, value, wish):
                for pair in values.by_scope(text, self._where(key)):
                    self._add(option.name, key, pair)
            return
        for scope, limit in value.items():
            self._add(option.name, key, (scope, self._scoped(option.kind, f"{key}.{scope}", limit)))

    def _scoped(self, kind: Kind, key: str, value: Any) -> Any:
        """One scope's value, parsed, or a text that is left to be."""
        if isinstance(value, str) and kind is not Kind.COUNTS:
            return value
        match kind:
            case Kind.COUNTS if _is_whole(value):
                return value
            case Kind.COUNTS:
                self._refuse(key, "a whole number", value)
            case Kind.RATES if _is_number(value):
                return float(value)
            case Kind.RATES:
                self._refuse(key, 'a number, or as "200k" or "1.5M"', value)
        if not isinstance(value, dict) or set(value) != {"input", "output"}:
            self._refuse(key, "USD a million tokens, as {input = 2.5, output = 10}", value)
        if not all(map(_is_number, value.values())):
            self._refuse(key, "numbers", value)
        return Price(float(value["input"]), float(value["output"]))

    def _read_providers(self, value: Any) -> None:
        self._providers = known_providers()
        for name, table in self._table("providers", value).items():
            key = f"providers.{name}"
            if name not in self._providers:
                self._refuse_name(key, name, self._providers, what="unknown provider")
            for inner, setting in self._table(key, table).items():
                where = f"{key}.{inner}"
                if inner == "endpoints":
                    self._read_endpoints(name, where, setting)
                elif inner == "models":
                    for model, limits in self._table(where, setting).items():
                        self._read_limits(f"{name}/{model}", f'{where}."{model}"', limits, {*_NAMES_OF})
                else:
                    known = {*_NAMES_OF} - {"price"}
                    self._read_limits(name, key, {inner: setting}, known, {"endpoints", "models"})

    def _read_limits(
        self, scope: str, key: str, value: Any, known: set[str], others: Collection[str] = ()
    ) -> None:
        for inner, setting in self._table(key, value).items():
            if inner not in known:
                self._refuse_name(f"{key}.{inner}", inner, {*known, *others})
            option = BY_NAME[_NAMES_OF[inner]]
            where = f"{key}.{inner}"
            self._add(option.name, where, (scope, self._scoped(option.kind, where, setting)))

    def _read_endpoints(self, provider: str, key: str, value: Any) -> None:
        wish = 'a list, as ["http://n1:8000/v1", {url = "http://n2:8000/v1", weight = 2}]'
        checks: dict[str, tuple[Callable[[Any], bool], str]] = {
            "weight": (_is_number, "a number"),
            "concurrency": (_is_whole, "a whole number"),
            "rpm": (_is_amount, 'a number, or as "200k"'),
            "tpm": (_is_amount, 'a number, or as "200k"'),
        }
        if not isinstance(value, str | list):
            self._refuse(key, wish, value)
        for item in [value] if isinstance(value, str) else value:
            table = {"url": item} if isinstance(item, str) else item
            if not isinstance(table, dict) or not isinstance(table.get("url"), str):
                self._refuse(key, wish, item)
            limits: dict[str, Any] = {}
            for inner, setting in table.items():
                if inner == "url":
                    continue
                if inner not in checks:
                    self._refuse_name(f"{key}.{inner}", inner, {"url", *checks})
                good, inner_wish = checks[inner]
                if not good(setting):
                    self._refuse(f"{key}.{inner}", inner_wish, setting)
                where = self._where(f"{key}.{inner}")
                limits[inner] = values.amount(setting, where) if isinstance(setting, str) else setting
            if re.search(r"\s", table["url"]):
                self._refuse(key, "a URL without blanks", table["url"])
            self._add_endpoint(key, f"{provider}={table['url']}", limits)

    def _add_endpoint(self, key: str, line: str, limits: Mapping[str, Any] | None = None) -> None:
        spec = parse_endpoint(line, self._where(key))
        if url_secrets(spec.url) or query_secrets(spec.url.partition("?")[2]):
            variable = BASE_URL_VARIABLES.get(spec.provider)
            place = f"{variable} in .env" if variable else "--endpoints-file"
            raise BadInput(
                f"{key}: a URL with a password or key", file=self._found.path, hint=f"Use {place} for it."
            )
        self._add("endpoint", key, replace(spec, **limits or {}))

    def _add(self, name: str, key: str, item: Any) -> None:
        self._found.repeated.setdefault(name, []).append((key, item))

    def _table(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(key, "a table", value)
        return dict(value)

    def _where(self, key: str) -> str:
        return f"{self._found.path}: {key}"

    def _refuse(self, key: str, wish: str, value: Any) -> NoReturn:
        raise BadInput(f"{key}: expected {wish}; found {_named(value)}", file=self._found.path)

    def _refuse_name(
        self, key: str, name: str, known: Collection[str], what: str = "unknown setting"
    ) -> NoReturn:
        if is_secret_name(name):
            self._refuse_secret(key)
        if name.replace("-", "_") in BY_NAME and "." not in key:
            raise BadInput(
                f"{key}: can only be given on the command line or in the environment", file=self._found.path
            )
        near = nearest(name.replace("_", "-"), known)
        hint = f"Did you mean {near}?" if near else f"Known: {', '.join(sorted(known))}."
        raise BadInput(f"{key}: {what}", file=self._found.path, hint=hint)

    def _refuse_secret(self, key: str) -> NoReturn:
        raise BadInput(
            f"{key}: secrets do not belong into this file",
            file=self._found.path,
            hint="Put them into .env or the environment, as in OPENAI_API_KEY=...",
        )


def is_secret_name(name: str) -> bool:
    """Whether this is what a key, token or password is called."""
    return _SECRET.search(name) is not None


def _is_whole(value: Any) -> bool:
    # TOML has no larger ones; Python's reader has.
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _is_amount(value: Any) -> bool:
    return _is_number(value) or isinstance(value, str)


def _is_json(value: Any) -> bool:
    match value:
        case dict():
            return all(map(_is_json, value.values()))
        case list():
            return all(map(_is_json, value))
        case float():
            return math.isfinite(value)
        case int():
            return -(2**63) <= value < 2**64
    return isinstance(value, str)


def _named(value: Any) -> str:
    """What a value is, in TOML's words. Texts are not repeated: they may be anything."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "a table"
        case None:
            return "something else"
    return "a date or time"
