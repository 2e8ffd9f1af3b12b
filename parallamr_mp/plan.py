"""What a run will do, found out before it does anything: rows checked, finished ones recognised.

pass 1   survey         every row is read and checked; nothing is kept but counts
                        (and, to resume, 20 bytes of identity a row)
         (past.py)      results files are scanned; finished experiments are ticked off
pass 2   jobs           rows are read again, as slots get free
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from parallamr_mp.answered import RowTask
from parallamr_mp.claims import Identities
from parallamr_mp.config import RunConfig
from parallamr_mp.errors import BadInput, InputChanged
from parallamr_mp.estimate import RowMeter, longest_answer
from parallamr_mp.experiments import Experiment, Table, in_range
from parallamr_mp.identity import Identifier
from parallamr_mp.models import Failure, Inputs
from parallamr_mp.outputs import Outputs
from parallamr_mp.policy.job import Job
from parallamr_mp.prefixes import prefixes
from parallamr_mp.prompts import Template
from parallamr_mp.questions import Questions
from parallamr_mp.results.layout import Layout
from parallamr_mp.results.records import columns_for
from parallamr_mp.results.scan import cells_key
from parallamr_mp.resume import Formerly
from parallamr_mp.schemas import response_format
from parallamr_mp.sources import SourceError, Sources
from parallamr_mp.text import count

_TEXT = itemgetter(1)


@dataclass(slots=True)
class Survey:
    """What the first pass found."""

    experiments: int = 0
    """Rows in range, times repeats."""
    models: dict[tuple[str, str], int] = field(default_factory=dict)
    """Rows by (provider, model)."""
    inputs: set[str] = field(default_factory=set)
    """Input files with paths of their own rows, where an output might be one of them."""
    unlimited: set[tuple[str, str]] = field(default_factory=set)
    """Models with a row that does not limit its answer; filled where the run has a budget."""
    asked: Identities = field(default_factory=Identities)
    """Filled where the run resumes."""


class Plan:
    """One run's table, inputs and outputs, from the first look to the jobs. Used by one thread."""

    def __init__(
        self,
        config: RunConfig,
        table: Table,
        sources: Sources,
        outputs: Outputs,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        """`schema` is the JSON schema that rows ask for unless they bring a format of their own."""
        self._config, self._table, self._sources, self.outputs = config, table, sources, outputs
        form = {} if schema is None else {"response_format": response_format(schema)}
        self._questions = Questions(table, config.params, form)
        self.input_columns = table.columns
        self.columns = columns_for(table.columns)
        self.survey = Survey(asked=Identities(config.first_row, config.repeat))
        self.meter: RowMeter | None = None
        """Measures the jobs, where that is wished; set by whoever knows the models' prices and windows."""
        self.replicated: frozenset[str] = frozenset()
        """Providers with several endpoints, where it matters how a request begins; set by `sweep`."""
        self._providers: frozenset[str] = frozenset()
        self._read: bytearray | None = None
        """By ordinal: 1 for what has been given out by one of several readers, who do not see each other."""
        self.done: bytearray | None = None
        """By ordinal: 1 for what is not asked, having its result; set by `Past`. None: nothing has."""

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

    # ── pass 1 ───────────────────────────────────────────────────────────────

    def look(self, known_providers: frozenset[str]) -> Survey:
        """Reads and checks every row in range. Raises `BadInput` at the first that cannot be run."""
        survey, config, table = self.survey, self._config, self._table
        resume, repeats, asked = config.resume, range(config.repeat), survey.asked
        # Only an output that exists can be an input, and it is refused otherwise.
        note_inputs = self._sources.templated and (resume or config.overwrite)
        named = self._sources.templated or self.outputs.templated
        values: dict[str, str] = {}
        params: dict[str, Any] = {}
        file, digest = 0, b"" if self._sources.templated else self._inputs(values)[1]
        for experiment in self._rows():
            number, provider, model, cells = experiment
            pair = provider, model
            new = pair not in survey.models
            if new:
                if provider not in known_providers:
                    raise BadInput(
                        f"unknown provider {provider!r}",
                        file=table.label,
                        row=number,
                        column="provider",
                        hint=f"Known: {', '.join(sorted(known_providers))}.",
                    )
                survey.models[pair] = 0
            survey.models[pair] += 1
            if new or table.param_columns:
                params = self._questions.params(experiment)
                if config.max_cost is not None and longest_answer(params) is None:
                    survey.unlimited.add(pair)
            if named:
                values = table.variables(experiment)
                file = self.outputs.number(experiment, values)
                if note_inputs:
                    survey.inputs.update(self._sources.paths(values))
            survey.experiments += config.repeat
            if resume:
                if self._sources.templated:
                    _, digest = self._inputs(values)
                for index in repeats:
                    identity = self._questions.identifier.digest(
                        provider, model, cells, params, digest, index
                    )
                    asked.ids.append(int.from_bytes(identity))
                    asked.cells.append(cells_key(cells, index))
                    asked.files.append(file)
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
        self._providers = frozenset(provider for provider, _ in survey.models)
        return survey

    def _rows(self) -> Iterator[Experiment]:
        return in_range(self._table.rows(), self._config.first_row, self._config.last_row)

    def _inputs(self, values: dict[str, str]) -> tuple[Inputs | Failure | None, bytes]:
        try:
            return self._sources.for_row(values)
        except SourceError as error:
            text = f"input file {error}"
            return Failure("input_file", text), blake2b(text.encode(), digest_size=16).digest()

    # ── further passes, to resume from files of another layout ───────────────

    def formerly(self, layout: Layout) -> Formerly:
        """What the table would have asked without the columns that a results file lacks."""
        formerly = Formerly()
        lacks = frozenset(self.columns[number] for number in layout.missing)
        shared = [number for number in range(layout.inputs) if number not in layout.missing]
        identifiers: dict[frozenset[str], Identifier] = {}
        static = None if self.static_inputs is None else _names_in(self.static_inputs)
        for experiment in self._rows():
            inputs, digest = self._inputs(self._table.variables(experiment))
            used = _names_in(inputs) if isinstance(inputs, Inputs) else static
            unused = lacks - used if used is not None else frozenset[str]()
            identifier = identifiers.get(unused)
            if identifier is None:
                identifier = identifiers[unused] = Identifier(self.input_columns, without=unused)
            params = self._questions.params(experiment)
            cells = [experiment.values[number] for number in shared]
            for repeat in range(self._config.repeat):
                identity = identifier.digest(
                    experiment.provider, experiment.model, experiment.values, params, digest, repeat
                )
                formerly.ids.append(int.from_bytes(identity))
                formerly.cells.append(cells_key(cells, repeat))
        return formerly

    def cells_of(self, ordinals: Collection[int]) -> dict[int, dict[str, str]]:
        """The input cells of these experiments, by column."""
        rows = (row for row in self._rows() for _ in range(self._config.repeat))
        return {
            ordinal: dict(zip(self.input_columns, row.values, strict=True))
            for ordinal, row in enumerate(rows)
            if ordinal in ordinals
        }

    # ── pass 2 ───────────────────────────────────────────────────────────────

    def sources(self) -> dict[str, Iterator[Job]]:
        """The jobs of each provider, read apart from those of the others: see `engine/feed.py`."""
        providers = dict.fromkeys(provider for provider, _ in self.survey.models)
        if len(providers) > 1:
            self._read = bytearray(self.survey.experiments)
        return {provider: self.jobs(provider) for provider in providers}

    def jobs(self, provider: str | None = None) -> Iterator[Job]:
        """Every experiment (of this provider) that has no result yet, in order.

        Its `id` is its ordinal in the run. Raises `InputChanged` when the table is
        not what it was in the first pass.
        """
        done, repeats, ordinal = self.done, self._config.repeat, 0
        templated, measures = self._sources.templated, self.meter is not None or bool(self.replicated)
        by_name = templated or measures or self.outputs.templated
        checks = self._read is not None or bool(self.survey.asked.cells)
        values: dict[str, str] = {}
        digest = b"" if templated else self._inputs(values)[1]
        own: Inputs | None = None
        failure: Failure | None = None
        try:
            for experiment in self._rows():
                if ordinal >= self.survey.experiments:
                    raise self._changed()
                others = provider is not None and experiment.provider != provider
                if others and experiment.provider not in self._providers:
                    raise self._changed()
                if others or (done is not None and done.find(0, ordinal, ordinal + repeats) < 0):
                    ordinal += repeats
                    continue
                if by_name:
                    values = self._table.variables(experiment)
                    if templated:
                        inputs, digest = self._inputs(values)
                        own = inputs if isinstance(inputs, Inputs) else None
                        failure = inputs if isinstance(inputs, Failure) else None
                params = self._questions.params(experiment)
                file = self.outputs.number(experiment, values) if self.outputs.templated else 0
                size = sum(map(len, experiment.values))
                if own is not None:
                    size += len(own.prompt) + sum(map(len, map(_TEXT, own.documents)))
                for repeat in range(repeats):
                    if done is None or not done[ordinal]:
                        if checks:
                            self._check_read(ordinal, experiment, repeat)
                        task = RowTask(
                            experiment.row_number,
                            repeat,
                            self._questions.identity(experiment, params, digest, repeat),
                            file,
                            experiment.provider,
                            experiment.model,
                            experiment.values,
                            params,
                            own,
                        )
                        job = Job(ordinal, experiment.provider, task, size=size, verdict=failure)
                        job.label, job.model = f"row {experiment.row_number}", experiment.model
                        if measures and failure is None:
                            self._measure(job, task, values)
                        yield job
                    ordinal += 1
        except BadInput as error:
            raise self._changed() from error
        if ordinal < self.survey.experiments:
            raise self._changed()

    def _check_read(self, ordinal: int, experiment: Experiment, repeat: int) -> None:
        """Raises `InputChanged` for what is not what the first pass saw, or was given out before."""
        asked = self.survey.asked
        # What was matched with earlier results has to be what is asked now.
        if asked.cells and asked.cells[ordinal] != cells_key(experiment.values, repeat):
            raise self._changed()
        if self._read is not None:
            if self._read[ordinal]:
                raise self._changed()
            self._read[ordinal] = 1

    def _measure(self, job: Job, task: RowTask, values: Mapping[str, str]) -> None:
        """Notes how the request begins and what it may take, as far as anybody wants to know."""
        if task.provider in self.replicated:
            texts = task.inputs or self.static_inputs
            if texts is not None:
                job.prefixes = prefixes(task.model, texts, values)
        if self.meter is not None:
            measured = self.meter.measure(task, values)
            job.characters, job.max_tokens = measured.characters, measured.max_tokens
            job.cost = measured.cost or 0.0

    def _changed(self) -> InputChanged:
        return InputChanged(
            f"{self._table.label}: was changed while the run was reading it; the answers so far are written."
            " Run again with --resume to go on with the table as it is now."
        )


def _names_in(inputs: Inputs) -> frozenset[str]:
    """The variables that the texts of a row use."""
    texts = [inputs.prompt, *(text for _, text in inputs.documents), inputs.system or ""]
    return frozenset(name for text in texts for name in _names(text))


@lru_cache(maxsize=256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(Template(text).names)
