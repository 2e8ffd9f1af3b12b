"""A slot's books over a seat that only records, and real workers in threads."""

import threading

import pytest
from support.slots import FakeSeat, room

from parallamr_mp.engine.messages import Crashed, Lease, Outcome, Ready, Recall, Returned, Stop
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.engine.slot import Slot
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.errors import ProviderError
from parallamr_mp.models import Failure
from parallamr_mp.policy.job import Job


class Owner:
    """Keeps what a slot reports."""

    def __init__(self):
        self.settled, self.ready, self.orphans = [], [], []
        self.begun_ids, self.returned_ids = [], []

    def begun(self, slot, job):
        self.begun_ids.append(job.id)

    def returned(self, slot, job):
        self.returned_ids.append(job.id)

    def settle(self, slot, job, outcome):
        self.settled.append((job.id, outcome))

    def slot_ready(self, slot):
        self.ready.append(slot.number)

    def slot_lost(self, slot, orphans):
        self.orphans.append([job.id for job in orphans])


def job(id_):
    return Job(id_, "a", f"payload {id_}")


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
def slot(owner):
    slot = Slot(0, 2, FakeSeat, owner)
    slot.start()
    return slot


def test_a_slot_has_no_room_before_its_process_is_up(slot, owner):
    assert (room(slot), owner.ready) == (0, [])
    slot.deliver(Ready(123))
    assert (room(slot), slot.pid, owner.ready) == (2, 123, [0])


def test_a_lease_takes_room_and_counts_as_an_attempt_until_its_outcome(slot, owner):
    slot.deliver(Ready(123))
    work = job(7)
    slot.lease(work, 1.0)
    assert (room(slot), work.attempts) == (1, 1)
    assert slot.seat.posted == [Lease(7, 1, "payload 7")]
    outcome = Outcome(7, "value")
    slot.deliver(outcome)
    assert (room(slot), owner.settled) == (2, [(7, outcome)])
    slot.lease(work, 2.0)
    assert slot.seat.posted[-1] == Lease(7, 2, "payload 7")


def test_an_outcome_that_nobody_waits_for_is_ignored(slot, owner):
    slot.deliver(Ready(123))
    slot.lease(job(1), 1.0)
    for _ in range(2):
        slot.deliver(Outcome(1))
    slot.deliver(Outcome(99))
    assert [id_ for id_, _ in owner.settled] == [1]


def test_a_lost_process_gives_back_the_leases_that_did_not_come_back(slot, owner):
    slot.deliver(Ready(123))
    slot.lease(job(1), 1.0)
    slot.lease(job(2), 1.0)
    slot.deliver(Outcome(1))
    slot.deliver(Crashed("why"))
    slot.lost()
    assert owner.orphans == [[2]]
    assert (room(slot), slot.held, slot.seat, slot.exit_code, slot.report) == (0, {}, None, -9, "why")
    with pytest.raises(RuntimeError, match="empty seat"):
        slot.lease(job(3), 1.0)


def test_deaths_before_the_process_is_up_are_counted_in_a_row(slot):
    slot.lost()
    slot.start()
    slot.lost()
    assert slot.failed_starts == 2
    slot.start()
    slot.deliver(Ready(123))
    assert slot.failed_starts == 0
    slot.lost()
    assert slot.failed_starts == 0


def test_a_slot_is_told_once_to_stop_and_takes_nothing_more(slot):
    slot.deliver(Ready(123))
    slot.stop()
    slot.stop()
    assert slot.seat.posted == [Stop()]
    assert room(slot) == 0


# --- leases that go ahead of threads ------------------------------------------------------------


class FastFixture:
    """A slot of two threads whose answers take a millisecond: two leases may wait in the worker."""

    def __init__(self, owner):
        self.now = 100.0
        self.slot = Slot(0, 2, FakeSeat, owner, ahead_seconds=0.001, clock=lambda: self.now)
        self.slot.start()
        self.slot.deliver(Ready(123))
        self.jobs = {}
        self.finish(self.lease(0), 0.001)

    def lease(self, id_):
        self.jobs[id_] = job(id_)
        self.slot.lease(self.jobs[id_], self.now)
        return id_

    def finish(self, id_, seconds=0.001, failure=None):
        self.slot.deliver(Outcome(id_, "value", failure, seconds))


@pytest.fixture
def fast(owner):
    return FastFixture(owner)


def test_leases_go_ahead_of_threads_where_answers_come_fast(fast, owner):
    assert room(fast.slot) == 4
    for id_ in range(1, 5):
        fast.lease(id_)
    assert room(fast.slot) == 0
    assert owner.begun_ids == [0, 1, 2]
    fast.finish(2)
    assert owner.begun_ids == [0, 1, 2, 3]
    assert room(fast.slot) == 1


def test_no_lease_goes_ahead_where_answers_take_their_time_or_none_came_yet(fast, owner):
    assert Slot(0, 2, FakeSeat, owner, ahead_seconds=0.001).window == 0
    for number in range(30):
        fast.finish(fast.lease(10 + number), 0.1)
    assert room(fast.slot) == 2


def test_failures_do_not_make_a_worker_seem_fast(owner):
    slot = Slot(0, 2, FakeSeat, owner, ahead_seconds=0.001)
    slot.start()
    slot.deliver(Ready(1))
    slot.lease(job(1), 1.0)
    slot.deliver(Outcome(1, failure=Failure("connection", "refused", retryable=True), seconds=0.0001))
    assert room(slot) == 2


def test_of_a_process_that_dies_only_what_had_been_begun_is_an_orphan(fast, owner):
    for id_ in range(1, 5):
        fast.lease(id_)
    fast.slot.lost()
    assert (owner.orphans, owner.returned_ids) == ([[1, 2]], [3, 4])
    assert [fast.jobs[id_].attempts for id_ in range(1, 5)] == [1, 1, 0, 0]
    assert (len(fast.slot.held), len(fast.slot.waiting)) == (0, 0)


def test_what_a_worker_gives_back_was_no_attempt(fast, owner):
    for id_ in range(1, 5):
        fast.lease(id_)
    fast.finish(1)  # 3 seems to have been begun; but the worker had given it back before
    fast.slot.deliver(Returned((3, 4, 99)))
    assert owner.returned_ids == [3, 4]
    assert [fast.jobs[id_].attempts for id_ in (3, 4)] == [0, 0]
    assert (list(fast.slot.held), len(fast.slot.waiting)) == ([2], 0)


def test_a_thread_that_came_too_late_for_what_was_given_back_begins_what_was_leased_since(fast, owner):
    for id_ in range(1, 4):
        fast.lease(id_)
    fast.finish(1)  # its thread is to take 3, but the worker's main thread gives that back first
    fast.lease(4)
    fast.slot.deliver(Returned((3,)))
    assert (owner.begun_ids, list(fast.slot.waiting)) == ([0, 1, 2, 3, 4], [])
    fast.slot.lost()
    assert (owner.orphans, owner.returned_ids) == ([[2, 4]], [3])


def test_an_outcome_never_leaves_its_lease_among_those_that_wait(fast, owner):
    for id_ in range(1, 5):
        fast.lease(id_)
    fast.finish(4)
    assert (list(fast.slot.held), list(fast.slot.waiting)) == ([1, 2, 3], [])
    fast.slot.lost()
    assert (owner.orphans, owner.returned_ids) == ([[1, 2, 3]], [])


def test_a_lease_that_has_waited_for_long_is_called_back_and_none_goes_ahead_any_more(fast):
    for id_ in range(1, 4):
        fast.lease(id_)
    fast.now += 0.9
    fast.slot.recall_stale(fast.now)
    assert Recall() not in fast.slot.seat.posted
    fast.now += 0.2
    fast.slot.recall_stale(fast.now)
    assert fast.slot.seat.posted[-1] == Recall()
    fast.slot.deliver(Returned((3,)))
    assert room(fast.slot) == 0


def test_a_lease_that_had_to_wait_is_not_older_than_its_beginning(fast):
    for id_ in range(1, 4):
        fast.lease(id_)
    fast.now += 50.0
    fast.finish(1, 50.0)
    assert fast.jobs[3].since == 150.0


# --- what a worker makes of its handler ---------------------------------------------------------


class Handler:
    """Does what the payload says."""

    def __init__(self, closed):
        self._closed = closed

    def __call__(self, payload, attempt, route):
        if isinstance(payload, BaseException):
            raise payload
        return payload() if callable(payload) else (payload, attempt)

    def close(self):
        self._closed.set()


@pytest.fixture
def closed():
    return threading.Event()


@pytest.fixture
def ask(closed):
    """Gives payloads to a real worker of one thread in a ThreadSeat, and returns the outcomes."""
    reactor, owner = Reactor(), Owner()
    slot = Slot(0, 1, lambda: ThreadSeat(worker_main, (1, Handler, (closed,)), name="w"), owner)
    slot.start()
    reactor.watch(slot)
    seat = slot.seat

    def ask(*payloads):
        outcomes = []
        for number, payload in enumerate(payloads):
            while not room(slot):
                reactor.poll(5)
            slot.lease(Job(number, "a", payload), 0.0)
            reactor.flush()
            for _ in range(30):
                if owner.settled:
                    break
                reactor.poll(0.1)
            outcomes.append(owner.settled.pop()[1])
        return outcomes

    yield ask
    if slot.seat is not None:
        slot.stop()
        reactor.flush()
        reactor.forget(seat)
    assert seat.join(5)
    reactor.close()
    assert closed.is_set()


def test_a_worker_sends_what_its_handler_returns(ask):
    (outcome,) = ask("x")
    assert (outcome.value, outcome.failure) == (("x", 1), None)
    assert outcome.seconds >= 0


def test_a_provider_error_becomes_a_failure_with_all_it_says(ask):
    error = BusyError()
    (outcome,) = ask(error)
    assert outcome.failure == Failure("rate_limit", "busy", True, 3.0, "http://e")


class BusyError(ProviderError):
    def __init__(self):
        super().__init__("rate_limit", "busy", retryable=True, retry_after=3.0, endpoint="http://e")

    def __reduce__(self):
        return BusyError, ()


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit("odd"), KeyboardInterrupt("odd")])
def test_any_other_exception_is_a_final_failure_of_its_row_alone(ask, error):
    failed, fine = ask(error, "next")
    assert failed.failure == Failure("internal", f"{type(error).__name__}: odd")
    assert fine.value == ("next", 1)


def make_lock():
    return threading.Lock()


def test_a_value_that_cannot_be_sent_is_a_final_failure_of_its_row_alone(ask):
    failed, fine = ask(make_lock, "next")
    assert failed.failure.kind == "internal"
    assert "pickle" in failed.failure.message
    assert not failed.failure.retryable
    assert fine.value == ("next", 1)


class Holding(Handler):
    """Waits until it may go on."""

    def __init__(self, closed, begun, go_on):
        super().__init__(closed)
        self._begun, self._go_on = begun, go_on

    def __call__(self, payload, attempt, route):
        self._begun.set()
        assert self._go_on.wait(20)


@pytest.mark.parametrize("request_", [Recall(), Stop()], ids=["recall", "stop"])
def test_a_worker_gives_back_what_it_has_not_begun_when_asked_to(owner, closed, request_):
    begun, go_on = threading.Event(), threading.Event()
    args = (1, Holding, (closed, begun, go_on))
    reactor = Reactor()
    slot = Slot(0, 1, lambda: ThreadSeat(worker_main, args, name="w"), owner)
    slot.start()
    reactor.watch(slot)
    while not slot.ready:
        reactor.poll(1.0)
    slot.lease(job(1), 1.0)
    reactor.flush()
    assert begun.wait(20)
    for id_ in (2, 3):
        slot.lease(job(id_), 1.0)
    slot.seat.outbox.post(request_)
    reactor.flush()
    while not owner.returned_ids:
        reactor.poll(1.0)
    assert (owner.returned_ids, owner.settled) == ([2, 3], [])
    go_on.set()
    slot.stop()
    reactor.flush()
    while slot.seat is not None:
        reactor.poll(1.0)
    assert [id_ for id_, _ in owner.settled] == [1]
    assert owner.orphans == [[]]
    assert closed.is_set()
    reactor.close()
