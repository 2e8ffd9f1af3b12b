"""Every message between the parent and its workers and writer, as typed classes.

    parent → worker   Lease*, Recall*, Stop
    worker → parent   Ready, Said*, Outcome*, Returned*, Crashed
    parent → writer   OpenOutput*, Append*, CloseOutputs
    writer → parent   Ready, Ack*, WriteFailed, OutputsClosed, Crashed

They are pickled one frame each (`channels.py`). Payloads and values are opaque
to the engine; they must be picklable where the slot is a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parallamr_mp.crossing import crossing
from parallamr_mp.models import Failure
from parallamr_mp.values import value


@crossing("payload")
@value
class Lease:
    """Work given to a slot until an `Outcome` with the same id comes back or the slot's process dies."""

    id: int
    attempt: int
    """1 for the first time this job is leased."""
    payload: Any
    stored: tuple[int, ...] = ()
    """Outcomes of this worker that need not be kept any longer."""
    route: str = ""
    """Where the work is to be done, where there is a choice: an endpoint."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Give back the leases that you have not begun."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Give back what you have not begun, finish the rest, then end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The process is up and takes work."""

    pid: int


@crossing("value", "failure")
@value
class Outcome:
    """What one lease came to: a value, or a failure."""

    id: int
    value: Any = None
    failure: Failure | None = None
    seconds: float = 0.0
    """Wall time inside the handler."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Leases that were not begun and never will be by this worker: nothing was sent for them."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What a worker tells besides its outcomes; opaque to the engine, as values are."""

    what: Any


@dataclass(frozen=True, slots=True)
class Crashed:
    """The actor's main function raised; its process ends after this."""

    report: str


@dataclass(frozen=True, slots=True)
class OpenOutput:
    """An output file the writer may be given records for. Sent before the first of them."""

    file: int
    path: str | None
    """None: standard output."""
    header: bytes
    """The encoded header record, written when the file is empty."""
    offset: int
    """Bytes that are known to be good. What lies behind them is cut off."""


@crossing()
@value
class Append:
    """One encoded record for one output file."""

    id: int
    file: int
    record: bytes


@crossing()
@value
class Ack:
    """These records are in the file (handed to the operating system), which now ends at `offset`."""

    file: int
    ids: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """An output could not be written. The writer writes nothing more after this."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseOutputs:
    """Sync and close every file, answer `OutputsClosed`, end."""


@dataclass(frozen=True, slots=True)
class OutputsClosed:
    """Everything acknowledged is on the disk."""
