"""Ctrl-C in programs that run a plain group: nothing is left, nothing is complained of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.desk import desk

TESTS = str(Path(__file__).parent.parent)
PROGRAM = """
import asyncio, os, sys, threading
sys.path.insert(0, {tests!r})
from support import tasks
from support.desk import ring
from parallamr_mp.parallel import ExecutionState

DOOR, WHERE, PROCS, TASKS = {address!r}, {where!r}, {procs}, {tasks}

def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

def main():
    state = ExecutionState()
    with state.parallel(procs=1) as p:  # what is set up once, and stays: the resource tracker
        p.add(tasks.double, 1)
    before = open_files()
    try:
        with state.parallel(procs=PROCS, threads=2) as p:
            for number in range(TASKS):
                if number == 0 and WHERE in ("body", "stream"):
                    p.add(tasks.double, 21)
                else:
                    p.add(tasks.ring_pid, DOOR, number)
            if WHERE == "gather":
                p.gather()
            elif WHERE == "stream":
                for _ in p.stream():
                    pass
            elif WHERE == "body":
                for _ in p.stream():
                    ring(DOOR, "body 0")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print("status", p.status, flush=True)
    print("threads", [thread.name for thread in threading.enumerate()][1:], flush=True)
    print("files", open_files() - before, flush=True)

async def main_on_a_loop():
    async with ExecutionState().parallel(procs=PROCS, threads=2) as p:
        for number in range(TASKS):
            p.add(tasks.ring_pid, DOOR, number)
        await p.gather()

if WHERE == "loop":
    try:
        asyncio.run(main_on_a_loop())
    except KeyboardInterrupt:
        print("interrupted", [thread.name for thread in threading.enumerate()][1:], flush=True)
else:
    main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize("where", ["gather", "stream", "body", "exit"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_nothing_of_a_plain_group(where, times):
    with desk() as door:
        code = PROGRAM.format(tests=TESTS, address=door.address, where=where, procs=2, tasks=8)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "dev", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            visitors = door.come(4)
            for _ in range(times):
                os.kill(process.pid, signal.SIGINT)
            said, complaints = process.communicate(timeout=60)
            for visitor in visitors:
                visitor.line.close()
    assert said.splitlines() == ["interrupted", "status cancelled", "threads []", "files 0"]
    assert complaints == ""
    assert process.returncode == 0
    workers = {int(pid) for visitor in visitors if (pid := visitor.key.split()[0]) != "body"}
    assert len(workers) == 2
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


def test_ctrl_c_waits_for_threads_which_cannot_be_killed():
    with desk() as door:
        code = PROGRAM.format(tests=TESTS, address=door.address, where="gather", procs=0, tasks=2)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "dev", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            visitors = door.come(2)
            os.kill(process.pid, signal.SIGINT)
            for visitor in visitors:
                visitor.let_go()
            said, complaints = process.communicate(timeout=60)
    lines = said.splitlines()
    assert (lines[0], lines[2:]) == ("interrupted", ["threads []", "files 0"])  # who was first is not told
    assert complaints == ""


def test_ctrl_c_leaves_nothing_of_a_group_on_an_event_loop():
    with desk() as door:
        code = PROGRAM.format(tests=TESTS, address=door.address, where="loop", procs=2, tasks=8)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            visitors = door.come(4)
            os.kill(process.pid, signal.SIGINT)
            said, complaints = process.communicate(timeout=60)
            for visitor in visitors:
                visitor.line.close()
    assert (said, complaints) == ("interrupted []\n", "")
    assert not [visitor for visitor in visitors if psutil.pid_exists(int(visitor.key.split()[0]))]
