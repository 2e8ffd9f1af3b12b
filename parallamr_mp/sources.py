"""The files a row's question is made from: prompt, context, system; read once where they do not change.

Runs in the parent, which alone reads input files: what a row's identity was
computed from is what its worker is sent, whatever happens to the file between.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from parallamr_mp.errors import BadInput
from parallamr_mp.models import Inputs
from parallamr_mp.prompts import PathTemplate
from parallamr_mp.schemas import parse_schema

STDIN = "-"
_CACHE_BYTES = 64 << 20
_ENTRY_BYTES = 500
"""About what a path, a digest and their bookkeeping take: a million tiny files are not tiny."""


class FileLoader(Protocol):
    """Reads the text of an input file. Called in the parent's dispatching thread."""

    def read_text(self, path: str) -> str:
        """The file's whole text. Raises OSError or UnicodeDecodeError."""
        ...


class DiskFileLoader:
    """Reads UTF-8 files, with or without a byte order mark; line ends stay as they are."""

    def read_text(self, path: str) -> str:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return stream.read()


class SourceError(Exception):
    """A row's own input file cannot be read; `str` says which and why."""


def read_schema(path: str, loader: FileLoader | None = None) -> dict[str, Any]:
    """The JSON schema in a file. Raises `BadInput` for what cannot be read, and for what is none."""
    try:
        text = _read_text(path, loader or DiskFileLoader())
    except SourceError as error:
        raise BadInput(f"--json-schema {error}") from None
    return parse_schema(text, path)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """Files that are the same for every row."""

    texts: tuple[tuple[str, str], ...]
    """(name, text) of each."""
    digest: bytes
    """What they add to the digest of a row's texts."""


@dataclass(frozen=True, slots=True)
class _Own:
    """A file whose path is made of a row's values."""

    path: PathTemplate
    labelled: bool
    """Its name is shown to the model, and counts."""


class Sources:
    """Loads the inputs of each row.

    Raises `BadInput` at once for a file whose path has no variables and that
    cannot be read; a templated one is looked at when its row comes.
    """

    def __init__(
        self,
        *,
        prompt: str,
        contexts: Sequence[str] = (),
        system: str | None = None,
        columns: Sequence[str],
        loader: FileLoader | None = None,
    ) -> None:
        """`prompt` may be `-` for standard input; every path may hold `{{column}}`."""
        self._loader = loader or DiskFileLoader()
        self._cache: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._cached_bytes = 0
        self._stdin: str | None = None
        if prompt == STDIN:
            self._stdin = _read_stdin()
        self._prompt = PathTemplate(prompt)
        self._contexts = [PathTemplate(path) for path in contexts]
        self._system = PathTemplate(system) if system is not None else None
        templates = [
            ("--prompt", self._prompt),
            *(("--context", path) for path in self._contexts),
            *([("--system", self._system)] if self._system is not None else []),
        ]
        for option, template in templates:
            for name in template.names:
                if name not in columns:
                    raise BadInput(
                        f"{option} {template.text}: there is no column {name!r} in the experiments",
                        hint=f"Columns: {', '.join(columns)}.",
                    )
            if not template.is_templated and not (template is self._prompt and self._stdin is not None):
                self._check(option, template.text)
        self._own = [template for _, template in templates if template.is_templated]
        self.templated = bool(self._own)
        self.static: Inputs | None = None
        self._static_digest = b""
        try:
            self._pieces = self._frame()
            if not self.templated:
                self.static, self._static_digest = self._load({})
        except SourceError as error:
            raise BadInput(str(error)) from None

    def _frame(self) -> list[_Fixed | _Own]:
        """All inputs in their order, what stands together and is the same for every row made one."""
        frame: list[_Fixed | _Own] = []

        def add(piece: _Fixed | _Own) -> None:
            last = frame[-1] if frame else None
            if isinstance(piece, _Fixed) and isinstance(last, _Fixed):
                frame[-1] = _Fixed(last.texts + piece.texts, last.digest + piece.digest)
            else:
                frame.append(piece)

        def add_path(template: PathTemplate, *, labelled: bool = False) -> None:
            own = _Own(template, labelled=labelled)
            add(own if template.is_templated else _Fixed(*self._part(own, {})))

        if self._stdin is not None:
            add(_Fixed((("standard input", self._stdin),), _digest(self._stdin)))
        else:
            add_path(self._prompt)
        for template in self._contexts:
            add_path(template, labelled=True)
        add(_Fixed((), b"system" if self._system is not None else b"none"))
        if self._system is not None:
            add_path(self._system)
        return frame

    def for_row(self, values: Mapping[str, str]) -> tuple[Inputs | None, bytes]:
        """The row's inputs (None: the static ones) and the digest of their texts. Raises `SourceError`."""
        if not self.templated:
            return None, self._static_digest
        return self._load(values)

    def paths(self, values: Mapping[str, str]) -> list[str]:
        """The row's own input files: those whose paths have variables. Reads nothing."""
        found = []
        for template in self._own:
            with contextlib.suppress(BadInput):  # the row will tell
                found.append(template.resolve_input(values))
        return found

    def _load(self, values: Mapping[str, str]) -> tuple[Inputs, bytes]:
        digest = blake2b(digest_size=16)
        parts: list[tuple[str, str]] = []
        for piece in self._pieces:
            if isinstance(piece, _Fixed):
                texts, mark = piece.texts, piece.digest
            else:
                texts, mark = self._part(piece, values)
            if not parts and (not texts[0][1] or texts[0][1].isspace()):
                raise SourceError(f"{texts[0][0]}: is empty; expected the text of a prompt")
            parts += texts
            digest.update(mark)
        system = parts.pop()[1] if self._system is not None else None
        return Inputs(parts[0][1], tuple(parts[1:]), system), digest.digest()

    def _part(self, own: _Own, values: Mapping[str, str]) -> tuple[tuple[tuple[str, str], ...], bytes]:
        """A file's name and text, and its share of the digest of all."""
        try:
            path = own.path.resolve_input(values)
        except BadInput as error:
            raise SourceError(str(error)) from None
        text, mark = self._read(path)
        name = os.path.basename(path)
        return ((name, text),), mark + _digest(name) if own.labelled else mark

    def _read(self, path: str) -> tuple[str, bytes]:
        """Text and digest of a file, from a bounded cache of those used last."""
        if (known := self._cache.get(path)) is not None:
            self._cache.move_to_end(path)
            return known
        text = _read_text(path, self._loader)
        known = text, _digest(text)
        self._cache[path] = known
        self._cached_bytes += len(text) + _ENTRY_BYTES
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1][0]) + _ENTRY_BYTES
        return known

    def _check(self, option: str, path: str) -> None:
        try:
            self._read(path)
        except SourceError as error:
            raise BadInput(f"{option} {error}") from None


def _read_text(path: str, loader: FileLoader) -> str:
    try:
        return loader.read_text(path)
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        kind = "is UTF-16, not UTF-8" if utf16 else f"is not UTF-8: {error.reason}"
        raise SourceError(f"{path}: {kind}; save it as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _read_stdin() -> str:
    if sys.stdin is None:
        raise BadInput("is closed", file="standard input")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"is not UTF-8: {error.reason}", file="standard input") from None
