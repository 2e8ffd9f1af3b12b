"""The parent's side of the writer: whatever happens to writers, each record is in the file once."""

import itertools
import os
import signal
import time

import pytest

from parallamr_mp.engine import outlet as module
from parallamr_mp.engine.messages import Ack, Append, CloseOutputs, OpenOutput, Ready, WriteFailed
from parallamr_mp.engine.outlet import WriterPeer
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import ProcessSeat, ThreadSeat
from parallamr_mp.engine.writer import writer_main
from parallamr_mp.errors import EngineError, OutputError

HEADER = b"id\n"


# --- writers that die --------------------------------------------------------------------------


def receive_appends(receiver, count):
    """What comes first, up to the `count`-th record: (openings, records)."""
    openings, appends = [], []
    while len(appends) < count:
        for message in receiver.receive():
            (appends if isinstance(message, Append) else openings).append(message)
    return openings, appends


def write_and_die(receiver, sender, path, acked):
    """Writes two records and a half, acknowledges the first `acked`, and is gone."""
    sender.send(Ready(0))
    _, appends = receive_appends(receiver, 3)
    with open(path, "wb") as stream:
        stream.write(HEADER + b"".join(append.record for append in appends[:2]) + appends[2].record[:1])
    if acked:
        size = len(HEADER) + sum(len(append.record) for append in appends[:acked])
        sender.send(Ack(0, tuple(append.id for append in appends[:acked]), size))


def open_and_die(receiver, sender):
    """Does as if it had opened the file, and falls over the first record."""
    sender.send(Ready(0))
    receive_appends(receiver, 1)
    sender.send(Ack(0, (), len(HEADER)))
    raise MemoryError("a record too many")


def die_closing(receiver, sender):
    sender.send(Ready(0))
    while not any(isinstance(message, CloseOutputs) for message in receiver.receive()):
        pass


def refuse(receiver, sender):
    sender.send(Ready(0))
    receive_appends(receiver, 1)
    sender.send(WriteFailed("disk full"))
    try:
        while True:
            receiver.receive()
    except EOFError:
        pass


# --- helpers -----------------------------------------------------------------------------------


class Outlet:
    """A WriterPeer with a reactor of its own; `mains` are its writers in turn, the last one for ever."""

    def __init__(self, *mains, kind=ThreadSeat):
        self.seats = []
        turns = itertools.chain(mains, itertools.repeat(mains[-1]))

        def make_seat():
            main, *args = next(turns)
            self.seats.append(kind(main, tuple(args), name="writer"))
            return self.seats[-1]

        self.reactor, self.peer = Reactor(), WriterPeer(make_seat)
        self.peer.start(self.reactor)

    def turn(self, timeout=0.1):
        self.reactor.flush()
        self.reactor.poll(timeout)

    def turn_until(self, done):
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline
            self.turn()

    def finish(self):
        self.peer.finish()
        self.turn_until(lambda: self.peer.finished or self.peer.problem)

    def close(self):
        if self.peer.seat is not None:
            self.reactor.forget(self.peer.seat)
        for seat in self.seats:
            seat.kill()
            assert seat.join(5)
        self.reactor.close()


@pytest.fixture
def outlet():
    made = []

    def make(*mains, **more):
        made.append(Outlet(*mains, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "results.csv")


def rows(path):
    with open(path, "rb") as stream:
        header, *records = stream.read().splitlines()
    assert header + b"\n" == HEADER
    return [int(record) for record in records]


def append(id_, file=0):
    return Append(id_, file, b"%d\n" % id_)


# --- death and replacement ---------------------------------------------------------------------


def test_a_writer_that_is_killed_again_and_again_loses_and_doubles_nothing(outlet, path):
    out = outlet((writer_main,), kind=ProcessSeat)
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    total, kills = 4000, 0
    for id_ in range(total):
        out.peer.append(append(id_))
        if id_ % 50 == 0:
            out.turn(0)
        if id_ % 1000 == 500:
            # In the middle of the flow: some records are acknowledged, others in the file, the pipe, here.
            before = out.peer.backlog
            out.turn_until(lambda before=before: out.peer.backlog < before)
            for extra in range(100):
                out.peer.append(append(total + 100 * kills + extra))
            out.reactor.flush()
            os.kill(out.peer.seat.pid, signal.SIGKILL)
            kills += 1
    out.finish()
    assert (out.peer.problem, out.peer.backlog, out.peer.replaced) == (None, 0, kills)
    assert sorted(rows(path)) == list(range(total + 100 * kills))


@pytest.mark.parametrize("acked", [0, 1, 2])
def test_what_a_dead_writer_wrote_without_saying_so_is_written_over(outlet, path, acked):
    out = outlet((write_and_die, path, acked), (writer_main,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    for id_ in range(5):
        out.peer.append(append(id_))
    out.finish()
    assert out.peer.replaced == 1
    assert rows(path) == [0, 1, 2, 3, 4]


def test_a_new_writer_knows_all_files(outlet, tmp_path):
    paths = [str(tmp_path / f"{number}.csv") for number in range(3)]
    out = outlet((write_and_die, paths[0], 1), (writer_main,))
    for number, path in enumerate(paths):
        out.peer.open(OpenOutput(number, path, HEADER, 0))
    for id_ in range(9):
        out.peer.append(append(id_, 0 if id_ < 3 else id_ % 3))
    out.finish()
    assert [rows(path) for path in paths] == [[0, 1, 2, 3, 6], [4, 7], [5, 8]]


def test_a_writer_that_dies_while_it_closes_is_replaced_by_one_that_closes(outlet, path):
    out = outlet((die_closing,), (writer_main,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    out.peer.append(append(1))
    out.finish()
    assert (out.peer.finished, out.peer.replaced) == (True, 1)
    assert rows(path) == [1]


def test_the_end_of_a_writer_that_has_closed_is_no_death(outlet, path):
    out = outlet((writer_main,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    out.finish()
    out.turn_until(lambda: out.peer.seat is None)
    assert (out.peer.replaced, out.peer.problem, len(out.seats)) == (0, None, 1)


def test_a_record_that_every_writer_falls_over_ends_the_run(outlet, path):
    """Opening the file again is no progress: else such a record would be tried for ever."""
    out = outlet((open_and_die,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    out.peer.append(append(1))
    out.turn_until(lambda: out.peer.problem or len(out.seats) > 20)
    assert isinstance(out.peer.problem, EngineError)
    assert "died 5 times in a row" in str(out.peer.problem)
    assert "a record too many" in str(out.peer.problem)
    assert out.peer.backlog == 1


def test_a_writer_that_cannot_be_replaced_ends_the_run(path):
    seats = []

    def make_seat():
        if seats:
            raise EngineError("no more processes")
        seats.append(ThreadSeat(die_closing, (), name="w"))
        return seats[0]

    reactor, peer = Reactor(), WriterPeer(make_seat)
    peer.start(reactor)
    peer.finish()
    while peer.problem is None:
        reactor.flush()
        reactor.poll(1)
    assert str(peer.problem) == "no more processes"
    reactor.close()


# --- the books ---------------------------------------------------------------------------------


def test_records_are_kept_until_they_are_acknowledged(outlet, path):
    out = outlet((writer_main,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    for id_ in range(10):
        out.peer.append(append(id_))
    assert out.peer.backlog == 10
    out.turn_until(lambda: out.peer.backlog == 0)
    assert rows(path) == list(range(10))


def test_many_or_large_unacknowledged_records_are_a_congestion_until_they_are_written(
    outlet, path, monkeypatch
):
    monkeypatch.setattr(module, "_MAX_BACKLOG", 5)
    monkeypatch.setattr(module, "_MAX_BACKLOG_BYTES", 1000)
    out = outlet((writer_main,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    for id_ in range(4):
        out.peer.append(append(id_))
    assert not out.peer.congested
    out.peer.append(append(4))
    assert out.peer.congested
    out.turn_until(lambda: not out.peer.congested)
    out.peer.append(Append(5, 0, b"5" * 1000 + b"\n"))
    assert out.peer.congested
    out.turn_until(lambda: not out.peer.congested)


def test_a_write_error_is_a_problem_and_unwritten_records_stay_counted(outlet, path):
    out = outlet((refuse,))
    out.peer.open(OpenOutput(0, path, HEADER, 0))
    out.peer.append(append(1))
    out.peer.append(append(2))
    out.turn_until(lambda: out.peer.problem)
    assert isinstance(out.peer.problem, OutputError)
    assert str(out.peer.problem) == "disk full"
    out.peer.append(append(3))
    assert out.peer.backlog == 3
    out.finish()
    assert not out.peer.finished
    assert out.peer.replaced == 0


def test_a_dead_writer_of_standard_output_is_a_problem_and_not_replaced(outlet):
    out = outlet((die_closing,))
    out.peer.open(OpenOutput(0, None, HEADER, 0))
    out.peer.append(append(1))
    out.finish()
    assert isinstance(out.peer.problem, OutputError)
    assert "standard output" in str(out.peer.problem)
    assert (out.peer.replaced, len(out.seats)) == (0, 1)
