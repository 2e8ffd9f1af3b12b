"""`parallamr-mp verify`: whether results are whole."""

from __future__ import annotations

from typing import Annotated

import typer

from parallamr_mp.cli.options import (
    CONTEXT,
    EXPERIMENTS,
    LIMIT,
    PARAM,
    PROMPT,
    RANGE,
    REPEAT,
    SYSTEM,
    context_files,
    params,
    rows,
)
from parallamr_mp.errors import BadInput
from parallamr_mp.runner import create_experiment_runner
from parallamr_mp.text import count
from parallamr_mp.verify import Verdict, verify_file

NOT_WHOLE = 3


def verify(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Results file; with -e and -p it may hold {{column}}."),
    ],
    prompt: Annotated[str | None, PROMPT] = None,
    experiments: Annotated[str | None, EXPERIMENTS] = None,
    context: Annotated[list[str] | None, CONTEXT] = None,
    system: Annotated[str | None, SYSTEM] = None,
    param: Annotated[list[str] | None, PARAM] = None,
    repeat: Annotated[int, REPEAT] = 1,
    limit: Annotated[int | None, LIMIT] = None,
    range_: Annotated[str | None, RANGE] = None,
) -> None:
    """Prove that a results file is whole, or tell what is amiss and what to do.

    parallamr-mp verify results.csv

    parallamr-mp verify results.csv -p prompt.txt -e experiments.csv

    By itself: every record parses to the end, none is there twice, all agree
    with the manifest. With the table and the prompt it was made from: each
    experiment has exactly one row, made from just that. An error row is a row,
    too. Exit code 0: whole; 3: not.
    """
    if (prompt is None) != (experiments is None):
        raise BadInput("--experiments and --prompt go together", hint="Give both, or neither.")
    if prompt is None or experiments is None:
        verdict = verify_file(results)
    else:
        first, last = rows(range_, limit)
        runner = create_experiment_runner(
            system=system, params=params(param), repeat=repeat, first_row=first, last_row=last
        )
        verdict = runner.verify_experiments(prompt, experiments, results, context_files(context))
    for line in format_verdict(verdict):
        typer.echo(line)
    if not verdict.whole:
        raise typer.Exit(NOT_WHOLE)


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
