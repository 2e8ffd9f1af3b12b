"""`parallamr-mp models PROVIDER`: what a server offers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from parallamr_mp.cli.values import duration
from parallamr_mp.errors import BadInput
from parallamr_mp.providers.base import ModelCatalogue, ProviderSettings
from parallamr_mp.providers.registry import build_provider


def models(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="One of those that `providers` lists.")],
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="How long to wait, as in 90, 90s or 5m.")
    ] = "30",
) -> None:
    """List the models of a provider.

    One a line, with the context window in tokens where the server tells.
    """
    built = build_provider(provider, ProviderSettings(duration(timeout, "--timeout")))
    if not isinstance(built, ModelCatalogue):
        raise BadInput(f"{provider}: cannot list its models")
    offered = built.list_models()
    if not offered:
        print(f"{provider} offers no models.", file=sys.stderr)
    for model in sorted(offered, key=lambda info: info.name):
        typer.echo(f"{model.name}\t{model.context_window}" if model.context_window else model.name)
