"""The parent's side of the writer: keeps every record until it is acknowledged.

    Outlet.append ──► unacknowledged ──Append──► writer process ──► file
                            └──── forgotten on ◄──Ack──┘

A writer that dies is replaced. The new one cuts each file at the last
acknowledged offset and is given every unacknowledged record again, in order:
nothing is lost, and what the dead one had written without saying so is written
over, so nothing is there twice. Standard output cannot be cut; there a dead
writer ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from parallamr_mp.engine.messages import (
    Ack,
    Append,
    CloseOutputs,
    Crashed,
    OpenOutput,
    OutputsClosed,
    Ready,
    WriteFailed,
)
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import Seat
from parallamr_mp.errors import EngineError, OutputError, ParallamrError

_MAX_BACKLOG = 4096
_MAX_BACKLOG_BYTES = 64 << 20
_MAX_DEATHS = 5
"""Deaths in a row without an acknowledgement between them."""


class WriterPeer:
    """Owns the writer's seat. Used by the dispatcher's thread alone."""

    def __init__(
        self,
        make_seat: Callable[[], Seat],
        started: Callable[[int | None], None] | None = None,
        died: Callable[[int | None, int | None], None] | None = None,
    ) -> None:
        """`started` is told the process id of each writer, `died` the exit code as well of one replaced."""
        self._make_seat, self._started, self._died = make_seat, started, died
        self.seat: Seat | None = None
        self._reactor: Reactor | None = None
        self._outputs: dict[int, OpenOutput] = {}
        self._unacknowledged: dict[int, Append] = {}
        self._unacknowledged_bytes = 0
        self._deaths = 0
        self._report = ""
        self._stored: list[int] = []
        self._closing = False
        self.finished = False
        self.problem: ParallamrError | None = None
        self.replaced = 0

    def start(self, reactor: Reactor) -> None:
        """Starts the writer process. Raises EngineError."""
        self._reactor = reactor
        self.seat = self._make_seat()
        if self._started is not None:
            self._started(self.seat.pid)
        reactor.watch(self)

    def open(self, output: OpenOutput) -> None:
        """Tells the writer of a file; once, before the first record for it."""
        self._outputs[output.file] = output
        self._post(output)

    def append(self, message: Append) -> None:
        """Gives the writer a record; it is kept here until acknowledged."""
        self._unacknowledged[message.id] = message
        self._unacknowledged_bytes += len(message.record)
        self._post(message)

    def finish(self) -> None:
        """Lets the writer sync, close and end once it has written everything, or can write nothing more."""
        self._closing = True
        if self.seat is not None:
            self.seat.outbox.post(CloseOutputs())

    def unacknowledged(self) -> list[Append]:
        """What may not be in its file, in the order in which it came."""
        return list(self._unacknowledged.values())

    def take_stored(self) -> list[int]:
        """Ids of the records acknowledged since the last call."""
        stored, self._stored = self._stored, []
        return stored

    @property
    def backlog(self) -> int:
        """Records that are not acknowledged."""
        return len(self._unacknowledged)

    @property
    def congested(self) -> bool:
        """So many of them that memory would grow if workers went on."""
        return self.backlog >= _MAX_BACKLOG or self._unacknowledged_bytes >= _MAX_BACKLOG_BYTES

    def _post(self, message: Any) -> None:
        if self.seat is not None and self.problem is None:
            self.seat.outbox.post(message)

    def deliver(self, message: Any) -> None:
        match message:
            case Ack():
                if message.ids:  # merely opening a file again is no progress
                    self._deaths = 0
                self._outputs[message.file] = replace(self._outputs[message.file], offset=message.offset)
                self._stored += message.ids
                for id_ in message.ids:
                    append = self._unacknowledged.pop(id_, None)
                    self._unacknowledged_bytes -= len(append.record) if append is not None else 0
            case WriteFailed():
                self.problem = OutputError(message.reason)
            case OutputsClosed():
                self.finished = True
            case Crashed():
                self._report = message.report
            case Ready():
                pass

    def lost(self) -> None:
        dead, self.seat = self.seat, None
        if dead is not None:
            dead.join(5.0)
        if self.finished or self.problem is not None or self._reactor is None:
            return
        if any(output.path is None for output in self._outputs.values()):
            self.problem = OutputError(
                "standard output: the writer process died, what it had written is not known"
            )
            return
        self._deaths += 1
        if self._deaths >= _MAX_DEATHS:
            self.problem = EngineError(
                f"the writer process died {self._deaths} times in a row\n{self._report}".rstrip()
            )
            return
        self.replaced += 1
        if self._died is not None and dead is not None:
            self._died(dead.pid, dead.exit_code)
        try:
            self.start(self._reactor)
        except EngineError as error:
            self.problem = error
            return
        for output in self._outputs.values():
            self._post(output)
        for append in self._unacknowledged.values():
            self._post(append)
        if self._closing:
            self._post(CloseOutputs())
