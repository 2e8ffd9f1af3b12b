"""What a command line, an environment and a file come to, without running anything."""

from __future__ import annotations

import pytest
import typer

from parallamr_mp.cli.invocation import Invocation, command
from parallamr_mp.config import RunConfig


def invocation(*words: str, **env: str) -> Invocation:
    """`run WORDS` in the working folder, with `PARALLAMR_…` as in `env`, understood."""
    seen: list[Invocation] = []

    def run(given: Invocation) -> None:
        seen.append(given)

    main(run, *words, **env)
    return seen[0]


def understood(*words: str, **env: str) -> RunConfig:
    """The settings that it would run with; prompt and table are given."""
    return invocation("-p", "p.txt", "-e", "e.csv", *words, **env).runner.config


def main(run, *words: str, **env: str) -> None:
    """Calls `run` as a command with these words would."""
    app = typer.Typer()
    call = command(run)
    app.command(cls=call.command_class)(call)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(f"PARALLAMR_{name}", value)
        typer.main.get_command(app).main(list(words), standalone_mode=False)
