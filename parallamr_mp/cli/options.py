"""The options of `run`, `plan` and `verify`: each said once, and what they mean together."""

from __future__ import annotations

import enum
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from parallamr_mp.config import DEFAULT_THREADS
from parallamr_mp.errors import BadInput
from parallamr_mp.experiments import parse_param
from parallamr_mp.runner import ExperimentRunner, create_experiment_runner


class Display(enum.StrEnum):
    """How progress is shown on standard error."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    NONE = "none"


def _option(*names: str, help: str, **more: Any) -> Any:  # noqa: A002  - as typer calls it
    """A Typer option that can also be set as `PARALLAMR_NAME` in the environment."""
    long = next(name for name in names if name.startswith("--"))
    mirror = "PARALLAMR_" + long.removeprefix("--").upper().replace("-", "_")
    settings: dict[str, Any] = {"envvar": mirror, "show_envvar": False, **more}
    return typer.Option(*names, help=help, **settings)


def context_files(given: list[str] | None) -> list[str]:
    """The values of `--context`, or of its mirror."""
    return _lines(given, "PARALLAMR_CONTEXT")


def params(given: list[str] | None) -> dict[str, Any]:
    """The values of `--param`, or of its mirror, by name. Raises `BadInput`."""
    return dict(_param(text) for text in _lines(given, "PARALLAMR_PARAM"))


def _lines(given: list[str] | None, mirror: str) -> list[str]:
    """A repeatable option's values, or its mirror's, one a line: Typer would split those at every blank."""
    return given or [line for line in os.environ.get(mirror, "").splitlines() if line.strip()]


PROMPT = _option(
    "--prompt",
    "-p",
    metavar="FILE|-",
    help="Prompt file; - reads standard input. May hold {{column}}.",
)
EXPERIMENTS = _option(
    "--experiments",
    "-e",
    metavar="FILE|-",
    help="Table of experiments: .csv, .jsonl, or - for standard input.",
)
CONTEXT = _option(
    "--context",
    "-c",
    envvar=None,  # see _lines
    metavar="FILE",
    help="Context file, appended to the prompt. Repeatable. May hold {{column}}.",
)
SYSTEM = _option(
    "--system",
    metavar="FILE",
    help="System message file. May hold {{column}}.",
)
LIMIT = _option("--limit", "-n", metavar="N", help="Only the first N rows.")
RANGE = _option(
    "--range",
    metavar="A:B",
    help="Only rows A to B, both included; the first row is 1.",
)
REPEAT = _option("--repeat", metavar="N", help="Ask each row N times.")
PARAM = _option(
    "--param",
    envvar=None,  # see _lines
    metavar="NAME=JSON",
    help="Body parameter of every request, as temperature=0.2. Repeatable. Columns param:NAME win.",
)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command line of `run` or `plan`, understood."""

    runner: ExperimentRunner
    prompt: str
    experiments: str
    output: str | None
    contexts: list[str]
    display: Display
    quiet: bool
    verbose: bool
    validate_only: bool

    @property
    def files(self) -> tuple[str, str, str | None, list[str]]:
        """In the order in which the runner takes them."""
        return self.prompt, self.experiments, self.output, self.contexts


def command(action: Callable[[Invocation], None]) -> Callable[..., None]:
    """A Typer command with all the options of `understand` that does `action`, and bears its name."""

    def call(**given: Any) -> None:
        action(understand(**given))

    call.__name__, call.__doc__ = action.__name__, action.__doc__
    # Evaluated here: as text they could only be read with this module's names.
    call.__signature__ = inspect.signature(understand, eval_str=True)  # type: ignore[attr-defined]
    call.__annotations__ = inspect.get_annotations(understand, eval_str=True)
    return call


def understand(
    ctx: typer.Context,
    prompt: Annotated[str, PROMPT],
    experiments: Annotated[str, EXPERIMENTS],
    output: Annotated[
        str | None,
        _option(
            "--output",
            "-o",
            metavar="FILE",
            help="Results file; without it, CSV on standard output. May hold {{column}}.",
        ),
    ] = None,
    context: Annotated[list[str] | None, CONTEXT] = None,
    system: Annotated[str | None, SYSTEM] = None,
    procs: Annotated[
        int | None,
        _option(
            "--procs",
            metavar="N",
            help="Worker processes. 0: threads of this process alone. [default: usable CPUs, at most 4]",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        _option(
            "--threads",
            metavar="N",
            help=f"Threads (requests at once) of each process. [default: {DEFAULT_THREADS}]",
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        _option(
            "--parallel",
            "-j",
            metavar="N",
            help="N requests at once, split over processes and threads for you.",
        ),
    ] = None,
    sequential: Annotated[
        bool,
        _option("--sequential", help="One request at a time, in the order of the table."),
    ] = False,
    max_concurrent: Annotated[
        int | None,
        _option(
            "--max-concurrent",
            metavar="N",
            help="Most requests at once, over all processes.",
        ),
    ] = None,
    openai_concurrency: Annotated[
        int | None,
        _option(
            "--openai-concurrency",
            metavar="N",
            help="Most requests at once to openai.",
        ),
    ] = None,
    openrouter_concurrency: Annotated[
        int | None,
        _option(
            "--openrouter-concurrency",
            metavar="N",
            help="Most requests at once to openrouter.",
        ),
    ] = None,
    ollama_concurrency: Annotated[
        int | None,
        _option(
            "--ollama-concurrency",
            metavar="N",
            help="Most requests at once to ollama. [default: 1]",
        ),
    ] = None,
    mock_concurrency: Annotated[
        int | None,
        _option("--mock-concurrency", metavar="N", help="Most requests at once to mock."),
    ] = None,
    timeout: Annotated[
        float,
        _option(
            "--timeout",
            metavar="SECONDS",
            help="Total time for one request, from sending to the last byte.",
        ),
    ] = 300.0,
    max_retries: Annotated[
        int,
        _option(
            "--max-retries",
            metavar="N",
            help="Further attempts after connection errors, 408, 409, 429 and 5xx.",
        ),
    ] = 5,
    retry_unknown: Annotated[
        bool | None,
        _option(
            "--retry-unknown/--no-retry-unknown",
            envvar="PARALLAMR_RETRY_UNKNOWN",
            help="Ask again after a time-out or a broken answer, which may pay twice."
            " [default: only ollama and mock, which are free]",
        ),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        _option(
            "--drain-timeout",
            metavar="SECONDS",
            help="How long requests in flight may go on after a signal."
            " [default: --timeout; in a Slurm job at most 25]",
        ),
    ] = None,
    orphan_grace: Annotated[
        float,
        _option(
            "--orphan-grace",
            metavar="SECONDS",
            help="How long workers may finish their requests when the main process was killed.",
        ),
    ] = 30.0,
    limit: Annotated[int | None, LIMIT] = None,
    range_: Annotated[str | None, RANGE] = None,
    repeat: Annotated[int, REPEAT] = 1,
    param: Annotated[list[str] | None, PARAM] = None,
    resume: Annotated[
        bool,
        _option(
            "--resume",
            help="Go on with an existing output: only what is missing is asked.",
        ),
    ] = False,
    retry_errors: Annotated[
        bool, _option("--retry-errors", help="With --resume: ask error rows again.")
    ] = False,
    redo_changed: Annotated[
        bool,
        _option("--redo-changed", help="With --resume: ask rows again that were changed since their answer."),
    ] = False,
    overwrite: Annotated[bool, _option("--overwrite", help="Replace an existing output.")] = False,
    flatten: Annotated[
        bool,
        _option(
            "--flatten",
            help="Give the keys of JSON in the answers columns of their own.",
        ),
    ] = False,
    excel_safe: Annotated[
        bool,
        _option(
            "--excel-safe",
            help="Put an apostrophe before cells that a spreadsheet would run as formulas.",
        ),
    ] = False,
    display: Annotated[
        Display,
        _option(
            "--display",
            help="Progress: a bar, plain lines, none; auto: a bar on a terminal, else lines.",
        ),
    ] = Display.AUTO,
    quiet: Annotated[
        bool,
        _option("--quiet", "-q", help="No progress, no notices, no summary: only errors."),
    ] = False,
    verbose: Annotated[bool, _option("--verbose", "-v", help="A line for each row.")] = False,
    validate_only: Annotated[
        bool, _option("--validate-only", help="Check everything, send nothing.")
    ] = False,
) -> Invocation:
    """Checks the options against each other. Raises `BadInput`."""
    contexts = context_files(context)
    if sequential:
        for name in ("parallel", "procs", "threads"):
            if _typed(ctx, name):
                raise BadInput(f"--sequential and --{name} exclude each other")
        parallel, procs, threads, max_concurrent = None, 1, 1, 1
    elif parallel is not None and threads is not None:
        # What was typed wins over what the environment says.
        if _typed(ctx, "parallel") == _typed(ctx, "threads"):
            raise BadInput(
                "--parallel and --threads exclude each other", hint="Give -j alone, or --procs and --threads."
            )
        parallel, threads = (parallel, None) if _typed(ctx, "parallel") else (None, threads)
    limits = {
        "openai": openai_concurrency,
        "openrouter": openrouter_concurrency,
        "ollama": ollama_concurrency,
        "mock": mock_concurrency,
    }
    first, last = rows(range_, limit)
    runner = create_experiment_runner(
        timeout=timeout,
        parallel=parallel,
        procs=procs,
        threads=threads,
        limits={name: value for name, value in limits.items() if value is not None},
        total_limit=max_concurrent,
        system=system,
        max_retries=max_retries,
        retry_unknown=retry_unknown,
        drain_timeout=drain_timeout,
        orphan_grace=orphan_grace,
        first_row=first,
        last_row=last,
        repeat=repeat,
        params=params(param),
        resume=resume,
        retry_errors=retry_errors,
        redo_changed=redo_changed,
        overwrite=overwrite,
        flatten=flatten,
        excel_safe=excel_safe,
        command=("parallamr-mp", *sys.argv[1:]),
    )
    return Invocation(runner, prompt, experiments, output, contexts, display, quiet, verbose, validate_only)


def _typed(ctx: typer.Context, name: str) -> bool:
    """Whether the option stands on the command line, rather than in the environment."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def rows(range_: str | None, limit: int | None) -> tuple[int, int | None]:
    """First and last row, from `--range A:B` and `--limit N`."""
    if limit is not None and limit < 1:
        raise BadInput(f"--limit {limit}: must be at least 1")
    first, last = 1, None
    if range_ is not None:
        match = re.fullmatch(r"(\d*):(\d*)", range_)
        if match is None:
            raise BadInput(f"--range {range_}: expected A:B, as in 1:100, 101: or :50")
        first = int(match[1] or 1)
        last = int(match[2]) if match[2] else None
        if first < 1 or (last is not None and last < first):
            raise BadInput(
                f"--range {range_}: rows are numbered from 1, and the last cannot come before the first"
            )
    if limit is not None:
        last = min(first + limit - 1, last) if last is not None else first + limit - 1
    return first, last


def _param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"--param {text}: expected NAME=JSON, as in temperature=0.2")
    try:
        return name.strip(), parse_param(value.strip())
    except ValueError as error:
        raise BadInput(f"--param {text}: the value is not JSON: {error}") from None
