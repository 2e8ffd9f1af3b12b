"""One piece of work, what it asks for, and what an ended lease of it tells the policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallamr_mp.models import Allowance, Failure
from parallamr_mp.values import value

if TYPE_CHECKING:
    from parallamr_mp.policy.endpoint import Endpoint


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work and what has happened to it so far. Owned by the dispatcher."""

    id: int
    """Ordinal: earlier input has a smaller one, and goes first."""
    key: str
    """Whose endpoints it may go to: the provider."""
    payload: Any
    attempts: int = 0
    """Leases so far."""
    deaths: int = 0
    """Workers that died while they held this job."""
    size: int = 0
    """About how many bytes it keeps in memory while it waits here."""
    label: str = ""
    """What it is called in messages to people."""
    verdict: Failure | None = None
    """Set when reading already showed that there is nothing to ask: the job is never leased."""
    model: str = ""
    """Has limits of its own within the key's."""
    characters: int = 0
    """About how long its input is."""
    max_tokens: int | None = None
    """The longest output it asks for, where it says."""
    cost: float = 0.0
    """USD it may cost at the worst."""
    prefixes: tuple[int, ...] = ()
    """Marks of how it begins, the longest beginning first: an endpoint may have that in its cache."""
    route: str = ""
    """Where it goes, set when it is taken: one of its key's endpoints; empty where there is no choice."""
    strikes: int = 0
    """Attempts that failed and count against it: the server was there and did not turn it away."""
    troubled_since: float | None = None
    """When its first attempt failed."""
    grant: Grant | None = None
    """What was charged for its present lease."""
    since: float = 0.0
    """When its present lease began, in monotonic seconds; later, if nobody had of the time meanwhile."""


@value
class Grant:
    """What one lease was charged with."""

    at: float
    endpoint: Endpoint
    tokens: int
    cost: float
    probe: bool
    """It is to show whether an endpoint is back."""


@value
class Report:
    """What an ended lease tells the policies."""

    seconds: float = 0.0
    """How long the work itself took."""
    failure: Failure | None = None
    input_tokens: int | None = None
    """Really used; None: nobody counted."""
    output_tokens: int | None = None
    cost: float | None = None
    """USD it really cost; None: nobody knows."""
    allowance: Allowance | None = None
