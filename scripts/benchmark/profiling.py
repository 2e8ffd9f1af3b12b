"""The command of `scripts/profile`: one sweep, watched by py-spy, cProfile or strace, and what that found."""

from __future__ import annotations

import argparse
import contextlib
import io
import pstats
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.check import PROMPT, faults_of, write_table
from benchmark.contestants import CONTESTANTS, Contestant, NoEnvironmentError, python_of
from benchmark.measure import BenchServer, Work, run_client
from benchmark.scenarios import Size

_SPY = Contestant("py-spy", "py-spy", ("py-spy>=0.4",))
_MAINS = {"worker": "engine/worker.py", "writer": "engine/writer.py"}
"""What tells the kinds of processes apart: code that no other one runs."""
_PROCESS = re.compile(r'process (\d+):"[^"]*";?')
_LINE = re.compile(r":\d+\)$")


@dataclass(slots=True)
class Samples:
    """How often a function was seen in one kind of process: on top of a stack, and anywhere in one."""

    total: int = 0
    own: Counter[str] = field(default_factory=Counter)
    within: Counter[str] = field(default_factory=Counter)


def by_kind(folded: Iterable[str]) -> dict[str, Samples]:
    """Stacks as py-spy folds them, by kind of process: `process 1:"…";process 2:"…";f (a.py:1);g (b.py:2) 7`.

    Lines of one function count together. The process whose stacks show no
    worker's or writer's code is the main one.
    """
    stacks = [_stack(line) for line in folded if line.strip()]
    kinds: dict[str, str] = {}
    for process, frames, _ in stacks:
        for kind, path in _MAINS.items():
            # Imported it is by others, too.
            if any(path in frame and not frame.startswith("<module>") for frame in frames):
                kinds[process] = kind
    found: dict[str, Samples] = {}
    for process, frames, count in stacks:
        samples = found.setdefault(kinds.get(process, "main process"), Samples())
        samples.total += count
        if frames:
            samples.own[frames[-1]] += count
        for frame in set(frames):
            samples.within[frame] += count
    return found


def _stack(line: str) -> tuple[str, list[str], int]:
    """Process, functions with their files and without lines, count."""
    text, _, count = line.rstrip().rpartition(" ")
    process = ""
    while found := _PROCESS.match(text):  # its parents first; command lines may hold what divides frames
        process, text = found[1], text[found.end() :]
    frames = [frame for frame in text.split(";") if frame and not frame.startswith("thread (")]
    return process, [_LINE.sub(")", frame) for frame in frames], int(count)


def shown(samples: dict[str, Samples], top: int) -> str:
    """The functions that were seen most, of each kind of process."""
    lines = []
    everything = sum(each.total for each in samples.values()) or 1
    for kind, each in sorted(samples.items(), key=lambda item: -item[1].total):
        lines += [
            f"{kind}: {each.total} samples, {100 * each.total / everything:.0f} % of all",
            f"{'own':>8}{'with calls':>12}",
        ]
        lines += [
            f"{100 * count / each.total:7.1f}%{100 * each.within[name] / each.total:11.1f}%  {name}"
            for name, count in each.own.most_common(top)
        ]
        lines.append("")
    return "\n".join(lines)


def _spy(command: list[str], place: Path, options: argparse.Namespace) -> tuple[list[str], Callable[[], str]]:
    spy = python_of(_SPY, install=True).parent / "py-spy"
    folded = place / "stacks"
    held = [] if options.outside else ["--gil"]
    watch = [str(spy), "record", "--subprocesses", "--format", "raw", "--rate", str(options.rate), *held]
    return (
        [*watch, "--output", str(folded), "--", *command],
        lambda: shown(by_kind(folded.read_text(encoding="utf-8").splitlines()), options.top),
    )


def _calls(
    command: list[str], place: Path, options: argparse.Namespace
) -> tuple[list[str], Callable[[], str]]:
    dump = place / "calls"

    def told() -> str:
        text = io.StringIO()
        pstats.Stats(str(dump), stream=text).sort_stats("tottime").print_stats(options.top)
        return text.getvalue()

    return [sys.executable, "-m", "cProfile", "-o", str(dump), "-m", "parallamr_mp", *command[1:]], told


def _syscalls(
    command: list[str], place: Path, options: argparse.Namespace
) -> tuple[list[str], Callable[[], str]]:
    if shutil.which("strace") is None:
        raise NoEnvironmentError("strace is not installed")
    counts = place / "syscalls"

    def told() -> str:
        lines = counts.read_text(encoding="utf-8").splitlines()
        return "\n".join([*lines[: 2 + options.top], *lines[-2:]])

    return ["strace", "-f", "-c", "-o", str(counts), *command], told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/profile",
        description="Tells where the time of a run goes. Whoever watches slows it down.",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--calls", dest="watch", action="store_const", const=_calls, help="cProfile, main process"
    )
    way.add_argument("--syscalls", dest="watch", action="store_const", const=_syscalls, help="strace -f -c")
    parser.set_defaults(watch=_spy)
    parser.add_argument("--mock", action="store_true", help="without a server: the mock provider")
    parser.add_argument(
        "--latency", type=float, default=0.05, metavar="S", help="of the server (default: 0.05)"
    )
    parser.add_argument("--rows", type=int, default=20_000, metavar="N", help="(default: 20000)")
    parser.add_argument("--procs", type=int, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--threads", type=int, default=128, metavar="N", help="(default: 128)")
    parser.add_argument("--top", type=int, default=25, metavar="N", help="functions shown (default: 25)")
    parser.add_argument("--rate", type=int, default=200, metavar="N", help="py-spy's samples a second")
    parser.add_argument(
        "--outside",
        action="store_true",
        help="py-spy: threads without the interpreter lock, too; those that wait look busy at times",
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    ours = CONTESTANTS[0]
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        place = Path(folder)
        (place / "prompt.txt").write_text(PROMPT, encoding="utf-8")
        write_table(place / "experiments.csv", Size(options.rows), mock=options.mock)
        with contextlib.nullcontext() if options.mock else BenchServer(options.latency) as server:
            work = Work(
                experiments=place / "experiments.csv",
                prompt=place / "prompt.txt",
                output=place / "results.csv",
                procs=options.procs,
                threads=options.threads,
                rows=options.rows,
                url=server.url if server else None,
            )
            try:
                command, told = options.watch(ours.arguments(Path(sys.executable), work), place, options)
            except NoEnvironmentError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            measures = run_client(command, work, place, server, 1.0)
        faults = faults_of(work.output, options.rows, mock=options.mock)
        if measures.code or faults:
            print(f"error: {measures.last_words}; {'; '.join(faults)}", file=sys.stderr)
            return 1
        print(f"{options.rows:,} rows in {measures.wall_s:.1f} s, {measures.cpu_s:.1f} s of processor\n")
        print(told())
    return 0


if __name__ == "__main__":
    sys.exit(main())
