"""What a run would do, for `parallamr-mp plan`. Sends nothing, writes nothing, takes no lock."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from parallamr_mp.answered import RowTask
from parallamr_mp.config import RunConfig, check
from parallamr_mp.estimate import LIKELY, LOW, RowMeter
from parallamr_mp.experiments import Table
from parallamr_mp.lookups import Model, close_providers, look_up
from parallamr_mp.past import Past
from parallamr_mp.policy.cost import FREE
from parallamr_mp.prepare import Injected, build_used_providers, check_files, make_fleet, make_plan
from parallamr_mp.results.lock import holder


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What asking one model may cost, in USD; its assumptions are in `estimate.ASSUMPTIONS`."""

    provider: str
    model: str
    rows: int
    low: float | None
    """None, as `likely`: its price is not known, or not without asking a server."""
    likely: float | None
    high: float | None
    """None besides: nothing limits its answers."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run or a resumed run would find and do. Numbers are of experiments unless told otherwise."""

    output: str
    files: int
    """Results files; 0 for standard output."""
    existing: int
    """Of these, how many hold something."""
    overwrites: bool
    experiments: int
    new: int
    """Never answered: they would be asked."""
    done: int
    """Answered: they would not be asked."""
    done_errors: int
    """Of these, error rows."""
    rescued: int
    """Of these, answers that an earlier run has saved aside, to be taken in."""
    retried: int
    """Error rows that would be asked again."""
    changed: int
    """Answered before their prompt, context, system text or parameters were changed."""
    redone: bool
    """These would be asked again."""
    removed: int
    """Rows in the files that no experiment of this run claims; they stay."""
    torn: int
    """Bytes of unfinished records, to be cut off."""
    unreadable: int
    """Experiments that would become error rows, for an input file of theirs cannot be read."""
    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    """What would be sent, without retries, by (provider, model)."""
    costs: tuple[ModelCost, ...] = ()
    """Of the models in `requests` that cost something, or may."""
    tableless: bool = False
    """A price is unknown that the extra `cost` might tell."""
    max_cost: float | None = None
    """USD that the run may cost at most."""
    writers: tuple[str, ...] = ()
    """Runs that are writing these outputs at this moment: the numbers are about to change."""
    notices: tuple[str, ...] = ()


def preview_sweep(config: RunConfig, injected: Injected | None = None) -> Preview:
    """Looks at table, inputs and outputs as `run_sweep` does, and goes no further.

    An output that exists is looked at as `resume` would, unless it is to be
    overwritten. Raises `BadInput`.
    """
    injected = injected or Injected()
    if config.output is not None and not config.overwrite:
        config = replace(config, resume=True)
    check(config)
    with contextlib.closing(Table(config.experiments)) as table:
        plan = make_plan(config, table, injected)
        providers = build_used_providers(plan, config, injected, make_fleet(config, injected))
        known = look_up(config, plan.survey.models, providers, servers=False)
        meter = RowMeter(plan.input_columns, plan.static_inputs, known)
        if injected.providers is None:
            close_providers(providers)
        check_files(config, plan)
        outputs = [output for output in plan.outputs.files if output.path is not None]
        existing = sum(output.existed for output in outputs)
        writers = {text for path, _ in plan.outputs.locks() if (text := holder(path)) is not None}
        foresight = Past(config, plan).foresee() if config.resume else None
        requests: dict[Model, int] = {}
        sums: dict[Model, _Sums] = {}
        unreadable = 0
        for job in plan.jobs():
            task: RowTask = job.payload
            if job.verdict is not None:
                unreadable += 1
            else:
                pair = task.provider, task.model
                requests[pair] = requests.get(pair, 0) + 1
                if known.prices.get(pair) != FREE:
                    sums.setdefault(pair, _Sums(meter)).add(task)
        asked = sum(requests.values()) + unreadable
        found = foresight.found if foresight is not None else None
        retried = found.retried if found is not None else 0
        changed = found.changed if found is not None else 0
        return Preview(
            output=plan.outputs.label,
            files=len(outputs),
            existing=existing,
            overwrites=config.overwrite and existing > 0,
            experiments=plan.survey.experiments,
            new=asked - retried - (changed if config.redo_changed else 0),
            done=plan.survey.experiments - asked - (0 if config.redo_changed else changed),
            done_errors=found.errors if found is not None else 0,
            rescued=foresight.rescued if foresight is not None else 0,
            retried=retried,
            changed=changed,
            redone=config.redo_changed,
            removed=found.removed if found is not None else 0,
            torn=sum(scan.torn for scan in foresight.scans if scan is not None) if foresight else 0,
            unreadable=unreadable,
            requests=requests,
            costs=tuple(each.total(*model) for model, each in sums.items()),
            tableless=known.tableless,
            max_cost=config.max_cost,
            writers=tuple(sorted(writers)),
            notices=(*plan.unknown_variables(), *(foresight.told if foresight is not None else ())),
        )


class _Sums:
    """Adds up what the rows of one model may cost. What is unknown of one is unknown of all."""

    def __init__(self, meter: RowMeter) -> None:
        self._meter = meter
        self._rows = 0
        self._sums: list[float | None] = [0.0, 0.0, 0.0]

    def add(self, task: RowTask) -> None:
        measured = self._meter.measure(task)
        guesses = [self._meter.expected(task, measured, assumed) for assumed in (LOW, LIKELY)]
        self._rows += 1
        self._sums = [
            None if before is None or more is None else before + more
            for before, more in zip(self._sums, (*guesses, measured.cost), strict=True)
        ]

    def total(self, provider: str, model: str) -> ModelCost:
        return ModelCost(provider, model, self._rows, *self._sums)
