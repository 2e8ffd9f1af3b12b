"""What runs in the writer's seat: the one process that owns the output files.

    parent ──OpenOutput*, Append*──► main thread ──► IncrementalCSVWriter per file (an LRU of open ones)
    parent ◄──Ack (after the write)──┘

Records that arrive together are written together, a file at a time, in the
order in which they were sent. An `Ack` says that the operating system has them;
the disk has them within `sync_every` seconds, or when `OutputsClosed` is sent.

The first record after a pause is written at once; then those of the next few
milliseconds are let come together in the pipe. Else each of thousands a second
would wake this process, be written and acknowledged alone, and wake the parent,
for nothing: until its `Ack` a record is in the hands of parent and worker.
"""

from __future__ import annotations

import os
import resource
import time
from collections import OrderedDict

from parallamr_mp.engine.channels import Receiver, Sender
from parallamr_mp.engine.messages import (
    Ack,
    Append,
    CloseOutputs,
    OpenOutput,
    OutputsClosed,
    Ready,
    WriteFailed,
)
from parallamr_mp.errors import OutputError
from parallamr_mp.results.writer import IncrementalCSVWriter

SYNC_EVERY = 1.0
_GATHER_SECONDS = 0.005
_ENOUGH = 1 << 14
"""Bytes that came together: a quarter of what the pipe holds. The parent must not come to wait for room."""
MAX_OPEN = 256


class _OutputFiles:
    """All outputs by number; at most `max_open` of them hold a descriptor."""

    def __init__(self, max_open: int) -> None:
        self._max_open = max_open
        self._known: dict[int, OpenOutput] = {}
        self._offsets: dict[int, int] = {}
        self._open: OrderedDict[int, IncrementalCSVWriter] = OrderedDict()

    def add(self, output: OpenOutput) -> int:
        self._known[output.file] = output
        self._offsets[output.file] = output.offset
        return self._writer(output.file).offset

    def append(self, file: int, records: bytes) -> int:
        writer = self._writer(file)
        offset = writer.write_record(records)
        self._offsets[file] = offset
        return offset

    def _writer(self, file: int) -> IncrementalCSVWriter:
        writer = self._open.get(file)
        if writer is None:
            output = self._known[file]
            while len(self._open) >= self._max_open:
                self._open.popitem(last=False)[1].close()
            writer = IncrementalCSVWriter(output.path, header=output.header, resume_at=self._offsets[file])
            self._offsets[file] = writer.offset
            self._open[file] = writer
        self._open.move_to_end(file)
        return writer

    def sync(self) -> None:
        for writer in self._open.values():
            writer.sync()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def writer_main(
    receiver: Receiver, sender: Sender, sync_every: float = SYNC_EVERY, max_open: int = MAX_OPEN
) -> None:
    """The actor of the writer's seat. Ends on `CloseOutputs`, or when the parent is gone."""
    files = _OutputFiles(min(max_open, _descriptors_to_spare()))
    sender.send(Ready(os.getpid()))
    failed = closing = False
    next_sync: float | None = None
    while not closing:
        timeout = None if next_sync is None else max(0.0, next_sync - time.monotonic())
        try:
            messages = receiver.receive(timeout)
        except EOFError:
            files.close()
            return
        closing = any(isinstance(message, CloseOutputs) for message in messages)
        if failed:
            continue  # the parent has been told; it ends the run and keeps what is not acknowledged
        try:
            _write(messages, files, sender)
            now = time.monotonic()
            if next_sync is None:
                next_sync = now + sync_every if messages else None
            elif now >= next_sync:
                files.sync()
                next_sync = None
            if closing:
                files.close()
            elif 0 < sum([len(each.record) for each in messages if isinstance(each, Append)]) < _ENOUGH:
                time.sleep(_GATHER_SECONDS)
        except OutputError as error:
            failed = True
            next_sync = None
            sender.send(WriteFailed(str(error)))
    if not failed:
        sender.send(OutputsClosed())


def _descriptors_to_spare() -> int:
    """Files this process may hold open besides its channels and what Python needs."""
    try:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError):
        return MAX_OPEN
    return MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, limit // 2)


def _write(messages: list[object], files: _OutputFiles, sender: Sender) -> None:
    batches: dict[int, list[Append]] = {}
    for message in messages:
        if isinstance(message, Append):
            batches.setdefault(message.file, []).append(message)
        elif isinstance(message, OpenOutput):
            sender.send(Ack(message.file, (), files.add(message)))
    for file, batch in batches.items():
        offset = files.append(file, b"".join([append.record for append in batch]))
        sender.send(Ack(file, tuple(append.id for append in batch), offset))
