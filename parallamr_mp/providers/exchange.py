"""The seam between the HTTP client and what carries its requests: a request out, its whole answer back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from parallamr_mp.values import value

_FIELD = re.compile(r"\n([^:\s]+):[ \t]*([^\r\n]*)")


class Headers(Mapping[str, str]):
    """The header fields of an answer, by their names in any case: read when they are asked for.

    Most answers are asked for none: of 25 fields, which is common, to take all
    apart would cost more than all else that is done with the answer.
    """

    __slots__ = ("_fields", "_text", "lowered")

    def __init__(self, text: str = "") -> None:
        """`text`: the answer's head, unfolded, beginning with its first line."""
        self._text = text
        self.lowered = text.lower()
        """The head in small letters, to look for words in."""
        self._fields: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        """Names in small letters → values; those of one name are joined by commas (RFC 9110, 5.3)."""
        if self._fields is None:
            self._fields = joined([(name.lower(), value) for name, value in _FIELD.findall(self._text)])
        return self._fields

    def named_with(self, word: str) -> Mapping[str, str]:
        """The fields in whose names `word` (small letters) stands, as the whole has them; reads no others."""
        found: list[tuple[str, str]] = []
        at = self.lowered.find(word)
        while at >= 0:
            field = _FIELD.match(self._text, max(0, self.lowered.rfind("\n", 0, at)))
            if field is not None and word in (name := field[1].lower()):
                found.append((name, field[2]))
            end = self.lowered.find("\n", at)
            at = self.lowered.find(word, end) if end >= 0 else -1
        return joined(found)

    def __getitem__(self, name: str) -> str:
        return self._read()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"Headers({self._read()!r})"


def joined(fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Fields as they came, by their names, with the values of one name joined."""
    found = dict(fields)
    if len(found) < len(fields):
        for name in found:
            found[name] = ", ".join([value for each, value in fields if each == name])
    return found


@value
class HttpReply:
    """A complete answer, whatever its status. Header names are found in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@runtime_checkable
class Transport(Protocol):
    """What an adapter of a `requests.Session` offers besides `send`: many requests of one kind.

    Safe from many threads at once.
    """

    def prepare(self, method: str, url: str, headers: Mapping[str, str]) -> Any:
        """What is the same for every request to this URL with these headers; opaque, good for every thread.

        `headers` are all there are to be, but for those that tell the body's
        length. Raises what `exchange` does.
        """
        ...

    def exchange(self, prepared: Any, body: bytes | None, total: float) -> HttpReply:
        """Sends once and returns the complete answer, all within `total` seconds.

        Redirects are not followed and 1xx not returned, but for 101. Raises
        exceptions of `requests`; `BrokenAnswer` when an answer broke off after its
        first byte. Where the headers of a refusal (300 and above) came, but not all
        of its body, it is returned without one, or is the `response` of what is raised.
        """
        ...

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown of what it knows: users and passwords of proxies."""
        ...

    def close(self) -> None:
        """Closes idle connections."""
        ...
