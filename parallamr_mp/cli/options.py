"""The options that `run`, `plan` and `verify` share: each said once, in the order in which help shows them.

A value comes from the command line, else from its mirror `PARALLAMR_NAME` in
the environment, else from `parallamr.toml`, else from the default.
`cli/settings.py` puts these together.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from parallamr_mp.config import DEFAULT_MAX_WAIT, DEFAULT_THREADS, DEFAULT_TIMEOUT


class Display(enum.StrEnum):
    """How progress is shown on standard error."""

    AUTO = "auto"
    BAR = "bar"
    REALTIME = "realtime"
    PLAIN = "plain"
    NONE = "none"


class Kind(enum.Enum):
    """What a value is, and so what a mirror or a file may say."""

    TEXT = enum.auto()
    WHOLE = enum.auto()
    NUMBER = enum.auto()
    SWITCH = enum.auto()
    TIME = enum.auto()
    """Seconds; as text on the command line, see `values.duration`."""
    ERRORS = enum.auto()
    """A number or a share; as text, see `values.errors_allowed`."""
    DISPLAY = enum.auto()
    FILES = enum.auto()
    """Repeatable; those of the strongest source count."""
    PARAMS = enum.auto()
    """Repeatable NAME=JSON; merged name by name."""
    COUNTS = enum.auto()
    """Repeatable SCOPE=N; merged scope by scope. As the next two."""
    RATES = enum.auto()
    PRICES = enum.auto()
    ENDPOINTS = enum.auto()
    """Repeatable lines; merged provider by provider."""


_TYPES: dict[Kind, Any] = {
    Kind.WHOLE: int | None,
    Kind.NUMBER: float | None,
    Kind.SWITCH: bool | None,
    Kind.DISPLAY: Display,
}
REPEATABLE = {Kind.FILES, Kind.PARAMS, Kind.COUNTS, Kind.RATES, Kind.PRICES, Kind.ENDPOINTS}


MIRRORS = "PARALLAMR_"
"""How the variables begin that options can be set by."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `names` are its forms, the long one first."""

    names: str
    kind: Kind
    help: str
    metavar: str | None = None
    default: Any = None

    @property
    def flag(self) -> str:
        """`--max-wait`."""
        return self.names.split()[0].partition("/")[0]

    @property
    def key(self) -> str:
        """`max-wait`."""
        return self.flag.removeprefix("--")

    @property
    def name(self) -> str:
        """`max_wait`: the parameter's name."""
        return self.key.replace("-", "_")

    @property
    def mirror(self) -> str:
        """`PARALLAMR_MAX_WAIT`."""
        return f"{MIRRORS}{self.name.upper()}"

    def annotation(self) -> Any:
        """The type of the parameter, as Typer reads it."""
        repeatable = self.kind in REPEATABLE
        type_ = list[str] | None if repeatable else _TYPES.get(self.kind, str | None)
        if self.default is False:
            type_ = bool
        # Typer would split a repeatable option's mirror at every blank: see `settings.Settings`.
        mirror = None if repeatable else self.mirror
        info = typer.Option(
            *self.names.split(), help=self.help, metavar=self.metavar, envvar=mirror, show_envvar=False
        )
        return Annotated[type_, info]


ALIASES = {f"{provider}_concurrency": provider for provider in ("openai", "openrouter", "ollama", "mock")}
"""Options that say what `--concurrency` can say, too: the provider each is about."""

OPTIONS: tuple[Option, ...] = (
    # What is asked.
    Option(
        "--prompt -p",
        Kind.TEXT,
        "Prompt file; - reads standard input. May hold {{column}}. [required]",
        "FILE|-",
    ),
    Option(
        "--experiments -e",
        Kind.TEXT,
        "Table of experiments: .csv, .jsonl, or - for standard input. [required]",
        "FILE|-",
    ),
    Option(
        "--output -o",
        Kind.TEXT,
        "Results file; without it, CSV on standard output. May hold {{column}}.",
        "FILE",
    ),
    Option(
        "--context -c",
        Kind.FILES,
        "Context file, appended to the prompt. Repeatable. May hold {{column}}.",
        "FILE",
    ),
    Option("--system", Kind.TEXT, "System message file. May hold {{column}}.", "FILE"),
    Option("--limit -n", Kind.WHOLE, "Only the first N rows.", "N"),
    Option("--range", Kind.TEXT, "Only rows A to B, both included; the first row is 1.", "A:B"),
    Option("--repeat", Kind.WHOLE, "Ask each row N times.", "N", default=1),
    Option(
        "--param",
        Kind.PARAMS,
        "Body parameter of every request, as temperature=0.2. Repeatable. Columns param:NAME win.",
        "NAME=JSON",
    ),
    Option(
        "--json-schema",
        Kind.TEXT,
        "JSON schema that answers are asked for, and checked against.",
        "FILE",
    ),
    Option(
        "--retry-truncated",
        Kind.NUMBER,
        "Ask answers that were cut by length again, with a limit FACTOR times as large.",
        "FACTOR",
    ),
    # An output that exists.
    Option(
        "--resume",
        Kind.SWITCH,
        "Go on with an existing output: only what is missing is asked.",
        default=False,
    ),
    Option("--retry-errors", Kind.SWITCH, "With --resume: ask error rows again.", default=False),
    Option(
        "--redo-changed",
        Kind.SWITCH,
        "With --resume: ask rows again that were changed since their answer.",
        default=False,
    ),
    Option("--overwrite", Kind.SWITCH, "Replace an existing output.", default=False),
    Option(
        "--flatten",
        Kind.SWITCH,
        "Give the keys of JSON in the answers columns of their own.",
        default=False,
    ),
    Option(
        "--excel-safe",
        Kind.SWITCH,
        "Put an apostrophe before cells that a spreadsheet would run as formulas.",
        default=False,
    ),
    # How many at once.
    Option(
        "--procs",
        Kind.WHOLE,
        "Worker processes. 0: threads of this process alone. [default: usable CPUs, at most 4]",
        "N",
    ),
    Option(
        "--threads",
        Kind.WHOLE,
        f"Threads (requests at once) of each process. [default: {DEFAULT_THREADS}]",
        "N",
    ),
    Option(
        "--parallel -j",
        Kind.WHOLE,
        "N requests at once, split over processes and threads for you.",
        "N",
    ),
    Option(
        "--sequential",
        Kind.SWITCH,
        "One request at a time, in the order of the table.",
        default=False,
    ),
    Option("--max-concurrent", Kind.WHOLE, "Most requests at once, over all processes.", "N"),
    Option(
        "--concurrency",
        Kind.COUNTS,
        "Most requests at once to a provider or model, as openai=64,openai/gpt-4o=8. Repeatable."
        " [default: 1 at each endpoint of ollama]",
        "SCOPE=N",
    ),
    *(
        Option(f"--{provider}-concurrency", Kind.WHOLE, f"As --concurrency {provider}=N.", "N")
        for provider in ALIASES.values()
    ),
    Option(
        "--adaptive/--no-adaptive",
        Kind.SWITCH,
        "Find out how many requests at once an endpoint takes. [default: of those that cost money]",
    ),
    Option(
        "--limit-rpm",
        Kind.RATES,
        "Most requests in any minute, as openai=500. Repeatable.",
        "SCOPE=N",
    ),
    Option(
        "--limit-tpm",
        Kind.RATES,
        "Most tokens in any minute, as openai=200k,openai/gpt-4o=1.5M. Repeatable.",
        "SCOPE=N",
    ),
    # Where.
    Option(
        "--endpoint",
        Kind.ENDPOINTS,
        'Base URL of a provider, as "openai=http://n1:8000/v1 weight=2 concurrency=32 rpm=500 tpm=1M".'
        " Repeatable.",
        "PROVIDER=URL",
    ),
    Option(
        "--endpoints-file",
        Kind.TEXT,
        "The same, one a line, read again when it changes.",
        "FILE",
    ),
    # What may go wrong, and for how long.
    Option(
        "--timeout",
        Kind.TIME,
        "Total time for one request, from sending to the last byte.",
        "TIME",
        default=f"{DEFAULT_TIMEOUT:g}",
    ),
    Option(
        "--max-retries",
        Kind.WHOLE,
        "Further attempts after broken connections, 408, 409 and 5xx; refusals (429) do not count.",
        "N",
        default=5,
    ),
    Option(
        "--max-wait",
        Kind.TIME,
        "How long a row waits for a server that is full or gone before it is an error.",
        "TIME",
        default=f"{DEFAULT_MAX_WAIT / 3600:g}h",
    ),
    Option(
        "--breaker-failures",
        Kind.WHOLE,
        "Failures in a row after which an endpoint is left alone for a while.",
        "N",
        default=5,
    ),
    Option(
        "--retry-unknown/--no-retry-unknown",
        Kind.SWITCH,
        "Ask again after a time-out or a broken answer, which may pay twice."
        " [default: only ollama and mock, which are free]",
    ),
    Option(
        "--drain-timeout",
        Kind.TIME,
        "How long requests in flight may go on after a signal."
        " [default: --timeout; in a Slurm job at most 25]",
        "TIME",
    ),
    Option(
        "--orphan-grace",
        Kind.TIME,
        "How long workers may finish their requests when the main process was killed.",
        "TIME",
        default="30",
    ),
    # When to stop.
    Option("--max-cost", Kind.NUMBER, "Stop before the run has cost more than that.", "USD"),
    Option(
        "--price",
        Kind.PRICES,
        "USD a million input and output tokens, as openai/gpt-4o=2.5:10. Repeatable.",
        "MODEL=IN:OUT",
    ),
    Option("--fail-fast", Kind.SWITCH, "Stop at the first error row.", default=False),
    Option(
        "--fail-on-error",
        Kind.ERRORS,
        "Stop after more than N error rows, or at a larger share of 20 rows or more.",
        "N|P%",
    ),
    Option("--stop-after", Kind.TIME, "Stop when the run has taken that long.", "TIME"),
    Option("--stop-before", Kind.TIME, "Stop that long before the Slurm job ends.", "TIME"),
    # What is told.
    Option("--attempts-log", Kind.TEXT, "A line of JSON for each request made.", "FILE.jsonl"),
    Option(
        "--display",
        Kind.DISPLAY,
        "Progress: a bar, a line for whatever happens to a row (realtime), plain lines now and then, none;"
        " auto: a bar on a terminal, else plain lines.",
        default=Display.AUTO,
    ),
    Option(
        "--quiet -q",
        Kind.SWITCH,
        "No progress, no notices, no summary: only errors.",
        default=False,
    ),
    Option("--verbose -v", Kind.SWITCH, "A line for each row.", default=False),
    Option("--validate-only", Kind.SWITCH, "Check everything, send nothing.", default=False),
    Option(
        "--config",
        Kind.TEXT,
        "File with any of these options. [default: parallamr.toml of the working folder, if there is one]",
        "FILE",
    ),
    Option(
        "--print-config",
        Kind.SWITCH,
        "Print every option and where its value comes from, as such a file, and end.",
        default=False,
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
IN_FILES = [name for name in BY_NAME if name not in {"config", "print_config"}]
"""The options that a file may set."""
