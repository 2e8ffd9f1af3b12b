"""What a row costs the parent, without a clock: calls of functions from its lease to its acceptance.

The parent is one thread for all workers, so its share bounds how many rows a second there can be.
Channels are left out: here, seats take and bring messages as they are.
"""

from __future__ import annotations

import gc
import os
import sys

import pytest
import tqdm

from parallamr_mp import crew, events
from parallamr_mp.answered import RowResult
from parallamr_mp.config import RunConfig
from parallamr_mp.engine import dispatcher
from parallamr_mp.engine.messages import Ack, Append, CloseOutputs, Lease, OutputsClosed, Ready, Stop
from parallamr_mp.engine.messages import Outcome as Answer
from parallamr_mp.models import Status
from parallamr_mp.printers import ParallelEventPrinter
from parallamr_mp.report import RunSummary
from parallamr_mp.sweep import run_sweep

FEW, MANY = 50, 150

MOST_PYTHON_CALLS = 78
MOST_CALLS = 142
"""A little above what it is with CPython 3.11. Look at what came in before raising them."""


class QuickSeat:
    """A seat whose actor has done what it is told as soon as it is told: a worker or a writer."""

    pid, exit_code = None, 0

    def __init__(self, main, args, **_options):
        self.inbox = self.outbox = self
        self._readable, written = os.pipe()
        os.close(written)  # so that there is always something to read: the end
        self._posted, self._said, self._ended = [], [Ready(0)], False

    def fileno(self):
        return self._readable

    @property
    def pending(self):
        return len(self._posted)

    def post(self, message):
        self._posted.append(message)

    def flush(self):
        posted, self._posted = self._posted, []
        written = []
        for message in posted:
            match message:
                case Lease():
                    row = RowResult(b"\n", Status.OK, "", 0.1, 10, 20, 0.0, reported=True)
                    self._said.append(Answer(message.id, row))
                case Append():
                    written.append(message.id)
                case CloseOutputs():
                    self._said.append(OutputsClosed())
                    self._ended = True
                case Stop():
                    self._ended = True
        if written:
            self._said.append(Ack(0, tuple(written), 0))

    def read(self):
        said, self._said = self._said, []
        return said, self._ended

    def kill(self):
        self._ended = True

    def join(self, timeout):
        os.close(self._readable)
        return True


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What counts the calls of Python functions, and of all, that so many rows of so many columns take."""
    counted = [0, 0]

    def note(frame, event, _argument):
        if frame.f_code.co_filename != __file__:
            counted[0] += event == "call"
            counted[1] += event in {"call", "c_call"}

    class Counted(crew.Dispatcher):
        def run(self):
            before = sys.getprofile()
            gc.collect()  # what other tests have left says its last words now, or when these are over
            gc.disable()
            sys.setprofile(note)
            try:
                return super().run()
            finally:
                sys.setprofile(before)
                gc.enable()

    monkeypatch.setattr(crew, "Dispatcher", Counted)
    monkeypatch.setattr(crew, "ProcessSeat", QuickSeat)
    # What is done ten times a second is not a row's.
    monkeypatch.setattr(dispatcher, "_PULSE", 60.0)
    monkeypatch.setattr(tqdm.std, "time", lambda: 0.0)
    (tmp_path / "prompt.txt").write_text("Explain {{topic}}.")

    def run(rows, columns, config):
        names = [f"column {number}" for number in range(columns)]
        lines = [["mock", "mock", f"topic {row}", *names] for row in range(rows)]
        table = tmp_path / "table.csv"
        table.write_text(
            "".join(",".join(line) + "\n" for line in [["provider", "model", "topic", *names], *lines])
        )
        bus = events.EventBus()
        with open(os.devnull, "w") as nowhere:
            printer = ParallelEventPrinter("progress", nowhere)
            bus.subscribe(printer, *printer.sweep_kinds)
            counted[:] = [0, 0]
            summary: RunSummary = run_sweep(
                RunConfig(
                    prompt=str(tmp_path / "prompt.txt"),
                    experiments=str(table),
                    output=str(tmp_path / "results.csv"),
                    overwrite=True,
                    procs=2,
                    threads=8,
                    **config,
                ),
                bus,
            )
        assert summary.ok == rows
        return counted

    def calls(columns=0, **config):
        few = [*run(FEW, columns, config)]
        many = [*run(MANY, columns, config)]
        return [(more - less) / (MANY - FEW) for more, less in zip(many, few, strict=True)]

    return calls


def test_a_row_takes_few_calls(calls):
    python, every = calls()
    assert python <= MOST_PYTHON_CALLS
    assert every <= MOST_CALLS


def test_a_limit_that_is_found_out_takes_few_calls_more(calls):
    python, _ = calls(adaptive=True)
    assert python <= MOST_PYTHON_CALLS + 20


def test_limits_that_leave_room_take_few_calls_more(calls):
    python, _ = calls(rpm={"mock": 1e9}, tpm={"mock/mock": 1e12}, limits={"mock": 100})
    assert python <= MOST_PYTHON_CALLS + 65


def test_more_columns_take_no_more_calls(calls):
    few, many = calls(columns=0), calls(columns=50)
    # The file has more blocks to be decoded, each for some hundred cells.
    assert many == pytest.approx(few, abs=0.5)
