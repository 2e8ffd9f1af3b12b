"""Children that get by with less: what they are started without, and that nothing is missing in there."""

import contextlib
import multiprocessing
import os
import platform
import select
import subprocess
import sys
import threading
from multiprocessing import util

import psutil
import pytest

from parallamr_mp.engine import spawning
from parallamr_mp.engine.seat import ProcessSeat
from parallamr_mp.engine.spawning import Thrift, starting

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its malloc")


# --- actors ------------------------------------------------------------------------------------


def tell_environments(receiver, sender):
    with open("/proc/self/environ", "rb") as file:
        # glibc ends each tunable in there by a zero, too.
        at_start = b"\0" + file.read().replace(b"\0glibc.", b":glibc.")
    at_start = dict(pair.split(b"=", 1) for pair in at_start.split(b"\0") if pair)
    inherited = subprocess.run(["env", "-0"], stdout=subprocess.PIPE, check=True).stdout
    its_child = dict(pair.split(b"=", 1) for pair in inherited.split(b"\0") if pair)
    sender.send([each.get(b"GLIBC_TUNABLES") for each in (at_start, os.environb, its_child)])


def count_relatives(receiver, sender):
    before = len(psutil.Process(os.getppid()).children())
    with multiprocessing.get_context("spawn").Lock():  # registered with a tracker
        own = ["resource_tracker" in " ".join(each.cmdline()) for each in psutil.Process().children()]
    sender.send((before, own))


def tell_what_stays(receiver, sender, threads):
    """Bytes a thread that has freed all it had of sizes that Python takes from the system's allocator."""
    done, over = threading.Barrier(threads + 1), threading.Event()

    def work():
        done.wait()
        for size in range(520, 1020, 16):
            _ = [bytearray(size) for _ in range(7)]
        del _
        done.wait()
        over.wait()

    pool = [threading.Thread(target=work) for _ in range(threads)]
    for thread in pool:
        thread.start()
    done.wait()
    before = own_bytes()
    done.wait()
    after = own_bytes()
    over.set()
    for thread in pool:
        thread.join()
    sender.send((after - before) // threads)


def own_bytes():
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))


# --- helpers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def seated(main, *args, **options):
    seat = ProcessSeat(main, args, name="the actor", **options)
    try:
        yield seat
    finally:
        seat.kill()
        assert seat.join(10)


def said(main, *args, **options):
    with seated(main, *args, **options) as seat:
        got, ended = [], False
        while not ended:
            assert select.select([seat.inbox], [], [], 20)[0], got
            some, ended = seat.inbox.read()
            got += some
    (message,) = got
    return message


# --- tests -------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("theirs", [None, b"glibc.malloc.tcache_count=3"])
def test_what_a_child_is_started_with_is_seen_by_nobody_else(monkeypatch, theirs):
    if theirs is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", theirs.decode())
    here = dict(os.environb)
    at_start, *later = said(tell_environments, thrift=Thrift(shares=True))
    ours = b"glibc.malloc.tcache_max=512"
    # The last that glibc is told holds, and that is the user's.
    assert at_start == (ours if theirs is None else ours + b":" + theirs)
    assert later == [theirs, theirs]
    assert os.environb == here
    assert said(tell_environments) == said(tell_environments, thrift=Thrift()) == [theirs] * 3


@LINUX
@pytest.mark.parametrize("theirs", [b"glibc.malloc.tcache_max=512", b"glibc.malloc.tcache_max=5120"])
def test_what_looks_like_ours_and_is_the_users_stays(monkeypatch, theirs):
    monkeypatch.setenv("GLIBC_TUNABLES", theirs.decode())
    assert said(tell_environments, thrift=Thrift()) == [theirs] * 3
    assert said(tell_environments, thrift=Thrift(shares=True))[1:] == [theirs] * 2


@LINUX
@GLIBC
def test_what_a_thread_has_freed_is_there_for_all_threads():
    """Else each keeps some 170 KiB of these sizes."""
    assert said(tell_what_stays, 40, thrift=Thrift(shares=True)) < 24 * 1024


def test_a_child_has_no_tracker_until_it_needs_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from engine.test_spawning import Thrift, count_relatives, said\n"
        "print(said(count_relatives, thrift=Thrift()))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("(1, [True])\n", "")


def test_who_starts_a_process_meanwhile_starts_it_as_ever(monkeypatch):
    monkeypatch.setattr(spawning.subprocess, "Popen", lambda *_, **__: pytest.fail("ours"))
    met = []

    def look():
        ends = os.pipe()
        pid = util.spawnv_passfds(
            os.fsencode(sys.executable), [sys.executable, "-c", "import os; os.write(1, b'')"], ends
        )
        met.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        for end in ends:
            os.close(end)

    with starting(Thrift(shares=True)):
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert met == [0]


def test_a_child_that_cannot_be_started_is_an_error_and_leaves_nothing(monkeypatch):
    from parallamr_mp.errors import EngineError

    def refuse(*_args, **_options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(spawning.subprocess, "Popen", refuse)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    with pytest.raises(EngineError, match="Cannot allocate memory"):
        ProcessSeat(count_relatives, (), name="the actor", thrift=Thrift(shares=True))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
