"""The event loop behind plain groups: comes with the first user, goes with the last, answers everybody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading

import pytest
from support.desk import beside, desk, ring

from parallamr_mp.parallel import ExecutionState
from parallamr_mp.parallel.portal import Portal


async def answer(value):
    await asyncio.sleep(0)
    return value


def loops():
    return [thread for thread in threading.enumerate() if thread.name == "parallel groups"]


@pytest.fixture
def portal():
    portal = Portal()
    portal.enter()
    yield portal
    portal.leave()
    assert not loops()


def test_a_call_returns_what_the_coroutine_does_or_raises_it(portal):
    assert portal.call(lambda: answer(42)) == 42

    async def fail():
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        portal.call(fail)


def test_all_users_share_one_thread_which_ends_with_the_last(portal):
    portal.enter()
    here = portal.call(_thread)
    assert here != threading.get_ident()
    assert portal.call(_thread) == here
    portal.leave()
    assert portal.call(_thread) == here
    assert len(loops()) == 1


async def _thread():
    return threading.get_ident()


def test_nobody_can_call_before_the_first_or_after_the_last_user():
    portal = Portal()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="has been left"):
            portal.call(lambda: answer(1))
        portal.enter()
        assert portal.call(lambda: answer(1)) == 1
        portal.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_starting_and_stopping_leaves_neither_threads_nor_descriptors():
    portal = Portal()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(50):
        portal.enter()
        assert portal.call(lambda number=number: answer(number)) == number
        portal.leave()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_the_loop_lasts_until_a_call_of_another_thread_has_returned():
    portal = Portal()
    portal.enter()
    begun, go = threading.Event(), threading.Event()
    answers = []

    async def slow():
        begun.set()
        await asyncio.to_thread(go.wait, 60)
        return "in time"

    with beside(lambda: answers.append(portal.call(slow))):
        assert begun.wait(60)
        portal.leave()
        go.set()
    assert answers == ["in time"]
    assert not loops()


def test_what_is_left_running_is_cancelled_and_awaited_at_the_end():
    portal = Portal()
    portal.enter()
    ended, tasks = [], []

    async def lasting():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def leave_it():
        tasks.append(asyncio.create_task(lasting()))
        await asyncio.sleep(0)

    portal.call(leave_it)
    portal.leave()
    assert ended == [True]


def test_its_own_thread_can_neither_call_nor_enter(portal):
    async def call():
        portal.call(lambda: answer(1))

    async def enter():
        portal.enter()

    for what in (call, enter):
        with pytest.raises(RuntimeError, match="an event handler cannot wait"):
            portal.call(what)


def test_an_interruption_cancels_the_call_and_waits_for_its_end(portal):
    ended = []

    async def lasting():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # which waits in `call`
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted):
            portal.call(lasting)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended == [True]
    assert portal.call(lambda: answer(1)) == 1


class Interrupted(BaseException):
    """As KeyboardInterrupt, which stops pytest."""


def interrupt_the_first(portal, monkeypatch, when):
    """Interrupts the next call just before or after it is handed to the loop."""
    hand_over, times = portal._loop.call_soon_threadsafe, []

    def interrupted(*args):
        times.append(1)
        if len(times) > 1:
            return hand_over(*args)
        if when == "after":
            hand_over(*args)
        raise Interrupted

    monkeypatch.setattr(portal._loop, "call_soon_threadsafe", interrupted)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_about_when_the_call_is_handed_over_hangs_nobody(portal, monkeypatch, when):
    interrupt_the_first(portal, monkeypatch, when)
    with pytest.raises(Interrupted):
        portal.call(asyncio.Event().wait)
    assert portal.call(lambda: answer(1)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_block_whose_end_is_interrupted_leaves_no_worker(monkeypatch, when):
    state = ExecutionState()
    with desk() as door:

        def gather(group):
            with contextlib.suppress(RuntimeError, Interrupted):  # what ended it, told once
                group.gather()

        def block():
            with state.parallel(procs=1) as p:
                p.add(ring, door.address)
                stream = threading.Thread(target=gather, args=(p,))
                stream.start()
                threads.append(stream)
                visitors.extend(door.come(1))
                interrupt_the_first(state._portal, monkeypatch, when)

        threads, visitors = [], []
        with pytest.raises(Interrupted):
            block()
        assert visitors[0].line.recv(1) == b""
        visitors[0].line.close()
        threads[0].join()
    assert not loops()


def test_a_thread_that_cannot_be_started_leaves_nothing(monkeypatch):
    portal = Portal()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_more_threads)
        with pytest.raises(RuntimeError, match="can't start"):
            portal.enter()
    portal.enter()
    assert portal.call(lambda: answer(1)) == 1
    portal.leave()
    assert not loops()


def _no_more_threads(self):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("status", ["started", "retrying", "completed"])
@pytest.mark.parametrize("where", [{"threads": 2}, {"procs": 1}], ids=["threads", "process"])
def test_a_handler_that_ends_the_program_ends_it_for_who_waits(where, status, kind):
    def handler(event):
        if event.status == status:
            raise kind("the handler has had enough")

    calls = []

    def fail_once(number):
        calls.append(number)
        if len(calls) < 2 or status != "retrying":
            raise ValueError(number)

    state = ExecutionState()
    state.event_bus.subscribe(handler)
    p = state.parallel(name="g", max_retries=1, retry_delay=0.01, **where)

    def run():
        with p:
            p.add(fail_once, 1)
            p.add(abs, -1)
            p.add(abs, -2)
            p.gather()

    with pytest.raises(kind, match="had enough"):
        run()
    assert p.status == "cancelled"
    assert not loops()


def test_who_comes_to_wait_after_a_handler_has_ended_the_program_learns_of_it(portal):
    async def fall():
        asyncio.get_running_loop().call_soon(sys.exit, "enough")

    def go_on():
        portal.call(fall)  # it may come just after this
        while True:
            portal.call(lambda: answer(1))

    with pytest.raises(SystemExit, match="enough"):
        go_on()
    assert portal.call(lambda: answer(2)) == 2


def test_an_interruption_while_the_thread_starts_leaves_none(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    portal = Portal()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.enter()
    for thread in loops():
        thread.join(60)
    assert not loops()
    portal.enter()
    assert portal.call(lambda: answer(1)) == 1
    portal.leave()
