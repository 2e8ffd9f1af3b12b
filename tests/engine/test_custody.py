"""What a worker keeps until it is stored, and saves when its parent dies."""

import threading
from multiprocessing import connection

from parallamr_mp.engine.custody import Custody
from parallamr_mp.engine.messages import Lease, Outcome, Ready
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.engine.worker import worker_main


def test_what_is_not_stored_is_saved_when_the_parent_dies_and_what_comes_then_at_once():
    saved = []
    custody = Custody(saved.append)
    for id_ in range(5):
        custody.keep(id_, f"value {id_}")
    custody.forget([1, 3, 77])
    custody.orphaned()
    assert saved == [["value 0", "value 2", "value 4"]]
    custody.keep(5, "late")
    custody.orphaned()
    assert saved[1:] == [["late"]]


def test_a_value_that_comes_while_the_others_are_saved_is_saved_as_well():
    saving, come = threading.Event(), threading.Event()
    saved = []

    def rescue(values):
        saving.set()
        assert come.wait(10)
        saved.extend(values)

    custody = Custody(rescue)
    custody.keep(1, "kept")

    def keep():
        assert saving.wait(10)
        come.set()
        custody.keep(2, "late")

    keeper = threading.Thread(target=keep)
    keeper.start()
    custody.orphaned()
    keeper.join(10)
    assert saved == ["kept", "late"]


class Handler:
    def __init__(self, saved):
        self._saved = saved

    def __call__(self, payload, attempt):
        return payload

    def rescue(self, values):
        self._saved.extend(values)

    def close(self):
        pass


def test_a_worker_forgets_what_a_lease_says_is_stored():
    """Its actor, in a thread, spoken to over its own channels."""
    saved = []
    seat = ThreadSeat(worker_main, (1, Handler, (saved,), 5.0), name="worker")
    received = []

    def wait_for(count):
        while len(received) < count:
            assert connection.wait([seat.inbox], 10)
            received.extend(seat.inbox.read()[0])

    def lease(id_, *stored):
        seat.outbox.post(Lease(id_, 1, f"value {id_}", stored))
        seat.outbox.flush()

    wait_for(1)
    for number, stored in enumerate([(), (), (0,), ()]):
        lease(number, *stored)
        wait_for(2 + number)
    seat.outbox.cut()
    assert seat.join(10)
    assert isinstance(received[0], Ready)
    assert [message.id for message in received[1:] if isinstance(message, Outcome)] == [0, 1, 2, 3]
    assert saved == ["value 1", "value 2", "value 3"]
