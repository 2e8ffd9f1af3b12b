"""What printers show of groups: in lines, as bars on a terminal, and where there is no terminal."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import io
import os
import pty
import re
import struct
import sys
import termios
import threading
import time

import pytest
from tqdm import tqdm

from parallamr_mp import events
from parallamr_mp.models import Failure, Status
from parallamr_mp.parallel import (
    EventPrinter,
    EventType,
    ExecutionEvent,
    ExecutionState,
    ExecutionStatus,
    GroupStatus,
    ParallelDisplayMode,
    ParallelEventGroup,
    ParallelEventPrinter,
)
from parallamr_mp.printers.ticker import Ticker

ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("NO_COLOR", "TERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def of_group(kind, address="Documents#1", group_id="g", *, total=3, took=2.0, error=None, **counts):
    status, life = {
        EventType.GROUP_STARTED: (ExecutionStatus.STARTED, GroupStatus.RUNNING),
        EventType.GROUP_COMPLETED: (ExecutionStatus.COMPLETED, GroupStatus.COMPLETED),
        EventType.GROUP_FAILED: (ExecutionStatus.FAILED, GroupStatus.FAILED),
        EventType.GROUP_CANCELLED: (ExecutionStatus.CANCELLED, GroupStatus.CANCELLED),
    }[kind]
    over = kind is not EventType.GROUP_STARTED
    name = address.rpartition("/")[2].partition("#")[0]
    group = ParallelEventGroup(
        group_id=group_id,
        address=address,
        name=name,
        status=life,
        total=total,
        max_workers=2,
        started_at=1000.0,
        ended_at=1000.0 + took if over else None,
        **counts,
    )
    return ExecutionEvent(
        event_type=kind,
        address=address,
        status=status,
        is_parallel=True,
        group_id=group_id,
        name=name,
        execution_time=took if over else None,
        error_message=error,
        group=group,
    )


def of_task(status, index=0, name=None, *, address="Documents#1", group_id="g", **fields):
    name = name or f"task_{index}"
    return ExecutionEvent(
        address=f"{address}/{name}",
        status=status,
        is_parallel=True,
        group_id=group_id,
        parallel_index=index,
        name=name,
        **fields,
    )


def started(index=0, name=None, **fields):
    return of_task(ExecutionStatus.STARTED, index, name, attempt=1, **fields)


def completed(index=0, name=None, *, took=1.2, **fields):
    return of_task(ExecutionStatus.COMPLETED, index, name, execution_time=took, attempt=1, **fields)


def failed(index=0, name=None, *, message="no such document", attempt=1, **fields):
    return of_task(
        ExecutionStatus.FAILED,
        index,
        name,
        execution_time=0.5,
        attempt=attempt,
        error_type="ValueError",
        error_message=message,
        **fields,
    )


BEGIN = of_group(EventType.GROUP_STARTED)
END = of_group(EventType.GROUP_COMPLETED)


def shown(printer, stream, *given):
    for event in given:
        printer.print_event(event)
    return ESCAPES.sub("", stream.getvalue())


def drawn(stream: io.StringIO) -> list[str]:
    """Every state that bars were drawn in, and every line."""
    parts = re.split(r"[\r\n]+", ESCAPES.sub("", stream.getvalue()))
    return [part.strip() for part in parts if part.strip()]


# --- a line an event ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (BEGIN, "Documents#1 started: 3 tasks"),
        (started(1, "doc2"), "  Documents#1 ▸ [2/3] doc2 started"),
        (completed(1, "doc2"), "  Documents#1 ▸ [2/3] doc2 completed in 1.20 s"),
        (
            of_task(
                ExecutionStatus.RETRYING,
                attempt=1,
                delay=0.5,
                error_type="ConnectionError",
                error_message="no route",
            ),
            "  Documents#1 ▸ [1/3] task_0 retrying in 0.500 s: attempt 1 failed: ConnectionError: no route",
        ),
        (
            failed(attempt=3),
            "  Documents#1 ▸ [1/3] task_0 failed after 0.500 s and 3 attempts: ValueError: no such document",
        ),
        (
            of_task(ExecutionStatus.CANCELLED, execution_time=0.25),
            "  Documents#1 ▸ [1/3] task_0 cancelled after 0.250 s",
        ),
        (
            completed(2, is_replayed=True),
            "  Documents#1 ▸ [3/3] task_2 completed before (replayed)",
        ),
        (
            of_group(EventType.GROUP_FAILED, completed=1, failed=1, cancelled=1, error="timed out after 2 s"),
            "Documents#1 failed: 1 of 3 done · 1 failed · 1 cancelled · 2.00 s · timed out after 2 s",
        ),
    ],
)
def test_in_real_time_each_event_is_a_line_that_names_its_group(event, line):
    stream = io.StringIO()
    printer = ParallelEventPrinter(ParallelDisplayMode.REALTIME, stream)
    shown(printer, stream, BEGIN)
    stream.truncate(0), stream.seek(0)
    assert shown(printer, stream, event) == line + "\n"


def test_groups_that_tasks_open_are_indented_deeper_and_named_by_the_task():
    stream = io.StringIO()
    printer = ParallelEventPrinter("realtime", stream)
    inner = {"address": "Documents#1/doc2/Pages#1", "group_id": "h"}
    lines = shown(
        printer,
        stream,
        BEGIN,
        started(1, "doc2"),
        of_group(EventType.GROUP_STARTED, total=1, **inner),
        completed(0, "page%201", **inner),
    ).splitlines()
    assert lines[1:] == [
        "  Documents#1 ▸ [2/3] doc2 started",
        "    doc2/Pages#1 started: 1 task",
        "      doc2/Pages#1 ▸ [1/1] page%201 completed in 1.20 s",
    ]


def test_the_event_printer_prints_every_event_by_its_address():
    stream = io.StringIO()
    lines = shown(
        EventPrinter(stream),
        stream,
        BEGIN,
        completed(1, "doc2"),
        END,
        events.Notice("look here"),
        events.RunStarted(100, 5, 0, 2, 8, "r.csv"),
        events.RowDone(7, 0, "mock", "m", Status.OK, "", 1, 0.5, 3, 2, None),
        events.RunFinished(),
        events.Pulse(1, 0, 0.0, None),
        events.RowDone(8, 0, "mock", "m", Status.OK, "", 1, 0.5, 3, 2, None),
        events.EndpointChanged("http://n1", "open", 1.0, "HTTP 503"),
    ).splitlines()
    assert lines == [
        "group Documents#1 started",
        "Documents#1/doc2 completed in 1.20 s",
        "group Documents#1 completed in 2.00 s",
        "look here",
        "run started: 100 rows, 5 done before; 16 requests at once; to r.csv",
        "run finished",
        "row 8: ok · mock/m · 0.50 s",
        "http://n1: out of order (HTTP 503)",
    ]


def test_a_row_that_executions_tell_of_has_no_second_line():
    row = events.RowDone(7, 0, "mock", "m", Status.ERROR, "broken", 1, 0.5, 3, 2, None)
    again = events.AttemptFailed(7, "row 7", 1, 0.0, Failure("server", "HTTP 503", retryable=True))
    stream = io.StringIO()
    printer = ParallelEventPrinter("realtime", stream)
    assert shown(printer, stream, row, again).count("\n") == 2
    before = stream.getvalue()
    assert shown(printer, stream, BEGIN, row, again) == before + "Documents#1 started: 3 tasks\n"


@pytest.mark.parametrize("make", [EventPrinter, lambda stream: ParallelEventPrinter("realtime", stream)])
def test_names_and_messages_of_strangers_tear_no_line(make):
    stream = io.StringIO()
    nasty = "a\nb\r\x1b[2J\x07\u2028" + "x" * 500
    shown(make(stream), stream, failed(0, nasty, message=nasty * 9), of_group(EventType.GROUP_STARTED, nasty))
    assert stream.getvalue().count("\n") == 2
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028]", stream.getvalue()) is None
    assert max(map(len, stream.getvalue().splitlines())) < 450


# --- bars --------------------------------------------------------------------------------------


def test_a_bar_shows_counts_and_what_is_in_flight_and_gives_way_to_a_summary(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    printer = ParallelEventPrinter(ParallelDisplayMode.PROGRESS, stream)
    shown(printer, stream, BEGIN, started(0), started(1), completed(0, took=1.5))
    printer.refresh()
    assert any(
        re.match(r"Documents#1 +33%\|.*\| 1/3 \[.*task/s, in flight 1\]$", state) for state in drawn(stream)
    )
    shown(printer, stream, failed(1), started(2), completed(2, took=2.0))
    printer.refresh()
    assert any("3/3 [" in state and "failed 1 · in flight 0]" in state for state in drawn(stream))
    shown(printer, stream, END)
    # 1.5 + 0.5 + 2.0 seconds of tasks in 2 seconds.
    assert drawn(stream)[-1] == "Documents#1 completed: 2 of 3 done · 1 failed · 2.00 s · speed-up 2.0x"
    assert stream.getvalue().endswith("\n")


def test_the_first_failure_of_each_kind_is_told_above_the_bars():
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    shown(printer, stream, BEGIN, failed(0, message="row 1 of 9"), failed(1, message="row 2 of 9"), failed(2))
    printer.close()
    told = [line for line in drawn(stream) if "told once" in line]
    assert [line.partition(": ")[2] for line in told] == [
        "ValueError: row 1 of 9 (told once)",
        "ValueError: no such document (told once)",
    ]


class Screen:
    """What a terminal of 80 columns shows of what is written to its pseudo-terminal."""

    def __init__(self, columns=80, rows=24):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._columns, self.lines, self._row, self._column = columns, [""], 0, 0
        self.overflowed = False

    def close(self):
        self.stream.close()
        os.close(self.ours)

    def read(self):
        self.stream.flush()
        os.set_blocking(self.ours, False)
        data = b""
        try:
            while chunk := os.read(self.ours, 65536):
                data += chunk
        except BlockingIOError:
            pass
        for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", data.decode()):
            self._take(token)
        return [line.rstrip() for line in self.lines]

    def _take(self, token):
        if token == "\r":
            self._column = 0
        elif token == "\n":
            self._row += 1
            if self._row == len(self.lines):
                self.lines.append("")
        elif token == "\x1b[A":
            self._row -= 1
            assert self._row >= 0
        elif not token.startswith("\x1b"):
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + token + line[self._column + len(token) :]
            self._column += len(token)
            self.overflowed |= self._column > self._columns


@pytest.fixture
def screen():
    screen = Screen()
    yield screen
    screen.close()


@pytest.fixture
def short_screen():
    screen = Screen(rows=6)
    yield screen
    screen.close()


def test_many_groups_have_a_line_each_and_leave_nothing_but_their_summaries(screen):
    printer = ParallelEventPrinter("progress", screen.stream)
    names = [f"Group {number} " + "x" * (5 * number) for number in range(8)]
    groups = [{"address": f"{name}#1", "group_id": name} for name in names]
    for group in groups:
        printer(of_group(EventType.GROUP_STARTED, **group))
        printer(started(0, **group))
        printer(started(1, **group))
    printer.refresh()
    lines = [line for line in screen.read() if line]
    assert len(lines) == len(groups)
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(name[:12])
        assert "0/3 [" in line
    for number in (3, 0, 7, 1):
        printer(of_group(EventType.GROUP_COMPLETED, completed=3, **groups[number]))
    printer(completed(0, **groups[5]))
    printer.refresh()
    lines = screen.read()
    while lines and not lines[-1]:
        lines.pop()
    summaries, bars = lines[:4], lines[4:]
    assert all("completed: 3 of 3 done" in line for line in summaries)
    # No gaps, and nothing left of the bars that went.
    assert sorted(re.search(r"^Group (\d).* (\d)/3 \[", line).groups() for line in bars) == [
        ("2", "0"),
        ("4", "0"),
        ("5", "1"),
        ("6", "0"),
    ]
    for number in (2, 4, 5, 6):
        printer(of_group(EventType.GROUP_COMPLETED, completed=3, **groups[number]))
    lines = [line for line in screen.read() if line]
    assert len(lines) == len(groups)
    assert all("completed: 3 of 3 done" in line for line in lines)


def test_more_groups_than_the_screen_has_lines_share_what_there_is(short_screen):
    screen = short_screen
    printer = ParallelEventPrinter("progress", screen.stream)
    groups = [{"address": f"Group {number}#1", "group_id": str(number)} for number in range(12)]
    for group in groups:
        printer(of_group(EventType.GROUP_STARTED, **group))
    for group in groups[:8]:
        printer(of_group(EventType.GROUP_COMPLETED, completed=3, **group))
    printer.refresh()
    lines = [line for line in screen.read() if line]
    assert all("completed: 3 of 3 done" in line for line in lines[:8])
    assert {line[: len("Group 10#1")].rstrip() for line in lines[8:]} == {
        "Group 8#1",
        "Group 9#1",
        "Group 10#1",
        "Group 11#1",
    }
    printer.close()
    assert [line for line in screen.read() if line] == lines[:8]


def test_bars_fit_into_80_columns(screen):
    printer = ParallelEventPrinter("progress", screen.stream)
    group = {"address": "a name that is far too long for this screen#12", "group_id": "g", "total": 100_000}
    printer(of_group(EventType.GROUP_STARTED, **group))
    for index in range(30):
        printer(started(index, group_id="g", address=group["address"]))
        printer(completed(index, group_id="g", address=group["address"]))
    printer.refresh()
    lines = screen.read()
    assert "30/100000 [" in lines[0]
    assert "#12" in lines[0]
    assert not screen.overflowed
    printer.close()


def test_users_lines_through_tqdm_stand_above_the_bars(screen, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen.stream)
    printer = ParallelEventPrinter("progress")
    printer(BEGIN)
    tqdm.write("my own line", file=sys.stderr)
    printer.refresh()
    lines = screen.read()
    assert lines[0] == "my own line"
    assert lines[1].startswith("Documents#1")
    printer.close()


def test_bars_go_on_while_nothing_happens():
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    printer(BEGIN)
    printer(started(0))
    printer(completed(0))  # nothing comes after it for a long time
    deadline = time.monotonic() + 20
    while "1/3" not in stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    printer.close()


def drawing():
    return {thread for thread in threading.enumerate() if thread.name == "parallamr-printer"}


def test_no_thread_stays_behind_a_group_that_ended_or_a_printer_that_was_closed():
    before = drawing()
    ended, closed = (ParallelEventPrinter("progress", Terminal()) for _ in range(2))
    ended(BEGIN)
    closed(BEGIN)
    threads = drawing() - before
    assert len(threads) == 2
    ended(END)
    closed.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_what_is_drawn_by_a_thread_is_not_kept_by_it():
    class Picture:
        def __init__(self):
            self.ticker = Ticker(self.draw, 0.001)
            self.drawn = threading.Event()

        def draw(self):
            self.drawn.set()

    before = drawing()
    picture = Picture()
    picture.ticker.start()
    picture.ticker.start()
    (thread,) = drawing() - before
    assert picture.drawn.wait(20)
    del picture
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


# --- without a terminal ------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines_and_the_summary():
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream, interval=1e6)
    shown(printer, stream, BEGIN, started(0), started(1), completed(0))
    assert stream.getvalue() == ""
    printer.refresh()
    assert stream.getvalue().startswith("Documents#1: 1/3 tasks (33%) · ")
    assert "in flight 1" in stream.getvalue()
    lines = shown(printer, stream, completed(1), END).splitlines()
    assert len(lines) == 2
    assert lines[1] == "Documents#1 completed: 2 of 3 done · 2.00 s · speed-up 1.2x"
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue()) is None


@pytest.mark.parametrize("mode", ["realtime", "progress"])
def test_colours_are_for_terminals_that_want_them(mode, monkeypatch):
    def codes(stream):
        printer = ParallelEventPrinter(mode, stream)
        shown(printer, stream, BEGIN, completed(0), END)
        return re.findall(r"\x1b\[\d+m", stream.getvalue())

    assert codes(Terminal())
    assert not codes(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not codes(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not codes(Terminal())


class Broken(Terminal):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("kind", ["closed", "none", "broken", "closed on the way"])
@pytest.mark.parametrize("mode", ["realtime", "progress"])
def test_a_stream_that_takes_nothing_is_no_error(kind, mode, monkeypatch):
    stream = Broken() if kind == "broken" else Terminal()
    if kind == "none":
        monkeypatch.setattr(sys, "stderr", None)
        stream = None
    elif kind == "closed":
        stream.close()
    printer = ParallelEventPrinter(mode, stream)
    printer(BEGIN)
    printer(started(0))
    if kind == "closed on the way":
        stream.close()
    printer(completed(0))
    printer.refresh()
    printer(END)
    printer(events.Notice("look here"))
    if stream is not None:
        EventPrinter(stream).print_event(BEGIN)
    assert printer.parallel_groups["g"].is_complete
    with tqdm.get_lock():  # nobody has kept it
        pass


def test_what_a_stream_cannot_encode_is_shown_as_well_as_it_goes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    ParallelEventPrinter("realtime", stream).print_event(completed(0, "größe"))
    assert raw.getvalue() == b"  Documents#1 ? [1/1] gr??e completed in 1.20 s\n"


# --- what is counted ---------------------------------------------------------------------------


def test_a_printer_that_comes_late_counts_from_there_and_believes_the_end():
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    printer(completed(4))
    tracker = printer.parallel_groups["g"]
    assert (tracker.name, tracker.completed, tracker.total, tracker.is_complete) == (
        "Documents",
        1,
        5,
        False,
    )
    printer(of_group(EventType.GROUP_COMPLETED, total=9, completed=8, failed=1))
    assert (tracker.completed, tracker.failed, tracker.total, tracker.is_complete) == (8, 1, 9, True)
    assert tracker.elapsed_time == 2.0
    assert drawn(stream)[-1].startswith("Documents#1 completed: 8 of 9 done · 1 failed")
    printer(failed(3))  # of a group that has ended: nothing opens again
    assert "told once" not in stream.getvalue()


def test_a_group_that_runs_again_is_counted_anew():
    printer = ParallelEventPrinter("progress", io.StringIO())
    for event in (BEGIN, failed(0), completed(1), END, BEGIN, completed(0)):
        printer(event)
    tracker = printer.parallel_groups["g"]
    assert (tracker.completed, tracker.failed, tracker.status) == (1, 0, GroupStatus.RUNNING)
    printer.close()


def test_a_group_that_starts_again_before_its_end_was_told_has_a_new_bar():
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    for event in (BEGIN, started(0), started(1), BEGIN):
        printer(event)
    printer.refresh()
    assert "in flight 0" in drawn(stream)[-1]
    printer.close()


def test_an_event_of_no_group_has_a_line_and_no_tracker():
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream)
    alone = ExecutionEvent(address="alone", status=ExecutionStatus.COMPLETED, execution_time=0.25)
    assert shown(printer, stream, alone) == "alone completed in 0.250 s\n"
    assert printer.parallel_groups == {}
    with pytest.raises(ValueError, match="in no group"):
        alone.tracker()


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="'realtime' or 'progress', not 'film'"):
        ParallelEventPrinter("film")


@pytest.mark.parametrize("run_first", [True, False])
def test_a_sweep_that_is_told_both_ways_has_one_bar(run_first):
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    begin = [events.RunStarted(3, 0, 0, 2, 8, "r.csv"), BEGIN]
    row = events.RowDone(1, 0, "mock", "m", Status.OK, "", 1, 0.5, 3, 2, None)
    for event in (
        *(begin if run_first else reversed(begin)),
        started(0),
        completed(0),
        row,
        events.Pulse(1, 0, 0.0, None),
        events.RunFinished(),
        END,
    ):
        printer(event)
    states = drawn(stream)
    assert "1/3 [" in states[-1]
    assert not any("completed" in state for state in states)
    assert not (run_first and any("Documents" in state for state in states))
    assert printer.parallel_groups["g"].completed == 1


@pytest.mark.parametrize("mode", list(ParallelDisplayMode))
def test_real_groups_side_by_side_and_inside_each_other_are_counted(mode):
    stream = Terminal()
    printer = ParallelEventPrinter(mode, stream)

    async def leaf(number):
        if number == 2:
            raise ValueError("no such leaf")
        await asyncio.sleep(0)

    async def branch(state):
        async with state.parallel(name="Leaves") as p:
            for number in range(3):
                p.add(leaf, number)

    async def tree(state, name):
        async with state.parallel(name=name) as p:
            p.add(branch, state)
            p.add(branch, state)

    async def main():
        state = ExecutionState()
        state.event_bus.subscribe(printer)
        await asyncio.gather(tree(state, "Oak"), tree(state, "Elm"))

    asyncio.run(main())
    counts = sorted(
        (group.name, group.started, group.completed, group.failed, group.is_complete)
        for group in printer.parallel_groups.values()
    )
    assert counts == [("Elm", 2, 2, 0, True), *[("Leaves", 3, 2, 1, True)] * 4, ("Oak", 2, 2, 0, True)]
    summaries = [line for line in drawn(stream) if " completed: " in line]
    assert len(summaries) == 6
    assert sum(line.lstrip().startswith("task_1/Leaves#1 completed: 2 of 3") for line in summaries) == 2


# --- sweeps as groups --------------------------------------------------------------------------


def test_a_sweep_is_named_by_its_file_and_says_how_many_rows_are_done():
    stream = io.StringIO()
    printer = ParallelEventPrinter("realtime", stream)
    sweep = {"address": "/data/out#2/results.csv", "group_id": "s"}
    lines = shown(
        printer,
        stream,
        of_group(EventType.GROUP_STARTED, total=2, **sweep),
        started(97, "row 98", **sweep),
        completed(97, "row 98", error_message="no value for {{topic}}", **sweep),
    ).splitlines()
    assert printer.parallel_groups["s"].total == 2, (
        "the place in the table says nothing of what is left to ask"
    )
    assert lines == [
        "results.csv started: 2 tasks",
        "  results.csv ▸ [0/2] row 98 started",
        "  results.csv ▸ [1/2] row 98 completed in 1.20 s: no value for {{topic}}",
    ]


def test_a_sweep_that_could_not_go_on_hides_no_later_group():
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream)
    for event in (
        events.RunStarted(3, 0, 0, 2, 8, "r.csv"),
        of_group(EventType.GROUP_STARTED, "r.csv", "s"),
        of_group(EventType.GROUP_FAILED, "r.csv", "s"),  # and no RunFinished
        BEGIN,
        END,
    ):
        printer(event)
    printer.close()
    assert [line for line in drawn(stream) if "completed: " in line]
