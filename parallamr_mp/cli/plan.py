"""`parallamr-mp plan`: what a run would do."""

from __future__ import annotations

import typer

from parallamr_mp.cli.invocation import Invocation, command
from parallamr_mp.preview import Preview
from parallamr_mp.text import count


@command
def plan(given: Invocation) -> None:
    """Tell what `run` with the same options would do, and send nothing.

    parallamr-mp plan -p prompt.txt -e experiments.csv -o results.csv

    An output that exists is looked at as --resume would, said or not.
    """
    for line in format_preview(given.runner.preview_experiments(*given.files)):
        typer.echo(line)


def format_preview(preview: Preview) -> list[str]:
    """Aligned lines: what there is, what becomes of it, what would be sent."""
    lines = [("table", count(preview.experiments, "experiment"))]
    place = preview.output
    if preview.files > 1:
        place += f": {count(preview.files, 'file')}"
    if preview.overwrites:
        place += f" ({preview.existing} of them with results, to be replaced)"
    elif preview.files:
        place += " (exists)" if preview.files == preview.existing == 1 else ""
        place += " (new)" if not preview.existing else ""
    lines.append(("output", place))
    lines.append(("new", f"{preview.new:,}"))
    if preview.existing or preview.rescued:
        errors = "error rows; --retry-errors asks them again"
        lines.append(
            ("done", f"{preview.done:,}" + (f" ({preview.done_errors} {errors})" * (preview.done_errors > 0)))
        )
        changed = "asked again" if preview.redone else "the old results stay; --redo-changed asks them again"
        lines.append(("changed", f"{preview.changed:,}" + f" ({changed})" * (preview.changed > 0)))
        lines.append(("removed", f"{preview.removed:,}" + " (they stay in the file)" * (preview.removed > 0)))
        lines.append(("to retry", f"{preview.retried:,}"))
    if preview.rescued:
        lines.append(
            (
                "rescued",
                f"{count(preview.rescued, 'answer')} saved aside by an earlier run, taken in by --resume",
            )
        )
    if preview.torn:
        lines.append(("torn", f"{preview.torn} bytes of an unfinished record, cut off by --resume"))
    if preview.unreadable:
        lines.append(("errors", f"{count(preview.unreadable, 'row')} with an input file that cannot be read"))
    asked = sum(preview.requests.values())
    lines.append(("to send", count(asked, "request") if asked else "nothing"))
    lines += [
        ("", f"{number:,} {provider}/{model}") for (provider, model), number in preview.requests.items()
    ]
    lines += [("note", notice) for notice in preview.notices]
    lines += [
        ("note", f"{writer} is writing this output now; the numbers change") for writer in preview.writers
    ]
    return [f"{name:<9} {text}".rstrip() for name, text in lines]
