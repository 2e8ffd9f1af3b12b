"""The writer actor in both kinds of seat: what is in the files when it says so."""

import contextlib
import os
import resource
import select
import threading

import psutil
import pytest

from parallamr_mp.engine.messages import (
    Ack,
    Append,
    CloseOutputs,
    OpenOutput,
    OutputsClosed,
    Ready,
    WriteFailed,
)
from parallamr_mp.engine.seat import ProcessSeat, ThreadSeat
from parallamr_mp.engine.writer import writer_main
from parallamr_mp.results import writer as csv_writer

BOTH = pytest.mark.parametrize("kind", [ProcessSeat, ThreadSeat])
HEADER = b"id,text\n"


def writer_on_a_small_disk(receiver, sender, size):
    """The writer, in a process that may not make files larger than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    writer_main(receiver, sender)


class Desk:
    """A seated writer, and what it has said."""

    def __init__(self, kind, main=writer_main, args=()):
        self.seat = kind(main, args, name="writer")
        self.said = []
        self.ended = False

    def post(self, *messages):
        for message in messages:
            self.seat.outbox.post(message)
        self.seat.outbox.flush()
        while self.seat.outbox.pending:
            assert select.select([], [self.seat.outbox], [], 10)[1]
            self.seat.outbox.flush()

    def read_until(self, done):
        while not self.ended and not done():
            assert select.select([self.seat.inbox], [], [], 10)[0], self.said
            some, self.ended = self.seat.inbox.read()
            self.said += some

    def of_type(self, kind):
        return [message for message in self.said if isinstance(message, kind)]

    def acked(self):
        return [id_ for ack in self.of_type(Ack) for id_ in ack.ids]

    def write(self, *appends):
        """Posts the records at once and waits for their acknowledgement."""
        self.post(*appends)
        self.read_until(lambda: {append.id for append in appends} <= set(self.acked()))

    def finish(self):
        """All that the writer says until it ends."""
        self.post(CloseOutputs())
        self.read_until(lambda: False)


@contextlib.contextmanager
def seated(kind, main=writer_main, *args):
    desk = Desk(kind, main, args)
    try:
        yield desk
    finally:
        desk.seat.kill()
        assert desk.seat.join(10)


def record(id_, text="x"):
    return b"%d,%s\n" % (id_, text.encode())


def append(id_, file=0, text="x"):
    return Append(id_, file, record(id_, text))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "out" / "results.csv")  # in a folder that is not there yet


def content(path):
    with open(path, "rb") as stream:
        return stream.read()


# --- writing -----------------------------------------------------------------------------------


@BOTH
def test_records_are_in_the_file_when_they_are_acknowledged(kind, path):
    with seated(kind) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        written = HEADER
        for id_ in range(20):
            desk.write(append(id_))
            written += record(id_)
            assert content(path) == written
            assert desk.said[-1] == Ack(0, (id_,), len(written))
        desk.finish()
        assert isinstance(desk.said[0], Ready)
        assert desk.said[1] == Ack(0, (), len(HEADER))
        assert desk.said[-1] == OutputsClosed()
        assert content(path) == written


@BOTH
def test_a_thousand_records_at_once_keep_their_order(kind, path):
    with seated(kind) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.write(*(append(id_) for id_ in range(1000)))
        desk.finish()
    assert desk.acked() == list(range(1000))
    assert len(desk.of_type(Ack)) < 500  # those that came together were written together
    assert content(path) == HEADER + b"".join(map(record, range(1000)))
    assert desk.of_type(Ack)[-1].offset == os.path.getsize(path)


@BOTH
def test_what_lies_behind_the_given_offset_is_cut_off(kind, path):
    os.makedirs(os.path.dirname(path))
    good = HEADER + record(1)
    with open(path, "wb") as stream:
        stream.write(good + b"2,unacknow")
    with seated(kind) as desk:
        desk.post(OpenOutput(0, path, HEADER, len(good)))
        desk.write(append(2))
        desk.finish()
    assert content(path) == good + record(2)


@BOTH
def test_an_offset_of_zero_starts_the_file_anew(kind, path):
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as stream:
        stream.write(b"anything\n" * 100)
    with seated(kind) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.finish()
    assert content(path) == HEADER


@BOTH
def test_more_files_than_may_be_open_are_all_written(kind, tmp_path):
    paths = [str(tmp_path / f"{number}.csv") for number in range(5)]
    with seated(kind, writer_main, 60.0, 2) as desk:
        desk.post(*(OpenOutput(number, path, HEADER, 0) for number, path in enumerate(paths)))
        for turn in range(6):
            desk.write(*(append(turn * 5 + number, number) for number in range(5)))
            pid = desk.seat.pid or os.getpid()
            open_now = {file.path for file in psutil.Process(pid).open_files()} & set(paths)
            assert len(open_now) <= 2
        desk.finish()
    for number, path in enumerate(paths):
        assert content(path) == HEADER + b"".join(record(turn * 5 + number) for turn in range(6))
        last = [ack for ack in desk.of_type(Ack) if ack.file == number][-1]
        assert last.offset == os.path.getsize(path)


def test_a_writer_whose_parent_is_gone_leaves_what_it_was_given(path):
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0), *(append(id_) for id_ in range(100)))
        desk.seat.outbox.close()
        desk.read_until(lambda: False)
    assert content(path) == HEADER + b"".join(map(record, range(100)))


# --- the disk ----------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """A semaphore that is released with every fsync."""
    semaphore = threading.Semaphore(0)
    real = os.fsync
    monkeypatch.setattr(csv_writer.os, "fsync", lambda fd: (real(fd), semaphore.release()))
    return semaphore


def test_the_disk_has_records_soon_after_without_being_asked(path, synced):
    with seated(ThreadSeat, writer_main, 0.02) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.write(append(1))
        assert synced.acquire(timeout=5)
        desk.write(append(2))
        assert synced.acquire(timeout=5)


def test_not_every_record_is_synced_but_the_end_is(path, synced):
    with seated(ThreadSeat, writer_main, 60.0) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        for id_ in range(50):
            desk.write(append(id_))
        assert not synced.acquire(blocking=False)
        desk.finish()
        assert synced.acquire(blocking=False)
        assert desk.said[-1] == OutputsClosed()


def test_a_steady_flow_is_synced_too(path, synced):
    with seated(ThreadSeat, writer_main, 0.02) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        id_ = 0
        while not synced.acquire(blocking=False):
            id_ += 1
            desk.write(append(id_))
            assert id_ < 100_000


def test_a_full_disk_leaves_whole_records_and_is_reported_once(path):
    text = "x" * 300
    whole = HEADER + b"".join(record(id_, text) for id_ in range(3))
    with seated(ProcessSeat, writer_on_a_small_disk, 1000) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        for id_ in range(3):
            desk.write(append(id_, text=text))
        desk.post(append(3, text=text))
        desk.read_until(lambda: desk.of_type(WriteFailed))
        assert "cannot be written: File too large" in desk.of_type(WriteFailed)[0].reason
        assert path in desk.of_type(WriteFailed)[0].reason
        assert content(path) == whole
        desk.post(append(4, text="short"))  # would fit, but order is kept: nothing more is written
        desk.finish()
        assert len(desk.of_type(WriteFailed)) == 1
        assert desk.of_type(OutputsClosed) == []
    assert desk.acked() == [0, 1, 2]
    assert content(path) == whole


def test_records_that_come_together_are_written_all_or_none(path):
    with seated(ProcessSeat, writer_on_a_small_disk, 1000) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.read_until(lambda: desk.of_type(Ack))
        desk.post(*(append(id_, text="x" * 300) for id_ in range(10)))
        desk.finish()
    acked = desk.acked()  # one or more of the batches that the writer read
    assert len(acked) < 4
    assert content(path) == HEADER + b"".join(record(id_, "x" * 300) for id_ in acked)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_device_that_is_full_is_reported():
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, "/dev/full", HEADER, 0))
        desk.finish()
    assert [failed.reason for failed in desk.of_type(WriteFailed)] == [
        "/dev/full: cannot be written: No space left on device"
    ]
    assert desk.acked() == []


def test_one_file_that_fails_does_not_take_back_what_is_in_another(tmp_path):
    good, bad = str(tmp_path / "good.csv"), "/dev/full"
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, good, HEADER, 0))
        desk.write(append(1, 0))
        desk.post(OpenOutput(1, bad, HEADER, 0))
        desk.finish()
    assert desk.acked() == [1]
    assert content(good) == HEADER + record(1)
    assert len(desk.of_type(WriteFailed)) == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (os.makedirs, "Is a directory"),
        (lambda path: open(os.path.dirname(path), "w").close(), "Not a directory|File exists"),
    ],
)
def test_a_file_that_cannot_be_opened_is_reported(path, spoil, words):
    spoil(path)
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.finish()
    (failed,) = desk.of_type(WriteFailed)
    assert failed.reason.startswith(path)
    assert any(word in failed.reason for word in words.split("|"))


def test_a_file_that_is_shorter_than_it_was_is_reported(path):
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, path, HEADER, 500))
        desk.finish()
    (failed,) = desk.of_type(WriteFailed)
    assert "500 had been written" in failed.reason


def test_a_file_that_was_removed_meanwhile_is_reported(path):
    with seated(ThreadSeat) as desk:
        desk.post(OpenOutput(0, path, HEADER, 0))
        desk.write(append(1))
        os.unlink(path)
        desk.finish()
    (failed,) = desk.of_type(WriteFailed)
    assert "was removed" in failed.reason
    assert desk.of_type(OutputsClosed) == []
