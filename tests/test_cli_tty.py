"""What a user at a terminal sees: a bar that counts, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from typing import Self

import pytest
from support.behaviours import slow, stall, status
from support.cli import SCRIPT, Place

_SIZE = struct.pack("HHHH", 40, 160, 0, 0)
CTRL_C = b"\x03"


class Terminal:
    """A run in a session of its own on a pseudo-terminal; what it shows is read all the time."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, _SIZE)
        try:
            self.process = subprocess.Popen(
                [SCRIPT, *place.job(*arguments)],
                cwd=place.folder,
                env=place.env | {"TERM": "xterm"},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                # The terminal becomes the session's own, so that Ctrl-C reaches its foreground group.
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  - only an ioctl before exec
            )
        finally:
            os.close(theirs)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the last process has closed its end
            while data := os.read(self._ours, 65536):
                self._shown += data

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)

    def wait(self) -> int:
        """The exit code, once all that was shown has been read."""
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(10)
        os.close(self._ours)


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def bars(shown: str) -> list[str]:
    """Every state the bar was drawn in."""
    return [part.strip() for part in re.split(r"[\r\n]+", shown) if re.search(r"\d+/\d+ \[", part)]


def test_the_bar_counts_and_its_last_state_is_complete(place, server):
    place.questions(20)
    server.behave(lambda request: status(400) if request.experiment == "7" else slow(0.1))
    with Terminal(place, "-o", "results.csv", "--procs", "2", "--threads", "2") as terminal:
        assert terminal.wait() == 3
    states = bars(terminal.shown)
    counts = [int(match[1]) for state in states if (match := re.search(r"(\d+)/20 ", state))]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3, states
    last = states[-1]
    assert "20/20 [" in last
    assert last.startswith("100%")
    assert "ok 19 · error 1 · in flight 0" in last
    oldest = re.compile(r"in flight [1-4]/\d+ · oldest \d+\.\ds \(row \d+\)")
    assert any(oldest.search(state) for state in states), states
    assert "rows     19 ok · 0 warning · 1 error" in terminal.shown.replace("\r\n", "\n").split("\n")
    assert terminal.shown.index("20/20") < terminal.shown.index("rows     19 ok")


def test_a_resumed_bar_starts_where_the_last_one_stopped(place):
    place.questions(6)
    assert place.run("-o", "results.csv", "--limit", "4").code == 0
    with Terminal(place, "-o", "results.csv", "--resume", "-v") as terminal:
        assert terminal.wait() == 0
    states = bars(terminal.shown)
    assert "4/6" in states[0] or "5/6" in states[0], states
    assert "6/6" in states[-1]
    # Lines of -v stand by themselves, above the bar.
    lines = [part for part in re.split(r"[\r\n]+", terminal.shown) if part.startswith("row ")]
    assert len(lines) == 2


@pytest.mark.parametrize("display", ["plain", "none"])
def test_a_terminal_may_be_spared_the_bar(place, display):
    place.questions(3)
    with Terminal(place, "-o", "results.csv", "--display", display) as terminal:
        assert terminal.wait() == 0
    assert "\x1b" not in terminal.shown
    assert "\r" not in terminal.shown.replace("\r\n", "\n")
    assert "3 ok · 0 warning · 0 error" in terminal.shown


def test_in_real_time_each_row_has_its_line_and_there_is_no_bar(place, server):
    place.questions(4)
    server.behave(lambda request: status(400) if request.experiment == "3" else slow(0))
    with Terminal(place, "-o", "results.csv", "--display", "realtime") as terminal:
        assert terminal.wait() == 3
    lines = re.sub(r"\x1b\[\d+m", "", terminal.shown).splitlines()
    for row in range(1, 5):
        about = [line for line in lines if re.search(rf"\brow {row}\b", line)]
        assert len([line for line in about if re.search(r"\b(ok|completed|error|failed)\b", line)]) == 1, (
            lines
        )
    assert not bars(terminal.shown)
    assert "rows     3 ok · 0 warning · 1 error" in lines


def test_ctrl_c_lets_requests_finish_and_a_second_ends_at_once(place, server):
    place.questions(8)
    server.behave(stall())
    with Terminal(place, "-o", "results.csv", "--procs", "2", "--threads", "2") as terminal:
        server.wait_until(lambda: server.in_flight == 4, 30)
        terminal.type(CTRL_C)
        terminal.wait_for("SIGINT: no new requests; 4 in flight")
        server.release_all()
        assert terminal.wait() == 130
    assert "Stopped by SIGINT: 4 of 8 rows have no result yet. To go on: parallamr-mp run" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert len(place.rows()) == len(server.requests) == 4

    with Terminal(place, "-o", "results.csv", "--resume", "--threads", "2") as terminal:
        server.wait_until(lambda: server.in_flight > 0, 30)
        started = time.monotonic()
        terminal.type(CTRL_C)
        terminal.wait_for("SIGINT: no new requests")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert time.monotonic() - started < 15
    assert "Traceback" not in terminal.shown
    assert len(place.rows()) == 4

    server.behave(slow(0))
    server.clear()
    assert place.run("-o", "results.csv", "--resume").code == 0
    assert [row["id"] for row in place.rows()] == [str(n) for n in range(1, 9)]


def test_ctrl_c_while_the_server_is_asked_about_its_models(place, server):
    place.questions(3)
    server.behave_lookup(stall())
    with Terminal(place, "-o", "results.csv") as terminal:
        server.wait_until(lambda: server.lookups, 30)
        started = time.monotonic()
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert time.monotonic() - started < 6, "it waited for the look-up"
    assert "Traceback" not in terminal.shown
    assert "SIGINT" in terminal.shown
    assert "To go on: parallamr-mp run" in terminal.shown
    assert not server.requests
    server.behave_lookup(slow(0))
    assert place.run("-o", "results.csv").code == 0, "nothing is in the way of the next run"


@pytest.mark.parametrize("procs", ["0", "2"])
def test_ctrl_c_while_workers_start_shows_no_traceback(place, server, procs):
    place.questions(30)
    server.behave(slow(0.05))
    for number, delay in enumerate((0.0, 0.05, 0.2)):
        output = f"results{number}.csv"
        with Terminal(place, "-o", output, "--procs", procs, "--threads", "2") as terminal:
            while not (place.folder / output).exists():
                time.sleep(0.005)
            time.sleep(delay)
            terminal.type(CTRL_C)
            assert terminal.wait() == 130, terminal.shown
        assert "Traceback" not in terminal.shown, (delay, terminal.shown)
        server.clear()
        assert place.run("-o", output, "--resume", "--procs", "0").code == 0
        assert [row["id"] for row in place.rows(output)] == [str(n) for n in range(1, 31)]


def test_ctrl_c_while_modules_are_imported_shows_no_traceback(place, tmp_path):
    place.questions(1)
    slow_import = "import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(30)\n"
    place.write("modules/dotenv.py", slow_import)
    place.env["PYTHONPATH"] = str(place.folder / "modules")
    with Terminal(place, "-o", "results.csv") as terminal:
        while not (place.folder / "importing").exists():
            time.sleep(0.005)
        terminal.type(CTRL_C)
        assert terminal.wait() in {130, -signal.SIGINT}
    assert "Traceback" not in terminal.shown
