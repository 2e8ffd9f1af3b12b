"""`--print-config`: every option as `parallamr.toml` would say it, and where its value comes from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from parallamr_mp._version import __version__
from parallamr_mp.cli import values
from parallamr_mp.cli.config_file import is_secret_name
from parallamr_mp.cli.options import ALIASES, BY_NAME, IN_FILES, Kind
from parallamr_mp.cli.settings import Origin, Settings
from parallamr_mp.config import DEFAULT_LIMITS, EndpointSpec, RunConfig, drain_seconds
from parallamr_mp.errors import BadInput
from parallamr_mp.providers.endpoints import query_secrets
from parallamr_mp.tariff import Price
from parallamr_mp.text import one_line

_UNSET = {
    "output": "standard output",
    "adaptive": "of providers that cost money",
    "retry_unknown": "of providers that are free",
}
"""What it means that an option has no value."""

_Said = tuple[Any, str]
"""A value, and its source."""


def format_config(settings: Settings, config: RunConfig, *, sequential: bool) -> Iterator[str]:
    """The lines. `config` is what came of the settings; `sequential`: one request at a time was asked for.

    Read again from a file, they give the same values. Passwords and keys are
    left out. Raises `BadInput` for what TOML cannot say.
    """
    yield f"# Settings of parallamr-mp {__version__}, and where each comes from: fit to be parallamr.toml."
    at_once = _at_once(settings, config, sequential=sequential)
    for name in IN_FILES:
        key, kind = BY_NAME[name].key, BY_NAME[name].kind
        if kind is Kind.FILES:
            files, origin = settings.files(name)
            yield _line(key, files, "default" if origin is None else origin.source)
        elif kind is Kind.PARAMS:
            yield from _unspeakable_params(settings)
        elif kind not in {Kind.COUNTS, Kind.RATES, Kind.PRICES, Kind.ENDPOINTS} and name not in ALIASES:
            value, source = at_once.get(name) or _single(settings, config, name)
            yield _line(key, _short(value), source)
    yield from _params(settings)
    yield from _providers(settings)


def _single(settings: Settings, config: RunConfig, name: str) -> _Said:
    value, origin = settings[name], settings.origin(name)
    if name in {"resume", "overwrite"} and value != getattr(config, name):
        return getattr(config, name), f"{origin.source}, and outdone by a stronger source"
    if name == "drain_timeout" and value is None:
        slurm = bool(os.environ.get("SLURM_JOB_ID"))
        return None, f"default: {drain_seconds(config):g}, {'in a Slurm job' if slurm else 'as --timeout'}"
    if name == "fail_on_error" and str(value).strip().lstrip("+-").isdecimal():
        return int(value), origin.source
    if value is None and (meaning := _UNSET.get(name)):
        return None, f"default: {meaning}"
    return value, origin.source


def _at_once(settings: Settings, config: RunConfig, *, sequential: bool) -> dict[str, _Said]:
    """How many at once: five options of which not all are in force. What follows from others has no value."""
    source = {
        name: settings.origin(name).source
        for name in ("procs", "threads", "parallel", "sequential", "max_concurrent")
    }
    found: dict[str, _Said] = {"sequential": (sequential, source["sequential"])}
    if settings["sequential"] and not sequential:
        found["sequential"] = False, f"{source['sequential']}, and outdone by a stronger source"
    split = settings["parallel"] is not None and not sequential
    if split and settings["threads"] is not None:
        split = settings.layer("parallel") > settings.layer("threads")
    if settings["parallel"] is not None and not split:
        found["parallel"] = None, f"{source['parallel']}, and outdone by a stronger source"
    follows = "follows from --sequential" if sequential else "follows from --parallel"
    if sequential or (split and settings["procs"] is None):
        found["procs"] = None, f"{config.procs}, {follows}"
    elif settings["procs"] is None:
        found["procs"] = None, f"default: {config.procs}, the usable CPUs, at most 4"
    if sequential or split:
        found["threads"] = None, f"{config.threads}, {follows}"
    elif settings["threads"] is None:
        found["threads"] = config.threads, "default"
    if sequential or (split and settings["max_concurrent"] is None):
        found["max_concurrent"] = None, f"{config.total_limit}, {follows}"
    return found


def _unspeakable_params(settings: Settings) -> Iterator[str]:
    """Parameters with a null, which TOML does not know, as text; then all of them."""
    params = settings.params()
    if not _has_null([value for value, _ in params.values()]):
        return
    said = [f"{name}={json.dumps(value)}" for name, (value, _) in params.items() if not is_secret_name(name)]
    yield _line("param", said, ", ".join(dict.fromkeys(origin.source for _, origin in params.values())))


def _params(settings: Settings) -> Iterator[str]:
    params = settings.params()
    if not params:
        yield "# param: none  # default"
    elif not _has_null([value for value, _ in params.values()]):
        yield "\n[param]"
        for name, (value, origin) in params.items():
            if is_secret_name(name):
                yield f"# {one_line(name)}: not shown  # {one_line(origin.source)}"
            else:
                yield _line(_key(name), value, origin.source)


def _has_null(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(_has_null, inner))


def _providers(settings: Settings) -> Iterator[str]:
    """A table for each provider and model of which anything is said."""
    limits: dict[str, Mapping[str, tuple[Any, Origin]]] = {
        "concurrency": settings.scoped("concurrency", values.whole),
        "rpm": settings.scoped("limit_rpm", values.amount),
        "tpm": settings.scoped("limit_tpm", values.amount),
        "price": settings.scoped("price", values.price, model=True),
    }
    endpoints = settings.endpoints()
    scopes = {*(scope for said in limits.values() for scope in said), *endpoints, *DEFAULT_LIMITS}
    for scope in sorted(scopes):
        provider, slash, model = scope.partition("/")
        table = f"providers.{_key(provider)}"
        yield f"\n[{table}.models.{_key(model)}]" if slash else f"\n[{table}]"
        if scope in DEFAULT_LIMITS and scope not in limits["concurrency"]:
            yield f"# concurrency: default: {DEFAULT_LIMITS[scope]} at each endpoint"
        for name, said in limits.items():
            if scope in said:
                value, origin = said[scope]
                yield _line(name, _short(value), origin.source)
        if scope in endpoints:
            yield "endpoints = ["
            for spec, origin in endpoints[scope]:
                url = _shown(spec.url)
                hidden = "" if url == spec.url else ", without its password or key"
                yield f"  {_toml(_endpoint(spec, url))},  # {one_line(origin.source)}{hidden}"
            yield "]"


def _endpoint(spec: EndpointSpec, url: str) -> dict[str, Any]:
    said = {
        "url": url,
        "weight": spec.weight,
        "concurrency": spec.concurrency,
        "rpm": spec.rpm,
        "tpm": spec.tpm,
    }
    return {name: _short(value) for name, value in said.items() if value is not None}


def _shown(url: str) -> str:
    """The URL without user, password, and what its query holds of keys."""
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if not query_secrets(part))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query).geturl()


def _line(key: str, value: Any, source: str) -> str:
    source = one_line(source)
    if value is None:
        return f"# {key}: {source}" if source != "default" else f"# {key}: not set  # default"
    try:
        return f"{key} = {_toml(value)}  # {source}"
    except UnicodeEncodeError:
        raise BadInput(f"--{key}: is not UTF-8, which TOML cannot say") from None


def _short(value: Any) -> Any:
    """`300.0` as 300. Not for parameters: there it is another value."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """The value as TOML writes it. Raises UnicodeEncodeError for text that is no Unicode."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            value.encode()
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case Price():
            return _toml({"input": _short(value.input), "output": _short(value.output)})
        case dict():
            return "{" + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return "[" + ", ".join(map(_toml, value)) + "]"
