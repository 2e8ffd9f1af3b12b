"""Which file each row goes to, and whether that file may be written: decided before anything is sent.

Runs in the parent, in the passes over the table. After them the files belong
to the writer process.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from parallamr_mp.errors import BadInput, OutputError, OutputExists
from parallamr_mp.experiments import Experiment
from parallamr_mp.models import Status
from parallamr_mp.prompts import PathTemplate
from parallamr_mp.results.rescue_file import rescue_files, state_folder

_LONGEST_NAME = 230
"""Bytes of a file name that leave room for the lock's ending and its draft's."""


@dataclass(slots=True)
class Output:
    """One output file."""

    number: int
    path: str | None
    existed: bool = False
    """It held something before this run."""
    offset: int = 0
    """Bytes that stay."""
    extra: tuple[str, ...] = ()
    """Columns of an earlier `--flatten`."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Status), 0))
    """Its rows by status: those that are there, and those given to the writer."""


class Outputs:
    """The output files of a run, found while its rows are read."""

    def __init__(self, template: str | None, columns: Sequence[str]) -> None:
        """`template` may hold `{{column}}`; None: standard output. Raises `BadInput`."""
        self._template = PathTemplate(template) if template is not None else None
        self.templated = self._template is not None and self._template.is_templated
        self.label = template if template is not None else "standard output"
        self.files: list[Output] = []
        self._frozen = False
        self._by_path: dict[str, tuple[Output, bytes, int]] = {}
        self._by_folded_path: dict[str, str] = {}
        self._by_real_path: dict[str, str] = {}
        if self._template is None:
            self.files.append(Output(0, None))
            return
        for name in self._template.names:
            if name not in columns:
                raise BadInput(
                    f"--output {template}: there is no column {name!r} in the experiments",
                    hint=f"Columns: {', '.join(columns)}.",
                )
        if not self.templated:
            self.files.append(self._new(0, self._template.text))

    def number(self, experiment: Experiment, values: Mapping[str, str]) -> int:
        """The number of the row's output file. Raises `BadInput` for a row that has no proper place."""
        if self._template is None or not self.templated:
            return 0
        try:
            path = self._template.resolve_output(values)
        except BadInput as error:
            raise BadInput(
                error.what, file=self._template.text, row=experiment.row_number, hint=error.hint
            ) from None
        digest = blake2b(
            "\0".join(values[name] for name in self._template.names).encode("utf-8", "surrogatepass"),
            digest_size=8,
        ).digest()
        known = self._by_path.get(path)
        if known is not None:
            output, first_digest, first_row = known
            if digest != first_digest:
                raise BadInput(
                    f"row {first_row} and row {experiment.row_number} have different values for"
                    f" {', '.join(self._template.names)} but both lead to {path}",
                    hint="Separate the variables in --output by a / or by text their values do not hold.",
                )
            return output.number
        if self._frozen:
            raise BadInput(
                "was changed while it was read", file="the experiments file", row=experiment.row_number
            )
        output = self._new(len(self.files), path)
        self.files.append(output)
        self._by_path[path] = output, digest, experiment.row_number
        return output.number

    def _new(self, number: int, path: str) -> Output:
        if self._template is not None and self.templated:
            self._check_links(path)
        if sys.platform in {"darwin", "win32"}:
            folded = path.casefold()
            if (other := self._by_folded_path.setdefault(folded, path)) != path:
                raise BadInput(f"{other} and {path} are one file where upper and lower case are the same")
        if os.path.isdir(path):
            raise BadInput("is a folder; expected a file for the results", file=path)
        return Output(number, path, _holds_something(path))

    def _check_links(self, path: str) -> None:
        """A link inside the folder must lead rows neither out of it nor into another row's file."""
        folder = os.path.realpath(self._template.folder if self._template is not None else ".")
        real = os.path.realpath(path)
        if os.path.commonpath([folder, real]) != folder:
            raise BadInput(
                f"{path} leads to {real}, outside {folder}", hint="Remove the link, or choose another -o."
            )
        if (other := self._by_real_path.setdefault(real, path)) != path:
            raise BadInput(
                f"{other} and {path} lead to one file, {real}", hint="Remove the link, or choose another -o."
            )

    def look_again(self) -> None:
        """Which files hold something: once the lock is ours nobody else changes that."""
        for output in self.files:
            if output.path is not None:
                output.existed = _holds_something(output.path)

    def locks(self) -> Iterator[tuple[str, str]]:
        """The locks of a run, as (lock file, what it stands for): each beside the file itself.

        The first names the run's rescue files. Nothing to lock: standard
        output, a pipe, a device.
        """
        if self._template is not None and self.templated:
            yield self._run_lock(self._template.folder), self.label
        for output in self.files:
            path = output.path
            if path is None or (os.path.exists(path) and not os.path.isfile(path)):
                continue
            real = os.path.realpath(path)
            if len(os.fsencode(os.path.basename(real))) <= _LONGEST_NAME:
                yield f"{real}.lock", path
            else:
                yield self._run_lock(os.path.dirname(real), real), path

    def _run_lock(self, folder: str, name: str | None = None) -> str:
        text = name or (self._template.text if self._template is not None else "")
        mark = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        return os.path.join(folder, f".parallamr-mp-{mark}.lock")

    def rescue_places(self) -> tuple[str, ...]:
        """Where answers are saved that cannot get into their file, best first; see `RescueFile`."""
        first = next(self.locks(), None)
        if first is None:
            return ()
        beside = f"{first[0].removesuffix('.lock')}.rescue-"
        mark = blake2b(os.path.realpath(beside).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        # The user's own folder outlasts the temporary one, which a batch system may remove with the job.
        elsewhere = dict.fromkeys([state_folder(), tempfile.gettempdir(), "/tmp", "/var/tmp"])  # noqa: S108
        return beside, *(os.path.join(folder, f"parallamr-mp-{mark}.rescue-") for folder in elsewhere)

    def refuse_existing(self) -> None:
        """Raises `OutputExists` when a file that holds something would be written to.

        Answers that an earlier run has saved aside are something, too.
        """
        existing = [output.path for output in self.files if output.existed]
        if existing:
            more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
            raise OutputExists(
                f"{existing[0]}: exists already{more}",
                hint="Give --resume to go on with it, --overwrite to replace it, or choose another -o.",
            )
        saved = rescue_files(self.rescue_places())
        if saved:
            raise OutputExists(
                f"{saved[0]}: an earlier run of this output has saved answers here",
                hint="Give --resume to take them in, --overwrite to remove them, or choose another -o.",
            )

    def empty(self) -> None:
        """Empties every output, for `--overwrite`: all of them at once, or a resumed run would find old rows.

        So it would in the answers saved aside, which go as well: those that are
        this output's own, for a run that is gone may have saved others' among its.
        Raises `OutputError`.
        """
        for path in rescue_files(self.rescue_places()):
            try:
                os.unlink(path)
            except OSError as error:
                raise OutputError(f"{path}: cannot be removed: {error.strerror}") from error
        for output in self.files:
            if output.path is not None and output.existed:
                try:
                    os.truncate(output.path, 0)
                except OSError as error:
                    raise OutputError(f"{output.path}: cannot be emptied: {error.strerror}") from error

    def check(self, inputs: Iterable[str], *, rewritten: bool = False) -> None:
        """Raises `BadInput` for an output that cannot be written or is one of `inputs`. Makes nothing.

        `rewritten`: as a whole, in the end, which is for regular files alone.
        """
        paths = [output.path for output in self.files if output.path is not None]
        existing = {found: path for path in paths if (found := _file_at(path)) is not None}
        for name in inputs:
            found = _file_at(name)
            if found is not None and (path := existing.get(found)) is not None:
                raise BadInput(
                    "is an input of this run and cannot be its output too",
                    file=path,
                    hint="Choose another -o.",
                )
        for path in paths:
            if os.path.exists(path):
                if rewritten and not os.path.isfile(path):
                    raise BadInput(
                        "is no regular file: its columns can be made for nobody to see",
                        file=path,
                        hint="Without -o, --flatten writes to standard output; or choose another -o.",
                    )
                reason = None if os.access(path, os.W_OK) else "Permission denied"
            else:
                folder = os.path.dirname(path) or "."
                while not os.path.lexists(folder):
                    folder = os.path.dirname(folder) or "."
                if not os.path.isdir(folder):
                    reason = f"{folder} is not a folder"
                else:
                    reason = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
            if reason is not None:
                raise BadInput(f"cannot be written: {reason}", file=path, hint="Choose another -o.")

    def prepare(self) -> None:
        """Makes the folders and files, leaving what is in them. Raises `BadInput`, with no new file left."""
        self._frozen = True
        made: list[str] = []
        for output in self.files:
            path = output.path
            if path is None:
                continue
            try:
                if folder := os.path.dirname(path):
                    os.makedirs(folder, exist_ok=True)
                if not os.path.exists(path):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                    made.append(path)
                elif os.path.isfile(path):  # opening a pipe may wait for its reader
                    os.close(os.open(path, os.O_WRONLY))
            except OSError as error:
                for name in made:
                    os.unlink(name)
                raise BadInput(
                    f"cannot be written: {error.strerror}", file=path, hint="Choose another -o."
                ) from None


def _holds_something(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def _file_at(path: str) -> tuple[int, int] | None:
    """What tells one file from another, by whatever name; None for what is no regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
