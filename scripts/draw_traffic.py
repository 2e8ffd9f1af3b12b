"""Plays and draws the traffic of `tests/support/traffic.py`; see `scripts/simulate_traffic`."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.traffic import Mood, MoodyServer, Record, counted, drive, endpoint, lognormal

SECONDS = 600
MOODS = (
    (Mood(0, 64), "takes 64 at once"),
    (Mood(100, 16), "takes 16"),
    (Mood(190, 128), "takes 128"),
    (Mood(300, 0, down=True), "gone"),
    (Mood(340, 64), "takes 64"),
    (Mood(430, 64, rpm=900), "900 a minute"),
    (Mood(520, 64), "takes 64"),
)
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
"""Of Okabe and Ito: told apart by all eyes."""
SHOWN = 12
"""Failures a second that are drawn; more are told as a number."""


def spans() -> list[tuple[Mood, str, float, float]]:
    """Each mood, what people are told of it, its start and its end."""
    ends = [*(mood.since for mood, _ in MOODS[1:]), SECONDS]
    return [(mood, name, mood.since, end) for (mood, name), end in zip(MOODS, ends, strict=True)]


def summary(record: Record) -> list[dict[str, float | str]]:
    def within(times: list[float], start: float, end: float) -> int:
        return sum(start <= time < end for time in times)

    rows: list[dict[str, float | str]] = []
    for _, name, start, end in [*spans(), (None, "all", 0.0, float(SECONDS))]:
        sent, refused = within(record.sent, start, end), within(record.refused, start, end)
        rows.append(
            {
                "from": start,
                "mood": name,
                "limit": record.limit((start + end) / 2, end),
                "sent": sent,
                "answered": within(record.answered, start, end),
                "refused": refused,
                "failed": within(record.failed, start, end),
                "wasted_percent": round(100 * refused / max(1, sent), 2),
            }
        )
    return rows


def show(rows: list[dict[str, float | str]]) -> None:
    print(
        f"{'from':>5}  {'mood':<17}{'limit':>6}{'sent':>7}{'answered':>9}{'refused':>8}{'failed':>7}  wasted"
    )
    for row in rows:
        print(
            "{from:>4.0f}s  {mood:<17}{limit:>6}{sent:>7}{answered:>9}{refused:>8}{failed:>7}  "
            "{wasted_percent:.2f} %".format(**row)
        )


def draw(record: Record, path: Path) -> None:
    # Only for the picture: the table needs none of it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (rate, refusals, room) = plt.subplots(
        3, 1, sharex=True, figsize=(9, 5.6), height_ratios=(3, 1.6, 3.4), layout="constrained"
    )
    seconds = range(SECONDS)
    answered = counted(record.answered, SECONDS)
    rate.fill_between(seconds, answered, step="post", color=BLUE, alpha=0.85, linewidth=0)
    rate.set_ylabel("answers\na second")
    for times, color, label in (
        (record.refused, ORANGE, "429"),
        (record.failed, GREY, "no connection, or a lost one"),
    ):
        counts = counted(times, SECONDS)
        refusals.bar(seconds, counts, 1.6, color=color, label=label)
        for second, count in enumerate(counts):
            if count > SHOWN:
                refusals.text(second + 4, SHOWN, count, color=color, va="top", fontsize=8)
    refusals.set_ylabel("failures\na second")
    refusals.set_ylim(0, SHOWN)
    refusals.legend(loc="upper right", ncols=2, frameon=False)
    when, limits, flying = zip(*_thinned(record), strict=True)
    for index, (mood, _, start, end) in enumerate(spans()):
        label = "what the server takes" if not index else None
        room.plot([start, end], [mood.at_once] * 2, color=GREY, linestyle=(0, (4, 2)), label=label)
    room.fill_between(when, flying, step="post", color=GREEN, alpha=0.4, linewidth=0, label="in flight")
    room.step(when, limits, where="post", color=ORANGE, linewidth=1.4, label="limit found out")
    room.set_ylabel("at once")
    room.set_ylim(0, 160)
    room.legend(loc="upper right", frameon=False, ncols=1)
    room.set_xlabel("seconds")
    for axes in (rate, refusals, room):
        axes.set_xlim(0, SECONDS)
        for _, _, start, _ in spans()[1:]:
            axes.axvline(start, color=GREY, linewidth=0.5, alpha=0.6)
    for _, name, start, end in spans():
        rate.text((start + end) / 2, 1.02, name, ha="center", transform=rate.get_xaxis_transform())
    wasted = 100 * record.waste
    figure.suptitle(
        f"{len(record.answered):,} answers of a moody server: {len(record.refused)} requests refused "
        f"({wasted:.1f} %), {record.lost or 'no'} row lost",
        fontsize=10,
    )
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _thinned(record: Record, step: float = 0.5) -> list[tuple[float, int, int]]:
    """The last of each half second: more cannot be seen."""
    kept: dict[int, tuple[float, int, int]] = {}
    for note in record.limits:
        kept[int(note[0] / step)] = note
    return list(kept.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate_traffic")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    server = MoodyServer([mood for mood, _ in MOODS], lognormal(1.0, 0.5), chance)
    record = drive(server, endpoint(chance), seconds=SECONDS)
    rows = summary(record)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        draw(record, arguments.out)
    return 1 if record.lost else 0


if __name__ == "__main__":
    sys.exit(main())
