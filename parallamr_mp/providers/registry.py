"""Names of providers → providers: the built-in ones, and those that plug-ins declare.

A plug-in declares a `ProviderFactory` as an entry point of the group
`parallamr_mp.providers`. Only the provider that is asked for is imported.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import TYPE_CHECKING, cast

from parallamr_mp.errors import BadInput, ParallamrError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

    import requests

    from parallamr_mp.providers.base import Provider, ProviderFactory, ProviderSettings

GROUP = "parallamr_mp.providers"

# Also declared in pyproject.toml, for other tools to see; here they work from a bare checkout
# as well, and cost a worker no search through the metadata of all that is installed.
_BUILT_IN = {
    "mock": ("parallamr_mp.providers.mock", "MockProvider"),
    "openai": ("parallamr_mp.providers.openai", "OpenAIProvider"),
    "openrouter": ("parallamr_mp.providers.openrouter", "OpenRouterProvider"),
    "ollama": ("parallamr_mp.providers.ollama", "OllamaProvider"),
}

PLACELESS = frozenset({"mock"})
"""Providers that ask no server: for these there is no endpoint to wait for, and no session to make."""

UNUSED = ("chardet", "charset_normalizer")
"""Modules that built-in providers have no use for: `requests` guesses by them what a text without a declared
encoding is in, and does without them from 2.32 on. JSON is UTF-8 (RFC 8259, 8.1)."""

BASE_URL_VARIABLES = {
    "openai": "OPENAI_BASE_URL",
    "openrouter": "OPENROUTER_BASE_URL",
    "ollama": "OLLAMA_BASE_URL",
}
"""Where the environment says which server, or servers, a provider is to ask."""


def known_providers() -> list[str]:
    """Every name `build_provider` takes: the built-in ones, then those of plug-ins, sorted."""
    return [*_BUILT_IN, *sorted({point.name for point in _plug_ins()})]


def is_built_in(name: str) -> bool:
    """Whether this package brings the provider, and not a plug-in."""
    return name in _BUILT_IN


def session_for(name: str, threads: int, env: Mapping[str, str]) -> requests.Session | None:
    """A session for this and other providers, where it may have a use for one: see `PLACELESS`.

    As `make_session`, which is not imported before: it takes half of what a
    worker loads, in time and in memory.
    """
    if name in PLACELESS:
        return None
    if all(name in sys.modules and sys.modules[name] is None for name in UNUSED):
        # This process was told to do without them; `requests` would say that it misses them.
        warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
    from parallamr_mp.providers.transport import make_session  # noqa: PLC0415

    return make_session(threads, env)


def build_provider(name: str, settings: ProviderSettings) -> Provider:
    """Makes a provider, in the process that will use it.

    Raises `BadInput` for an unknown name, listing the known ones, and for a
    plug-in that cannot be loaded or does not make a provider, naming its
    distribution; `MissingKey` and `BadInput` of the provider itself pass.
    """
    if is_built_in(name):
        module, attribute = _BUILT_IN[name]
        made_by = getattr(importlib.import_module(module), attribute)
        return cast("Provider", made_by.from_settings(settings))
    points = [point for point in _plug_ins() if point.name == name]
    if not points:
        raise BadInput(f"unknown provider {name!r}", hint=f"known: {', '.join(known_providers())}")
    if len(points) > 1:
        owners = " and ".join(sorted(_owner(point) for point in points))
        raise BadInput(f"the provider {name!r} comes from several plug-ins: {owners}", hint="uninstall one")
    return _from_plug_in(points[0], settings)


def _from_plug_in(point: EntryPoint, settings: ProviderSettings) -> Provider:
    try:
        factory = cast("ProviderFactory", point.load())
        provider = factory(settings)
    except ParallamrError:
        raise
    except Exception as error:
        # A boundary: anything may go wrong in code that is not ours, on import too.
        from parallamr_mp.providers import secrets  # noqa: PLC0415 - as below

        hidden = secrets.environment_secrets(settings.env) | secrets.route_secrets([settings.base_url or ""])
        said = secrets.redactor(hidden)(f"{type(error).__name__}: {error}")
        raise BadInput(f"the provider {point.name!r} of {_owner(point)} is broken: {said}") from error
    if not callable(getattr(provider, "complete", None)):
        raise BadInput(f"the provider {point.name!r} of {_owner(point)} has no method `complete`")
    return provider


def _plug_ins() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - a worker with a built-in provider saves it

    return [point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN]


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
