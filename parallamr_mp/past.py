"""What earlier runs have left of this one, and what becomes of it.

    results files ──scan──► layout brought up ──► answers saved aside taken in ──► match ──► torn ends cut
                                                                                     │
    after the run:   rows that were asked again give way to their new results ◄──────┘

Runs in the parent, under the outputs' locks: before the writer starts and
after it has ended, when the files are the parent's. `foresee` alone may run
without, for it changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from parallamr_mp.config import RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.models import Status
from parallamr_mp.plan import Plan
from parallamr_mp.rescue import adopt, waiting
from parallamr_mp.results.rescue_file import rescue_files, rescue_files_of_others
from parallamr_mp.results.rewrite import relayout
from parallamr_mp.results.scan import ERROR_CODE, STATUSES, Scan, scan_results
from parallamr_mp.resume import Matching, cut, drop_rows, match, notices, recognise, replaced
from parallamr_mp.text import count


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a resumed run would find."""

    scans: list[Scan | None]
    """As they would be after rescued answers have been taken in."""
    found: Matching
    rescued: int
    """Answers saved aside by earlier runs that would be taken in."""
    told: list[str]
    """What the run would tell of files in another layout."""


class Past:
    """What there is already of a plan's results. Used by one thread."""

    def __init__(self, config: RunConfig, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._files, self._asked = plan.outputs.files, plan.survey.asked
        self._found: Matching | None = None
        self._written = bytearray()
        """By ordinal: 1 for what has a new result."""
        self._lengths: list[int] = []
        """Rows by file: those that were there, and those given to the writer, which keeps their order."""
        self._failed: list[set[int]] = []
        """By file, the new error rows of experiments that have an old answer."""
        self._statuses: list[bytearray] = []
        """Of the rows that were there, by file."""

    @property
    def done(self) -> int:
        """Experiments that have their result already."""
        return sum(self._found.done) if self._found is not None else 0

    @property
    def done_errors(self) -> int:
        """Of these, how many ended in an error row."""
        return self._found.errors if self._found is not None else 0

    def scan(self) -> list[Scan | None]:
        """Reads every results file that exists. Raises `BadInput` for one that does not fit."""
        scans = []
        for output in self._files:
            scan = None
            if output.existed and output.path is not None:
                scan = scan_results(output.path, self._plan.columns)
                output.offset = scan.end
                if scan.layout is not None:
                    output.extra = tuple(scan.header[place] for place in scan.layout.extra)
            scans.append(scan)
        return scans

    def take_up(self, scans: list[Scan | None], inherited: Sequence[str] = ()) -> list[str]:
        """Brings the files into a state to go on from, and ticks off what is finished in the plan.

        `inherited`: where the processes of runs that are gone may have saved
        answers, besides this run's own places. Returns notices for the user.
        Raises `OutputError`.
        """
        told = self._bring_into_layout(scans)
        if told:
            scans = self.scan()
        rescues = rescue_files([*self._plan.outputs.rescue_places(), *inherited])
        for path in rescues:
            with contextlib.suppress(BadInput):  # `adopt` tells of it
                self._relayout(path, scan_results(path, self._plan.columns), None)
        rescued, foreign = adopt(rescues, self._plan.columns, self._asked, scans, self._files)
        told += _of_others(self._plan)
        told += [f"{path}: rescued answers of no row of this run; they stay there" for path in foreign]
        if rescued:
            told.append(f"{count(rescued, 'answer')} saved aside by an earlier run: taken in")
            scans = self.scan()
        found = self._match(scans)
        cut(scans)
        for output, scan in zip(self._files, scans, strict=True):
            self._statuses.append(scan.statuses if scan is not None else bytearray())
            self._lengths.append(len(scan.ids) if scan is not None else 0)
            self._failed.append(set())
            if scan is not None:
                output.counts.update(scan.counts)
        return told + notices(found, scans, redo_changed=self._config.redo_changed)

    def foresee(self) -> Foresight:
        """What `take_up` would find, and ticks it off in the plan. Touches no file. Raises `BadInput`."""
        scans, told = self.scan(), []
        for output, scan in zip(self._files, scans, strict=True):
            if scan is not None and self._recognise(scan, output.number) is not None:
                told += _new_layout(scan, self._plan.columns)
        saves = []
        for path in rescue_files(self._plan.outputs.rescue_places()):
            with contextlib.suppress(BadInput):
                saves.append(scan_results(path, self._plan.columns))
                self._recognise(saves[-1], None)
        rescued = waiting(saves, self._asked, scans, self._files)
        return Foresight(scans, self._match(scans), rescued, told)

    def _match(self, scans: Sequence[Scan | None]) -> Matching:
        found = match(
            self._asked,
            scans,
            retry_errors=self._config.retry_errors,
            redo_changed=self._config.redo_changed,
        )
        self._found, self._plan.done = found, found.done
        return found

    def _bring_into_layout(self, scans: Sequence[Scan | None]) -> list[str]:
        """Gives every results file the columns of this run. Returns notices, one for each file changed."""
        told = []
        for output, scan in zip(self._files, scans, strict=True):
            if scan is not None and self._relayout(scan.path, scan, output.number):
                told += _new_layout(scan, self._plan.columns)
        return told

    def _relayout(self, path: str, scan: Scan, number: int | None) -> bool:
        """Rewrites a file that has another layout; False: it has not."""
        ordinals = self._recognise(scan, number)
        if ordinals is None or scan.layout is None:
            return False
        wanted = {ordinal for ordinal in ordinals if ordinal >= 0} if scan.layout.missing else set()
        cells = self._plan.cells_of(wanted)
        relayout(
            path,
            scan,
            self._plan.columns,
            lambda index: cells.get(ordinals[index]),
            excel_safe=self._config.excel_safe,
        )
        return True

    def _recognise(self, scan: Scan, number: int | None) -> Sequence[int] | None:
        """Makes the scan what that of the file in this run's layout would be; None: it is."""
        if scan.layout is None or scan.layout.fits:
            return None
        return recognise(scan, self._asked, self._plan.formerly(scan.layout), number)

    def note_written(self, ordinal: int, file: int, status: Status) -> None:
        """The experiment's new result has been given to the writer, for this file."""
        if self._found is None:
            return
        if not self._written:
            self._written = bytearray(self._plan.survey.experiments)
        index, old = self._lengths[file], self._found.replaces[ordinal]
        self._lengths[file] += 1
        if status is Status.ERROR and old >= 0 and self._statuses[file][old] != ERROR_CODE:
            self._failed[file].add(index)  # an answer that was paid for gives way to an answer only
        else:
            self._written[ordinal] = 1

    def finish(self) -> None:
        """Lets new results take the place of the rows they replace. After the writer has ended."""
        if self._found is None:
            return
        written = self._written or bytearray(self._plan.survey.experiments)
        drops = replaced(self._found, self._asked, written)
        for output, drop, statuses, failed in zip(
            self._files, drops, self._statuses, self._failed, strict=True
        ):
            for index in drop:
                if statuses[index] < len(STATUSES):
                    output.counts[STATUSES[statuses[index]]] -= 1
            output.counts[Status.ERROR] -= len(failed)
            drop.update(failed)
        drop_rows(drops, self._files)


def _of_others(plan: Plan) -> list[str]:
    """What to tell of answers that another user's run has saved beside the output."""
    return [
        f"{path}: answers that another user has saved; to take them in, make the file yours (chown) first"
        for path in rescue_files_of_others(plan.outputs.rescue_places()[:1])
    ]


def _new_layout(scan: Scan, columns: Sequence[str]) -> list[str]:
    """What to tell of a file whose columns are not those of the table."""
    if scan.layout is None:
        return []
    told = []
    if scan.layout.original:
        told.append(
            f"{scan.path}: was written by the original parallamr, which did not note what was asked;"
            " rows with the same cells count as done, whatever prompt they were asked with"
        )
    if scan.layout.missing:
        names = ", ".join(columns[number] for number in scan.layout.missing)
        told.append(f"{scan.path}: gets the columns {names} of the table")
    elif not scan.layout.original:
        told.append(f"{scan.path}: gets its columns in the order of the table")
    return told
