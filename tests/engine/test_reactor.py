"""The parent's wait, with real pipes and scripted actors in threads."""

import os
import threading
import time

import pytest

from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import ThreadSeat


def echo(receiver, sender):
    while True:
        for message in receiver.receive():
            if message == "stop":
                return
            sender.send(message)


def deaf(receiver, sender, gate):
    gate.wait()
    echo(receiver, sender)


class Peer:
    """Keeps what it is told."""

    def __init__(self, main=echo, *args):
        self.seat = ThreadSeat(main, args, name="actor")
        self._joined = self.seat
        self.told = []
        self.gone = False

    def deliver(self, message):
        assert not self.gone
        self.told.append(message)

    def lost(self):
        self.gone, self.seat = True, None

    def end(self):
        self._joined.kill()
        assert self._joined.join(5)


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def gate():
    """An event that is set at the end, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def seat_of(reactor):
    """Makes watched peers, and ends them."""
    peers = []

    def make(*args):
        peers.append(Peer(*args))
        reactor.watch(peers[-1])
        return peers[-1]

    yield make
    for peer in peers:
        if peer.seat is not None:
            reactor.forget(peer.seat)
        peer.end()


def poll_until(reactor, done):
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        reactor.flush()
        reactor.poll(0.1)


def test_each_peer_is_told_its_own_messages_in_order(reactor, seat_of):
    one, two = seat_of(), seat_of()
    for number in range(100):
        one.seat.outbox.post(("one", number))
        two.seat.outbox.post(("two", number))
    poll_until(reactor, lambda: len(one.told) == len(two.told) == 100)
    assert one.told == [("one", number) for number in range(100)]
    assert two.told == [("two", number) for number in range(100)]


def test_a_peer_hears_of_its_loss_after_its_last_message(reactor, seat_of):
    peer, other = seat_of(), seat_of()
    for message in ("a", "b", "stop"):
        peer.seat.outbox.post(message)
    poll_until(reactor, lambda: peer.gone)
    assert peer.told == ["a", "b"]
    assert not other.gone


def test_more_than_a_pipe_holds_goes_through_both_ways_without_a_deadlock(reactor, seat_of):
    peer = seat_of()
    sent = [bytes([number]) * 300_000 for number in range(20)]
    for message in sent:
        peer.seat.outbox.post(message)
    poll_until(reactor, lambda: len(peer.told) == len(sent))
    assert peer.told == sent


def test_an_actor_that_does_not_listen_does_not_hold_up_another(reactor, seat_of, gate):
    busy, other = seat_of(deaf, gate), seat_of()
    busy.seat.outbox.post(b"x" * 1_000_000)
    other.seat.outbox.post("hello")
    poll_until(reactor, lambda: other.told)
    assert busy.seat.outbox.pending
    gate.set()
    poll_until(reactor, lambda: busy.told)


def test_a_full_pipe_does_not_make_the_wait_spin(reactor, seat_of, gate):
    busy = seat_of(deaf, gate)
    busy.seat.outbox.post(b"x" * 1_000_000)
    reactor.flush()
    reactor.poll(0)
    started = time.monotonic()
    reactor.poll(0.1)
    assert time.monotonic() - started > 0.09
    gate.set()


def test_a_killed_actor_with_unsent_messages_can_be_forgotten(reactor, seat_of, gate):
    busy = seat_of(deaf, gate)
    busy.seat.outbox.post(b"x" * 1_000_000)
    reactor.flush()
    busy.seat.kill()
    gate.set()
    poll_until(reactor, lambda: busy.gone)
    next_ = seat_of()  # its pipes get the descriptors that have become free
    next_.seat.outbox.post("hello")
    poll_until(reactor, lambda: next_.told)


def test_a_forgotten_seat_is_told_nothing(reactor, seat_of):
    peer = seat_of()
    seat = peer.seat
    seat.outbox.post("hello")
    seat.outbox.flush()
    reactor.forget(seat)
    reactor.forget(seat)
    reactor.poll(0.05)
    assert peer.told == []


def test_a_peer_forgotten_by_another_in_the_same_round_is_told_nothing_more(reactor, seat_of):
    one, two = seat_of(), seat_of()
    for peer, other in ((one, two), (two, one)):
        peer.deliver = lambda message, peer=peer, other=other: (
            peer.told.append(message),
            reactor.forget(other.seat),
        )
        peer.seat.outbox.post("hello")
        peer.seat.outbox.post("stop")
        peer.seat.outbox.flush()
        peer.seat._thread.join(5)  # then its answer is in the pipe
    reactor.poll(1)
    assert sorted([one.told, two.told]) == [[], ["hello"]]


def test_a_descriptor_is_watched_until_forgotten(reactor):
    reads, writes = os.pipe()
    told = []
    reactor.watch_descriptor(reads, lambda: told.append(os.read(reads, 10)))
    os.write(writes, b"x")
    reactor.poll(1)
    reactor.forget_descriptor(reads)
    os.write(writes, b"y")
    reactor.poll(0.01)
    assert told == [b"x"]
    os.close(reads)
    os.close(writes)


def test_a_peer_without_a_seat_cannot_be_watched(reactor, seat_of):
    peer = seat_of()
    peer.seat.outbox.post("stop")
    poll_until(reactor, lambda: peer.gone)
    with pytest.raises(ValueError, match="without a seat"):
        reactor.watch(peer)
