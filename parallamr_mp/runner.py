"""The library's front door: the one place where a sweep is put together. The command line uses it too."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parallamr_mp.config import (
    DEFAULT_THREADS,
    DEFAULT_TIMEOUT,
    RunConfig,
    default_procs,
    split_parallel,
)
from parallamr_mp.errors import BadInput
from parallamr_mp.events import EventBus
from parallamr_mp.plan import Plan
from parallamr_mp.prepare import Injected, validate
from parallamr_mp.printers import LinePrinter
from parallamr_mp.providers.base import Provider
from parallamr_mp.report import RunSummary
from parallamr_mp.sources import FileLoader
from parallamr_mp.sweep import run_sweep

if TYPE_CHECKING:
    import requests

    from parallamr_mp.preview import Preview
    from parallamr_mp.verify import Verdict

_Path = str | os.PathLike[str]


class ExperimentRunner:
    """Runs tables of experiments with one set of settings. Made by `create_experiment_runner`.

    `bus` publishes what happens, in the thread that called `run_experiments`:
    the events of `parallamr_mp.events` and, if anybody wants `events.Execution`
    when a run begins, the `ExecutionEvent`s of the run as a parallel group (see
    `parallamr_mp.sweep_events`). A handler that is subscribed without a kind
    gets both.
    """

    def __init__(self, config: RunConfig, injected: Injected) -> None:
        self._config, self._injected = config, injected
        self.bus = EventBus()

    @property
    def config(self) -> RunConfig:
        """The settings of every run; its files are given when it is started."""
        return self._config

    def run_experiments(
        self,
        prompt_file: _Path,
        experiments_file: _Path,
        output_file: _Path | None = None,
        context_files: Sequence[_Path] | None = None,
        **options: Any,
    ) -> RunSummary:
        """Answers every row of the table that has no result yet; returns what that came to.

        Paths may hold `{{column}}`; `-` reads the prompt or the table from
        standard input; without `output_file`, results go to standard output.
        `options` are further fields of `parallamr_mp.config.RunConfig`, such as
        `system`, `params`, `resume`, `overwrite`, `flatten` or `repeat`.

        Blocks until done. In the main thread a first SIGINT or SIGTERM lets
        requests in flight finish, a second ends at once; the summary's `signum`
        tells. Raises `BadInput` before anything is sent or written,
        `OutputError` and `EngineError` when it cannot go on: what was written
        is whole, and `resume=True` continues from it.
        """
        config = self._with(prompt_file, experiments_file, output_file, context_files, options)
        return run_sweep(config, self.bus, self._injected)

    def validate_experiments(
        self,
        prompt_file: _Path,
        experiments_file: _Path,
        output_file: _Path | None = None,
        context_files: Sequence[_Path] | None = None,
        **options: Any,
    ) -> Plan:
        """Makes every check that `run_experiments` makes before it sends, and sends nothing.

        Raises `BadInput`.
        """
        config = self._with(prompt_file, experiments_file, output_file, context_files, options)
        return validate(config, self._injected)

    def preview_experiments(
        self,
        prompt_file: _Path,
        experiments_file: _Path,
        output_file: _Path | None = None,
        context_files: Sequence[_Path] | None = None,
        **options: Any,
    ) -> Preview:
        """Tells what `run_experiments` would do, `resume` taken for granted where the output exists.

        Sends and writes nothing. Raises `BadInput`.
        """
        # A function's import, as in `verify_experiments`: a run does without.
        from parallamr_mp.preview import preview_sweep  # noqa: PLC0415

        config = self._with(prompt_file, experiments_file, output_file, context_files, options)
        return preview_sweep(config, self._injected)

    def verify_experiments(
        self,
        prompt_file: _Path,
        experiments_file: _Path,
        results_file: _Path,
        context_files: Sequence[_Path] | None = None,
        **options: Any,
    ) -> Verdict:
        """Tells whether each experiment has exactly one row in the results, with an answer to just that.

        Sends and writes nothing. Raises `BadInput`.
        """
        from parallamr_mp.verify import verify_sweep  # noqa: PLC0415

        config = self._with(prompt_file, experiments_file, results_file, context_files, options)
        return verify_sweep(config, self._injected)

    def _with(
        self,
        prompt: _Path,
        experiments: _Path,
        output: _Path | None,
        contexts: Sequence[_Path] | None,
        options: Mapping[str, Any],
    ) -> RunConfig:
        prompt, experiments = os.fspath(prompt), os.fspath(experiments)
        if prompt == experiments == "-":
            raise BadInput(
                "--prompt and --experiments cannot both be read from standard input",
                hint="Give a file for one of them.",
            )
        return replace(
            self._config,
            prompt=prompt,
            experiments=experiments,
            output=None if output in (None, "-") else os.fspath(output),
            contexts=tuple(os.fspath(path) for path in contexts or ()),
            **options,
        )


def create_experiment_runner(
    timeout: float = DEFAULT_TIMEOUT,
    verbose: bool = False,
    providers: Mapping[str, Provider] | None = None,
    file_loader: FileLoader | None = None,
    session: requests.Session | None = None,
    parallel: int | None = None,
    procs: int | None = None,
    threads: int | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    total_limit: int | None = None,
    **options: Any,
) -> ExperimentRunner:
    """Puts a runner together from what is given and sensible defaults.

    `timeout` is the total number of seconds for one request. `verbose` prints a
    line for each row on standard error. `parallel` is how many requests may be
    in flight; it is split over `procs` worker processes (0: none, only threads
    of this one) of `threads` threads each. `limits` caps requests in flight by
    provider, `total_limit` altogether.

    Injected `providers` (by the name used in the table) and an injected
    `session` live in this process: with them `procs` is 0, and asking for
    worker processes raises `BadInput`. A `file_loader` is always used here.
    `options` are further fields of `RunConfig`.
    """
    if providers is not None or session is not None:
        if procs:
            what = "providers" if providers is not None else "a session"
            raise BadInput(
                f"injected {what} cannot cross to {procs} worker processes",
                hint="Use procs=0 (threads of this process), or register the provider as an entry point"
                " of the group parallamr_mp.providers.",
            )
        procs = 0
    if parallel is not None:
        if threads is not None:
            raise BadInput(
                "parallel and threads exclude each other", hint="Give parallel alone, or procs and threads."
            )
        procs, threads = split_parallel(parallel, procs)
        total_limit = parallel if total_limit is None else min(parallel, total_limit)
    config = RunConfig(
        prompt="",
        experiments="",
        procs=default_procs() if procs is None else procs,
        threads=DEFAULT_THREADS if threads is None else threads,
        total_limit=total_limit,
        limits=dict(limits or {}),
        timeout=timeout,
        **options,
    )
    runner = ExperimentRunner(config, Injected(providers, session, file_loader))
    if verbose:
        runner.bus.subscribe(LinePrinter(sys.stderr), *LinePrinter.KINDS)
    return runner
