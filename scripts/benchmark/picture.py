"""Summaries as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmark.report import Summary
from benchmark.scenarios import Scenario

OUR_COLOUR, THEIR_COLOUR = "#D55E00", "#999999"


def draw(scenarios: Sequence[Scenario], lines: Sequence[Summary], machine: str, path: Path) -> None:
    """Requests a second and processor time a request of everyone, a row of two pictures for each scenario."""
    # Only for the picture: the tables need none of it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    shown = [
        (scenario, [line for line in lines if line.scenario == scenario.name and not line.faults])
        for scenario in scenarios
        if "rate_ratio" in scenario.columns
    ]
    shown = [(scenario, found) for scenario, found in shown if found]
    if not shown:
        raise ValueError("nothing to draw: none of the scenarios has requests a second to compare")
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    heights = [1 + len(found) for _, found in shown]
    figure, grid = plt.subplots(
        len(shown),
        2,
        figsize=(9, 0.24 * sum(heights) + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for (left, right), (scenario, found) in zip(grid, shown, strict=True):
        colours = [OUR_COLOUR if line.client.startswith("parallamr-mp") else THEIR_COLOUR for line in found]
        places, rates, costs = (
            range(len(found)),
            [line.rate for line in found],
            [line.cpu_us for line in found],
        )
        left.bar_label(left.barh(places, rates, color=colours), [f" {rate:,.0f}" for rate in rates])
        left.set_yticks(places, [line.label.strip("*") for line in found])
        left.margins(x=0.15)
        # Points: the length of a bar says nothing where there is no zero.
        right.scatter(costs, places, color=colours)
        for place, cost in zip(places, costs, strict=True):
            right.annotate(f"{cost:,.0f}", (cost, place), (7, 0), textcoords="offset points", va="center")
        right.set(xscale="log", xlim=(50, 50_000), yticks=places, yticklabels=[""] * len(found))
        right.grid(axis="x", color="#dddddd")
        right.set_axisbelow(True)
        for axes in (left, right):
            axes.set_ylim(len(found) - 0.4, -0.6)
        left.set_title(scenario.title, loc="left", fontweight="bold")
    left.set_xlabel("requests a second")
    right.set_xlabel("µs of processor a request, in powers of ten")
    figure.supxlabel(textwrap.fill(machine, 170), fontsize=6, color="#555555")
    figure.savefig(path, dpi=110)
    plt.close(figure)
