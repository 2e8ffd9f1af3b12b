"""The slots of a run over seats that only record: who gets what, who is replaced, who is kept alone."""

from __future__ import annotations

import pytest
from support.slots import FakeSeat, room

from parallamr_mp.engine.messages import Crashed, Outcome, Ready, Recall, Returned, Said, Stop
from parallamr_mp.engine.slots import MAX_DEATHS, MAX_FAILED_STARTS, Slots
from parallamr_mp.errors import EngineError
from parallamr_mp.policy.job import Job


class FakeReactor:
    def __init__(self):
        self.watched = []

    def watch(self, slot):
        self.watched.append(slot.number)


class Owner:
    """Keeps what the slots report, and places again what is lost, as groups and sweeps do."""

    def __init__(self):
        self.told, self.lost, self.errors = [], [], []

    def leasing(self, slot, job):
        self.told.append(("leasing", slot.number, job.id))

    def begun(self, slot, job):
        pass

    def settle(self, slot, job, outcome):
        self.told.append(("settle", slot.number, job.id))

    def returned(self, slot, job):
        self.told.append(("returned", slot.number, job.id))

    def said(self, slot, what):
        self.told.append(("said", slot.number, what))

    def slot_ready(self, slot):
        self.told.append(("ready", slot.number))

    def slot_lost(self, slot, orphans):
        for job in orphans:
            job.deaths += 1
        self.lost += orphans

    def slot_given_up(self, slot, orphans):
        self.told.append(("given up", slot.number, [job.id for job in orphans]))

    def cannot_start(self, error):
        self.errors.append(str(error))


class Fixture:
    def __init__(self, number=2, threads=2, **more):
        self.owner, self.reactor, self.now, self.seats = Owner(), FakeReactor(), 100.0, []
        self.refuses = False
        clock = lambda: self.now  # noqa: E731
        self.slots = Slots(number, threads, self.make_seat, self.owner, self.reactor, clock, **more)
        self.slots.start()
        self.each = list(self.slots)

    def make_seat(self, number):
        if self.refuses:
            raise EngineError("no more processes")
        self.seats.append(FakeSeat())
        return self.seats[-1]

    def ready(self, *numbers):
        for number in numbers:
            self.each[number].deliver(Ready(123))

    def die(self, number):
        self.each[number].lost()

    def revive(self, number):
        self.now += 60
        self.slots.restart(self.now)
        self.ready(number)

    def place(self, id_, deaths=0):
        job = Job(id_, "", None, deaths=deaths)
        self.slots.place(job, self.now)
        return job

    def finish(self, number, id_):
        self.each[number].deliver(Outcome(id_))
        self.slots.lease_suspects(self.now)


@pytest.fixture
def fixture():
    return Fixture()


def test_there_is_room_as_soon_as_one_worker_is_up_and_until_all_are_full(fixture):
    assert not fixture.slots.room
    fixture.ready(0)
    assert fixture.slots.room
    fixture.place(1)
    fixture.place(2)
    assert not fixture.slots.room
    fixture.ready(1)
    assert fixture.slots.room
    assert (fixture.slots.threads, fixture.slots.in_flight) == (4, 2)


def test_the_worker_with_most_room_gets_the_next_job(fixture):
    fixture.ready(0, 1)
    for id_ in range(4):
        fixture.place(id_)
    assert [seat.leases for seat in fixture.seats] == [[0, 2], [1, 3]]
    fixture.finish(1, 1)
    fixture.finish(1, 3)
    fixture.finish(0, 0)
    fixture.place(4)
    assert fixture.seats[1].leases == [1, 3, 4]
    assert fixture.slots.oldest.id == 2


def test_no_lease_goes_ahead_at_a_fast_worker_while_another_has_a_thread_with_nothing_to_do():
    fixture = Fixture(threads=2, ahead_seconds=1.0)
    fixture.ready(0, 1)
    fixture.place(0)
    fixture.finish(0, 0)  # it is known to be fast now, of the other nothing is known
    for id_ in range(1, 6):
        fixture.place(id_)
    assert fixture.seats[1].leases == [2, 4]
    assert fixture.seats[0].leases == [0, 1, 3, 5]


def test_what_waits_at_one_worker_is_asked_for_once_another_has_nothing_to_do():
    fixture = Fixture(threads=2, ahead_seconds=1.0)
    fixture.ready(0)
    fixture.place(0)
    fixture.finish(0, 0)
    for id_ in range(1, 5):
        fixture.place(id_)
    fixture.slots.level()
    assert Recall() not in fixture.seats[0].posted  # the other one is not up yet
    fixture.ready(1)
    fixture.slots.level()
    fixture.slots.level()
    assert fixture.seats[0].posted.count(Recall()) == 1
    fixture.each[0].deliver(Returned((3, 4)))
    assert fixture.owner.told[-2:] == [("returned", 0, 3), ("returned", 0, 4)]


def test_the_owner_hears_of_each_lease_before_it_goes_out_and_of_all_that_workers_say(fixture):
    fixture.ready(1)
    fixture.place(7)
    fixture.each[1].deliver(Said("hello"))
    fixture.finish(1, 7)
    assert fixture.owner.told == [
        ("ready", 1),
        ("leasing", 1, 7),
        ("said", 1, "hello"),
        ("settle", 1, 7),
    ]


def test_a_worker_that_dies_is_replaced_at_once_and_its_jobs_come_back(fixture):
    fixture.ready(0, 1)
    jobs = [fixture.place(id_) for id_ in range(4)]
    fixture.die(0)
    assert fixture.owner.lost == [jobs[0], jobs[2]]
    assert fixture.slots.restart_at == fixture.now
    fixture.slots.restart(fixture.now)
    assert fixture.reactor.watched == [0, 1, 0]
    assert not fixture.slots.room
    fixture.ready(0)
    assert fixture.slots.room


def test_who_dies_before_it_is_up_is_started_later_and_later_and_then_not_at_all(fixture):
    waits = []
    for _ in range(MAX_FAILED_STARTS - 1):
        fixture.die(1)
        waits.append(fixture.slots.restart_at - fixture.now)
        fixture.slots.restart(fixture.now)
        assert fixture.slots.restart_at is not None  # not due yet
        fixture.now = fixture.slots.restart_at
        fixture.slots.restart(fixture.now)
        assert fixture.slots.restart_at is None
    assert waits == [0.5, 1.0]
    fixture.each[1].deliver(Crashed("why it fell"))
    fixture.die(1)
    assert fixture.slots.restart_at is None
    (said,) = fixture.owner.errors
    assert said == "worker 1: its process ended 3 times before it was ready (exit code -9)\nwhy it fell"


def test_a_start_that_is_refused_is_told(fixture):
    fixture.ready(0, 1)
    fixture.die(0)
    fixture.refuses = True
    fixture.slots.restart(fixture.now)
    assert fixture.owner.errors == ["no more processes"]


def test_a_suspect_waits_until_one_worker_is_empty_and_has_it_alone(fixture):
    fixture.ready(0, 1)
    for id_ in range(3):
        fixture.place(id_)  # 0 and 2 in the first, 1 in the second
    fixture.place(9, deaths=MAX_DEATHS - 1)
    assert fixture.slots.suspects == 1
    assert fixture.each[1].reserved  # the one with least to do
    fixture.finish(0, 0)
    fixture.place(3)
    assert fixture.seats[0].leases == [0, 2, 3]  # not to the reserved one, though that has room
    assert not fixture.slots.room
    fixture.finish(1, 1)
    assert fixture.seats[1].leases == [1, 9]
    assert fixture.slots.suspects == 0
    fixture.finish(1, 9)
    assert room(fixture.each[1]) == 2


def test_several_suspects_go_one_after_the_other_to_the_same_worker(fixture):
    fixture.ready(0, 1)
    for id_ in (7, 8, 9):
        fixture.place(id_, deaths=MAX_DEATHS - 1)
    assert [seat.leases for seat in fixture.seats] == [[7], []]
    fixture.finish(0, 7)
    assert [seat.leases for seat in fixture.seats] == [[7, 8], []]
    fixture.die(0)
    fixture.revive(0)
    fixture.slots.lease_suspects(fixture.now)
    assert fixture.seats[2].leases == [9]
    fixture.finish(0, 9)
    assert room(fixture.each[0]) == 2


def test_suspects_that_wait_can_be_taken_back(fixture):
    fixture.place(7, deaths=MAX_DEATHS - 1)
    fixture.place(8, deaths=MAX_DEATHS - 1)
    assert [job.id for job in fixture.slots.drop_suspects()] == [7, 8]
    fixture.ready(0, 1)
    fixture.slots.lease_suspects(fixture.now)
    assert [seat.leases for seat in fixture.seats] == [[], []]
    assert all(room(slot) == 2 for slot in fixture.each)


def test_who_ends_is_not_replaced_and_what_it_held_is_told(fixture):
    fixture.ready(0, 1)
    fixture.place(1)
    fixture.slots.stop()
    assert [seat.posted[-1] for seat in fixture.seats] == [Stop(), Stop()]
    assert not fixture.slots.room
    fixture.die(0)
    assert fixture.owner.told[-1] == ("given up", 0, [1])
    assert fixture.slots.restart_at is None
    assert len(fixture.slots.seats) == 1
    fixture.slots.kill()
    assert [seat.kills for seat in fixture.seats] == [0, 1]
    assert fixture.seats[1].posted.count(Stop()) == 1


def test_a_worker_that_died_just_before_the_end_is_not_started_again(fixture):
    fixture.ready(0, 1)
    fixture.die(0)
    fixture.slots.stop()
    fixture.slots.restart(fixture.now + 60)
    assert len(fixture.seats) == 2
    fixture.die(1)
    assert fixture.slots.seats == []
