"""What a run will do, found out before it does anything: rows checked, finished ones recognised.

pass 1   survey         every row is read and checked; nothing is kept but counts
                        (and, to resume, eight bytes of identity a row)
         match          results files are scanned; finished experiments are ticked off
pass 2   jobs           rows are read again, as slots get free
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from parallamr_mp.attempt import RowTask
from parallamr_mp.config import RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.experiments import Experiment, Table, identify, in_range
from parallamr_mp.models import Failure, Inputs
from parallamr_mp.outputs import Output, Outputs
from parallamr_mp.policy.schedule import Job
from parallamr_mp.results.records import columns_for
from parallamr_mp.results.rewrite import drop_records
from parallamr_mp.results.scan import Finished, Scan, extra_columns, row_key, scan_results
from parallamr_mp.sources import SourceError, Sources


@dataclass(slots=True)
class Survey:
    """What the first pass found."""

    experiments: int = 0
    """Rows in range, times repeats."""
    models: dict[tuple[str, str], int] = field(default_factory=dict)
    """Rows by (provider, model)."""
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """Identity by ordinal, where the run resumes."""
    keys: array[int] = field(default_factory=lambda: array("Q"))
    files: array[int] = field(default_factory=lambda: array("L"))


class Plan:
    """One run's table, inputs and outputs, from the first look to the jobs. Used by one thread."""

    def __init__(self, config: RunConfig, table: Table, sources: Sources, outputs: Outputs) -> None:
        self._config, self._table, self._sources, self.outputs = config, table, sources, outputs
        self.input_columns = table.columns
        self.columns = columns_for(table.columns)
        self.survey = Survey()
        self._done: bytearray | None = None
        self.done_errors = 0
        """Of the experiments that are done, how many ended in an error row."""

    @property
    def static_inputs(self) -> Inputs | None:
        """The texts that are the same for every row; None where paths are templates."""
        return self._sources.static

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
            model = experiment.provider, experiment.model
            survey.models[model] = survey.models.get(model, 0) + 1
            survey.experiments += repeat
            if self._config.resume:
                _, digest = self._inputs(values)
                for index in range(repeat):
                    survey.ids.append(int(self._identity(experiment, values, digest, index), 16))
                    survey.keys.append(row_key(experiment.row_number, index))
                    survey.files.append(file)
        if not survey.experiments:
            raise BadInput(
                "has no experiments" + (" in this range" if self._config.first_row > 1 else ""),
                file=self._table.label,
                hint="Expected at least one row below the header.",
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
                output.extra = extra_columns(scan.header, self.columns) or ()
            scans.append(scan)
        return scans

    def match(self, scans: list[Scan | None]) -> list[str]:
        """Ticks off what is finished, and takes error rows to be redone out of their files.

        Returns notices for the user.
        """
        config, survey = self._config, self.survey
        finished = [Finished(scan) if scan is not None else None for scan in scans]
        done = self._done = bytearray(survey.experiments)
        drops: list[set[int]] = [set() for _ in scans]
        redo = 0

        def claim(ordinal: int, index: int, file: Finished, dropped: set[int]) -> int:
            if config.retry_errors and file.is_error(index):
                dropped.add(index)
                return 1
            done[ordinal] = 1
            self.done_errors += file.is_error(index)
            return 0

        retried = bytearray(survey.experiments)
        for same_row in (True, False):
            for ordinal in range(survey.experiments):
                file = finished[survey.files[ordinal]]
                if file is None or done[ordinal] or retried[ordinal]:
                    continue
                if same_row:
                    index = file.claim_same_row(survey.ids[ordinal], survey.keys[ordinal])
                else:
                    index = file.claim_any(survey.ids[ordinal])
                if index is not None:
                    retried[ordinal] = claim(ordinal, index, file, drops[survey.files[ordinal]])
                    redo += retried[ordinal]
        stale = self._superseded_errors(scans, finished, drops)
        notices = []
        for output, scan, drop in zip(self.outputs.files, scans, drops, strict=True):
            if scan is None:
                continue
            if scan.torn:
                notices.append(f"{scan.path}: {scan.torn} bytes of an unfinished last record are cut off")
                # The writer has not started yet: until it does, the file is the parent's.
                os.truncate(scan.path, scan.end)
            if drop:
                _drop(output, drop)
        if redo:
            notices.append(f"{redo} error row{'s' * (redo > 1)} will be redone")
        if stale:
            notices.append(
                f"{stale} row{'s' * (stale > 1)} of the results belong to no experiment of this run"
                " (edited, removed, or out of its range); they stay"
            )
        return notices

    def _superseded_errors(
        self, scans: list[Scan | None], finished: list[Finished | None], drops: list[set[int]]
    ) -> int:
        """Marks errors of experiments that are asked differently now, and counts other rows nobody claims.

        An error row holds no answer. Where the same row number is about to get
        a result (its missing file has turned up, say), the old error must go,
        or the row would be there twice.
        """
        done = self._done or bytearray()
        pending: list[set[int]] = [set() for _ in scans]
        unclaimed = [list(file.unclaimed()) if file is not None else [] for file in finished]
        if any(unclaimed):
            for ordinal, key in enumerate(self.survey.keys):
                if not done[ordinal] and unclaimed[self.survey.files[ordinal]]:
                    pending[self.survey.files[ordinal]].add(key)
        stale = 0
        for number, (scan, file) in enumerate(zip(scans, finished, strict=True)):
            if scan is None or file is None:
                continue
            for index in unclaimed[number]:
                if file.is_error(index) and scan.rows[index] in pending[number]:
                    drops[number].add(index)
                else:
                    stale += 1
        return stale

    # ── pass 2 ───────────────────────────────────────────────────────────────

    def jobs(self) -> Iterator[Job]:
        """Every experiment that has no result yet, in order. Its `id` is its ordinal in the run."""
        config, done, ids = self._config, self._done, self.survey.ids
        ordinal = 0
        for experiment in self._rows():
            if ordinal >= self.survey.experiments:
                raise BadInput(
                    "was changed while it was read", file=self._table.label, row=experiment.row_number
                )
            if done is not None and all(done[ordinal : ordinal + config.repeat]):
                ordinal += config.repeat
                continue
            values = self._table.variables(experiment)
            inputs, digest = self._inputs(values)
            params = {**config.params, **self._table.params(experiment)}
            file = self.outputs.number(experiment, values)
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
                    yield Job(ordinal, experiment.provider, task, verdict=failure)
                ordinal += 1


def _drop(output: Output, drop: set[int]) -> None:
    if output.path is not None:
        _, output.offset = drop_records(output.path, drop.__contains__)
