"""What a worker keeps until it is stored, and saves when its parent dies."""

import threading
from multiprocessing import connection

from parallamr_mp.engine.custody import Custody
from parallamr_mp.engine.messages import Lease, Outcome, Ready
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.models import Failure, Unsaved


def kept(id_, failure=None):
    return Lease(id_, 1, f"payload {id_}"), Outcome(id_, f"value {id_}", failure)


def unsaved(id_):
    return Unsaved(f"payload {id_}", 1, f"value {id_}", None, 0.0)


def test_of_failures_only_those_are_kept_that_may_have_been_paid_for():
    saved = []
    custody = Custody(saved.extend)
    unknown = kept(2, Failure("timeout", "no answer in time", unknown=True))
    for outcome in (kept(1, Failure("server", "busy", retryable=True)), unknown):
        custody.keep(*outcome)
    custody.orphaned()
    custody.keep(*kept(3, Failure("auth", "wrong key")))
    assert [each.failure for each in saved] == [unknown[1].failure]


def test_what_is_not_stored_is_saved_when_the_parent_dies_and_what_comes_then_at_once():
    saved = []
    custody = Custody(saved.append)
    for id_ in range(5):
        custody.keep(*kept(id_))
    custody.forget([1, 3, 77])
    custody.orphaned()
    assert saved == [[unsaved(0), unsaved(2), unsaved(4)]]
    custody.keep(*kept(5))
    custody.orphaned()
    assert saved[1:] == [[unsaved(5)]]


def test_a_value_that_comes_while_the_others_are_saved_is_saved_as_well():
    saving, come = threading.Event(), threading.Event()
    saved = []

    def rescue(values):
        saving.set()
        assert come.wait(10)
        saved.extend(values)

    custody = Custody(rescue)
    custody.keep(*kept(1))

    def keep():
        assert saving.wait(10)
        come.set()
        custody.keep(*kept(2))

    keeper = threading.Thread(target=keep)
    keeper.start()
    custody.orphaned()
    keeper.join(10)
    assert saved == [unsaved(1), unsaved(2)]


class Handler:
    def __init__(self, saved):
        self._saved = saved

    def __call__(self, payload, attempt, route):
        return payload

    def rescue(self, outcomes):
        self._saved.extend(each.value for each in outcomes)

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
