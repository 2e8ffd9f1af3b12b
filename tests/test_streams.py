"""Standard streams that break under a run: readers that go, full disks, terminals that are closed.

The server holds requests while a stream is broken, so that what is in flight then is known.
"""

import contextlib
import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import termios
import threading
import time

import psutil
import pytest
from support.behaviours import answer, stall, status
from support.cli import SCRIPT, Place, parse_rows, run_cli
from support.dispatching import Signals, jobs, only, run

from parallamr_mp import events
from parallamr_mp.engine.dispatcher import Ending

ROWS = 12
FEW = ("--procs", "2", "--threads", "2")
IN_FLIGHT = 4
DISPLAYS = [("--display", "plain"), ("--display", "bar"), ("--display", "plain", "-v"), ("-v",), ("-q",)]
ALL = [str(number + 1) for number in range(ROWS)]


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(ROWS)
    return place


@contextlib.contextmanager
def started(place, *options, command=(SCRIPT,), **streams):
    """`parallamr-mp run` in a session of its own. Ended by force if the test does not."""
    process = subprocess.Popen(
        [*map(str, command), *place.job(*options)],
        cwd=place.folder,
        env=place.env,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **streams,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def released(server):
    """From now on there are answers, for what is held too."""
    server.behave(answer())
    server.release_all()


def ids(rows):
    return [row["id"] for row in rows]


def check_resumes(place, server, answered):
    """What is in the file is whole and not asked again; the rest is."""
    assert len(place.rows()) == answered
    assert sorted(os.listdir(place.folder)) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]
    server.clear()
    server.behave(answer())
    resumed = place.run("-o", "results.csv", "--resume")
    assert resumed.code == 0, resumed
    assert ids(place.rows()) == ALL
    assert len(server.requests) == ROWS - answered


# --- standard error ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", DISPLAYS, ids=" ".join)
@pytest.mark.parametrize("procs", ["0", "2"])
def test_a_run_goes_on_to_its_end_when_the_reader_of_its_messages_goes(place, server, options, procs):
    server.behave(stall())
    ours, theirs = os.pipe()
    options = ("-o", "results.csv", *FEW, *options, "--procs", procs)
    with started(place, *options, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        server.wait_until(lambda: server.in_flight == (2 if procs == "0" else IN_FLIGHT), 30)
        os.close(ours)
        released(server)
        assert process.communicate(timeout=30)[0] == b""
        assert process.returncode == 0
    assert ids(place.rows()) == ALL
    assert len(server.requests) == ROWS


def test_error_rows_are_still_told_by_the_exit_code(place, server):
    server.behave(status(400))
    ours, theirs = os.pipe()
    os.close(ours)
    with started(place, "-o", "results.csv", *FEW, stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(30) == 3


@pytest.mark.parametrize("options", DISPLAYS, ids=" ".join)
def test_messages_may_go_to_a_full_disk(place, server, options):
    with (
        open("/dev/full", "wb") as full,
        started(place, "-o", "results.csv", *options, stderr=full) as process,
    ):
        assert process.wait(30) == 0
    assert ids(place.rows()) == ALL
    assert len(server.requests) == ROWS


@pytest.mark.parametrize("target", ["/dev/full", "pipe"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "-p", "missing.txt", "-e", "experiments.csv", "-o", "results.csv"), 2),
        (("run", "-p", "prompt.txt", "-e", "missing.csv", "-o", "results.csv"), 2),
        (("run", "--no-such-option"), 2),
        (("run", "-p", "prompt.txt", "-e", "experiments.csv", "-o", "results.csv", "--validate-only"), 0),
        (("models", "nobody"), 2),
    ],
)
def test_an_error_that_cannot_be_told_has_its_exit_code(place, target, arguments, code):
    ours, theirs = os.pipe() if target == "pipe" else (-1, os.open(target, os.O_WRONLY))
    if target == "pipe":
        os.close(ours)
    done = subprocess.run(
        [SCRIPT, *arguments],
        cwd=place.folder,
        env=place.env,
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
        timeout=30,
    )
    os.close(theirs)
    assert (done.returncode, done.stdout) == (code, b"")


@pytest.mark.parametrize("options", [(), ("-v",), ("--display", "bar")], ids=" ".join)
def test_the_first_line_of_the_messages_can_be_cut_off_by_a_pipeline(place, server, options):
    place.write("prompt.txt", "id={{id}} {{nobody}}")
    script = '{ "$@"; echo $? >code; } 2>&1 | head -1'
    done = run_cli(
        place.folder,
        *place.job("-o", "results.csv", *options),
        env=place.env,
        command=["sh", "-c", script, "sh", SCRIPT],
    )
    assert (place.folder / "code").read_text() == "0\n"
    assert "no column for {{nobody}}" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert ids(place.rows()) == ALL


def test_a_non_blocking_terminal_gets_every_line(place, server):
    """Whoever shares it, a shell's prompt or an editor, may have made it so."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    place.write("prompt.txt", "id={{id}}")
    place.questions(2000, "mock", "mock")
    read = bytearray()
    with started(place, "-o", "results.csv", "-v", *FEW, stderr=theirs) as process:
        os.close(theirs)
        assert select.select([ours], [], [], 30)[0]
        with open(ours, "rb") as stream:
            read += stream.read()
        assert process.wait(30) == 0
    assert read.count(b": ok \xc2\xb7 mock/mock") == 2000
    assert b"2000 ok" in read


# --- standard output ---------------------------------------------------------------------------


def read_lines(stream, count):
    return [stream.readline() for _ in range(count)]


@pytest.mark.parametrize("procs", ["0", "2"])
def test_a_reader_of_results_that_goes_ends_the_run_and_nothing_more_is_asked(place, server, procs):
    place.questions(200)
    server.behave(stall())
    few = ("--procs", procs, "--threads", "2")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with started(place, *few, **streams) as process:
        first = 2 if procs == "0" else IN_FLIGHT
        server.wait_until(lambda: server.in_flight == first, 30)
        server.release_all()
        header, row = read_lines(process.stdout, 2)
        # Every answer frees a thread for one more: all are in flight again once the reader is gone.
        server.wait_until(lambda: len(server.requests) == 2 * first, 30)
        process.stdout.close()
        server.release_all()
        stderr = process.stderr.read().decode()
        assert process.wait(30) == 1, stderr
    assert header.startswith(b"provider,model,id,status")
    assert row.startswith(b"openai,fake-small,")
    assert "Error: standard output: cannot be written: Broken pipe" in stderr
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    # One more round may have begun before the writer could tell.
    assert len(server.requests) <= 3 * first


@pytest.mark.parametrize("procs", ["0", "2"])
def test_both_streams_may_go_at_once(place, server, procs):
    place.questions(200)
    script = '{ "$@"; echo $? >code; } 2>&1 | head -2'
    done = run_cli(
        place.folder,
        *place.job("--procs", procs, "--threads", "2"),
        env=place.env,
        command=["sh", "-c", script, "sh", SCRIPT],
    )
    assert (place.folder / "code").read_text() == "1\n"
    assert done.stdout.startswith("provider,model,id,status")
    assert done.stderr == ""
    assert len(server.requests) < 200


def test_flattened_rows_whose_reader_goes_are_kept_in_a_file(place, server, tmp_path):
    (tmp_path / "tmp").mkdir()
    place.env["TMPDIR"] = str(tmp_path / "tmp")
    ours, theirs = os.pipe()
    os.close(ours)
    with started(place, "--flatten", *FEW, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1, stderr
    text = stderr.decode()
    assert "Error: standard output: cannot be written: Broken pipe" in text
    assert "Traceback" not in text
    assert "Exception" not in text
    [folder] = os.listdir(tmp_path / "tmp")
    kept = tmp_path / "tmp" / folder / "results.csv"
    assert f"The results are kept in {kept}" in text
    assert sorted(ids(parse_rows(kept.read_text())), key=int) == ALL


COMMANDS = [("providers",), ("models", "openai"), ("--help",), ("run", "--help"), ("--version",), ("init",)]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_other_commands_end_quietly_when_their_reader_has_gone(place, arguments):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [SCRIPT, *arguments, *(("-o", "new/table.csv") if arguments == ("init",) else ())],
        cwd=place.folder,
        env=place.env,
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_other_commands_tell_of_a_full_disk(place, arguments):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [SCRIPT, *arguments, *(("-o", "new/table.csv") if arguments == ("init",) else ())],
            cwd=place.folder,
            env=place.env,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=30,
        )
    said = b"Error: standard output: cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


# --- the terminal ------------------------------------------------------------------------------


class Window:
    """A terminal's window: what is shown in it is read all the time, until it is closed."""

    def __init__(self):
        self._ours, self.theirs = pty.openpty()
        self.shown = bytearray()
        self._wake, self._woken = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while self._wake not in select.select([self._ours, self._wake], [], [])[0]:
                self.shown += os.read(self._ours, 65536)

    def wait_for(self, text):
        deadline = time.monotonic() + 20
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)

    def type(self, text):
        os.write(self._ours, text.encode())

    def close(self):
        """The master's end is closed: the kernel hangs the terminal up."""
        if self._ours >= 0:
            os.write(self._woken, b"!")
            self._reader.join(10)
            for fd in (self._ours, self._wake, self._woken):
                os.close(fd)
            self._ours = -1


@pytest.fixture
def window():
    window = Window()
    yield window
    window.close()


def at_terminal(place, window, *options, command=(SCRIPT,)):
    """A run whose controlling terminal is the window's, and that alone holds its end of it."""
    theirs = window.theirs
    return started(
        place,
        *options,
        command=command,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )


@pytest.mark.parametrize("options", [(), ("-v",), ("--display", "plain"), ("-q",)], ids=" ".join)
def test_a_window_that_is_closed_lets_requests_in_flight_finish(place, server, window, options):
    server.behave(stall())
    with at_terminal(place, window, "-o", "results.csv", *FEW, *options) as process:
        os.close(window.theirs)
        server.wait_until(lambda: server.in_flight == IN_FLIGHT, 30)
        window.close()
        released_when_heeded(process, server)
        assert process.wait(30) == 128 + signal.SIGHUP
    assert len(server.requests) == IN_FLIGHT
    check_resumes(place, server, IN_FLIGHT)


def released_when_heeded(process, server):
    """The signal has been delivered: it is pending nowhere. It is heard before any answer is."""
    deadline = time.monotonic() + 10
    pid = process.pid
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/status", encoding="ascii") as stream:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
        if int(fields["ShdPnd"], 16) == int(fields["SigPnd"], 16) == 0:
            return released(server)
        time.sleep(0.01)
    raise AssertionError("the signal is not taken")


@pytest.mark.parametrize("options", [(), ("-v",), ("--display", "plain")], ids=" ".join)
@pytest.mark.parametrize("procs", ["0", "2"])
def test_a_run_that_ignores_the_hang_up_goes_on_without_its_window(place, server, window, options, procs):
    server.behave(stall())
    script = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", SCRIPT]
    options = ("-o", "results.csv", *FEW, *options, "--procs", procs)
    with at_terminal(place, window, *options, command=script) as process:
        os.close(window.theirs)
        server.wait_until(lambda: server.in_flight == (2 if procs == "0" else IN_FLIGHT), 30)
        window.close()
        released(server)
        assert process.wait(30) == 0
    assert ids(place.rows()) == ALL
    assert len(server.requests) == ROWS


def test_nohup_keeps_a_run_going_and_its_messages_in_a_file(place, server, window):
    server.behave(stall())
    with at_terminal(place, window, "-o", "results.csv", *FEW, "-v", command=["nohup", SCRIPT]) as process:
        os.close(window.theirs)
        server.wait_until(lambda: server.in_flight == IN_FLIGHT, 30)
        window.close()
        released(server)
        assert process.wait(30) == 0
    assert ids(place.rows()) == ALL
    said = (place.folder / "nohup.out").read_text()
    assert said.count(": ok · openai/fake-small") == ROWS
    assert f"rows     {ROWS} ok" in said


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_hang_up_is_never_the_second_signal_that_gives_requests_up(first):
    """A terminal's program, the shell and the kernel each send one; systemd sends it right after SIGTERM."""
    signals, held = Signals(), threading.Event()
    pulses = iter(range(3))

    def watch(event):
        if isinstance(event, events.Stopping):
            signals.send(signal.SIGHUP)
            signals.send(signal.SIGHUP)
            watched.append(event)
        elif isinstance(event, events.Pulse) and watched and next(pulses, None) is None:
            held.set()

    def attend(payload, attempt):
        if payload == 0:
            signals.send(first)
        held.wait(10)
        return payload

    watched = []
    try:
        ending, results = run(jobs(50), attend, slots=1, threads=4, signals=signals, seen=(watch,))
    finally:
        signals.close()
    assert ending == Ending(first, aborted=False)
    assert sorted(only(results)) == [0, 1, 2, 3]
    assert len(watched) == 1


def test_a_window_whose_shell_hangs_up_as_well_lets_requests_in_flight_finish(place, server, window):
    """An interactive shell passes the signal on, and the kernel sends another when the shell has ended."""
    server.behave(stall())
    words = shlex.join([str(SCRIPT), *place.job("-o", "results.csv", *FEW)])
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=place.folder,
        env=place.env | {"PS1": "ready> ", "HISTFILE": ""},
        stdin=window.theirs,
        stdout=window.theirs,
        stderr=window.theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  - only an ioctl before exec
    )
    os.close(window.theirs)
    with shell:
        window.wait_for(b"ready> ")
        # The inner shell hears the signal too, and lives to tell how the run ended.
        window.type(f"(trap : HUP; {words}; echo $? >{place.folder}/code)\n")
        server.wait_until(lambda: server.in_flight == IN_FLIGHT, 30)
        family = psutil.Process(shell.pid).children(recursive=True)
        started_ = next(child for child in family if "parallamr-mp" in " ".join(child.cmdline()[:2]))
        window.close()
        shell.wait(20)
        released_when_heeded(started_, server)
        _, alive = psutil.wait_procs(family, 30)
        for process in alive:
            process.kill()
        assert not alive
    assert (place.folder / "code").read_text() == f"{128 + signal.SIGHUP}\n"
    os.unlink(place.folder / "code")
    assert len(server.requests) == IN_FLIGHT
    check_resumes(place, server, IN_FLIGHT)
