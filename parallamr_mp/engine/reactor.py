"""The parent's one wait: for any peer's messages, for room in a pipe, for a signal, for a time.

    Peer (slot, writer) ──inbox──► Reactor.poll ──► peer.deliver(message), peer.lost()
    Peer.post ──► outbox buffer ──► Reactor.flush / poll ──► pipe

Single-threaded: everything a peer is told, it is told in the thread that polls.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any, Protocol

from parallamr_mp.engine.seat import Seat


class Peer(Protocol):
    """The parent's side of one actor."""

    seat: Seat | None

    def deliver(self, message: Any) -> None:
        """One message from the actor, in the order it was sent."""
        ...

    def lost(self) -> None:
        """The actor is gone; everything it had sent in full has been delivered before."""
        ...


class Reactor:
    """Waits on all peers at once."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._peers: dict[Seat, Peer] = {}
        self._writing: set[Seat] = set()

    def watch(self, peer: Peer) -> None:
        """Starts listening to the peer's present seat."""
        if peer.seat is None:
            raise ValueError("a peer without a seat has nothing to listen to")
        self._peers[peer.seat] = peer
        self._selector.register(peer.seat.inbox, selectors.EVENT_READ, peer.seat)

    def watch_descriptor(self, fd: int, ready: Callable[[], None]) -> None:
        """Calls `ready` when the descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def forget_descriptor(self, fd: int) -> None:
        self._selector.unregister(fd)

    def forget(self, seat: Seat) -> None:
        """Stops listening to a seat that is about to be joined."""
        if self._peers.pop(seat, None) is not None:
            self._selector.unregister(seat.inbox)
            if seat in self._writing:
                self._writing.remove(seat)
                self._selector.unregister(seat.outbox)

    def fileno(self) -> int:
        """A descriptor that can be read when `poll` has something to do: for those with another loop."""
        return self._selector.fileno()

    def flush(self) -> None:
        """Hands what was posted to the pipes; what does not fit goes on in `poll`."""
        for seat in self._peers:
            if seat.outbox.pending and seat not in self._writing:
                seat.outbox.flush()
                if seat.outbox.pending:
                    self._writing.add(seat)
                    self._selector.register(seat.outbox, selectors.EVENT_WRITE, seat)

    def poll(self, timeout: float | None) -> None:
        """Waits up to `timeout` seconds (None: for ever) and delivers what has come."""
        for key, events in self._selector.select(timeout):
            if callable(key.data):
                key.data()
                continue
            seat: Seat = key.data
            peer = self._peers.get(seat)
            if peer is None:
                continue  # forgotten by an earlier delivery of this very round
            if events & selectors.EVENT_WRITE:
                seat.outbox.flush()
                if not seat.outbox.pending:
                    self._writing.discard(seat)
                    self._selector.unregister(seat.outbox)
                continue
            messages, ended = seat.inbox.read()
            for message in messages:
                peer.deliver(message)
            if ended and seat in self._peers:
                self.forget(seat)
                peer.lost()

    def close(self) -> None:
        self._selector.close()
