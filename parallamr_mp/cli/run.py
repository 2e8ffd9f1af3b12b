"""`parallamr-mp run`: the main job."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys

import typer

from parallamr_mp.cli.display import subscribed
from parallamr_mp.cli.invocation import Invocation, command
from parallamr_mp.cli.summary import format_summary
from parallamr_mp.errors import EngineError, OutputError
from parallamr_mp.plan import Plan
from parallamr_mp.report import RunSummary
from parallamr_mp.text import count

STOPPED = 4
"""Exit code of a run that stopped at a limit that it was given, with rows left to ask."""


@command
def run(given: Invocation) -> None:
    """Ask every row of a table, and write each answer as it comes.

    parallamr-mp run -p prompt.txt -e experiments.csv -o results.csv --procs 4 --threads 8

    Stop with Ctrl-C at any time; the same command with --resume goes on.
    Every option can be set in the environment as PARALLAMR_NAME.
    """
    if given.validate_only:
        _tell_valid(given.runner.validate_experiments(*given.files))
        return
    try:
        with subscribed(given):
            summary = given.runner.run_experiments(*given.files)
    except (OutputError, EngineError) as error:
        if given.output is None:
            raise
        raise type(error)(
            f"{error}\n  What was written is whole. Once mended, the same command with --resume goes on."
        ) from error
    if not given.quiet:
        print(format_summary(summary), file=sys.stderr)
    stop = summary.stop if summary.missing else None
    if summary.signum is not None or stop is not None:
        print(_how_to_resume(summary, stdin="-" in given.files[:2]), file=sys.stderr)
    if summary.signum is not None:
        raise typer.Exit(128 + summary.signum)
    if stop is not None and stop.kind != "errors":
        raise typer.Exit(STOPPED)
    if summary.error + summary.resumed_errors:
        raise typer.Exit(3)


def _tell_valid(plan: Plan) -> None:
    survey = plan.survey
    print(f"Valid: {count(survey.experiments, 'experiment')}; nothing was sent.", file=sys.stderr)
    for (provider, model), number in survey.models.items():
        print(f"  {provider}/{model}: {count(number, 'row')}", file=sys.stderr)
    for notice in plan.unknown_variables():
        print(notice, file=sys.stderr)


def _how_to_resume(summary: RunSummary, *, stdin: bool) -> str:
    stop = summary.stop if summary.signum is None else None
    if stop is not None:
        why = f"Stopped: {stop.text};"
    else:
        why = f"Stopped by {signal.Signals(summary.signum).name if summary.signum else 'a signal'}:"
    left = f"{why} {summary.missing} of {summary.total} rows have no result yet."
    if not summary.outputs:
        return f"{left} What went to standard output cannot be gone on with; -o FILE can."
    if stdin:
        return f"{left} Run the same command with --resume to go on."
    # Whoever stops for errors mends their cause, and wants these rows, too.
    again = ["--resume", *(["--retry-errors"] if stop is not None and stop.kind == "errors" else [])]
    words = [word for word in sys.argv[1:] if word not in {"--overwrite", *again}]
    return f"{left} To go on: {shlex.join([*_program(), *words, *again])}"


def _program() -> list[str]:
    """How this program was called, so that the same words call it again."""
    called = sys.argv[0]
    if os.path.basename(called) == "__main__.py":
        return [sys.executable, "-m", "parallamr_mp"]
    # A shell that finds a command by its name passes the path that it has found.
    name = os.path.basename(called)
    found = shutil.which(name)
    try:
        return [name if found is not None and os.path.samefile(found, called) else called]
    except OSError:
        return [called]
