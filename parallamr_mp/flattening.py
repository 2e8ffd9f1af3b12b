"""The columns of `--flatten`, made at the end of a run, in its thread. A signal leaves a file as it is."""

from __future__ import annotations

from parallamr_mp import events
from parallamr_mp.config import RunConfig
from parallamr_mp.engine.signals import SignalWatch
from parallamr_mp.errors import OutputError
from parallamr_mp.plan import Plan
from parallamr_mp.results.rewrite import MAX_DEPTH, MAX_ITEMS, Flattened, flatten_results
from parallamr_mp.text import count


class _Interrupted(Exception):  # noqa: N818  - as KeyboardInterrupt
    """A signal came while a file was rewritten; the file is as it was."""


def flatten(plan: Plan, config: RunConfig, bus: events.EventBus, signals: SignalWatch) -> int | None:
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
