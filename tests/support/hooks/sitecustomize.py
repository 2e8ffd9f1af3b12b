"""Barriers and faults inside a real run: on its PYTHONPATH, this wraps what rules name and obeys them.

    test                                        process of the run
    ────                                        ──────────────────
    CHAOS_RULES (JSON), CHAOS_MARKS (folder) ─► wrapped os.write, os.fsync …: does this call match a rule?
    sees MARKS/NAME.0 ◄──────────────────────── "arrived": the file holds the pid
    makes MARKS/NAME.go ──────────────────────► goes on (or was killed here)

Whatever is decided is decided by the test: nothing here waits for a time. Semaphores of the run get
CHAOS_MARK into their names, so that those of one run are told from all others on the machine; each child
notes in MARKS/pid.PID what it is.
"""

import builtins
import contextlib
import errno
import fnmatch
import json
import os
import signal
import sys
import threading
import time

_RULES = json.loads(os.environ.get("CHAOS_RULES", "[]"))
_MARKS = os.environ.get("CHAOS_MARKS", "")
_WORDS = " ".join(sys.orig_argv)
_IS_CHILD = "spawn_main" in _WORDS
_write, _open = os.write, os.open
_lock = threading.Lock()
_passed = {}


def _role():
    if not _IS_CHILD:
        return "parent"
    # What an actor is stands in its first task, after this file has run.
    return "writer" if "parallamr_mp.engine.writer" in sys.modules else "worker"


def _path(target):
    if isinstance(target, int):
        try:
            return os.readlink(f"/proc/self/fd/{target}")
        except OSError:
            return ""
    return os.path.abspath(os.fsdecode(target)) if isinstance(target, (str, bytes, os.PathLike)) else ""


def _mark(name, text):
    """Makes a file of MARKS in one step; False when somebody was faster."""
    try:
        fd = _open(os.path.join(_MARKS, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError:
        return False
    _write(fd, text.encode())
    os.close(fd)
    return True


def _take(rule, target, data):
    """Whether the rule is for this call, and its turn has come."""
    if rule.get("role", "any") not in {"any", _role()}:
        return False
    if "armed" in rule and not os.path.exists(os.path.join(_MARKS, f"{rule['name']}.armed")):
        return False
    if "data" in rule and rule["data"].encode() not in bytes(data):
        return False
    if "path" in rule and not fnmatch.fnmatch(_path(target), rule["path"]):
        return False
    with _lock:
        before = _passed.get(rule["name"], 0)
        _passed[rule["name"]] = before + 1
    if before < rule.get("skip", 0):
        return False
    return any(_mark(f"{rule['name']}.{turn}", str(os.getpid())) for turn in range(rule.get("times", 1)))


def _hold(rule):
    go = os.path.join(_MARKS, f"{rule['name']}.go")
    while os.path.isdir(_MARKS) and not os.path.exists(go):
        time.sleep(0.005)


def _strike(rule):
    do = rule["do"]
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "hold":
        _hold(rule)
    else:
        code = getattr(errno, do)
        raise OSError(code, os.strerror(code))


def _wrap(owner, name, rules, data_at=None):
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        # A socket is the first argument of its methods, a path or descriptor that of a function.
        data = args[data_at] if data_at is not None else b""
        for rule in rules:
            if _take(rule, args[0] if args else None, data):
                # Of a write, the first half may arrive before the rest of the rule.
                written = real(args[0], bytes(data)[: len(data) // 2]) if rule.get("half") else None
                _strike(rule)
                if written is not None:
                    return written
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def _install():
    by_call = {}
    for rule in _RULES:
        by_call.setdefault(rule["call"], []).append(rule)
    for call, rules in by_call.items():
        if call == "sendall":
            import socket

            _wrap(socket.socket, "sendall", rules, 1)
        elif call == "fork_exec":
            import _posixsubprocess

            _wrap(_posixsubprocess, "fork_exec", rules)
        elif call == "fopen":  # Python's own `open`; "open" is the system's
            _wrap(builtins, "open", rules)
        else:
            _wrap(os, call, rules, 1 if call == "write" else None)


def _note_role():
    """Tells what this child is with the first frame it sends, when that is known."""
    known = os.write

    def noting(fd, data):
        if b"Ready" in bytes(data):
            os.write = known
            _mark(f"pid.{os.getpid()}", _role())
        return known(fd, data)

    os.write = noting


def _name_semaphores():
    from multiprocessing import process

    # `SemLock` makes its names of this; there is no public way to choose them.
    with contextlib.suppress(AttributeError):
        process.current_process()._config["semprefix"] = f"/mp-{os.environ['CHAOS_MARK']}"


if _MARKS and "resource_tracker" not in _WORDS:
    _install()
    _name_semaphores()
    if _IS_CHILD:
        _note_role()
