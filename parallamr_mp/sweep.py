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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import requests

from parallamr_mp import events
from parallamr_mp.answered import AttemptSpec
from parallamr_mp.attempt import Asker
from parallamr_mp.config import RunConfig, check, drain_seconds
from parallamr_mp.engine.dispatcher import Dispatcher
from parallamr_mp.engine.outlet import WriterPeer
from parallamr_mp.engine.seat import ORPHAN_SECONDS, ProcessSeat, Seat, ThreadSeat
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.engine.writer import writer_main
from parallamr_mp.errors import BadInput, EngineError, InputChanged, OutputError
from parallamr_mp.experiments import Table
from parallamr_mp.fleet import Fleet
from parallamr_mp.lookups import build_scouts, close_providers, look_up_windows
from parallamr_mp.outputs import Outputs
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule
from parallamr_mp.provenance import Provenance
from parallamr_mp.providers.base import Provider, ProviderSettings, is_free
from parallamr_mp.providers.registry import known_providers
from parallamr_mp.providers.secrets import environment_secrets, redactor
from parallamr_mp.report import RunSummary, Tally
from parallamr_mp.results.lock import OutputLock
from parallamr_mp.results.records import guard
from parallamr_mp.results.rewrite import MAX_DEPTH, MAX_ITEMS, Flattened, flatten_results
from parallamr_mp.rows import RowResults
from parallamr_mp.sources import FileLoader, Sources
from parallamr_mp.text import count

_LEASE_GRACE = 60.0
"""Seconds past its own deadline after which a request counts as stuck beyond help."""


@dataclass(frozen=True, slots=True)
class Injected:
    """What a caller of the library brings along instead of what the environment says."""

    providers: Mapping[str, Provider] | None = None
    session: requests.Session | None = None
    file_loader: FileLoader | None = None


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
    unsubscribe = bus.subscribe(tally)
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


def _run(
    config: RunConfig,
    table: Table,
    bus: events.EventBus,
    injected: Injected,
    tally: Tally,
    *,
    spooled: bool = False,
) -> RunSummary:
    plan = make_plan(config, table, injected)
    fleet = make_fleet(config, injected)
    providers = build_used_providers(plan, config, injected, fleet)
    for notice in (*fleet.take_notices(), *plan.unknown_variables()):
        bus.publish(events.Notice(notice))
    fresh = not config.resume and not config.overwrite
    if fresh:
        plan.outputs.refuse_existing()
    plan.outputs.check(input_files(config, plan), rewritten=config.flatten)
    with _locked(plan.outputs, config, bus) as locks:
        plan.outputs.look_again()
        if fresh:
            plan.outputs.refuse_existing()
        past = Past(config, plan)
        scans = past.scan() if config.resume else []
        plan.outputs.prepare()
        # Up to here nothing was sent, and nothing written but the lock.
        # From here on there is something to leave in order.
        with SignalWatch() as signals:
            if config.overwrite:
                plan.outputs.empty()
            if config.resume:
                inherited = [prefix for lock in locks for prefix in lock.inherited]
                for notice in past.take_up(scans, inherited):
                    bus.publish(events.Notice(notice))
            return _run_locked(
                config, plan, past, providers, bus, injected, tally, locks, signals, spooled=spooled
            )


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


def _run_locked(
    config: RunConfig,
    plan: Plan,
    past: Past,
    providers: Mapping[str, Provider],
    bus: events.EventBus,
    injected: Injected,
    tally: Tally,
    locks: list[OutputLock],
    signals: SignalWatch,
    *,
    spooled: bool,
) -> RunSummary:
    windows = look_up_windows(plan.survey.models, providers, signals.pending)
    if injected.providers is None:
        close_providers(providers)
    total, done = plan.survey.experiments, past.done
    spec = AttemptSpec(
        columns=plan.input_columns,
        inputs=plan.static_inputs,
        timeout=config.timeout,
        threads=config.threads,
        windows=windows,
        providers=injected.providers,
        session=injected.session,
        rescue=plan.outputs.rescue_places(),
        excel_safe=config.excel_safe,
    )
    bus.publish(
        events.RunStarted(total, done, past.done_errors, config.procs, config.threads, plan.outputs.label)
    )
    paths = tuple(output.path for output in plan.outputs.files if output.path is not None)
    with _noted(Provenance(config, plan, bus), tally, paths, wanted=not spooled) as signums:
        if (early := signals.take()) and done < total:
            # Nothing was asked yet, and nothing need be started to end.
            bus.publish(events.Stopping(early[0], 0, 0.0))
            signums.append(early[0])
        elif done < total:
            slots = min(config.procs or 1, total - done)
            retry = RetryPolicy(config.max_retries, retry_unknown=_asked_again(config, providers))
            signums.append(_dispatch(plan, past, config, spec, retry, bus, locks, signals, slots=slots))
        past.finish()
        if not any(signums) or spooled:
            # A file that is resumed gets its columns then; what goes to standard output, now or never.
            signums.append(_flatten(plan, config, bus, signals))
    bus.publish(events.RunFinished())
    return tally.summary(paths, _last(signums))


@contextlib.contextmanager
def _noted(
    provenance: Provenance, tally: Tally, paths: tuple[str, ...], *, wanted: bool
) -> Iterator[list[int | None]]:
    """Has the manifests say that a run is under way, then how it ended. Yields where signals are noted."""
    signums: list[int | None] = []
    if not wanted:
        yield signums
        return
    provenance.begin()
    try:
        yield signums
    except BaseException as error:
        provenance.end(tally.summary(paths, None), error)
        raise
    provenance.end(tally.summary(paths, _last(signums)))


def _last(signums: list[int | None]) -> int | None:
    return next((signum for signum in reversed(signums) if signum is not None), None)


def _asked_again(config: RunConfig, providers: Mapping[str, Provider]) -> frozenset[str]:
    """The providers that are sent a request again whose outcome is unknown."""
    if config.retry_unknown is None:
        return frozenset(name for name, provider in providers.items() if is_free(provider))
    return frozenset(providers if config.retry_unknown else ())


def _dispatch(
    plan: Plan,
    past: Past,
    config: RunConfig,
    spec: AttemptSpec,
    retry: RetryPolicy,
    bus: events.EventBus,
    locks: list[OutputLock],
    signals: SignalWatch,
    *,
    slots: int,
) -> int | None:
    """Runs the engine over everything that has no result; returns the signal that stopped it, if one did."""
    in_threads = config.procs == 0

    def worker(number: int) -> Seat:
        name = f"worker {number}"
        args = (config.threads, Asker, (spec,))
        if in_threads:
            return ThreadSeat(worker_main, args, name=name)
        grace = config.orphan_grace
        return ProcessSeat(worker_main, (*args, grace), name=name, orphan_grace=grace + ORPHAN_SECONDS)

    def writer() -> Seat:
        return (ThreadSeat if in_threads else ProcessSeat)(writer_main, (), name="writer")

    def note(pid: int | None) -> None:
        if pid is not None:
            for lock in locks:
                lock.add_child(pid)

    def note_worker(event: events.Event) -> None:
        if isinstance(event, events.WorkerStarted):
            note(event.pid)

    def tell_of_writer(pid: int | None, exit_code: int | None) -> None:
        bus.publish(events.WriterLost(pid, exit_code))

    unsubscribe = bus.subscribe(note_worker)
    with contextlib.ExitStack() as stack, _reports_without_secrets():
        stack.callback(unsubscribe)
        results = RowResults(spec, plan, past, WriterPeer(writer, note, tell_of_writer), bus)
        dispatcher = Dispatcher(
            jobs=plan.sources(),
            make_seat=worker,
            slots=slots,
            threads=config.threads,
            results=results,
            schedule=Schedule(
                {key: Limits(limit) for key, limit in config.limits.items()}, config.total_limit
            ),
            retry=retry,
            bus=bus,
            signals=signals,
            drain_timeout=drain_seconds(config),
            lease_timeout=config.timeout + _LEASE_GRACE,
        )
        try:
            return dispatcher.run().signum
        except (OutputError, EngineError) as error:
            if not (saved := results.save_rest()):
                raise
            raise type(error)(f"{error}\n  {saved}") from error


@contextlib.contextmanager
def _reports_without_secrets() -> Iterator[None]:
    """The engine's errors quote tracebacks of its processes, and these quote whatever was raised there."""
    said: str | None = None
    try:
        yield
    except EngineError as error:
        said = redactor(environment_secrets(os.environ))(str(error))
    if said is not None:
        raise EngineError(said)


def make_plan(config: RunConfig, table: Table, injected: Injected) -> Plan:
    """Reads and checks the whole table, and that its providers can be used. Raises `BadInput`."""
    if config.excel_safe:
        _check_names(table)
    outputs = Outputs(config.output, table.columns)
    sources = Sources(
        prompt=config.prompt,
        contexts=config.contexts,
        system=config.system,
        columns=table.columns,
        loader=injected.file_loader,
    )
    plan = Plan(config, table, sources, outputs)
    plan.look(frozenset(injected.providers if injected.providers is not None else known_providers()))
    return plan


def _check_names(table: Table) -> None:
    """Refuses columns that a spreadsheet would run: prompts and `resume` go by the names as they are."""
    for name in table.columns:
        if guard(name) != name:
            raise BadInput(
                f"column {name!r}: a spreadsheet would run its name as a formula",
                file=table.label,
                hint="Rename the column, or go without --excel-safe.",
            )


def input_files(config: RunConfig, plan: Plan) -> set[str]:
    """Every file that is read, and thus cannot be an output."""
    fixed = {config.prompt, config.experiments, *config.contexts, *([config.system] if config.system else [])}
    return fixed | plan.survey.inputs | ({config.endpoints_file} if config.endpoints_file else set())


def make_fleet(config: RunConfig, injected: Injected) -> Fleet:
    """The endpoints there are. Raises `BadInput`."""
    own = injected.providers
    return Fleet(config, os.environ, known_providers() if own is None else [*own], fixed=own or ())


def build_used_providers(
    plan: Plan, config: RunConfig, injected: Injected, fleet: Fleet
) -> dict[str, Provider]:
    """Each provider the table names, for look-ups. Raises `MissingKey` for one that cannot be used."""
    used = dict.fromkeys(provider for provider, _ in plan.survey.models)
    if injected.providers is not None:
        return {name: injected.providers[name] for name in used}
    settings = ProviderSettings(config.timeout, injected.session, threads=1)
    return {name: build_scouts(name, fleet.of(name), settings) for name in used}


class _Interrupted(Exception):  # noqa: N818  - as KeyboardInterrupt
    """A signal came while a file was rewritten; the file is as it was."""


def _flatten(plan: Plan, config: RunConfig, bus: events.EventBus, signals: SignalWatch) -> int | None:
    """Makes the columns of `--flatten`. Returns the signal that kept it from that; resuming does it then."""
    signums: list[int] = []

    def go_on() -> None:
        signums.extend(signals.take())
        if signums:
            raise _Interrupted

    for output in plan.outputs.files:
        if output.path is None or not (config.flatten or output.extra):
            continue
        try:
            flattened = flatten_results(output.path, plan.columns, go_on, excel_safe=config.excel_safe)
            _tell(flattened, output.path, bus)
        except _Interrupted:
            return signums[0]
        except OSError as error:
            raise OutputError(f"{output.path}: cannot be flattened: {error.strerror}") from error
    return None


def _tell(flattened: Flattened, path: str, bus: events.EventBus) -> None:
    if flattened.folded:
        rows = count(flattened.folded, "answer")
        bus.publish(
            events.Notice(
                f"{path}: {rows} with JSON deeper than {MAX_DEPTH} levels or longer than {MAX_ITEMS} items;"
                " what is beyond stays together as JSON text"
            )
        )
    if flattened.dropped:
        bus.publish(
            events.Notice(
                f"{path}: {flattened.columns} columns from JSON are the most; {flattened.dropped} further"
                " keys have no column of their own and are in `output` only"
            )
        )


def validate(config: RunConfig, injected: Injected | None = None) -> Plan:
    """Everything `run_sweep` checks before it sends, and nothing else. Raises `BadInput`."""
    check(config)
    injected = injected or Injected()
    with contextlib.closing(Table(config.experiments)) as table:
        plan = make_plan(config, table, injected)
        providers = build_used_providers(plan, config, injected, make_fleet(config, injected))
        if injected.providers is None:
            close_providers(providers)
        if not config.resume and not config.overwrite:
            plan.outputs.refuse_existing()
        if config.resume:
            Past(config, plan).scan()
        plan.outputs.check(input_files(config, plan), rewritten=config.flatten)
        return plan
