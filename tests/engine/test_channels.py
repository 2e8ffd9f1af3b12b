"""Frames, senders and receivers over real pipes; no process is started."""

import contextlib
import fcntl
import itertools
import os
import resource
import select
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.engine.channels import Inbox, Outbox, Receiver, Sender, _encode, _Frames

BIG = 20 << 20

messages = st.lists(st.none() | st.integers() | st.text() | st.binary(max_size=300), max_size=8)


@pytest.fixture
def ends():
    """The reading and the writing end of one pipe."""
    reads, writes = Pipe(duplex=False)
    yield reads, writes
    for end in (reads, writes):
        with contextlib.suppress(OSError):
            end.close()


@contextlib.contextmanager
def running(*targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def frame_of(message):
    return b"".join(_encode(message))


def pump(outbox):
    """Flushes until the pipe has taken everything, waiting for room as the reactor does."""
    outbox.flush()
    while outbox.pending:
        select.select([], [outbox], [], 10)
        outbox.flush()


def read_until(inbox, count):
    got = []
    while len(got) < count:
        select.select([inbox], [], [], 10)
        some, ended = inbox.read()
        assert not ended
        got += some
    return got


# --- frames ------------------------------------------------------------------------------------


@given(messages, st.lists(st.integers(0, 4000)))
def test_messages_survive_any_cutting_of_the_stream(sent, cuts):
    stream = b"".join(map(frame_of, sent))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    frames = _Frames()
    got = []
    for start, end in itertools.pairwise(edges):
        got += frames.feed(stream[start:end])
    assert got == sent
    assert not frames.torn


@given(messages)
def test_messages_survive_byte_by_byte(sent):
    frames = _Frames()
    got = [message for byte in b"".join(map(frame_of, sent)) for message in frames.feed(bytes([byte]))]
    assert got == sent


@given(messages, st.data())
def test_a_stream_that_stops_anywhere_gives_its_complete_messages(sent, data):
    encoded = [frame_of(message) for message in sent]
    stream = b"".join(encoded)
    length = data.draw(st.integers(0, len(stream)))
    complete, end = 0, 0
    while complete < len(sent) and end + len(encoded[complete]) <= length:
        end += len(encoded[complete])
        complete += 1
    frames = _Frames()
    assert list(frames.feed(stream[:length])) == sent[:complete]
    assert frames.torn == (length > end)


# --- a child's ends ----------------------------------------------------------------------------


def test_messages_of_eight_threads_never_interleave(ends):
    reads, writes = ends
    sender, receiver = Sender(writes), Receiver(reads)
    start = threading.Barrier(8)

    def send(thread):
        start.wait()
        for number in range(100):
            # Larger than PIPE_BUF and, now and then, than the pipe: the kernel alone would mix these.
            sender.send((thread, number, bytes([thread]) * (number * 97 + 100_000 * (number % 25 == 0))))

    got = []
    with running(*(lambda thread=thread: send(thread) for thread in range(8))):
        while len(got) < 800:
            got += receiver.receive(10)
    assert all(set(body) <= {thread} for thread, _, body in got)
    for thread in range(8):
        assert [number for sender_, number, _ in got if sender_ == thread] == list(range(100))


def test_receive_returns_nothing_when_its_time_is_over(ends):
    receiver = Receiver(ends[0])
    assert receiver.receive(0) == []
    started = time.monotonic()
    assert receiver.receive(0.05) == []
    assert 0.04 < time.monotonic() - started < 1


def test_a_message_that_comes_in_two_halves_outlasts_a_time_out(ends):
    reads, writes = ends
    receiver, frame = Receiver(reads), frame_of("whole")
    os.write(writes.fileno(), frame[:7])
    assert receiver.receive(0.02) == []
    os.write(writes.fileno(), frame[7:])
    assert receiver.receive(0.02) == ["whole"]


def test_one_receive_brings_all_messages_that_wait(ends):
    reads, writes = ends
    sender = Sender(writes)
    for number in range(5):
        sender.send(number)
    assert Receiver(reads).receive() == [0, 1, 2, 3, 4]


def test_receive_gives_what_was_sent_before_the_end_of_file(ends):
    reads, writes = ends
    receiver, sender = Receiver(reads), Sender(writes)
    sender.send("last")
    sender.close()
    assert receiver.receive() == ["last"]
    with pytest.raises(EOFError):
        receiver.receive()
    with pytest.raises(EOFError):
        receiver.receive(0.01)


def test_receive_waits_on_descriptors_beyond_1024(ends):
    """`select` cannot; a process with a thousand connections has such descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("the hard limit of open files is too low")
    if soft != resource.RLIM_INFINITY and soft < 1200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    try:
        receiver = Receiver(Connection(fcntl.fcntl(ends[0].fileno(), fcntl.F_DUPFD, 1100), writable=False))
        assert receiver.receive(0.01) == []
        Sender(ends[1]).send(1)
        assert receiver.receive(1) == [1]
        receiver.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_send_raises_when_nobody_will_read(ends):
    reads, writes = ends
    reads.close()
    with pytest.raises(OSError, match="pipe"):
        Sender(writes).send(1)


# --- the parent's ends -------------------------------------------------------------------------


def test_a_full_pipe_does_not_block_the_parent_and_nothing_is_lost(ends):
    reads, writes = ends
    outbox, receiver = Outbox(writes), Receiver(reads)
    sent = [(number, b"x" * 5000) for number in range(200)]
    for message in sent:
        outbox.post(message)
        outbox.flush()  # would hang here, for good: nobody reads yet
    assert outbox.pending > 500_000
    got = []

    def read():
        while len(got) < len(sent):
            got.extend(receiver.receive(10))

    with running(read):
        pump(outbox)
    assert got == sent


def test_a_reader_that_is_gone_costs_the_parent_nothing(ends):
    reads, writes = ends
    outbox = Outbox(writes)
    reads.close()
    outbox.post(b"x" * 100_000)
    outbox.flush()
    assert outbox.pending == 0
    outbox.close()
    outbox.post("after close")
    outbox.flush()
    assert outbox.pending == 0


def test_a_message_of_twenty_megabytes_goes_there_and_back(ends):
    there_reads, there_writes = ends
    back_reads, back_writes = Pipe(duplex=False)
    receiver, sender = Receiver(there_reads), Sender(back_writes)
    outbox, inbox = Outbox(there_writes), Inbox(back_reads)
    message = os.urandom(BIG)

    def echo():
        sender.send(receiver.receive(10)[0])

    with running(echo):
        outbox.post(message)
        pump(outbox)
        assert read_until(inbox, 1) == [message]
    inbox.close()
    sender.close()


def test_an_inbox_without_news_does_not_block(ends):
    inbox = Inbox(ends[0])
    assert inbox.read() == ([], False)
    assert inbox.drain() == []


def test_an_inbox_is_read_dry_behind_a_dead_sender_and_drops_a_torn_message(ends):
    reads, writes = ends
    inbox, sender = Inbox(reads), Sender(writes)
    for number in range(1000):
        sender.send(number)
    os.write(writes.fileno(), frame_of("never finished")[:-1])
    sender.close()
    assert inbox.drain() == list(range(1000))
    assert inbox.read() == ([], True)


def test_an_inbox_tells_the_end_of_file_after_the_last_message(ends):
    reads, writes = ends
    inbox, sender = Inbox(reads), Sender(writes)
    sender.send("last")
    sender.close()
    assert inbox.read() == (["last"], False)
    assert inbox.read() == ([], True)
