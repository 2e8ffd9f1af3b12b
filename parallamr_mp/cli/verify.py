"""`parallamr-mp verify`: whether results are whole."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Annotated, Any

import typer

from parallamr_mp.cli.invocation import with_options
from parallamr_mp.cli.options import BY_NAME, Option
from parallamr_mp.cli.settings import Layer, Settings
from parallamr_mp.cli.values import rows
from parallamr_mp.errors import BadInput
from parallamr_mp.runner import create_experiment_runner
from parallamr_mp.text import count
from parallamr_mp.verify import Verdict, verify_file

NOT_WHOLE = 3

_OPTIONS = (
    "prompt",
    "experiments",
    "context",
    "system",
    "param",
    "json_schema",
    "repeat",
    "limit",
    "range",
    "config",
)
_RESULTS = inspect.Parameter(
    "results",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        str, typer.Argument(metavar="RESULTS", help="Results file; with -e and -p it may hold {{column}}.")
    ],
)


def _verify(results: str, settings: Settings) -> None:
    """Prove that a results file is whole, or tell what is amiss and what to do.

    parallamr-mp verify results.csv

    parallamr-mp verify results.csv -p prompt.txt -e experiments.csv

    By itself: every record parses to the end, none is there twice, all agree
    with the manifest. With the table and the prompt it was made from: each
    experiment has exactly one row, made from just that. An error row is a row,
    too. Exit code 0: whole; 3: not.
    """
    prompt, experiments = settings["prompt"], settings["experiments"]
    if (prompt is None) != (experiments is None):
        given = "experiments" if prompt is None else "prompt"
        if settings.layer(given) is Layer.FILE:
            # Half of the pair, which was not said for this command.
            prompt = experiments = None
    if (prompt is None) != (experiments is None):
        raise BadInput("--experiments and --prompt go together", hint="Give both, or neither.")
    if prompt is None or experiments is None:
        verdict = verify_file(results)
    else:
        first, last = rows(settings["range"], settings["limit"])
        runner = create_experiment_runner(
            system=settings["system"],
            params={name: value for name, (value, _) in settings.params().items()},
            json_schema=settings["json_schema"],
            repeat=settings["repeat"],
            first_row=first,
            last_row=last,
        )
        verdict = runner.verify_experiments(prompt, experiments, results, settings.files("context")[0])
    for line in format_verdict(verdict):
        typer.echo(line)
    if not verdict.whole:
        raise typer.Exit(NOT_WHOLE)


def _call(ctx: typer.Context, results: str, **given: Any) -> None:
    _verify(results, Settings(ctx, given))


def _optional(option: Option) -> Option:
    return replace(option, help=option.help.removesuffix(" [required]"))


verify = with_options(_call, _verify, (_optional(BY_NAME[name]) for name in _OPTIONS), _RESULTS)


def format_verdict(verdict: Verdict) -> list[str]:
    """What was looked at, then what is amiss."""
    lines = []
    for file in verdict.files:
        statuses = " · ".join(f"{number:,} {status}" for status, number in file.counts.items())
        lines.append(f"{file.path}: {count(file.rows, 'row')} ({statuses}), {count(file.size, 'byte')}")
    if verdict.whole:
        if verdict.experiments is None:
            lines.append("Whole. With -e and -p it is compared with what was asked, too.")
        else:
            lines.append(f"Whole: {count(verdict.experiments, 'experiment')}, each with exactly one row.")
        errors = sum(file.counts["error"] for file in verdict.files)
        if errors:
            lines.append(f"{count(errors, 'error row')} among them: --resume --retry-errors asks again.")
        return lines
    lines.append("Not whole:")
    for problem in verdict.problems:
        lines += [f"  {problem.what}", f"    → {problem.advice}"]
    return lines
