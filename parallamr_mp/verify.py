"""Whether a results file is whole: `parallamr-mp verify`. Reads, and changes nothing.

each record           parses; status, message and output go together
the records together  none torn; no experiment twice
with the table        none missing, none foreign, none that answers something else
the manifest          the same rows and bytes; the last run has ended, and with every row
what stands around    nobody writing, no answers waiting to be taken in
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from parallamr_mp.config import RunConfig, check
from parallamr_mp.errors import BadInput, OutputError
from parallamr_mp.experiments import Table
from parallamr_mp.models import RESULT_COLUMNS, Status
from parallamr_mp.outputs import Outputs
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.prepare import Injected, make_plan
from parallamr_mp.results.lock import holder
from parallamr_mp.results.manifest import load_manifest, manifest_path
from parallamr_mp.results.records import columns_for, complete_records, decode_record
from parallamr_mp.results.rescue_file import rescue_files, rescue_files_of_others
from parallamr_mp.results.scan import Scan, row_of, scan_results
from parallamr_mp.text import count

_EXAMPLES = 3
_RESUME = "run with --resume"
_RESTORE = "the file was changed since its last run: restore it, or run with --resume"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why results are not whole, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One results file."""

    path: str
    rows: int
    counts: dict[str, int]
    """Rows by status."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at results came to."""

    files: tuple[CheckedFile, ...]
    experiments: int | None
    """Of the table, in range, times repeats; None: there was no table to compare with."""
    problems: tuple[Problem, ...]

    @property
    def whole(self) -> bool:
        """Nothing is amiss."""
        return not self.problems


def verify_file(path: str) -> Verdict:
    """Looks at a results file by itself, with its manifest. Raises `BadInput` where there is none."""
    if "{{" in path and not os.path.exists(path):
        raise BadInput(
            "stands for many files", file=path, hint="Give -e and -p as well, or the path of one of them."
        )
    outputs = Outputs(path, ())
    if not os.path.isfile(path):
        raise BadInput("is no file" if os.path.exists(path) else "is not there", file=path)
    problems: list[Problem] = []
    scan = _scan(path, problems)
    if scan is not None:
        problems += _doubled(path, scan)
        problems += _manifest_problems(path, scan, table=False, writing=_is_written(outputs))
    problems += _surroundings(outputs)
    return Verdict(_checked([scan]), None, tuple(problems))


def verify_sweep(config: RunConfig, injected: Injected | None = None) -> Verdict:
    """Compares results with the table, prompt and other inputs that they should be of.

    `config.output` names them. Raises `BadInput` for inputs that cannot be
    used, and where there are no results at all.
    """
    config = replace(config, resume=True, overwrite=False)
    check(config)
    with contextlib.closing(Table(config.experiments)) as table:
        plan = make_plan(config, table, injected or Injected())
        files = plan.outputs.files
        paths = [output.path for output in files if output.path is not None]
        there = [path for path in paths if os.path.isfile(path)]
        if not there:
            raise BadInput("is not there", file=paths[0] if paths else None)
        problems = [Problem(f"{path}: is not there", _RESUME) for path in paths if path not in there]
        scans = [_scan(path, problems, plan.columns) for path in there]
        if None not in scans:
            # What is done cannot be told without all of them.
            problems += _compared(config, plan)
        problems += _surroundings(plan.outputs)
        writing = _is_written(plan.outputs)
        for path, scan in zip(there, scans, strict=True):
            if scan is not None:
                problems += _manifest_problems(path, scan, table=True, writing=writing)
        return Verdict(_checked(scans), plan.survey.experiments, tuple(problems))


def _compared(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """What the table has to say about the results."""
    foresight = Past(config, plan).foresee()
    found, asked = foresight.found, plan.survey.asked
    for text in foresight.told:
        yield Problem(text, "a run with --resume brings the file up")
    if foresight.rescued:
        yield Problem(f"{count(foresight.rescued, 'answer')} saved aside, not taken in yet", _RESUME)
    wanted, there = Counter(asked.ids), Counter[int]()
    for scan in foresight.scans:
        there.update(scan.ids if scan is not None else ())
    doubled = sum(
        number - wanted[identity] for identity, number in there.items() if 0 < wanted[identity] < number
    )
    beside = sum(map(len, found.leftovers))
    missing = plan.survey.experiments - sum(found.done)
    if missing:
        yield Problem(
            f"{count(missing, 'experiment')} without a row", "run with --resume to ask what is missing"
        )
    if doubled:
        yield Problem(
            f"{count(doubled, 'row')} of experiments that have one already",
            "take out all but one; the tool does not write such files",
        )
    if beside:
        yield Problem(f"{count(beside, 'error row')} beside the result that took its place", _RESUME)
    if found.changed:
        yield Problem(
            f"{count(found.changed, 'row')} with answers to another prompt, context, system or parameters",
            "give the inputs and options they were made with, or ask them again with --resume --redo-changed",
        )
    if (foreign := found.removed - doubled) > 0:
        strangers = (
            row_of(key)[0]
            for scan in foresight.scans
            if scan is not None
            for identity, key in zip(scan.ids, scan.rows, strict=True)
            if not wanted[identity]
        )
        where = ", ".join(map(str, itertools.islice(strangers, _EXAMPLES)))
        yield Problem(
            f"{count(foreign, 'row')} of no experiment in the table (edited, removed, or out of range;"
            f" row_number {where} …)",
            "give the table and options they are of, or take them out",
        )


def _scan(path: str, problems: list[Problem], columns: Sequence[str] | None = None) -> Scan | None:
    """Reads a file to its end; None when it cannot be read as results."""
    try:
        scan = scan_results(path, columns or _columns_of(path))
        if scan.layout is None:
            problems.append(Problem(f"{path}: is empty", _RESUME))
            return scan
        problems += _inconsistent(path, scan)
    except BadInput as error:
        problems.append(
            Problem(
                error.what if error.file is None else str(error).partition("\n")[0],
                error.hint or "give a file that `run` has written",
            )
        )
        return None
    if scan.torn:
        problems.append(
            Problem(
                f"{path}: {scan.torn} bytes of an unfinished last record", "a run with --resume cuts them off"
            )
        )
    return scan


def _columns_of(path: str) -> tuple[str, ...]:
    """The columns that a run with this file's own input columns would write."""
    with open(path, "rb") as stream:
        _, raw = next(complete_records(stream), (0, b""))
    try:
        header = decode_record(raw.removeprefix(b"\xef\xbb\xbf")) if raw else list(RESULT_COLUMNS)
    except ValueError:
        raise BadInput("is not a CSV file with a header", file=path) from None
    if RESULT_COLUMNS[0] not in header:
        raise BadInput("is not a results file: it has no column status", file=path)
    return columns_for(header[: header.index(RESULT_COLUMNS[0])])


def _inconsistent(path: str, scan: Scan) -> Iterator[Problem]:
    """Rows whose status does not go with the rest of them."""
    layout = scan.layout
    if layout is None:
        return
    place = dict(zip(RESULT_COLUMNS, layout.at[layout.inputs :], strict=True))
    found: dict[str, list[int]] = {}
    with open(path, "rb") as stream:
        records = complete_records(stream)
        next(records, None)
        for number, (_, record) in enumerate(records, start=1):
            cells = decode_record(record)
            status, output, message = (
                cells[place[name] or 0] for name in ("status", "output", "error_message")
            )
            if status not in set(Status):
                found.setdefault(f"a status that is none ({status!r})", []).append(number)
            elif status == Status.OK and message:
                found.setdefault("ok with a message", []).append(number)
            elif status == Status.ERROR and not message:
                found.setdefault("error without a message", []).append(number)
            elif status == Status.ERROR and output:
                found.setdefault("error with an output", []).append(number)
    for what, numbers in found.items():
        where = ", ".join(map(str, numbers[:_EXAMPLES])) + (" …" if len(numbers) > _EXAMPLES else "")
        yield Problem(
            f"{path}: {count(len(numbers), 'record')} {what} (record {where})",
            "the file was changed by another program: restore it",
        )


def _doubled(path: str, scan: Scan) -> Iterator[Problem]:
    """Rows that are there twice by themselves: the same experiment, row and repeat."""
    if scan.layout is not None and scan.layout.original:
        return
    # Those that the original parallamr wrote for nobody in the table have no identity.
    named = [pair for pair in zip(scan.ids, scan.rows, strict=True) if pair[0]]
    doubled = len(named) - len(set(named))
    if doubled:
        yield Problem(f"{path}: {count(doubled, 'row')} there twice", "take out all but one of each")


def _manifest_problems(path: str, scan: Scan, *, table: bool, writing: bool) -> Iterator[Problem]:
    """Where the file is not what its manifest says. With a table, that tells better what is missing."""
    try:
        manifest = load_manifest(path)
    except OutputError as error:
        yield Problem(str(error), "remove it; the next run makes it anew")
        return
    if manifest is None:
        return
    name = manifest_path(path)
    run = manifest["runs"][-1] if manifest["runs"] else {}
    totals = run.get("totals") or {}
    if run.get("ended") is None:
        if not writing:  # else that is the problem, and told
            yield Problem(f"{name}: the last run was killed", _RESUME)
    elif manifest.get("rows") is None:
        yield Problem(f"{name}: the last run ended early: {run.get('ended_by')}", _RESUME)
    elif manifest["rows"] != scan.counts:
        yield Problem(
            f"{name}: says {_rows(manifest['rows'])}, and the file has {_rows(scan.counts)}",
            _RESTORE,
        )
    elif manifest.get("bytes") != scan.size:
        yield Problem(
            f"{name}: says {manifest.get('bytes')} bytes, and the file has {scan.size}",
            _RESTORE,
        )
    if not table and totals.get("missing"):
        yield Problem(
            f"{name}: {count(totals['missing'], 'experiment')} had no row when the last run ended"
            f" ({run.get('ended_by')})",
            _RESUME,
        )


def _rows(counts: dict[str, int]) -> str:
    return " · ".join(f"{number} {status}" for status, number in counts.items())


def _surroundings(outputs: Outputs) -> Iterator[Problem]:
    """Locks and rescue files beside the results."""
    for path, label in outputs.locks():
        owner = holder(path)
        if owner is not None:
            yield Problem(f"{label}: {owner} is writing to it", "wait for it to end")
        elif os.path.lexists(path):
            yield Problem(f"{label}: the run that wrote it was killed", _RESUME)
    places = outputs.rescue_places()
    for path in rescue_files(places):
        yield Problem(f"{path}: answers that a run saved aside", "a run with --resume takes them in")
    for path in rescue_files_of_others(places[:1]):
        yield Problem(f"{path}: answers that another user has saved", "make the file yours, then --resume")


def _is_written(outputs: Outputs) -> bool:
    return any(holder(path) is not None for path, _ in outputs.locks())


def _checked(scans: Sequence[Scan | None]) -> tuple[CheckedFile, ...]:
    return tuple(
        CheckedFile(scan.path, len(scan.ids), scan.counts, scan.size) for scan in scans if scan is not None
    )
