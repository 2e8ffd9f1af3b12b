"""Who does the work of one run: its workers, its writer, and the dispatcher that leads them.

    Plan ──jobs──► Dispatcher ──leases──► workers (Asker)
                       │ outcomes
                       ▼
                   RowResults ──records──► writer process ──► results

Runs in the parent, in the thread of the sweep.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence

from parallamr_mp import events
from parallamr_mp.answered import AttemptSpec
from parallamr_mp.attempt import Asker
from parallamr_mp.config import RunConfig, drain_seconds
from parallamr_mp.engine.affinity import may_keep
from parallamr_mp.engine.dispatcher import Dispatcher, Ending
from parallamr_mp.engine.outlet import WriterPeer
from parallamr_mp.engine.seat import ORPHAN_SECONDS, ProcessSeat, Seat, ThreadSeat
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.engine.spawning import Thrift
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.engine.writer import writer_main
from parallamr_mp.errors import EngineError, OutputError
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.providers.registry import UNUSED, is_built_in
from parallamr_mp.providers.secrets import environment_secrets, redactor
from parallamr_mp.results.lock import OutputLock
from parallamr_mp.rows import RowResults
from parallamr_mp.traffic import Traffic

_MANY_THREADS = 64
"""From so many in a worker on, memory that each keeps for itself adds up."""
_LEASE_GRACE = 60.0
"""Seconds past its own deadline after which a request counts as stuck beyond help."""


def dispatch(
    config: RunConfig,
    plan: Plan,
    past: Past,
    traffic: Traffic,
    spec: AttemptSpec,
    bus: events.EventBus,
    locks: Sequence[OutputLock],
    signals: SignalWatch,
) -> Ending:
    """Runs the engine over everything that has no result.

    The locks learn of every process that may write for this run. Raises
    `OutputError` and `EngineError`, saying where answers are that could not be
    written.
    """
    in_threads = config.procs == 0
    to_do = plan.survey.experiments - past.done
    threads = min(config.threads, to_do)
    # A plug-in may compute on all processors; requests of ours only wait.
    ours = all(is_built_in(provider) for provider, _ in plan.survey.models)
    keep = ours and may_keep(config.procs)
    thrift = Thrift(shares=threads >= _MANY_THREADS, without=UNUSED) if ours else None

    def worker(number: int) -> Seat:
        name = f"worker {number}"
        args = (threads, Asker, (spec,))
        if in_threads:
            return ThreadSeat(worker_main, args, name=name)
        grace = config.orphan_grace
        return ProcessSeat(
            worker_main,
            (*args, grace, keep),
            name=name,
            orphan_grace=grace + ORPHAN_SECONDS,
            thrift=thrift,
        )

    def writer() -> Seat:
        if in_threads:
            return ThreadSeat(writer_main, (), name="writer")
        return ProcessSeat(writer_main, (), name="writer", thrift=Thrift())

    def note(pid: int | None) -> None:
        if pid is not None:
            for lock in locks:
                lock.add_child(pid)

    def note_worker(event: events.WorkerStarted) -> None:
        note(event.pid)

    def tell_of_writer(pid: int | None, exit_code: int | None) -> None:
        bus.publish(events.WriterLost(pid, exit_code))

    with contextlib.ExitStack() as stack, _reports_without_secrets():
        stack.callback(bus.subscribe(note_worker, events.WorkerStarted))
        stack.callback(bus.subscribe(traffic.note, events.RowDone))
        results = RowResults(config, spec, plan, past, WriterPeer(writer, note, tell_of_writer), bus)
        dispatcher = Dispatcher(
            jobs=plan.sources(),
            make_seat=worker,
            slots=min(config.procs or 1, to_do),
            threads=threads,
            results=results,
            schedule=traffic.schedule,
            retry=traffic.retry,
            bus=bus,
            signals=signals,
            drain_timeout=drain_seconds(config),
            lease_timeout=config.timeout + _LEASE_GRACE,
            stop_when=traffic.thresholds.reason,
            housekeep=traffic.housekeep,
            models=Counter(provider for provider, _ in plan.survey.models),
        )
        try:
            return dispatcher.run()
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
