"""A sweep on one page: read → check → skip what is done → dispatch → write → flatten → sum up.

    Table ──rows──► Plan ──jobs──► Dispatcher ──leases──► workers (Asker)
                                        │ outcomes
                                        ▼
                         RowResults ──records──► writer process ──► results

Everything here runs in the calling process and thread. Who may touch what is
told in `engine/dispatcher.py`, `engine/outlet.py` and `engine/writer.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from parallamr_mp import events
from parallamr_mp.answered import AttemptSpec
from parallamr_mp.attempts_log import AttemptsLog
from parallamr_mp.config import RunConfig, check
from parallamr_mp.crew import dispatch
from parallamr_mp.engine.dispatcher import Ending
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.errors import BadInput, EngineError, InputChanged, OutputError
from parallamr_mp.estimate import RowMeter, check_budget
from parallamr_mp.experiments import Table
from parallamr_mp.flattening import flatten
from parallamr_mp.fleet import Fleet
from parallamr_mp.lookups import Known, close_providers, look_up
from parallamr_mp.outputs import Outputs
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.prepare import (
    Injected,
    build_used_providers,
    check_files,
    make_fleet,
    make_plan,
    unused_scopes,
)
from parallamr_mp.provenance import Provenance
from parallamr_mp.providers.base import Provider
from parallamr_mp.providers.secrets import environment_secrets, redactor
from parallamr_mp.report import RunSummary, Tally
from parallamr_mp.results.lock import OutputLock
from parallamr_mp.traffic import Traffic
from parallamr_mp.walltime import TimeLeft, time_left


def run_sweep(config: RunConfig, bus: events.EventBus, injected: Injected | None = None) -> RunSummary:
    """Answers every row of the table that has no result yet, and returns what that came to.

    Raises `BadInput` before anything is sent or written; `OutputError` or
    `EngineError` when it cannot go on, leaving whole records that `resume`
    continues from. Handles stop signals when called from the main thread: the
    summary then has a `signum`.
    """
    check(config)
    if config.output is None and sys.stdout is None:
        raise BadInput("standard output is closed", hint="Give a file with -o.")
    injected = injected or Injected()
    tally = Tally()
    unsubscribe = bus.subscribe(tally, *tally.KINDS)
    try:
        with contextlib.closing(Table(config.experiments)) as table:
            if config.output is None and config.flatten:
                return _run_spooled(config, table, bus, injected, tally)
            return _run(config, table, bus, injected, tally)
    finally:
        unsubscribe()


def _run_spooled(
    config: RunConfig,
    table: Table,
    bus: events.EventBus,
    injected: Injected,
    tally: Tally,
) -> RunSummary:
    """With `--flatten` the columns are known at the end only: results for standard output wait in a file."""
    folder = tempfile.mkdtemp(prefix="parallamr-mp-")
    spool = os.path.join(folder, "results.csv")
    passed_on = False
    try:
        summary = _run(replace(config, output=spool), table, bus, injected, tally, spooled=True)
        try:
            with open(spool, "rb") as stream:
                sys.stdout.flush()
                shutil.copyfileobj(stream, sys.stdout.buffer)
                sys.stdout.flush()
        except OSError as error:
            raise OutputError(
                f"standard output: cannot be written: {error.strerror}\n  The results are kept in {spool}"
            ) from error
        passed_on = True
        return replace(summary, outputs=())
    except (EngineError, InputChanged) as error:
        raise type(error)(f"{error}\n  The results so far are kept in {spool}") from error
    finally:
        if passed_on or not os.path.exists(spool):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Run:
    """All that one run is made of, from the moment that it has its outputs to itself."""

    config: RunConfig
    plan: Plan
    past: Past
    fleet: Fleet
    providers: Mapping[str, Provider]
    injected: Injected
    bus: events.EventBus
    tally: Tally
    locks: list[OutputLock]
    signals: SignalWatch
    stop: TimeLeft | None
    started: float
    """Monotonic seconds."""
    spooled: bool
    known: Known | None
    """What had to be looked up before anything else, for the budget's sake."""


def _run(
    config: RunConfig,
    table: Table,
    bus: events.EventBus,
    injected: Injected,
    tally: Tally,
    *,
    spooled: bool = False,
) -> RunSummary:
    started = time.monotonic()
    stop = time_left(config.stop_after, config.stop_before, os.environ, time.time())
    plan = make_plan(config, table, injected)
    fleet = make_fleet(config, injected)
    providers = build_used_providers(plan, config, injected, fleet)
    for notice in (*fleet.take_notices(), *plan.unknown_variables(), *unused_scopes(config, plan)):
        bus.publish(events.Notice(notice))
    fresh = not config.resume and not config.overwrite
    if fresh:
        plan.outputs.refuse_existing()
    check_files(config, plan)
    known = None
    if config.max_cost is not None:
        known = look_up(config, plan.survey.models, providers)
        try:
            check_budget(config.max_cost, [*plan.survey.models], plan.survey.unlimited, known)
        except BadInput:
            if injected.providers is None:
                close_providers(providers)
            raise
    with _locked(plan.outputs, config, bus) as locks:
        plan.outputs.look_again()
        if fresh:
            plan.outputs.refuse_existing()
        past = Past(config, plan)
        scans = past.scan() if config.resume else []
        plan.outputs.prepare()
        # Up to here nothing was sent, and nothing written but the lock.
        # From here on there is something to leave in order.
        with SignalWatch() as signals, _logged(config, providers, fleet, bus):
            if config.overwrite:
                plan.outputs.empty()
            if config.resume:
                inherited = [prefix for lock in locks for prefix in lock.inherited]
                for notice in past.take_up(scans, inherited):
                    bus.publish(events.Notice(notice))
                scans.clear()  # 25 bytes a row that nobody needs any more
            return _run_locked(
                _Run(
                    config,
                    plan,
                    past,
                    fleet,
                    providers,
                    injected,
                    bus,
                    tally,
                    locks,
                    signals,
                    stop,
                    started,
                    spooled,
                    known,
                )
            )


@contextlib.contextmanager
def _logged(
    config: RunConfig, providers: Mapping[str, Provider], fleet: Fleet, bus: events.EventBus
) -> Iterator[None]:
    """Keeps the attempts log, if one is wanted."""
    if config.attempts_log is None:
        yield
        return
    hide = redactor(environment_secrets(os.environ) | fleet.secrets())
    homes = {name: hide(str(getattr(provider, "endpoint", ""))) for name, provider in providers.items()}
    with contextlib.closing(AttemptsLog(config.attempts_log, bus, homes=homes, hide=hide)) as log:
        unsubscribe = bus.subscribe(log, events.AttemptEnded)
        try:
            yield
        finally:
            unsubscribe()


@contextlib.contextmanager
def _locked(outputs: Outputs, config: RunConfig, bus: events.EventBus) -> Iterator[list[OutputLock]]:
    """Keeps other runs away from these outputs."""
    with contextlib.ExitStack() as stack:
        rescue = next(iter(outputs.rescue_places()), "")
        locks = [
            OutputLock(path, label, grace=config.orphan_grace, rescue=rescue)
            for path, label in outputs.locks()
        ]
        for lock in locks:
            lock.acquire(lambda text: bus.publish(events.Notice(text)))
            stack.callback(lock.release)
        yield locks


def _run_locked(run: _Run) -> RunSummary:
    config, plan, past, bus = run.config, run.plan, run.past, run.bus
    spec = _spec(run)
    total, done = plan.survey.experiments, past.done
    paths = tuple(output.path for output in plan.outputs.files if output.path is not None)
    ending = Ending()
    with _told_as_group(run) as tell_end:
        bus.publish(
            events.RunStarted(total, done, past.done_errors, config.procs, config.threads, plan.outputs.label)
        )
        with _noted(run, paths) as note:
            if (early := run.signals.take()) and done < total:
                # Nothing was asked yet, and nothing need be started to end.
                bus.publish(events.Stopping(early[0], 0, 0.0))
                ending = Ending(early[0])
            elif done < total:
                stop_at = None if run.stop is None else run.started + run.stop.seconds
                words = "" if run.stop is None else run.stop.why
                traffic = Traffic(config, run.providers, run.fleet, bus, stop_at=stop_at, stop_words=words)
                ending = dispatch(config, plan, past, traffic, spec, bus, run.locks, run.signals)
            note(ending)
            past.finish()
            if (ending.signum is None and ending.stop is None) or run.spooled:
                # A file that is resumed gets its columns then; what goes to standard output, now or never.
                interrupted = flatten(plan, config, bus, run.signals)
                if interrupted is not None:
                    ending = replace(ending, signum=interrupted)
                    note(ending)
        summary = run.tally.summary(paths, ending.signum, ending.stop)
        tell_end(summary)
    bus.publish(events.RunFinished())
    return summary


@contextlib.contextmanager
def _told_as_group(run: _Run) -> Iterator[Callable[[RunSummary], None]]:
    """Publishes the run as a parallel group, if anybody wants that. Yields what tells its end."""
    if not run.bus.wants(events.Execution):
        yield lambda summary: None  # noqa: ARG005
        return
    # A function's import: it brings Pydantic, which a run does without that nobody watches so.
    from parallamr_mp.sweep_events import SweepEvents, group_of  # noqa: PLC0415

    # Where results are spooled, the output is one of ours, and another one each time.
    told = SweepEvents(group_of(replace(run.config, output=None) if run.spooled else run.config), run.bus)
    unsubscribe = run.bus.subscribe(told, *told.KINDS)
    try:
        yield told.end
    except BaseException as error:
        told.fail(error)
        raise
    finally:
        unsubscribe()


def _spec(run: _Run) -> AttemptSpec:
    """What the workers are told; asks servers what they say of their models."""
    config, plan, injected = run.config, run.plan, run.injected
    known = run.known or look_up(config, plan.survey.models, run.providers, run.signals.pending)
    fleet = {name: run.fleet.of(name) for name in run.providers}
    by_tokens = config.tpm or config.endpoints_file or any(e.tpm for specs in fleet.values() for e in specs)
    if config.max_cost is not None or by_tokens:
        plan.meter = RowMeter(plan.input_columns, plan.static_inputs, known)
    plan.replicated = frozenset(
        name for name, specs in fleet.items() if len(specs) > 1 or config.endpoints_file is not None
    )
    if injected.providers is None:
        close_providers(run.providers)
    return AttemptSpec(
        columns=plan.input_columns,
        inputs=plan.static_inputs,
        timeout=config.timeout,
        threads=config.threads,
        windows=known.windows,
        prices=known.prices,
        providers=injected.providers,
        session=injected.session,
        rescue=plan.outputs.rescue_places(),
        excel_safe=config.excel_safe,
        asked=() if injected.providers is not None else tuple(run.providers),
    )


@contextlib.contextmanager
def _noted(run: _Run, paths: tuple[str, ...]) -> Iterator[Callable[[Ending], None]]:
    """Has the manifests say that a run is under way, then how it ended. Yields what takes that down."""
    ending = Ending()

    def note(known: Ending) -> None:
        nonlocal ending
        ending = known

    if run.spooled:
        yield note
        return
    provenance = Provenance(run.config, run.plan, run.bus)
    provenance.begin()
    try:
        yield note
    except BaseException as error:
        provenance.end(run.tally.summary(paths, None), error)
        raise
    provenance.end(run.tally.summary(paths, ending.signum, ending.stop))
