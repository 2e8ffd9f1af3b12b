"""A command line of `run`, `plan` or `verify`, understood: what its options mean together."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import typer

from parallamr_mp.cli import streams, values
from parallamr_mp.cli.options import BY_NAME, OPTIONS, REPEATABLE, Display, Option
from parallamr_mp.cli.print_config import format_config
from parallamr_mp.cli.settings import Layer, Settings
from parallamr_mp.cli.typed import OptionsCommand
from parallamr_mp.config import check
from parallamr_mp.errors import BadInput
from parallamr_mp.runner import ExperimentRunner, create_experiment_runner


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
    """A Typer command with all options that does `action`, and bears its name."""

    def call(ctx: typer.Context, **given: Any) -> None:
        settings = Settings(ctx, given)
        streams.hide_secrets(spec.url for those in settings.endpoints().values() for spec, _ in those)
        try:
            if settings["print_config"]:
                _print_config(settings)
            else:
                action(understand(settings))
        except BadInput as error:
            if (place := _place(settings, error)) is None:
                raise
            raise BadInput(error.what, hint=" ".join(filter(None, (error.hint, place)))) from None

    return with_options(call, action, OPTIONS)


def _place(settings: Settings, error: BadInput) -> str | None:
    """Where the option was set that the error is about, unless that is plain to see."""
    flag = re.match(r"--([a-z-]+)", error.what)
    option = BY_NAME.get(flag[1].replace("-", "_")) if flag is not None else None
    if option is None or option.kind in REPEATABLE or type(error) is not BadInput or error.file is not None:
        return None
    origin = settings.origin(option.name)
    return f"It is set by {origin.where}." if origin.layer in {Layer.FILE, Layer.ENVIRONMENT} else None


def _print_config(settings: Settings) -> None:
    config = replace(make_runner(settings).config, output=settings["output"])
    for line in format_config(settings, config, sequential=is_sequential(settings)):
        typer.echo(line)
    # Last, so that one can see where what is amiss comes from.
    check(config)


def with_options(
    call: Callable[..., None], like: Callable[..., None], options: Iterable[Option], *first: inspect.Parameter
) -> Callable[..., None]:
    """`call` for Typer: with the name and the words of `like`, a parameter for each option, and a class."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *first,
        *(
            inspect.Parameter(option.name, keyword, default=option.default, annotation=option.annotation())
            for option in options
        ),
    ]
    call.__name__, call.__doc__ = like.__name__, like.__doc__
    call.command_class = OptionsCommand  # type: ignore[attr-defined]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def understand(settings: Settings) -> Invocation:
    """Checks the options against each other. Raises `BadInput`."""
    for name, short in (("prompt", "-p"), ("experiments", "-e")):
        if settings[name] is None:
            raise BadInput(f"--{name} is missing", hint=f"Give {short} FILE, or set it in parallamr.toml.")
    return Invocation(
        make_runner(settings),
        settings["prompt"],
        settings["experiments"],
        settings["output"],
        settings.files("context")[0],
        settings["display"],
        settings["quiet"],
        settings["verbose"],
        settings["validate_only"],
    )


def make_runner(settings: Settings) -> ExperimentRunner:
    """A runner with everything that was said but the files. Raises `BadInput`."""
    first, last = values.rows(settings["range"], settings["limit"])
    max_errors = max_error_share = None
    if settings["fail_on_error"] is not None:
        where = settings.origin("fail_on_error").where
        max_errors, max_error_share = values.errors_allowed(str(settings["fail_on_error"]), where)
    resume, overwrite = stronger(settings, "resume", "overwrite")
    passed_on = (
        "system",
        "timeout",
        "drain_timeout",
        "orphan_grace",
        "max_retries",
        "max_wait",
        "breaker_failures",
        "retry_unknown",
        "adaptive",
        "endpoints_file",
        "attempts_log",
        "max_cost",
        "fail_fast",
        "stop_after",
        "stop_before",
        "json_schema",
        "retry_truncated",
        "repeat",
        "retry_errors",
        "redo_changed",
        "flatten",
        "excel_safe",
    )
    return create_experiment_runner(
        **_at_once(settings),
        **{name: settings[name] for name in passed_on},
        limits=_values(settings.scoped("concurrency", values.whole)),
        rpm=_values(settings.scoped("limit_rpm", values.amount)),
        tpm=_values(settings.scoped("limit_tpm", values.amount)),
        prices=_values(settings.scoped("price", values.price, model=True)),
        endpoints=tuple(spec for those in settings.endpoints().values() for spec, _ in those),
        max_errors=max_errors,
        max_error_share=max_error_share,
        first_row=first,
        last_row=last,
        params=_values(settings.params()),
        resume=resume,
        overwrite=overwrite,
        config_file=settings.config_file,
        command=("parallamr-mp", *sys.argv[1:]),
    )


def _values(scoped: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {scope: value for scope, (value, _) in scoped.items()}


def _at_once(settings: Settings) -> dict[str, Any]:
    """How many requests at once, of options that may contradict each other: the strongest source wins."""
    if is_sequential(settings):
        return {"parallel": None, "procs": 1, "threads": 1, "total_limit": 1}
    parallel, threads = settings["parallel"], settings["threads"]
    if parallel is not None and threads is not None:
        if settings.layer("parallel") == settings.layer("threads"):
            raise BadInput(
                "--parallel and --threads exclude each other",
                hint="Give -j, which needs no --threads, or --procs and --threads.",
            )
        if settings.layer("parallel") > settings.layer("threads"):
            threads = None
        else:
            parallel = None
    return {
        "parallel": parallel,
        "procs": settings["procs"],
        "threads": threads,
        "total_limit": settings["max_concurrent"],
    }


def is_sequential(settings: Settings) -> bool:
    """Whether `--sequential` was said, and no stronger source says how many at once."""
    if not settings["sequential"]:
        return False
    said = settings.layer("sequential")
    for name in ("parallel", "procs", "threads"):
        if settings.layer(name) > said:
            return False
        if settings.layer(name) == said == Layer.COMMAND_LINE:
            raise BadInput(f"--sequential and --{name} exclude each other")
    return True


def stronger(settings: Settings, one: str, other: str) -> tuple[bool, bool]:
    """Two switches that exclude each other, without the one of the weaker source."""
    if settings[one] and settings[other] and settings.layer(one) != settings.layer(other):
        return settings.layer(one) > settings.layer(other), settings.layer(other) > settings.layer(one)
    return settings[one], settings[other]
