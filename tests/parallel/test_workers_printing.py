"""What tasks print in worker processes: whole lines, on the streams of the program that runs the group."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from support import tasks
from support.desk import beside, desk

from parallamr_mp.parallel import ExecutionState

TASKS, LINES = 8, 30
CHATTER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from support import tasks
from parallamr_mp.parallel import ExecutionState
from tqdm import tqdm

with tqdm(total={TASKS}, disable="bar" not in sys.argv) as bar, \\
     ExecutionState().parallel(procs=2, threads=2) as p:
    for number in range({TASKS}):
        p.add(tasks.chatter, number, {LINES})
    for result in p.stream():
        result.unwrap()
        bar.update()
"""
SAID = {f"task {number} line {line} {'x' * 40}" for number in range(TASKS) for line in range(LINES)}
FAULTS = {f"fault {number} line {line}" for number in range(TASKS) for line in range(LINES)}


def ordered(lines):
    """Whether the lines of each task are in their order."""
    last = {}
    for line in lines:
        number, place = map(int, re.findall(r"\d+", line)[:2])
        if last.get(number, -1) >= place:
            return False
        last[number] = place
    return True


def test_lines_come_whole_and_in_order_into_pipes_and_files(tmp_path):
    with open(tmp_path / "err", "wb") as faults:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CHATTER],
            stdout=subprocess.PIPE,
            stderr=faults,
            timeout=60,
            check=True,
        )
    said, complained = done.stdout.decode().splitlines(), (tmp_path / "err").read_text().splitlines()
    assert (len(said), set(said)) == (len(SAID), SAID)
    assert (len(complained), set(complained)) == (len(FAULTS), FAULTS)
    assert ordered(said)
    assert ordered(complained)


def test_lines_come_whole_onto_a_terminal_with_a_bar():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 100))
    with subprocess.Popen([sys.executable, "-c", CHATTER, "bar"], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the last holder of the other end is gone
            while some := os.read(ours, 65536):
                shown += some
        os.close(ours)
        assert process.wait(60) == 0
    lines = [line.rpartition("\r")[2] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    assert set(lines) >= SAID | FAULTS
    assert ordered(line for line in lines if line in SAID)
    assert f"{TASKS}/{TASKS}".encode() in shown


def test_what_is_left_unfinished_comes_too(capsys):
    with desk() as door:
        seen = []

        def receptionist():
            here = {visitor.key: visitor for visitor in door.come(2)}
            here["before"].let_go()
            (after,) = door.come(1)
            after.let_go()
            here["task"].let_go()

        with beside(receptionist), ExecutionState().parallel(procs=1) as p:
            p.add(tasks.say, "a", "b", sep="-", end="")
            p.add(tasks.say, "|", end="|\n")
            p.add(tasks.say_in_a_thread, "left by a thread")
            p.add(tasks.say, "")
            p.add(tasks.say_later, door.address, "after the end of its task")
            p.add(tasks.ring, door.address, "task")
            p.add(tasks.say_names)
            names = p.gather()[-1].unwrap()
        seen += capsys.readouterr().out.splitlines()
    assert seen == ["a-b||", "left by a thread", "after the end of its task"]
    assert names == ("<stdout>", "utf-8", False)


def test_what_is_flushed_is_seen_at_once():
    seen = threading.Event()

    class Watched(io.StringIO):
        def flush(self):
            if self.getvalue() == "..":
                seen.set()

    shown = Watched()
    with desk() as door:

        def receptionist():
            for visitor in door.come(2):
                assert seen.wait(60)
                visitor.let_go()

        with (
            contextlib.redirect_stdout(shown),
            beside(receptionist),
            ExecutionState().parallel(procs=1, threads=2) as p,
        ):
            p.add(tasks.say_and_ring, door.address, ".")
            p.add(tasks.say_and_ring, door.address, ".")
            p.gather()
    assert shown.getvalue() == ".."


def test_ways_around_print_end_up_there_as_well(capfd):
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.say_otherwise)
        p.add(tasks.say_at_exit, "at exit")
        for result in p.gather():
            result.unwrap()
    said, complained = capfd.readouterr()
    assert sorted(said.splitlines()) == ["at exit", "bytes", "from a program", "written lines"]
    assert "logged\n" in complained
    assert "UserWarning: warned\n" in complained


def test_a_long_line_in_small_pieces_is_no_trouble(capsys):
    number = 200_000  # a hundred gigabytes, if each copied those before
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.say_in_pieces, number)
        p.gather()[0].unwrap()
    assert len(capsys.readouterr().out) == 10 * number


class Refusing(io.StringIO):
    def write(self, text):
        raise RuntimeError("no paper")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [lambda: None, closed, Refusing, object])
def test_a_stream_that_takes_nothing_costs_no_task_its_result(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    with ExecutionState().parallel(procs=1, threads=2) as p:
        for number in range(4):
            p.add(tasks.chatter, number, 2)
            p.add(tasks.double, number)
        results = p.gather()
    assert all(result.ok for result in results)


def test_what_the_stream_cannot_encode_costs_those_letters_alone(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with ExecutionState().parallel(procs=1) as p:
        p.add(tasks.say, "grün \udc80")
        p.add(tasks.say, "fine")
        assert all(result.ok for result in p.gather())
    assert raw.getvalue() == b"gr?n ?\nfine\n"
