"""What a run will do, found out before it does anything: rows checked, finished ones recognised.

pass 1   survey         every row is read and checked; nothing is kept but counts
                        (and, to resume, 32 bytes of identity a row)
         match          results files are scanned; finished experiments are ticked off
pass 2   jobs           rows are read again, as slots get free
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from parallamr_mp.attempt import RowTask
from parallamr_mp.config import RunConfig
from parallamr_mp.errors import BadInput, InputChanged
from parallamr_mp.experiments import Experiment, Table, identify, in_range
from parallamr_mp.models import Failure, Inputs
from parallamr_mp.outputs import Outputs
from parallamr_mp.policy.schedule import Job
from parallamr_mp.prompts import Template
from parallamr_mp.rescue import adopt
from parallamr_mp.results.layout import Layout
from parallamr_mp.results.records import columns_for
from parallamr_mp.results.rescue_file import rescue_files
from parallamr_mp.results.rewrite import relayout
from parallamr_mp.results.scan import STATUSES, Scan, cells_key, row_key, scan_results
from parallamr_mp.resume import (
    Formerly,
    Identities,
    Matching,
    cut,
    drop_rows,
    match,
    notices,
    recognise,
    replaced,
)
from parallamr_mp.sources import SourceError, Sources
from parallamr_mp.text import count


@dataclass(slots=True)
class Survey:
    """What the first pass found."""

    experiments: int = 0
    """Rows in range, times repeats."""
    models: dict[tuple[str, str], int] = field(default_factory=dict)
    """Rows by (provider, model)."""
    inputs: set[str] = field(default_factory=set)
    """Input files with paths of their own rows, where an output might be one of them."""
    asked: Identities = field(default_factory=Identities)
    """Filled where the run resumes."""


class Plan:
    """One run's table, inputs and outputs, from the first look to the jobs. Used by one thread."""

    def __init__(self, config: RunConfig, table: Table, sources: Sources, outputs: Outputs) -> None:
        self._config, self._table, self._sources, self.outputs = config, table, sources, outputs
        self.input_columns = table.columns
        self.columns = columns_for(table.columns)
        self.survey = Survey()
        self._done: bytearray | None = None
        self._found: Matching | None = None
        self._written = bytearray()
        self._statuses: list[bytearray] = []
        """Of the rows that were there, by file."""
        self.done_errors = 0
        """Of the experiments that are done, how many ended in an error row."""

    @property
    def static_inputs(self) -> Inputs | None:
        """The texts that are the same for every row; None where paths are templates."""
        return self._sources.static

    def unknown_variables(self) -> list[str]:
        """A notice for each text of all rows with a variable that no column fills."""
        inputs = self.static_inputs
        if inputs is None:
            return []
        texts = [("prompt", inputs.prompt), *inputs.documents]
        if inputs.system is not None:
            texts.append(("system text", inputs.system))
        told = []
        for name, text in texts:
            unknown = [variable for variable in Template(text).names if variable not in self.input_columns]
            if unknown:
                written = ", ".join("{{" + variable + "}}" for variable in unknown)
                columns = ", ".join(self.input_columns)
                told.append(f"{name}: no column for {written}, left as it is (columns: {columns})")
        return told

    @property
    def done(self) -> int:
        """Experiments that have their result already."""
        return sum(self._done) if self._done is not None else 0

    # ── pass 1 ───────────────────────────────────────────────────────────────

    def look(self, known_providers: frozenset[str]) -> Survey:
        """Reads and checks every row in range. Raises `BadInput` at the first that cannot be run."""
        survey, repeat = self.survey, self._config.repeat
        for experiment in self._rows():
            if experiment.provider not in known_providers:
                raise BadInput(
                    f"unknown provider {experiment.provider!r}",
                    file=self._table.label,
                    row=experiment.row_number,
                    column="provider",
                    hint=f"Known: {', '.join(sorted(known_providers))}.",
                )
            self._table.params(experiment)
            values = self._table.variables(experiment)
            file = self.outputs.number(experiment, values)
            if self._sources.templated and (self._config.resume or self._config.overwrite):
                # Only an output that exists can be an input, and it is refused otherwise.
                survey.inputs.update(self._sources.paths(values))
            model = experiment.provider, experiment.model
            survey.models[model] = survey.models.get(model, 0) + 1
            survey.experiments += repeat
            if self._config.resume:
                _, digest = self._inputs(values)
                for index in range(repeat):
                    survey.asked.ids.append(int(self._identity(experiment, values, digest, index), 16))
                    survey.asked.keys.append(row_key(experiment.row_number, index))
                    survey.asked.cells.append(cells_key(experiment.values, index))
                    survey.asked.files.append(file)
        if not survey.experiments:
            first = self._config.first_row
            hint = "Expected at least one row below the header."
            if first > 1:
                hint = f"The table has {count(sum(1 for _ in self._table.rows()), 'row')}."
            raise BadInput(
                "has no experiments" + (f" from row {first} on" if first > 1 else ""),
                file=self._table.label,
                hint=hint,
            )
        return survey

    def _rows(self) -> Iterator[Experiment]:
        return in_range(self._table.rows(), self._config.first_row, self._config.last_row)

    def _inputs(self, values: dict[str, str]) -> tuple[Inputs | Failure | None, bytes]:
        try:
            return self._sources.for_row(values)
        except SourceError as error:
            text = f"input file {error}"
            return Failure("input_file", text), blake2b(text.encode(), digest_size=16).digest()

    def _identity(self, experiment: Experiment, values: dict[str, str], digest: bytes, repeat: int) -> str:
        return identify(
            provider=experiment.provider,
            model=experiment.model,
            variables=[item for item in values.items() if item[0] not in {"provider", "model"}],
            params={**self._config.params, **self._table.params(experiment)},
            sources=digest,
            repeat=repeat,
        )

    # ── resuming ─────────────────────────────────────────────────────────────

    def scan(self) -> list[Scan | None]:
        """Reads every results file that exists. Raises `BadInput` for one that does not fit."""
        scans = []
        for output in self.outputs.files:
            scan = None
            if output.existed and output.path is not None:
                scan = scan_results(output.path, self.columns)
                output.offset = scan.end
                if scan.layout is not None:
                    output.extra = tuple(scan.header[place] for place in scan.layout.extra)
            scans.append(scan)
        return scans

    def resume(self, scans: list[Scan | None], inherited: Sequence[str] = ()) -> list[str]:
        """Ticks off what is finished.

        `inherited`: where the workers of runs that are gone may have saved
        answers, besides this run's own place.

        Returns notices for the user. Raises `OutputError`.
        """
        told = self._bring_into_layout(scans)
        if told:
            scans = self.scan()
        rescues = rescue_files([*self.outputs.rescue_places(), *inherited])
        for path in rescues:
            with contextlib.suppress(BadInput):  # `adopt` tells of it
                self._relayout(path, scan_results(path, self.columns), None)
        rescued, foreign = adopt(rescues, self.columns, self.survey.asked, scans, self.outputs.files)
        told += [f"{path}: rescued answers of no row of this run; they stay there" for path in foreign]
        if rescued:
            told.append(f"{count(rescued, 'answer')} saved aside by an earlier run: taken in")
            scans = self.scan()
        redo_changed = self._config.redo_changed
        found = match(
            self.survey.asked, scans, retry_errors=self._config.retry_errors, redo_changed=redo_changed
        )
        cut(scans)
        for output, scan in zip(self.outputs.files, scans, strict=True):
            self._statuses.append(scan.statuses if scan is not None else bytearray())
            if scan is not None:
                output.counts.update(scan.counts)
        self._found, self._done, self.done_errors = found, found.done, found.errors
        return told + notices(found, scans, redo_changed=redo_changed)

    def _bring_into_layout(self, scans: Sequence[Scan | None]) -> list[str]:
        """Gives every results file the columns of this run. Returns notices, one for each file changed."""
        told = []
        for output, scan in zip(self.outputs.files, scans, strict=True):
            if scan is None or scan.layout is None or not self._relayout(scan.path, scan, output.number):
                continue
            if scan.layout.original:
                told.append(
                    f"{scan.path}: was written by the original parallamr, which did not note what was asked;"
                    " rows with the same cells count as done, whatever prompt they were asked with"
                )
            names = ", ".join(self.columns[number] for number in scan.layout.missing)
            told.append(
                f"{scan.path}: "
                + (
                    f"gets the columns {names} of the table"
                    if names
                    else "gets its columns in the table's order"
                )
            )
        return told

    def _relayout(self, path: str, scan: Scan, number: int | None) -> bool:
        """Rewrites a file that has another layout; False: it has not."""
        if scan.layout is None or scan.layout.fits:
            return False
        ordinals = recognise(scan, self.survey.asked, self._formerly(scan.layout), number)
        wanted = {ordinal for ordinal in ordinals if ordinal >= 0} if scan.layout.missing else set()
        cells = {}
        for ordinal, experiment in self._by_ordinal():
            if ordinal in wanted:
                cells[ordinal] = dict(zip(self.input_columns, experiment.values, strict=True))
        relayout(path, scan, self.columns, lambda index: cells.get(ordinals[index]))
        return True

    def _formerly(self, layout: Layout) -> Formerly:
        """One more pass over the table: what it would have asked without the columns the file lacks."""
        formerly = Formerly()
        lacks = {self.columns[number] for number in layout.missing}
        shared = [number for number in range(layout.inputs) if number not in layout.missing]
        for experiment in self._rows():
            values = self._table.variables(experiment)
            inputs, digest = self._inputs(values)
            texts = inputs if isinstance(inputs, Inputs) else self.static_inputs
            unused = lacks - _names_in(texts) if texts is not None else set()
            then = {name: value for name, value in values.items() if name not in unused}
            cells = [experiment.values[number] for number in shared]
            for repeat in range(self._config.repeat):
                formerly.ids.append(int(self._identity(experiment, then, digest, repeat), 16))
                formerly.cells.append(cells_key(cells, repeat))
        return formerly

    def _by_ordinal(self) -> Iterator[tuple[int, Experiment]]:
        rows = ((row, repeat) for row in self._rows() for repeat in range(self._config.repeat))
        for ordinal, (experiment, _) in enumerate(rows):
            yield ordinal, experiment

    def note_written(self, ordinal: int) -> None:
        """The experiment's new result has been accepted for its file."""
        if self._found is not None:
            if not self._written:
                self._written = bytearray(self.survey.experiments)
            self._written[ordinal] = 1

    def finish(self) -> None:
        """Lets new results take the place of the rows they replace. After the writer has ended."""
        if self._found is not None:
            written = self._written or bytearray(self.survey.experiments)
            drops = replaced(self._found, self.survey.asked, written)
            drop_rows(drops, self.outputs.files)
            for output, drop, statuses in zip(self.outputs.files, drops, self._statuses, strict=True):
                for index in drop:
                    output.counts[STATUSES[statuses[index]]] -= 1

    # ── pass 2 ───────────────────────────────────────────────────────────────

    def jobs(self) -> Iterator[Job]:
        """Every experiment that has no result yet, in order. Its `id` is its ordinal in the run.

        Raises `InputChanged` when the table is not what it was in the first pass.
        """
        try:
            yield from self._jobs()
        except BadInput as error:
            raise self._changed() from error

    def _jobs(self) -> Iterator[Job]:
        config, done, ids = self._config, self._done, self.survey.asked.ids
        ordinal = 0
        for experiment in self._rows():
            if ordinal >= self.survey.experiments:
                raise self._changed()
            if done is not None and all(done[ordinal : ordinal + config.repeat]):
                ordinal += config.repeat
                continue
            values = self._table.variables(experiment)
            inputs, digest = self._inputs(values)
            params = {**config.params, **self._table.params(experiment)}
            file = self.outputs.number(experiment, values)
            label = f"row {experiment.row_number}"
            size = sum(map(len, experiment.values))
            if isinstance(inputs, Inputs):
                size += len(inputs.prompt) + sum(len(text) for _, text in inputs.documents)
            for repeat in range(config.repeat):
                if done is None or not done[ordinal]:
                    identity = (
                        f"{ids[ordinal]:016x}" if ids else self._identity(experiment, values, digest, repeat)
                    )
                    failure = inputs if isinstance(inputs, Failure) else None
                    task = RowTask(
                        experiment.row_number,
                        repeat,
                        identity,
                        file,
                        experiment.provider,
                        experiment.model,
                        experiment.values,
                        params,
                        None if isinstance(inputs, Failure) else inputs,
                    )
                    yield Job(ordinal, experiment.provider, task, size=size, label=label, verdict=failure)
                ordinal += 1
        if ordinal < self.survey.experiments:
            raise self._changed()

    def _changed(self) -> InputChanged:
        return InputChanged(
            f"{self._table.label}: was changed while the run was reading it; the answers so far are written."
            " Run again with --resume to go on with the table as it is now."
        )


def _names_in(inputs: Inputs) -> set[str]:
    """The variables that the texts of a row use."""
    texts = [inputs.prompt, *(text for _, text in inputs.documents), inputs.system or ""]
    return {name for text in texts for name in _names(text)}


@lru_cache(maxsize=256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(Template(text).names)
