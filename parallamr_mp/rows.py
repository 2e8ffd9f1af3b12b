"""Final outcomes → rows for the writer, in the dispatcher's thread.

    Dispatcher ──Job, Outcome──► RowResults ──Append──► WriterPeer ──► writer process
                                     └──RowDone──► EventBus

An answer that was cut may be asked again first, with a larger limit.
"""

from __future__ import annotations

from parallamr_mp import events
from parallamr_mp.answered import AttemptSpec, RowTask, unanswered
from parallamr_mp.config import RunConfig
from parallamr_mp.engine.messages import Append, OpenOutput, Outcome
from parallamr_mp.engine.outlet import WriterPeer
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import Seat
from parallamr_mp.errors import OutputError, ParallamrError
from parallamr_mp.models import Status
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.results.records import encode_record
from parallamr_mp.results.rescue_file import RescueFile
from parallamr_mp.text import count
from parallamr_mp.truncated import enlarged


class RowResults:
    """Turns final outcomes into rows and hands them to the writer. Used by the dispatcher's thread."""

    def __init__(
        self,
        config: RunConfig,
        spec: AttemptSpec,
        plan: Plan,
        past: Past,
        writer: WriterPeer,
        bus: events.EventBus,
    ) -> None:
        self._config, self._plan = config, plan
        self._spec, self._past, self._outputs, self._columns = spec, past, plan.outputs, plan.columns
        self._writer, self._bus = writer, bus
        self._opened: set[int] = set()

    def start(self, reactor: Reactor) -> None:
        self._writer.start(reactor)
        if not self._outputs.templated:
            self._open(0)

    def _open(self, number: int) -> None:
        output = self._outputs.files[number]
        header = encode_record((*self._columns, *output.extra))
        self._writer.open(OpenOutput(number, output.path, header, output.offset))
        self._opened.add(number)

    def assess(self, job: Job, outcome: Outcome) -> Report:
        result = outcome.value
        if outcome.failure is not None:
            return Report(outcome.seconds, outcome.failure)
        counted, task = result.reported, job.payload
        return Report(
            outcome.seconds,
            None,
            result.input_tokens if counted else None,
            result.output_tokens if counted else None,
            result.cost_usd if task.spent is None else result.cost_of(task),
            result.allowance,
        )

    def again(self, job: Job, outcome: Outcome) -> bool:
        factor, task = self._config.retry_truncated, job.payload
        if factor is None:
            return False
        window = self._spec.windows.get((task.provider, task.model))
        larger = enlarged(task, outcome.value, factor, window)
        if larger is None:
            return False
        job.payload = larger
        if (meter := self._plan.meter) is not None:
            measured = meter.measure(larger)
            job.max_tokens, job.cost = measured.max_tokens, measured.cost or 0.0
        return True

    def accept(self, job: Job, outcome: Outcome) -> None:
        task: RowTask = job.payload
        result, output = outcome.value, self._outputs.files[task.file]
        if outcome.failure is not None:
            result = unanswered(self._spec, task, job.attempts, outcome.failure, outcome.seconds)
        record = result.record
        if output.extra:
            record = record[:-1] + b"," * len(output.extra) + b"\n"
        if task.file not in self._opened:
            self._open(task.file)
        self._writer.append(Append(job.id, task.file, record))
        output.counts[result.status] += 1
        self._past.note_written(job.id, task.file, result.status)
        self._bus.publish(
            events.RowDone(
                task.row_number,
                task.repeat,
                task.provider,
                task.model,
                result.status,
                result.message,
                job.attempts,
                result.latency,
                result.input_tokens,
                result.output_tokens,
                result.cost_usd,
                job.id,
                outcome.failure.kind if outcome.failure is not None and result.status is Status.ERROR else "",
            )
        )

    def take_stored(self) -> list[int]:
        return self._writer.take_stored()

    def finish(self) -> None:
        self._writer.finish()

    def save_rest(self) -> str:
        """Saves the answers that their files did not take. Returns what to tell; empty: there were none.

        After the dispatcher has ended, when no writer can write them any more.
        """
        rest = self._writer.unacknowledged()
        if not rest or not self._spec.rescue:
            return ""
        rescue = RescueFile(self._spec.rescue, self._columns)
        saved = 0
        try:
            for append in rest:
                record = append.record
                if extra := len(self._outputs.files[append.file].extra):
                    record = record[: -1 - extra] + b"\n"
                rescue.save(record)
                saved += 1
            rescue.sync()
        except OutputError:
            pass
        finally:
            rescue.close()
        told = []
        if saved:
            told.append(
                f"{count(saved, 'answer')} that it did not take: saved in {' and '.join(rescue.paths)}"
            )
        if saved < len(rest):
            told.append(f"{count(len(rest) - saved, 'answer')} lost, for no other place took them either")
        return "; ".join(told) + "."

    @property
    def congested(self) -> bool:
        return self._writer.congested

    @property
    def backlog(self) -> int:
        return self._writer.backlog

    @property
    def finished(self) -> bool:
        return self._writer.finished

    @property
    def problem(self) -> ParallamrError | None:
        return self._writer.problem

    @property
    def keeps(self) -> bool:
        return bool(self._spec.rescue)

    @property
    def seat(self) -> Seat | None:
        return self._writer.seat
