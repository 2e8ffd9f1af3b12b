"""Actors in real processes and in threads: what reaches the parent, and who outlives whom."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import connection, synchronize

import psutil
import pytest

from parallamr_mp.engine import seat as seat_module
from parallamr_mp.engine.messages import Crashed
from parallamr_mp.engine.seat import GROUP_SIGNALS, ProcessSeat, ThreadSeat, wait_for_all
from parallamr_mp.errors import EngineError

BOTH = pytest.mark.parametrize("kind", [ProcessSeat, ThreadSeat])


# --- actors; a spawned child imports this module to find them ---------------------------------


def echo(receiver, sender):
    while True:
        for message in receiver.receive():
            if message == "stop":
                return
            sender.send(message)


def talk_then_wait(receiver, sender, count, fifo):
    for number in range(count):
        sender.send(number)
    with open(fifo, "wb"):
        pass  # lets the test, which is about to open the other end, go on
    threading.Event().wait()


def fall(receiver, sender):
    sender.send("about to fall")
    raise ZeroDivisionError("oh no")


def exit_at_once(receiver, sender):
    sys.exit(3)


def tell_parameters(receiver, sender, *args):
    sender.send(args)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("stays here")


# --- helpers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def seated(kind, main, *args):
    seat = kind(main, args, name="the actor")
    try:
        yield seat
    finally:
        seat.kill()
        assert seat.join(10)


def read(seat, count):
    """At least this many messages, or all up to the end of file when `count` is None."""
    got, ended = [], False
    while not ended and (count is None or len(got) < count):
        assert select.select([seat.inbox], [], [], 10)[0], f"nothing came after {got}"
        some, ended = seat.inbox.read()
        got += some
    return got


def post(seat, *messages):
    for message in messages:
        seat.outbox.post(message)
    seat.outbox.flush()


def run_script(folder, text, **more):
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


# --- messages and ends -------------------------------------------------------------------------


@BOTH
def test_an_actor_answers_and_ends_when_told(kind):
    with seated(kind, echo) as seat:
        post(seat, "a", {"b": 1})
        assert read(seat, 2) == ["a", {"b": 1}]
        post(seat, "stop")
        assert read(seat, None) == []
        assert seat.join(5)
        assert seat.exit_code == (0 if kind is ProcessSeat else None)


@BOTH
def test_an_actor_gets_its_parameters(kind):
    with seated(kind, tell_parameters, 1, ("x", None)) as seat:
        assert read(seat, None) == [(1, ("x", None))]


@BOTH
@pytest.mark.parametrize(
    ("main", "words"), [(fall, "ZeroDivisionError: oh no"), (exit_at_once, "SystemExit: 3")]
)
def test_an_actor_that_raises_reports_it_and_is_gone(kind, main, words):
    with seated(kind, main) as seat:
        *before, last = read(seat, None)
        assert before == (["about to fall"] if main is fall else [])
        assert isinstance(last, Crashed)
        assert main.__name__ in last.report
        assert last.report.rstrip().endswith(words)
        assert seat.join(5)


@BOTH
def test_an_actor_whose_channel_ends_is_gone_soon(kind):
    with seated(kind, echo) as seat:
        post(seat, "up")
        read(seat, 1)
        seat.outbox.close()
        assert [type(message) for message in read(seat, None)] == [Crashed]
        assert seat.join(5)


def test_everything_sent_before_a_sigkill_is_still_read(tmp_path):
    fifo = str(tmp_path / "said all")
    os.mkfifo(fifo)
    with seated(ProcessSeat, talk_then_wait, 1000, fifo) as seat:
        with open(fifo, "rb") as said_all:
            said_all.read()
        os.kill(seat.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # reaped already
            os.waitid(os.P_PID, seat.pid, os.WEXITED | os.WNOWAIT)  # leaves it to be reaped
        assert seat.inbox.drain() == list(range(1000))
        assert seat.inbox.read() == ([], True)
        assert seat.join(5)
        assert seat.exit_code == -signal.SIGKILL


def test_a_child_that_dies_before_anybody_looks_is_a_dead_child_and_no_error(monkeypatch):
    class KilledAtOnce(seat_module.ProcessPoolExecutor):
        def submit(self, *args):
            future = super().submit(*args)
            (child,) = self._processes.values()
            child.kill()
            child.join(5)
            return future

    monkeypatch.setattr(seat_module, "ProcessPoolExecutor", KilledAtOnce)
    with seated(ProcessSeat, echo) as seat:
        assert read(seat, None) == []
        assert seat.join(5)
        assert seat.exit_code == -signal.SIGKILL


def test_killing_one_child_leaves_its_siblings_alone():
    with seated(ProcessSeat, echo) as doomed, seated(ProcessSeat, echo) as sibling:
        for seat in (doomed, sibling):
            post(seat, "up")
            read(seat, 1)
        doomed.kill()
        assert read(doomed, None) == []  # the sibling holds no copy of its pipe
        post(sibling, "still here")
        assert read(sibling, 1) == ["still here"]


def test_wait_for_all_names_those_that_do_not_end():
    with seated(ThreadSeat, echo) as done, seated(ThreadSeat, echo) as late:
        post(done, "stop")
        assert wait_for_all([done, late], 0.2) == [late]


def test_parameters_that_cannot_be_pickled_are_an_error_at_once():
    with pytest.raises(EngineError, match="stays here"):
        ProcessSeat(tell_parameters, (Unpicklable(),), name="the actor")


# --- signals -----------------------------------------------------------------------------------


def test_a_process_is_not_left_behind_when_the_thread_that_looks_after_it_cannot_start(monkeypatch):
    me, start = psutil.Process(), threading.Thread.start
    before = {child.pid for child in me.children()}

    def refused(thread):
        if type(thread).__name__ == "_ExecutorManagerThread":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(EngineError, match="can't start new thread"):
        ProcessSeat(echo, (), name="the actor")
    left = [child for child in me.children() if child.pid not in before]
    assert not [child for child in left if "spawn_main" in " ".join(child.cmdline())]


def test_a_child_ignores_the_signals_of_its_group():
    with seated(ProcessSeat, echo) as seat:
        post(seat, "up")
        read(seat, 1)
        for signum in GROUP_SIGNALS:
            os.kill(seat.pid, signum)
        post(seat, "unharmed")
        assert read(seat, 1) == ["unharmed"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_deaf_to_signals_from_its_first_moment(tmp_path):
    """The first child of a process above all: beside it, `multiprocessing` starts its tracker."""
    script = """
        from parallamr_mp.engine.seat import ProcessSeat
        from parallamr_mp.engine.writer import writer_main
        seat = ProcessSeat(writer_main, (), name="w")
        print(open(f"/proc/{seat.pid}/status").read())
        seat.kill()
        seat.join(5)
    """
    out, err = run_script(tmp_path, script.replace("\n        ", "\n")).communicate(timeout=20)
    assert err == ""
    masks = {name: int(mask, 16) for name, mask in re.findall(r"(Sig\w+):\s+(\w+)", out)}
    deaf = masks["SigBlk"] | masks["SigIgn"]
    assert [signum for signum in GROUP_SIGNALS if not deaf >> (signum - 1) & 1] == []


# --- scripts -----------------------------------------------------------------------------------


def test_a_script_without_a_main_guard_can_start_children(tmp_path):
    (tmp_path / "actors.py").write_text("def hello(receiver, sender): sender.send('hello')\n")
    script = """
        print("the script runs")
        from actors import hello
        from parallamr_mp.engine.seat import ProcessSeat
        seat = ProcessSeat(hello, (), name="h")
        assert seat.join(10)
    """.replace("join(10)", "join(10), 'late'").replace("\n        ", "\n")
    out, err = run_script(tmp_path, script).communicate(timeout=20)
    assert (out, err) == ("the script runs\n", "")


@pytest.mark.parametrize("actor", ["reads", "is_busy"])
def test_a_child_ends_silently_and_soon_after_its_parent_is_killed(tmp_path, actor):
    (tmp_path / "actors.py").write_text(
        "import os, threading\n"
        "def reads(receiver, sender):\n"
        "    sender.send(os.getpid())\n"
        "    try:\n"
        "        receiver.receive()\n"
        "    except EOFError:\n"
        "        pass\n"
        "def is_busy(receiver, sender):\n"
        "    sender.send(os.getpid())\n"
        "    threading.Event().wait()\n"
    )
    script = f"""
        import select, signal
        from actors import {actor}
        from parallamr_mp.engine.seat import ProcessSeat
        seat = ProcessSeat({actor}, (), name="a")
        select.select([seat.inbox], [], [])
        print(seat.inbox.read()[0][0], flush=True)
        signal.pause()
    """
    with run_script(tmp_path, script.replace("\n        ", "\n")) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        killed = time.monotonic()
        # Child and tracker hold this pipe: its end of file says that all are gone.
        assert parent.stderr.read() == ""
        assert time.monotonic() - killed < 1.5
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_imports_nothing_heavy(tmp_path, monkeypatch):
    (tmp_path / "light_actor.py").write_text(
        "import sys\n"
        "from parallamr_mp.engine.worker import worker_main\n"
        "from parallamr_mp.engine.writer import writer_main\n"
        "def tell(receiver, sender): sender.send(sorted(sys.modules))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import light_actor

    with seated(ProcessSeat, light_actor.tell) as seat:
        (modules,) = read(seat, None)
    heavy = {"typer", "tqdm", "pydantic", "rich", "dotenv", "click", "pytest", "requests", "json_repair"}
    assert heavy.isdisjoint(modules)
    assert "parallamr_mp.engine.worker" in modules


def test_a_seat_makes_no_semaphore(monkeypatch):
    """One that is shared is kept for ever by who is killed with it, and stays when all are killed."""

    def refuse(*args, **options):
        raise AssertionError("a semaphore")

    monkeypatch.setattr(synchronize.SemLock, "__init__", refuse)
    seat = ProcessSeat(_say, ("ready",), name="worker")
    received = []
    while not received:
        assert connection.wait([seat.inbox], 20)
        received += seat.inbox.read()[0]
    assert received == ["ready"]
    assert seat.join(10)


def _say(receiver, sender, word):
    sender.send(word)


def test_who_pickles_while_a_process_is_started_still_finds_the_main_module(tmp_path):
    """A group starts its workers while the program's own code runs, in another thread."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, sys, threading\n"
        "from multiprocessing import spawn\n"
        "from parallamr_mp.engine import spawning\n"
        "class Mine: pass\n"
        "def look():\n"
        "    pickle.loads(pickle.dumps(Mine()))\n"
        "    seen.append(spawn.get_preparation_data('theirs'))\n"
        "seen = []\n"
        "with spawning._bare_main():\n"
        "    other = threading.Thread(target=look)\n"
        "    other.start()\n"
        "    other.join()\n"
        "    ours = spawn.get_preparation_data('ours')\n"
        "assert seen and 'init_main_from_path' in seen[0], seen\n"
        "assert 'init_main_from_path' not in ours, ours\n"
        "assert spawn.get_preparation_data('later')['init_main_from_path']\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=30)
