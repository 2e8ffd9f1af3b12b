"""The event bus: handlers in order, sync and async ones; one that raises hurts nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextvars import ContextVar

import pytest
from support.grouping import settle

from parallamr_mp import mailbox
from parallamr_mp.events import EventBus, Execution, Notice, RunFinished, Stopping, WriterLost


def notices(number):
    return [Notice(str(index)) for index in range(number)]


def test_handlers_get_every_event_in_order_until_they_unsubscribe():
    bus, first, second = EventBus(), [], []
    assert not bus.wants(Notice)
    leave = bus.subscribe(first.append)
    bus.subscribe(second.append)
    one, two = notices(2)
    bus.publish(one)
    leave()
    leave()
    bus.publish(two)
    assert (first, second) == ([one], [one, two])
    assert bus.wants(Notice)


def test_a_handler_may_want_some_kinds_of_events_and_what_nobody_wants_need_not_be_made():
    bus, told, lost = EventBus(), [], []
    bus.subscribe(told.append, Notice, Stopping)
    leave = bus.subscribe(lost.append, WriterLost)
    stopping, gone = Stopping(2, 0, 1.0), WriterLost(1, -9)
    for event in (stopping, gone, RunFinished()):
        bus.publish(event)
    assert (told, lost) == ([stopping], [gone])
    assert [bus.wants(kind) for kind in (Notice, WriterLost, RunFinished, Execution)] == [1, 1, 0, 0]
    leave()
    assert not bus.wants(WriterLost)


def test_who_wants_a_kind_gets_its_special_kinds_too():
    class Special(Execution):
        pass

    bus, got = EventBus(), []
    bus.subscribe(got.append, Execution)
    event = Special()
    bus.publish(event)
    assert got == [event]
    assert bus.wants(Special)


def test_a_handler_that_raises_is_logged_once_and_hurts_nobody(caplog):
    bus, got = EventBus(), []

    def bad(event):
        raise OSError("no such screen")

    bus.subscribe(bad)
    bus.subscribe(got.append)
    for event in notices(3):
        bus.publish(event)
    assert got == notices(3)
    assert [record.message.count("failed at Notice") for record in caplog.records] == [1]
    assert "no such screen" in caplog.text


def test_an_async_handler_gets_events_one_after_the_other_in_order():
    bus, log = EventBus(), []
    hold = asyncio.Event()

    async def handler(event):
        log.append(("begin", event.text))
        await hold.wait()
        log.append(("end", event.text))

    async def main():
        bus.subscribe(handler)
        for event in notices(3):
            bus.publish(event)
        assert log == []  # publishing waits for nobody
        await asyncio.sleep(0)
        assert log == [("begin", "0")]
        hold.set()
        await bus.drain()

    asyncio.run(main())
    assert log == [(what, str(number)) for number in range(3) for what in ("begin", "end")]


def test_async_handlers_do_not_wait_for_each_other():
    bus, fast, never = EventBus(), [], asyncio.Event()

    async def main():
        async def slow(event):
            await never.wait()

        async def quick(event):
            fast.append(event.text)
            if len(fast) == 3:
                done.set()

        done = asyncio.Event()
        bus.subscribe(slow)
        bus.subscribe(quick)
        for event in notices(3):
            bus.publish(event)
        await done.wait()
        never.set()
        await bus.drain()

    asyncio.run(main())
    assert fast == ["0", "1", "2"]


def test_an_async_handler_that_raises_is_logged_once_and_gets_the_next_event(caplog):
    bus, got = EventBus(), []

    async def bad(event):
        got.append(event.text)
        raise OSError("no such host")

    async def main():
        bus.subscribe(bad)
        for event in notices(2):
            bus.publish(event)
        await bus.drain()

    asyncio.run(main())
    assert got == ["0", "1"]
    assert len(caplog.records) == 1
    assert "no such host" in caplog.text


def test_without_an_event_loop_an_async_handler_is_run_to_its_end_by_publish():
    bus, got = EventBus(), []

    async def handler(event):
        await asyncio.sleep(0)
        got.append(event.text)

    bus.subscribe(handler)
    bus.publish(Notice("now"))
    assert got == ["now"]


def test_an_async_method_and_a_lambda_that_returns_an_awaitable_are_awaited_too():
    bus = EventBus()

    class Printer:
        got = ()

        async def on_event(self, event):
            self.got = (*self.got, event.text)

    printer, other = Printer(), Printer()

    async def main():
        bus.subscribe(printer.on_event)
        bus.subscribe(lambda event: other.on_event(event))  # noqa: PLW0108 - the lambda is the point
        bus.publish(Notice("x"))
        await bus.drain()

    asyncio.run(main())
    assert printer.got == other.got == ("x",)


def test_a_handler_that_drains_the_bus_does_not_wait_for_itself():
    bus, got = EventBus(), []

    async def handler(event):
        got.append(event.text)
        if event.text == "0":
            bus.publish(Notice("from within"))
            await bus.drain()

    async def main():
        bus.subscribe(handler)
        bus.publish(Notice("0"))
        await bus.drain()

    asyncio.run(main())
    assert got == ["0", "from within"]


def test_two_handlers_that_drain_the_bus_do_not_wait_for_each_other():
    bus, got = EventBus(), []

    async def main():
        async def first(event):
            await asyncio.sleep(0)
            await bus.drain()
            got.append("first")

        async def second(event):
            await asyncio.sleep(0)
            await bus.drain()
            got.append("second")

        bus.subscribe(first)
        bus.subscribe(second)
        bus.publish(Notice("x"))
        await bus.drain()

    asyncio.run(main())
    assert sorted(got) == ["first", "second"]


def test_an_async_handler_sees_the_context_of_who_subscribed_it():
    bus, got = EventBus(), []
    who = ContextVar("who", default="nobody")

    async def main():
        async def handler(event):
            got.append(who.get())

        async def publisher():
            who.set("publisher")
            bus.publish(Notice("x"))

        who.set("subscriber")
        bus.subscribe(handler)
        await asyncio.create_task(publisher())
        await bus.drain()

    asyncio.run(main())
    assert got == ["subscriber"]


def test_events_left_when_a_loop_ends_leave_no_warning_and_the_next_loop_starts_afresh():
    bus, got, never = EventBus(), [], asyncio.Event()

    async def handler(event):
        got.append(event.text)
        if event.text == "stuck":
            await never.wait()

    async def main(*texts):
        for text in texts:
            bus.publish(Notice(text))
        if "stuck" not in texts:
            await bus.drain()

    bus.subscribe(handler)
    asyncio.run(main("stuck", "left", "behind"))
    asyncio.run(main("a", "b"))
    assert got == ["stuck", "a", "b"]


class Slow:
    """An async handler that takes each event when it is let."""

    def __init__(self):
        self.got, self.permits = [], asyncio.Semaphore(0)

    async def __call__(self, event):
        await self.permits.acquire()
        self.got.append(event.text)

    async def take(self, number):
        for _ in range(number):
            self.permits.release()
        await settle()


def test_a_bus_says_when_an_async_handler_is_far_behind_and_when_it_has_caught_up(monkeypatch):
    monkeypatch.setattr(mailbox, "FULL", 10)
    bus, calls = EventBus(), []

    async def main():
        slow = Slow()
        bus.subscribe(lambda event: None)
        assert not bus.congested
        bus.subscribe(slow)
        for event in notices(9):
            bus.publish(event)
            assert not bus.congested
        for event in notices(6):
            bus.publish(event)
        assert bus.congested

        def caught_up():
            calls.append(len(slow.got))

        bus.when_room(caught_up)
        bus.when_room(caught_up)
        await slow.take(9)  # one is in the handler's hands, five wait
        assert calls == [9]
        assert not bus.congested
        await slow.take(6)
        await bus.drain()
        assert calls == [9]  # once
        assert len(slow.got) == 15  # nothing was dropped

    asyncio.run(main())


def test_who_waits_for_room_looks_again_and_may_find_another_handler_behind(monkeypatch):
    monkeypatch.setattr(mailbox, "FULL", 4)
    bus, log = EventBus(), []

    async def main():
        first, second = Slow(), Slow()
        bus.subscribe(first)
        bus.subscribe(second)
        for event in notices(8):
            bus.publish(event)

        def again():
            log.append(bus.congested)
            bus.when_room(again)

        again()
        await first.take(8)
        assert log == [True, True]
        await second.take(8)
        assert log == [True, True, False]
        await bus.drain()

    asyncio.run(main())


def test_a_publisher_that_waits_for_room_is_called_in_its_own_context_and_may_be_held_again(monkeypatch):
    monkeypatch.setattr(mailbox, "FULL", 4)
    bus, left = EventBus(), notices(100)
    who = ContextVar("who", default="nobody")
    most, callers = [], set()

    async def main():
        slow, done = Slow(), asyncio.Event()
        bus.subscribe(slow)

        def publish():
            callers.add(who.get())
            while left and not bus.congested:
                bus.publish(left.pop())
            if left:
                bus.when_room(publish)
            else:
                done.set()

        who.set("publisher")
        publish()
        while not done.is_set():
            most.append(100 - len(left) - len(slow.got))
            await slow.take(1)
        await slow.take(100 - len(slow.got))
        await bus.drain()
        assert len(slow.got) == 100

    asyncio.run(main())
    assert max(most) <= 5  # four, and the one in the handler's hands
    assert callers == {"publisher"}


def test_an_async_handler_never_finds_the_bus_congested_for_it_would_wait_for_itself(monkeypatch):
    monkeypatch.setattr(mailbox, "FULL", 2)
    bus, found = EventBus(), []

    async def main():
        async def handler(event):
            found.append(bus.congested)

        bus.subscribe(handler)
        for event in notices(5):
            bus.publish(event)
        assert bus.congested
        await bus.drain()

    asyncio.run(main())
    assert found == [False] * 5


@pytest.mark.parametrize("how", ["unsubscribed", "cancelled"])
def test_who_waits_for_room_is_called_though_the_handler_that_was_behind_goes_away(monkeypatch, how):
    monkeypatch.setattr(mailbox, "FULL", 2)
    bus, calls = EventBus(), []

    async def main():
        slow, before = Slow(), asyncio.all_tasks()
        leave = bus.subscribe(slow)
        for event in notices(5):
            bus.publish(event)
        bus.when_room(lambda: calls.append(bus.congested))
        if how == "unsubscribed":
            leave()
            assert not bus.congested
            await slow.take(5)
            assert len(slow.got) == 5
        else:
            await asyncio.sleep(0)
            for pump in asyncio.all_tasks() - before:
                pump.cancel()
                await asyncio.wait([pump])
            await asyncio.sleep(0)
        await bus.drain()

    asyncio.run(main())
    assert calls == [False]


def test_a_bus_without_async_handlers_brings_no_asyncio():
    code = (
        "import sys; from parallamr_mp.events import EventBus, Notice; bus = EventBus();"
        "bus.subscribe(print); bus.publish(Notice('x')); assert 'asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True)
