"""Finding JSON in an answer, for `--flatten`: bare, fenced, inside prose, malformed. Pure.

Where JSON is looked for, first find wins:

1. the whole answer is JSON (or JSON objects one after another, with or without commas, kept as an array);
2. a fenced block is; the first one that parses;
3. a fenced block for JSON, or without a language, holds JSON that can be mended;
4. inside the text: the largest object, valid or clearly meant as one; else the
   largest array that is valid and holds containers or at least two elements;
5. the whole answer is one malformed object or array.

Valid JSON is read by the standard decoder. Malformed JSON is mended by
`json_repair`, which would make something of any prose, so it is only ever shown
a region that opens like JSON (`{` and a quoted key and a colon, say) and ends
where its brackets close. No work is more than linear in the answer's length:
failed attempts are paid from a budget, and `json_repair` reads a metered text.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Json: TypeAlias = dict[str, Any] | list[Any]

MAX_NESTING = 200
"""JSON nested deeper than this is taken for an accident or an attack, and not for an answer."""

# Blanks and comments; bounded, as an opening inside one comment reads on through those that follow.
_GAP = r"(?:\s++|(?://|\#)[^\n]{0,200}+(?=\n|\Z)|/\*(?:(?!\*/)[\s\S]){0,200}+\*/){0,20}+"
_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+'|“[^“”\n]*+”)"""
_OPENING = re.compile(r"\{(?=" + _GAP + r"[\"'“}])|\[(?=\s*+[\"\[{\-\dtfnNI\]])")
_MEANT = re.compile(r"(?:\[\s*+)?+\{" + _GAP + _QUOTED + r"\s*+:")
"""An object with a quoted key, or an array that opens with one: nobody writes that in prose."""
_SCALAR = r"(?:-?\d[\d.eE+-]*+|true|false|null|True|False|None)"
_MEANT_AS_WHOLE = re.compile(
    r"\{" + _GAP + r"(?:" + _QUOTED + r"|[^\W\d][\w$-]{0,200}+)\s*+:"
    r"|\[" + _GAP + r"(?:[\[{]|" + _QUOTED + _GAP + r"[,\]]|" + _SCALAR + _GAP + r",)"
)
"""The same for an answer or block that is nothing else: bare keys and arrays of scalars pass too."""
_PROSE_TOO = re.compile(r"\[\s*+[^\s\[{\"']")
"""Such an array, if it has no end, may also be a sentence: "[1, and so on"."""
_LEADING = re.compile(r"\ufeff?+" + _GAP)
_TRAILING = re.compile(rf"{_GAP}[;,]?+{_GAP}\Z")
_FENCE = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([^\n`]*+)$", re.MULTILINE)
_JSON_LABELS = frozenset(
    {"", "json", "jsonc", "json5", "jsonl", "ndjson", "text", "txt", "plaintext", "output"}
)
_TOKEN = re.compile(r"""[{}\[\]"']|//[^\n]*+|/\*[\s\S]*?(?:\*/|\Z)""")
_STRING_REST = re.compile(r'(?:[^"\\]|\\[\s\S])*+"')
_APOSTROPHE_CLOSES = re.compile(r"(?<!\\)'(?=\s*+(?:[,:}\]]|\Z))")


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts
        return text


# Not strict: models write line breaks into strings. NaN and Infinity stay the text they are.
_DECODER = json.JSONDecoder(
    strict=False, parse_float=_number, parse_int=_integer, parse_constant=lambda text: text
)


def extract_json(text: str) -> Json | None:
    """The JSON object or array that an answer gives, or None: see the module for where it is found.

    Scalars are no JSON answer. NaN, Infinity and numbers out of range are kept
    as text. Never raises, whatever the text; takes time linear in its length.
    """
    if "{" not in text and "[" not in text:
        return None
    try:
        found = _extract(text)
    except RecursionError:
        return None
    return None if found is None or _is_too_deep(found) else found


def _extract(text: str) -> Json | None:
    if (found := _decode_whole(text)) is not None:
        return found
    blocks = [fence for fence in fences(text) if "{" in fence.content or "[" in fence.content]
    budget = _Budget(text)
    for fence in blocks:
        if (found := _decode_whole(fence.content)) is not None:
            return found
        if (found := _decode_past(fence, text, budget)) is not None:
            return found
    for fence in blocks:
        if fence.label in _JSON_LABELS:
            found = _mend_whole(fence.content, budget)
            if found is None:
                found = _search(fence.content, budget)
            if found is not None:
                return found
    found = _search(text, budget)
    return _mend_whole(text, budget) if found is None else found


# --- valid JSON --------------------------------------------------------------------------------


class _Budget:
    """Work that failed attempts may still cost, in characters looked at.

    Without it `{"{"{"…` costs the square of its length: a failed attempt reads
    ahead, and building its error counts the lines up to it.
    """

    __slots__ = ("left",)

    def __init__(self, text: str) -> None:
        self.left = 50 * len(text) + 20_000


class _Decoded(NamedTuple):
    value: Any
    end: int


class _Failed(NamedTuple):
    is_cut_off: bool
    """The text ended before the JSON did; up to there it was valid."""


def _decode(text: str, start: int, budget: _Budget) -> _Decoded | _Failed:
    try:
        return _Decoded(*_DECODER.raw_decode(text, start))
    except json.JSONDecodeError as error:
        unterminated = error.msg.startswith("Unterminated")
        read = len(text) if unterminated else error.pos
        budget.left -= 64 + (read - start) + error.pos // 32
        rest = text[error.pos : error.pos + 20]
        is_last_word = error.pos + len(rest) == len(text) and re.fullmatch(r"[\w.+-]*\s*", rest) is not None
        return _Failed(unterminated or is_last_word)


def _decode_whole(text: str) -> Json | None:
    """The value if `text` is one object or array, or their array if it is objects one after another."""
    values: list[Any] = []
    at = _skip_blanks(text, 1 if text.startswith("\ufeff") else 0)
    while at < len(text):
        if text[at] not in "{[" or (values and text[at] != "{"):
            return None
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            return None
        values.append(value)
        at = _skip_blanks(text, at)
        if isinstance(value, dict) and text.startswith(",", at):
            at = _skip_blanks(text, at + 1)
    if len(values) > 1:
        return values if all(isinstance(value, dict) for value in values) else None
    return values[0] if values else None


_BLANKS = re.compile(r"\s*+")


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


class Fence(NamedTuple):
    """One fenced block: its first word of info in lower case, its text, and where that starts."""

    label: str
    content: str
    start: int


def fences(text: str) -> Iterator[Fence]:
    """The fenced blocks of `text`; the last one may lack its end. Lines that open or close, by CommonMark."""
    opening: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opening is None:
            opening = match
        elif match[1].startswith(opening[1]) and not match[2].strip():
            yield _fence(opening, text, match.start())
            opening = None
    if opening is not None:
        yield _fence(opening, text, len(text))


def _fence(opening: re.Match[str], text: str, end: int) -> Fence:
    label = opening[2].split(maxsplit=1)
    return Fence(label[0].lower() if label else "", text[opening.end() : end], opening.end())


def _decode_past(fence: Fence, text: str, budget: _Budget) -> Json | None:
    """The JSON that opens a block and ends behind it: what closed the block was inside a string."""
    start = _skip_blanks(text, fence.start)
    if text[start : start + 1] not in ("{", "[") or budget.left < 0:
        return None
    decoded = _decode(text, start, budget)
    if isinstance(decoded, _Decoded) and decoded.end > fence.start + len(fence.content):
        found: Json = decoded.value
        return found
    return None


# --- JSON inside prose -------------------------------------------------------------------------

_UNCLOSED_TRIES = 8
"""How many openings without an end are followed to the end of the text; each costs all of it."""


class _Candidate(NamedTuple):
    size: int
    start: int
    end: int
    value: Json | None
    """None: malformed, to be mended."""


def _search(text: str, budget: _Budget) -> Json | None:
    """The largest object inside `text`, else the largest array that cannot be prose, else None.

    Objects and arrays inside another one belong to it and are not looked at.
    """
    objects: list[_Candidate] = []
    arrays: list[_Candidate] = []
    unclosed: _Candidate | None = None
    tries = _UNCLOSED_TRIES
    at = 0
    while budget.left > 0 and (match := _OPENING.search(text, at)):
        start = match.start()
        decoded = _decode(text, start, budget)
        if isinstance(decoded, _Decoded):
            value, at = decoded
            if isinstance(value, dict) and value:
                objects.append(_Candidate(at - start, start, at, value))
            elif isinstance(value, list) and _cannot_be_prose(value):
                arrays.append(_Candidate(at - start, start, at, value))
            continue
        at = start + 1
        if tries and _MEANT.match(text, start):
            region = _region(text, start)
            if region.is_closed or decoded.is_cut_off:
                objects.append(_Candidate(region.end - start, start, region.end, None))
                at = region.end
            else:
                tries -= 1
                unclosed = unclosed or _Candidate(len(text) - start, start, len(text), None)
    if unclosed:
        # Cut off in the middle of malformed JSON, or prose that opened a brace and went on to the real
        # answer. A valid object further on tells: then the unclosed one is only the last resort.
        if any(found.value is not None for found in objects):
            arrays.append(unclosed)
        else:
            objects.append(unclosed)
    for group in (objects, arrays):
        for found in sorted(group, key=lambda each: (-each.size, each.start)):
            value = _mend(text[found.start : found.end]) if found.value is None else found.value
            if value:
                return value
    return None


def _cannot_be_prose(array: list[Any]) -> bool:
    return len(array) > 1 or any(isinstance(item, dict | list) and item for item in array)


class _Region(NamedTuple):
    end: int
    is_closed: bool
    nesting: int


def _region(text: str, start: int) -> _Region:
    """How far the bracket at `start` reaches in JSON that is not valid: to its own end, else the text's.

    Brackets in strings and comments do not count. An apostrophe opens a string
    only where a value may begin and closes it only where one may end. A closing
    bracket also closes what was left open inside it.
    """
    open_brackets: list[str] = []
    still_open = {"{": 0, "[": 0}
    nesting = 0
    at = start
    no_apostrophe_after = len(text)
    while token := _TOKEN.search(text, at):
        sign, at = token[0], token.end()
        if sign == '"':
            string = _STRING_REST.match(text, at)
            if string is None:
                break
            at = string.end()
        elif sign == "'":
            if at < no_apostrophe_after and text[max(start, at - 51) : at - 1].rstrip()[-1:] in tuple(
                "{[,:("
            ):
                closing = _APOSTROPHE_CLOSES.search(text, at)
                if closing is None:
                    no_apostrophe_after = at  # nor for any later one: do not look again
                else:
                    at = closing.end()
        elif sign in ("{", "["):
            open_brackets.append(sign)
            still_open[sign] += 1
            nesting = max(nesting, len(open_brackets))
        elif sign in ("}", "]"):
            opening = "{" if sign == "}" else "["
            if still_open[opening]:
                while (closed := open_brackets.pop()) != opening:
                    still_open[closed] -= 1
                still_open[opening] -= 1
                if not open_brackets:
                    return _Region(at, True, nesting)
    return _Region(len(text), False, nesting)


# --- malformed JSON ----------------------------------------------------------------------------


class _TooMuchWork(Exception):  # noqa: N818  - a signal to ourselves
    """`json_repair` is going round in circles."""


_LOOKS_PER_CHARACTER = 20


class _Metered(str):
    """A text that counts how often its characters are looked at, and stops a reader that overdoes it.

    `json_repair` reads character by character, and on some texts looks ahead to
    the end at each of them: 3 kB took it a second. Ordinary texts cost one or
    two looks a character.
    """

    __slots__ = ("_looks",)
    _looks: int

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        self._looks = _LOOKS_PER_CHARACTER * len(text) + 10_000
        return self

    def __getitem__(self, index: Any) -> str:
        self._looks -= 1
        if self._looks < 0:
            raise _TooMuchWork
        return str.__getitem__(self, index)


def _mend_whole(text: str, budget: _Budget) -> Json | None:
    """The one malformed object or array that `text` consists of, or None."""
    leading = _LEADING.match(text)
    start = leading.end() if leading else 0
    if not _MEANT_AS_WHOLE.match(text, start):
        return None
    region = _region(text, start)
    if region.is_closed and not _TRAILING.match(text, region.end):
        return None
    if not region.is_closed and _PROSE_TOO.match(text, start):
        decoded = _decode(text, start, budget)
        if isinstance(decoded, _Failed) and not decoded.is_cut_off:
            return None
    return _mend(text[start : region.end])


def _mend(region: str) -> Json | None:
    """What a malformed object or array was meant to be; None if that cannot be told."""
    if _region(region, 0).nesting > MAX_NESTING // 2:
        return None
    from json_repair import loads  # noqa: PLC0415  - 50 ms to import, and most answers need no mending

    try:
        value = _without_odd_numbers(loads(_Metered(region), skip_json_loads=True))
    except Exception:  # whatever a library trips over in a text that is broken anyway
        return None
    wanted = dict if region.startswith("{") else list
    return value if isinstance(value, wanted) and value else None


def _without_odd_numbers(value: Any) -> Any:
    """The same with NaN and the infinities as text, as the decoder leaves them in valid JSON."""
    if isinstance(value, dict):
        return {str(key): _without_odd_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_odd_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def _is_too_deep(value: Json) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
