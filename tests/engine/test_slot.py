"""A slot's books over a seat that only records, and real workers in threads."""

import threading

import pytest

from parallamr_mp.engine.messages import Crashed, Lease, Outcome, Ready, Stop
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.engine.slot import Slot
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.errors import ProviderError
from parallamr_mp.models import Failure
from parallamr_mp.policy.job import Job


class FakeSeat:
    """Keeps what is posted."""

    pid, exit_code = 123, -9

    def __init__(self):
        self.outbox, self.posted, self.kills = self, [], 0

    def post(self, message):
        self.posted.append(message)

    def kill(self):
        self.kills += 1

    def join(self, timeout):
        return True


class Owner:
    """Keeps what a slot reports."""

    def __init__(self):
        self.settled, self.ready, self.orphans = [], [], []

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
    assert (slot.free, owner.ready) == (0, [])
    slot.deliver(Ready(123))
    assert (slot.free, slot.pid, owner.ready) == (2, 123, [0])


def test_a_lease_takes_room_and_counts_as_an_attempt_until_its_outcome(slot, owner):
    slot.deliver(Ready(123))
    work = job(7)
    slot.lease(work, 1.0)
    assert (slot.free, work.attempts) == (1, 1)
    assert slot.seat.posted == [Lease(7, 1, "payload 7")]
    outcome = Outcome(7, "value")
    slot.deliver(outcome)
    assert (slot.free, owner.settled) == (2, [(7, outcome)])
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
    assert (slot.free, slot.held, slot.seat, slot.exit_code, slot.report) == (0, {}, None, -9, "why")
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
    assert slot.free == 0


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
            while not slot.free:
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
