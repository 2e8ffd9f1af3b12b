"""One run an output: who may take the lock, and from whom."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from parallamr_mp.errors import BadInput, OutputLocked
from parallamr_mp.results import lock as module
from parallamr_mp.results.lock import OutputLock


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "r.csv.lock")


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait(10)


def lock(path, **more):
    return OutputLock(path, "r.csv", **more)


def owned(path, **changes):
    """A lock file of this very process, but for `changes`."""
    ours = lock(path)
    ours.acquire(print)
    with open(path, "rb") as stream:
        owner = orjson.loads(stream.read())
    with open(path, "wb") as stream:
        stream.write(orjson.dumps(owner | changes))


def ended():
    """The pid of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    return process.pid


def test_a_lock_is_refused_to_others_until_it_is_released(path):
    first, second = lock(path), lock(path)
    first.acquire(print)
    with pytest.raises(OutputLocked, match=f"r.csv: process {os.getpid()} on .* is writing this output"):
        second.acquire(print)
    second.release()  # does not hold it: takes it from nobody
    assert os.path.exists(path)
    first.release()
    first.release()
    assert os.listdir(os.path.dirname(path)) == []
    second.acquire(print)
    second.release()


@pytest.mark.parametrize(
    "changes",
    [
        lambda: {"pid": ended()},
        lambda: {"boot": "another"},
        lambda: {"born": "1"},
    ],
    ids=["dead", "other boot", "number given to another process"],
)
def test_the_lock_of_one_who_is_gone_is_taken_over_with_a_notice(path, changes):
    owned(path, **changes())
    told = []
    ours = lock(path)
    ours.acquire(told.append)
    assert len(told) == 1
    assert told[0].startswith("took over the lock of process ")
    ours.release()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_lock_of_another_host_is_never_taken(path):
    owned(path, host="elsewhere", pid=ended())
    with pytest.raises(OutputLocked, match=r"(?s)on elsewhere .*remove .*r\.csv\.lock"):
        lock(path).acquire(print)


def test_a_lock_of_another_container_is_never_taken(path):
    """Of the same host and boot, but with process numbers of its own."""
    owned(path, pid=ended(), space="pid:[1]")
    with pytest.raises(OutputLocked, match="is writing this output"):
        lock(path).acquire(print)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1, "more": 2}'])
def test_a_lock_file_that_cannot_be_read_is_nobodys_to_remove(path, content):
    with open(path, "wb") as stream:
        stream.write(content)
    with pytest.raises(OutputLocked, match="cannot be read"):
        lock(path).acquire(print)
    assert os.path.exists(path)


def test_of_many_who_find_a_dead_owner_one_gets_the_lock(path):
    for _ in range(10):
        owned(path, pid=ended())

        def attempt(_):
            ours = lock(path)
            try:
                ours.acquire(lambda text: None)
            except OutputLocked:
                return None
            return ours

        with ThreadPoolExecutor(8) as pool:
            got = [ours for ours in pool.map(attempt, range(8)) if ours is not None]
        assert len(got) == 1
        got[0].release()


def test_the_last_process_of_a_dead_run_is_waited_for(path, sleeper):
    owned(path, pid=ended(), children=[[sleeper.pid, module.birth_of(sleeper.pid)], [ended(), "7"]], grace=5)
    told = []

    def tell(text):
        told.append(text)
        sleeper.stdin.close()
        sleeper.wait(10)

    ours = lock(path)
    ours.acquire(tell)
    assert told[0] == (
        "waiting for 1 processes of the run that was killed: they finish their requests (at most 5 s)"
    )
    assert told[1].startswith("took over")
    ours.release()


def test_a_process_that_does_not_end_is_named(path, sleeper, monkeypatch):
    monkeypatch.setattr(module, "_OUTWAIT_SECONDS", 0.1)
    owned(path, pid=ended(), children=[[sleeper.pid, module.birth_of(sleeper.pid)]])
    with pytest.raises(OutputLocked, match=f"processes {sleeper.pid} of a killed run do not end"):
        lock(path).acquire(lambda text: None)
    assert os.path.exists(path)


def test_children_are_noted_while_the_lock_is_held(path, sleeper):
    ours = lock(path, grace=3)
    ours.add_child(sleeper.pid)
    assert not os.path.exists(path)
    ours.acquire(print)
    ours.add_child(sleeper.pid)
    with open(path, "rb") as stream:
        owner = orjson.loads(stream.read())
    assert (owner["children"], owner["grace"]) == ([[sleeper.pid, module.birth_of(sleeper.pid)]], 3)
    ours.release()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_takeover_that_somebody_died_in_does_not_last(path, monkeypatch):
    owned(path, pid=ended())
    marker = f"{path}.takeover"
    with open(marker, "wb"):
        pass
    old = time.time() - 100
    os.utime(marker, (old, old))
    ours = lock(path)
    ours.acquire(lambda text: None)
    ours.release()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_takeover_whose_process_is_gone_is_not_waited_for(path):
    owned(f"{path}.takeover", pid=ended())
    owned(path, pid=ended())
    ours = lock(path)
    started = time.monotonic()
    ours.acquire(lambda text: None)
    assert time.monotonic() - started < module._TAKE_OVER_SECONDS / 10
    ours.release()
    assert os.listdir(os.path.dirname(path)) == []


def test_the_marker_of_a_living_takeover_stays(path, sleeper):
    owned(path, pid=ended())
    owned(f"{path}.takeover", pid=sleeper.pid, born=module.birth_of(sleeper.pid))
    ours = lock(path)
    assert not ours._take_over()
    assert os.path.exists(f"{path}.takeover")


def test_a_marker_made_since_the_dead_one_was_seen_is_put_back(path, monkeypatch):
    marker = f"{path}.takeover"
    owned(marker, pid=ended())
    real = os.rename

    def overtaken(old, new):
        os.unlink(old)
        owned(marker)
        real(old, new)

    monkeypatch.setattr(os, "rename", overtaken)
    lock(path)._remove_dead(marker)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(marker)]


def test_drafts_of_those_who_were_killed_over_them_go_with_the_next_lock(path, sleeper):
    for pid in (ended(), sleeper.pid):
        with open(f"{path}.{pid}", "wb"):
            pass
    ours = lock(path)
    ours.acquire(print)
    ours.release()
    assert os.listdir(os.path.dirname(path)) == [f"{os.path.basename(path)}.{sleeper.pid}"]


def test_a_folder_that_takes_no_lock_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"r\.csv: cannot be written"):
        OutputLock(str(tmp_path / "file" / "r.csv.lock"), "r.csv").acquire(print)


def test_a_file_system_without_links_is_locked_too(path, monkeypatch):
    def no_links(*names):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    first = lock(path)
    first.acquire(print)
    with pytest.raises(OutputLocked):
        lock(path).acquire(print)
    first.release()
