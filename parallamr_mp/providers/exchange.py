"""The seam between the HTTP client and what carries its requests: a request out, its whole answer back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class Headers(dict[str, str]):
    """Header fields by their names in small letters, found in any case. Filled by `of`, then only read."""

    __slots__ = ()

    @classmethod
    def of(cls, fields: Sequence[tuple[str, str]]) -> Headers:
        """From names and values as they came. Values of one name are joined by commas (RFC 9110, 5.3)."""
        headers = cls([(name.lower(), value) for name, value in fields])
        if len(headers) < len(fields):
            for name in headers:
                headers[name] = ", ".join([value for each, value in fields if each.lower() == name])
        return headers

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclass(frozen=True, slots=True)
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
