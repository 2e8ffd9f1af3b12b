"""Texts and paths with variables in them, compiled once and filled once a row.

    Template       "Explain {{topic}}."               + row → text, and which variables had no value
    combine        prompt + context documents         → one text
    PathTemplate   "out/{{provider}}/{{model}}.csv"   + row → a path that cannot leave out/

A variable is written `{{name}}` or `{{ name }}`. A name may hold anything but
line breaks and doubled braces; single braces may be inside it, not at its ends.
The name exactly as written is looked up first, then the name without outer
blanks. A variable has a value when its column is there and is not empty.

Everything here is immutable after construction, safe for threads, and pickles
as its text, so that it crosses to a worker cheaply.
"""

from __future__ import annotations

import os
import re
import unicodedata
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import orjson

from parallamr_mp.errors import BadInput
from parallamr_mp.models import JsonText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# Atomic, and every class excludes the braces the next step needs: linear in any text. Not possessive
# groups: Python before 3.11.5 matches those wrongly (gh-106052), and would fill no template at all.
_VARIABLE = re.compile(r"\{\{((?>[^{}\r\n]+(?:[{}][^{}\r\n]+)*))\}\}")


_LONG = 1000
"""Characters of fixed text from which on it pays to encode them once: below, the encoder is as fast."""


class PathTemplateError(BadInput):
    """A path template cannot become a path: a variable has no value, or it leaves its own folder."""


class _Variable(NamedTuple):
    written: str
    exact: str
    name: str

    def value(self, values: Mapping[str, str]) -> str:
        """Its value in `values`; empty when it has none."""
        return values[self.exact] if self.exact in values else values.get(self.name, "")


def _parse(text: str) -> Iterator[str | _Variable]:
    """The literals (never empty) and variables of `text`, in order; joined as written they are `text`."""
    end = 0
    for match in _VARIABLE.finditer(text):
        name = match[1].strip()
        if not name:
            continue
        if match.start() > end:
            yield text[end : match.start()]
        yield _Variable(match[0], match[1], name)
        end = match.end()
    if end < len(text):
        yield text[end:]


def _names(pieces: Iterable[str | _Variable]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(piece.name for piece in pieces if isinstance(piece, _Variable)))


class Template:
    """A text with variables, filled in one pass: what a value brings in is never read again.

    `names` are the distinct names of its variables, without outer blanks, in
    order of appearance; `text` is the text as given.
    """

    __slots__ = (
        *("_encoded", "_fixed", "_pieces", "_places", "_static", "_variables", "_written"),
        *("names", "text"),
    )

    def __init__(self, text: str) -> None:
        self.text = text
        self._set(_parse(text))

    def _set(self, pieces: Iterable[str | _Variable]) -> None:
        self._pieces = tuple(pieces)
        self.names = _names(self._pieces)
        self._variables = tuple(piece for piece in self._pieces if isinstance(piece, _Variable))
        self._written = [piece if isinstance(piece, str) else piece.written for piece in self._pieces]
        self._places = [
            (at, piece.exact, piece.name)
            for at, piece in enumerate(self._pieces)
            if isinstance(piece, _Variable)
        ]
        """Of each variable: where it stands, and its names."""
        fixed = [piece for piece in self._pieces if isinstance(piece, str)]
        self._fixed = sum(map(len, fixed)), sum(map(_size, fixed))
        self._encoded: tuple[bytes | None, ...] | None = None
        """The JSON of each piece that is fixed; empty where it has none. Made when first needed."""
        self._static: str | None = None
        """What there is to render where every row gets the same; likewise."""

    @classmethod
    def combined(cls, prompt: Template, documents: Iterable[tuple[str, Template]]) -> Template:
        """Renders to what `combine` makes of the rendered prompt and documents; their fixed texts become one.

        Headings are no templates: where one looks so, the whole does not pickle.
        """
        pieces: list[str | _Variable] = [*prompt._pieces]
        for name, document in documents:
            for piece in (_heading(name), *document._pieces):  # noqa: SLF001 - of its own kind
                if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
        template = cls("")
        template._set(pieces)
        template.text = "".join(template._written)
        return template

    @property
    def is_static(self) -> bool:
        """Whether there is no variable in it, so that every row renders to the same text."""
        return not self.names

    def render(self, values: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        """The text for one row, and the names that had no value there.

        A variable without a value stays in the text exactly as written; its
        name is reported once, in order of first appearance. A long text is a
        `JsonText`, unless there are lone surrogates in it.
        """
        if not self.names:
            if self._static is None:
                self._static = self._finished([self.text])
            return self._static, ()
        filled = list(self._written)
        missing: list[str] = []
        for at, exact, name in self._places:
            # As `_Variable.value` has it, but for the call.
            value = values[exact] if exact in values else values.get(name)
            if value:
                filled[at] = value
            else:
                missing.append(name)
        unfilled = tuple(dict.fromkeys(missing)) if missing else ()
        return "".join(filled) if self._fixed[0] < _LONG else self._finished(filled), unfilled

    def _finished(self, filled: list[str]) -> str:
        """The text that its pieces make, with its JSON where that pays."""
        text = "".join(filled)
        if self._fixed[0] < _LONG or self._encoded == ():
            return text
        try:
            if self._encoded is None:
                self._encoded = tuple(_json(x) if isinstance(x, str) else None for x in self._pieces)
            pieces = [
                _json(x) if done is None else done for x, done in zip(filled, self._encoded, strict=True)
            ]
        except TypeError:  # a lone surrogate: here, or only in this row
            self._encoded = self._encoded or ()
            return text
        finished = JsonText(text)
        finished.pieces = (b'"', *pieces, b'"')
        return finished

    def size(self, values: Mapping[str, str]) -> tuple[int, int]:
        """Characters and bytes of UTF-8 of the text that `render` makes for one row, without making it."""
        characters, size = self._fixed
        for piece in self._variables:
            text = piece.value(values) or piece.written
            characters += len(text)
            size += _size(text)
        return characters, size

    def beginning(self, values: Mapping[str, str], length: int) -> str:
        """The first `length` characters of the text that `render` makes for one row."""
        found: list[str] = []
        missing = length
        for piece in self._pieces:
            if missing <= 0:
                break
            text = piece if isinstance(piece, str) else piece.value(values) or piece.written
            found.append(text[:missing])
            missing -= len(text)
        return "".join(found)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __reduce__(self) -> tuple[Callable[[str], Template], tuple[str]]:
        if self._pieces != tuple(_parse(self.text)):
            raise TypeError("a combined template stays in its process")
        return Template, (self.text,)


def _json(text: str) -> bytes:
    """What stands between the quotes. Raises `TypeError` for a lone surrogate."""
    return orjson.dumps(text)[1:-1]


def combine(prompt: str, documents: Sequence[tuple[str, str]]) -> str:
    """The prompt, then each (name, text) as a `## Document: NAME` section, with `---` between."""
    return "".join((prompt, *(f"{_heading(name)}{text}" for name, text in documents)))


def _heading(name: str) -> str:
    return f"\n\n---\n\n## Document: {name}\n\n"


# --- paths -------------------------------------------------------------------------------------

_COMPONENT_BYTES = 255
"""The longest file name that Linux, macOS and Windows file systems all take, in bytes of UTF-8."""
_MARK_BYTES = 9
"""A dash and eight hex digits."""
_LEAST_VALUE_BYTES = 16
"""Room that fixed text must leave for each variable: a mark, and enough to recognise the value by."""

_SEPARATOR = re.compile(f"([{re.escape('/' + os.sep + (os.altsep or ''))}])")
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"/\\\\|?*]')
_LOOKS_MARKED = re.compile(r"-[0-9a-f]{8}\Z")
# Wider than pathvalidate's list, which lets `NUL .txt` and `CONIN$` pass; Windows does not.
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|clock\$|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\.|\Z)", re.IGNORECASE
)


class PathTemplate:
    """A path with variables. Fixed text is the user's own and kept; values can only be file names.

    Each value becomes a harmless part of one path component: no separator,
    no `.` or `..`, nothing that Windows reserves or refuses, no control
    character, no blank or dot at its ends, NFC, and the whole component at
    most 255 bytes of UTF-8. Text that must go becomes `_`; blanks and dots at
    the ends are dropped; what is too long is cut, and the fixed text around it
    (an extension) is not.

    - `resolve_output` marks every value it had to change with a hash of the
      original (`anthropic_claude-3f2a9c1d`), and every value that already looks
      marked. So two values of one variable never share a path, whatever the
      other rows are. Several variables in one component can still meet
      (`{{a}}{{b}}`: "x" + "yz", "xy" + "z"): the caller watches for that.
    - `resolve_input` adds no mark: its user must be able to foretell the name.

    Both raise `PathTemplateError` that names the variables without a value.
    `folder` is the fixed path before the first component with a variable ("."
    when there is none), and no value can lead out of it. Fixed `..` that would
    do so after a variable are refused at construction, as are a template that
    ends in a folder and fixed text that leaves a value no room. A path without
    variables is returned as it is.
    """

    __slots__ = ("_head", "_tail", "folder", "names", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        parts = list(_split(text))
        self.names = _names(piece for part in parts for piece in part)
        first = next((i for i, part in enumerate(parts) if _names(part)), len(parts))
        self._head = "".join(piece for part in parts[:first] for piece in part if isinstance(piece, str))
        self._tail = parts[first:]
        self.folder = os.path.dirname(self._head + "x" if self._tail else self._head) or "."
        self._refuse_unusable()

    @property
    def is_templated(self) -> bool:
        """Whether there is a variable in it, so that rows may have different paths."""
        return bool(self.names)

    def resolve_input(self, values: Mapping[str, str]) -> str:
        """The path of a file to read for one row."""
        return self._resolve(values, marked=False)

    def resolve_output(self, values: Mapping[str, str]) -> str:
        """The path of a file to write for one row, its own for each value."""
        return self._resolve(values, marked=True)

    def _resolve(self, values: Mapping[str, str], *, marked: bool) -> str:
        if not self._tail:
            return self.text
        pieces = [piece for part in self._tail for piece in part if isinstance(piece, _Variable)]
        if unfilled := tuple(dict.fromkeys(piece.name for piece in pieces if not piece.value(values))):
            raise PathTemplateError(
                f"no value for {', '.join(f'{{{{{name}}}}}' for name in unfilled)}",
                file=self.text,
                hint="A variable in a path needs a value in every row.",
            )
        path = self._head + "".join(_component(part, values, marked=marked) for part in self._tail)
        if not _is_inside(path, self.folder):
            raise AssertionError(f"{path!r} is outside {self.folder!r}")
        return path

    def _refuse_unusable(self) -> None:
        depth = 0
        for part in self._tail:
            fixed = "".join(piece for piece in part if isinstance(piece, str))
            variables = len(part) - sum(isinstance(piece, str) for piece in part)
            if not variables and (fixed in ("", os.curdir) or _SEPARATOR.fullmatch(fixed)):
                continue
            depth += -1 if not variables and fixed == os.pardir else 1
            if depth < 0:
                break
            if variables and _size(fixed) + variables * _LEAST_VALUE_BYTES >= _COMPONENT_BYTES:
                raise PathTemplateError(
                    "the fixed text beside a variable leaves no room for its value",
                    file=self.text,
                    hint=f"A file name has at most {_COMPONENT_BYTES} bytes.",
                )
        if self._tail and "".join(map(str, self._tail[-1])) in ("", os.curdir):
            raise PathTemplateError("the path ends in a folder", file=self.text, hint="Add a file name.")
        if self._tail and depth < 1:
            raise PathTemplateError(
                "`..` after a variable leads out of the template's own folder",
                file=self.text,
                hint="Put `..` before the first variable.",
            )

    def __repr__(self) -> str:
        return f"PathTemplate({self.text!r})"

    def __reduce__(self) -> tuple[Callable[[str], PathTemplate], tuple[str]]:
        return PathTemplate, (self.text,)


def _split(text: str) -> Iterator[tuple[str | _Variable, ...]]:
    """The path's components and, each by itself, the separators between them."""
    component: list[str | _Variable] = []
    for piece in _parse(text):
        if isinstance(piece, _Variable):
            component.append(piece)
            continue
        for chunk in _SEPARATOR.split(piece):
            if _SEPARATOR.fullmatch(chunk):
                yield tuple(component)
                yield (chunk,)
                component = []
            elif chunk:
                component.append(chunk)
    yield tuple(component)


def _component(part: tuple[str | _Variable, ...], values: Mapping[str, str], *, marked: bool) -> str:
    """One component with its values made safe, at most 255 bytes; fixed text as it is."""
    originals = [piece.value(values) for piece in part if isinstance(piece, _Variable)]
    if not originals:
        return "".join(piece for piece in part if isinstance(piece, str))
    fixed = sum(_size(piece) for piece in part if isinstance(piece, str))
    room = _COMPONENT_BYTES - 1 - fixed  # one byte is kept for the underscore below
    name = _fill(part, _safe_values(originals, room, marked=marked, all_of_them=False))
    if _RESERVED.match(name):
        # Marked as well as prefixed, or the value `CON` would meet the value `_CON`.
        name = "_" + _fill(part, _safe_values(originals, room, marked=marked, all_of_them=True))
    return name


def _fill(part: tuple[str | _Variable, ...], texts: Sequence[str]) -> str:
    rest = iter(texts)
    return "".join(piece if isinstance(piece, str) else next(rest) for piece in part)


def _safe_values(originals: Sequence[str], room: int, *, marked: bool, all_of_them: bool) -> list[str]:
    """Each value as a harmless piece of a file name, `room` bytes together."""
    stems = [_UNSAFE.sub("_", unicodedata.normalize("NFC", value)).strip(". ") or "_" for value in originals]
    marks = [
        _MARK_BYTES
        if marked and (all_of_them or stem != value or _LOOKS_MARKED.search(stem) is not None)
        else 0
        for stem, value in zip(stems, originals, strict=True)
    ]
    sizes = [_size(stem) + mark for stem, mark in zip(stems, marks, strict=True)]
    most = _fair_share(sizes, room)
    texts = []
    for value, stem, mark, size in zip(originals, stems, marks, sizes, strict=True):
        text, suffix = stem, _mark(value) if mark or (marked and size > most) else ""
        if size > most:
            text = _cut(stem, most - len(suffix)).rstrip(". ") or "_"
        texts.append(text + suffix)
    return texts


def _fair_share(sizes: Sequence[int], room: int) -> int:
    """The size to which the largest must be cut for all to fit: the small ones stay whole."""
    for index, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - index)
        if size > share:
            return share
        room -= size
    return max(sizes)


def _mark(value: str) -> str:
    return "-" + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[: _MARK_BYTES - 1]


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _cut(text: str, size: int) -> str:
    """The longest beginning of `text` within `size` bytes, whole characters only."""
    return text.encode()[:size].decode(errors="ignore")


def _is_inside(path: str, folder: str) -> bool:
    path, folder = os.path.normpath(path), os.path.normpath(folder)
    if folder == os.curdir:
        return not os.path.isabs(path) and path.split(os.sep, 1)[0] not in (os.curdir, os.pardir)
    return path.startswith(folder.rstrip(os.sep) + os.sep)
