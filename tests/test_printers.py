import io
import re
import signal

import pytest

from parallamr_mp import events
from parallamr_mp.models import Failure, Status
from parallamr_mp.printers import LinePrinter, ParallelEventPrinter

STARTED = events.RunStarted(total=100, done=0, done_errors=0, procs=2, threads=8, output="r.csv")
RESUMED = events.RunStarted(total=1000, done=900, done_errors=5, procs=2, threads=8, output="r.csv")
LOST = events.WorkerLost(1, 4242, -signal.SIGKILL, 8, "")
STOPPING = events.Stopping(signal.SIGINT, 7, 300.0)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def pulse(in_flight=3, waiting=0, oldest=1.25) -> events.Pulse:
    return events.Pulse(in_flight, waiting, oldest, 1)


def done(status=Status.OK, *, row=7, repeat=0, message="", cost=None) -> events.RowDone:
    return events.RowDone(row, repeat, "mock", "m", status, message, 1, 0.5, 30, 20, cost)


@pytest.fixture
def clock():
    return Clock()


# --- the bar -----------------------------------------------------------------------------------


def drawn(stream: io.StringIO) -> str:
    """What a terminal would show in the end: each line's last state."""
    return "\n".join(line.rpartition("\r")[2] for line in stream.getvalue().split("\n"))


def test_the_bar_shows_rows_statuses_requests_in_flight_tokens_and_the_oldest(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    bar = ParallelEventPrinter("progress", stream, clock=clock)
    bar(STARTED)
    for status in (Status.OK, Status.OK, Status.WARNING, Status.ERROR):
        bar(done(status))
    clock.now += 10
    bar(pulse(in_flight=3, waiting=2, oldest=12.34))
    bar.close()
    shown = drawn(stream)
    assert "4/100" in shown
    assert "ok 2 · warning 1 · error 1 · in flight 3 · oldest 12.3s · retrying 2 · 20 tok/s" in shown


def test_the_bar_shows_the_cost_as_soon_as_there_is_one(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    bar = ParallelEventPrinter("progress", stream, clock=clock)
    bar(STARTED)
    bar(done(cost=0.0))
    bar(done())
    bar(pulse())
    assert "$" not in drawn(stream)
    bar(done(cost=0.01))
    bar(done(cost=0.0023))
    bar.close()
    assert "· $0.0123 · 200,000 tok/s" in drawn(stream)


def test_a_resumed_run_begins_where_it_was(clock):
    stream = Terminal()
    bar = ParallelEventPrinter("progress", stream, clock=clock)
    bar(RESUMED)
    bar(done())
    bar(pulse())
    bar(events.RunFinished())
    assert "901/1000" in drawn(stream)


def test_notices_and_deaths_and_signals_are_told_above_the_bar(clock):
    stream = Terminal()
    bar = ParallelEventPrinter("progress", stream, clock=clock)
    bar(events.Notice("before the bar"))
    bar(STARTED)
    for event in (events.Notice("look here"), LOST, STOPPING):
        bar(event)
    bar(events.RunFinished())
    lines = drawn(stream).split("\n")
    assert lines[0] == "before the bar"
    assert "look here" in lines
    assert any("worker 1 (pid 4242) died (SIGKILL) with 8 requests in flight" in line for line in lines)
    assert any(
        line.startswith("SIGINT: no new requests; 7 in flight may finish within 300 s") for line in lines
    )


def test_the_bar_is_closed_once_and_ends_with_a_line_break(clock):
    stream = Terminal()
    bar = ParallelEventPrinter("progress", stream, clock=clock)
    bar.close()
    bar(pulse())
    assert stream.getvalue() == ""
    bar(STARTED)
    bar(done())
    bar(events.RunFinished())
    written = stream.getvalue()
    assert written.endswith("\n")
    assert "1/100" in drawn(stream)
    bar.close()
    bar(pulse())
    assert stream.getvalue() == written


# --- plain lines -------------------------------------------------------------------------------


def test_one_plain_line_every_interval_and_none_between(clock):
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream, interval=5.0, clock=clock)
    printer(STARTED)
    for tenth in range(1, 201):  # twenty seconds, a row every half of one
        clock.now = 1000.0 + tenth / 10
        if tenth % 5 == 0:
            printer(done())
        printer(pulse())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert [line.split(" rows")[0] for line in lines] == ["10/100", "20/100", "30/100", "40/100"]
    assert lines[1].startswith("20/100 rows (20%) · 2.0 rows/s · 00:40 left · ok 20 · warning 0 · error 0")
    assert "100 tok/s" in lines[1]
    assert "oldest 1.2s" in lines[1]


def test_plain_lines_hold_no_escape_codes_even_on_a_terminal(clock):
    stream = Terminal()
    printer = ParallelEventPrinter("progress", stream, bars=False, interval=1.0, clock=clock)
    for event in (STARTED, done(), events.Notice("look here"), LOST, STOPPING):
        printer(event)
    clock.now += 2
    for event in (pulse(), events.RunFinished()):
        printer(event)
    printer.close()
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue()) is None
    assert stream.getvalue().count("\n") == 4


def test_a_run_without_progress_has_no_end_in_sight(clock):
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream, interval=1.0, clock=clock)
    printer(STARTED)
    clock.now += 2
    printer(pulse(in_flight=0))
    line = stream.getvalue()
    assert line.startswith("0/100 rows (0%) · 0.0 rows/s · ? left")
    assert "oldest" not in line


def test_the_rate_is_that_of_the_last_half_minute(clock):
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream, interval=10.0, clock=clock)
    printer(STARTED)
    for _ in range(50):
        printer(done())
    for _ in range(10):
        clock.now += 10
        printer(pulse())
    assert " 0.0 rows/s" in stream.getvalue().splitlines()[-1]


def test_rows_of_an_earlier_run_are_no_speed_of_this_one(clock):
    stream = io.StringIO()
    printer = ParallelEventPrinter("progress", stream, interval=5.0, clock=clock)
    printer(RESUMED)
    for _ in range(10):
        printer(done())
    clock.now += 5
    printer(pulse())
    assert stream.getvalue().startswith("910/1000 rows (91%) · 2.0 rows/s · 00:45 left")


# --- a line for each row -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (done(), "row 7: ok · mock/m · 0.50 s"),
        (done(repeat=2), "row 7 repeat 2: ok · mock/m · 0.50 s"),
        (done(Status.ERROR, message="no such model"), "row 7: error · mock/m · 0.50 s · no such model"),
        (
            events.AttemptFailed(3, "row 3", 2, 1.5, Failure("server", "HTTP 503", retryable=True)),
            "row 3: attempt 2 failed: HTTP 503; again in 1.5 s",
        ),
        (events.WorkerStarted(1, 4242), "worker 1 is up (pid 4242)"),
        (events.WorkerStarted(0, None), ""),
        (pulse(), ""),
        (events.Notice("look here"), ""),  # the display beside it tells
    ],
)
def test_each_row_retry_and_worker_is_one_line(event, line):
    stream = io.StringIO()
    LinePrinter(stream)(event)
    assert stream.getvalue() == (line + "\n" if line else "")


def test_a_line_stays_one_line_whatever_the_servers_message():
    stream = io.StringIO()
    LinePrinter(stream)(done(Status.ERROR, message="Bad gateway\n<html>\x1b[31m\r\n</html>"))
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


# --- what displays subscribe to ----------------------------------------------------------------

EVERYTHING = [
    events.Notice("the table has 100 rows"),
    STARTED,
    events.WorkerStarted(1, 4242),
    events.AttemptFailed(3, "row 3", 1, 2.5, Failure("rate_limit", "HTTP 429: slow down", retryable=True)),
    events.EndpointChanged("http://n1", "open", 4.0, "refused"),
    pulse(),
    done(Status.ERROR, message="HTTP 400: no"),
    LOST,
    events.WriterLost(4243, -signal.SIGKILL),
    STOPPING,
    pulse(),
    events.RunFinished(),
]


@pytest.mark.parametrize("display", ["bar", "plain", "realtime", "lines"])
def test_a_display_that_hears_of_its_kinds_alone_shows_all_that_it_would_of_everything(display, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def shown(*, all_kinds):
        stream, clock, bus = Terminal(), Clock(), events.EventBus()
        if display == "lines":
            printer, kinds = LinePrinter(stream), LinePrinter.KINDS
        else:
            mode = "realtime" if display == "realtime" else "progress"
            printer = ParallelEventPrinter(mode, stream, bars=display == "bar", clock=clock)
            kinds = printer.sweep_kinds
        bus.subscribe(printer, *(() if all_kinds else kinds))
        assert bus.wants(events.AttemptStarted) == all_kinds
        for event in EVERYTHING:
            clock.now += 10
            bus.publish(event)
        # Without tqdm's times and rate, and what they are padded with: it has a clock of its own.
        return re.sub(r"\[[^,]+,[^,]+, ", "", drawn(stream)).split()

    assert shown(all_kinds=False) == shown(all_kinds=True)
    assert len(shown(all_kinds=True)) > 20
