"""`parallamr-mp providers`: what can be asked, and whether it is set up."""

from __future__ import annotations

import typer

from parallamr_mp.errors import BadInput
from parallamr_mp.providers.base import ProviderSettings
from parallamr_mp.providers.registry import build_provider, known_providers


def providers() -> None:
    """List the providers, and which are set up."""
    names = known_providers()
    width = max(map(len, names))
    for name in names:
        try:
            provider = build_provider(name, ProviderSettings())
        except BadInput as error:
            typer.echo(f"{name:<{width}}  not set up: {error.what}")
        else:
            endpoint = getattr(provider, "endpoint", "")
            typer.echo(f"{name:<{width}}  set up{f': {endpoint}' if endpoint else ''}")
