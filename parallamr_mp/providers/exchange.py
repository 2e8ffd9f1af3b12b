"""The seam between the HTTP client and what carries its requests: a request out, its whole answer back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


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
