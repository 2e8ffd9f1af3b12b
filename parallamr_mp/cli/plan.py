"""`parallamr-mp plan`: what a run would do."""

from __future__ import annotations

import typer

from parallamr_mp.cli.invocation import Invocation, command
from parallamr_mp.estimate import ASSUMPTIONS
from parallamr_mp.preview import ModelCost, Preview
from parallamr_mp.prices import EXTRA
from parallamr_mp.text import count, usd


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
    lines += _cost_lines(preview)
    lines += [("note", notice) for notice in preview.notices]
    lines += [
        ("note", f"{writer} is writing this output now; the numbers change") for writer in preview.writers
    ]
    return [f"{name:<9} {text}".rstrip() for name, text in lines]


def _cost_lines(preview: Preview) -> list[tuple[str, str]]:
    """What it may cost, on which assumptions, and of which models nobody knows."""
    lines: list[str] = []
    priced = [cost for cost in preview.costs if cost.likely is not None]
    if priced:
        lows, likelies, highs = (
            [getattr(cost, name) for cost in priced] for name in ("low", "likely", "high")
        )
        high = None if None in highs else sum(highs)
        lines.append(_range(sum(lows), sum(likelies), high))
        if len(preview.costs) > 1:
            lines += [f"{_name(cost)}: {_range(cost.low, cost.likely, cost.high)}" for cost in priced]
        lines.append(ASSUMPTIONS)
        if None in highs:
            endless = ", ".join(_name(cost) for cost in priced if cost.high is None)
            lines.append(f"nothing limits the answers of {endless}; --param max_tokens=N does")
        if preview.max_cost is not None and len(priced) == len(preview.costs):
            lines.append(_verdict(preview.max_cost, sum(likelies), high))
    lines += [
        f"no price known for {_name(cost)}: {count(cost.rows, 'row')} {'is' if cost.rows == 1 else 'are'}"
        f" not in the estimate; --price {_name(cost)}=IN:OUT (USD a million tokens)"
        for cost in preview.costs
        if cost.likely is None
    ]
    if preview.max_cost is not None and len(priced) < len(preview.costs):
        lines.append(
            f"--max-cost {preview.max_cost:g}: a run is refused unless its servers tell these prices"
        )
    if preview.tableless:
        lines.append(f"a table of prices: {EXTRA}")
    return [("cost" if number == 0 else "", line) for number, line in enumerate(lines)]


def _name(cost: ModelCost) -> str:
    return f"{cost.provider}/{cost.model}"


def _range(low: float | None, likely: float | None, high: float | None) -> str:
    end = "no upper bound" if high is None else f"high {usd(high)}"
    return f"likely {usd(likely or 0)} USD (low {usd(low or 0)}, {end})"


def _verdict(max_cost: float, likely: float, high: float | None) -> str:
    if high is not None and high <= max_cost:
        return f"--max-cost {max_cost:g} is enough at the worst"
    if likely <= max_cost:
        return f"--max-cost {max_cost:g} is likely to be enough"
    return f"--max-cost {max_cost:g} is likely to end the run before its last row"
