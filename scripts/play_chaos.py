"""Plays scenarios of `tests/support/chaos.py`; see `scripts/chaos`, which makes the environment for it."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.arena import Arena
from support.chaos import MOMENTS, Scenario, play, scenarios
from support.server import FakeServer

MAX_SEED = 10**9


def drawn(seed: int) -> tuple[Scenario, dict[str, int]]:
    """The scenario of this seed, and the size of its job."""
    chance = random.Random(seed)
    # Moments first, or those where few can be struck would hardly come.
    when = chance.choice(list(MOMENTS))
    scenario = chance.choice([scenario for scenario in scenarios() if scenario.when == when])
    procs, threads = chance.randint(1, 3), chance.randint(1, 6)
    return scenario, {"procs": procs, "threads": threads, "rows": 14 + 3 * procs * threads}


def played(scenario: Scenario, size: dict[str, int], *, keep: bool) -> str:
    """Why the promise is broken; empty where it held."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    broken = ""
    with FakeServer() as server:
        arena = Arena(folder, server, **size)
        try:
            play(arena, scenario)
        except Exception:
            broken = traceback.format_exc()
            for number, run in enumerate(arena.runs):
                (folder / f"run-{number}.txt").write_text(f"{run.process.args}\n{run.said}\n")
        finally:
            arena.close()
    if broken or keep:
        print(f"  kept: {folder}")
    else:
        shutil.rmtree(folder)
    return broken


def tell(tried: Counter[Scenario]) -> None:
    """A table of who, when and how often by what."""
    hows = sorted({scenario.how for scenario in tried})
    pairs = sorted({(scenario.when, scenario.who) for scenario in tried})
    print(f"\n{'when':<15}{'who':<9}" + "".join(f"{how:>9}" for how in hows))
    for when, who in pairs:
        counts = [tried[Scenario(who, when, how)] for how in hows]
        print(f"{when:<15}{who:<9}" + "".join(f"{count or '':>9}" for count in counts))
    possible = {replace(scenario, again=False) for scenario in scenarios()}
    print(f"{tried.total()} scenarios, {len(tried)} of {len(possible)} kinds")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Strikes real runs, and checks that every row is there once and nothing is left.",
        epilog="A line for each: held or BROKEN; who was struck, when and how (processes x threads).",
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="play scenarios for so long")
    parser.add_argument("--count", type=int, metavar="C", help="play so many")
    parser.add_argument("--all", action="store_true", help="play each once, whatever comes of the others")
    seed = random.SystemRandom().randrange(MAX_SEED)
    told = "of the first; the next ones count up from it [default: a random one]"
    parser.add_argument("--seed", type=int, metavar="N", default=seed, help=told)
    parser.add_argument("--keep", action="store_true", help="keep the folders of good ones, too")
    options = parser.parse_args()
    if sum(map(bool, (options.minutes, options.count, options.all))) != 1:
        parser.error("give one of --minutes, --count and --all")
    started = time.monotonic()
    tried: Counter[Scenario] = Counter()
    failed = 0
    everything = list(scenarios())
    seed = options.seed
    while True:
        number = tried.total()
        if options.all:
            if number == len(everything):
                break
            scenario, size, name = everything[number], {}, f"{number + 1}/{len(everything)}"
        else:
            over = time.monotonic() - started >= 60 * options.minutes if options.minutes else False
            if over or number == options.count:
                break
            (scenario, size), name = drawn(seed), f"seed {seed}"
        begun = time.monotonic()
        broken = played(scenario, size, keep=options.keep)
        shape = f" ({size['procs']} x {size['threads']})" if size else ""
        verdict = "BROKEN" if broken else "held"
        print(f"{verdict:<7}{name}: {scenario}{shape}, {time.monotonic() - begun:.1f} s", flush=True)
        tried[replace(scenario, again=False)] += 1
        if broken:
            failed += 1
            print(broken, flush=True)
            if not options.all:
                print(f"To play it again: scripts/chaos --count 1 --seed {seed} --keep")
                break
        seed += 1
    tell(tried)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
