import pytest
from support.pools import BUSY, DEAD, LOST, end, job, later, lease

from parallamr_mp import events
from parallamr_mp.config import RunConfig
from parallamr_mp.fleet import Fleet, parse_endpoint
from parallamr_mp.models import Status
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.traffic import Traffic


class Paid:
    """A provider that costs money, as far as traffic is about it."""


class Free:
    free_of_charge = True


class Road:
    """Traffic over an endpoints file that a test rewrites, and a clock that it moves on."""

    def __init__(self, folder=None, *lines, providers=None, endpoints=(), **options):
        self.now, self.notices = 1000.0, []
        self.providers = providers or {"openai": Paid()}
        self.file = folder and folder / "nodes.txt"
        if self.file:
            self.write(*lines)
            options["endpoints_file"] = str(self.file)
        specs = tuple(parse_endpoint(text, "--endpoint") for text in endpoints)
        config = RunConfig("p", "e", **{"threads": 100, "endpoints": specs, **options})
        bus = events.EventBus()
        bus.subscribe(self.notices.append)
        self.fleet = Fleet(config, {}, ["openai", "ollama", "mock"])
        self.traffic = Traffic(config, self.providers, self.fleet, bus, clock=lambda: self.now)
        self.schedule = self.traffic.schedule

    def write(self, *lines):
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def reread(self, *lines):
        """The file is rewritten, and read again."""
        self.write(*lines)
        for _ in range(3):
            self.now += 2.0
            self.traffic.housekeep(self.now)

    def pool(self, provider="openai"):
        return self.schedule.pool(provider)

    def endpoint(self, number=0, provider="openai"):
        return self.pool(provider).endpoints[number]

    def urls(self):
        return [one.url for one in self.pool().endpoints]

    def fill(self, count, key="openai", model="m"):
        """As many of so many jobs as go."""
        for number in range(count):
            self.schedule.add(Job(number, key, None, model=model))
        return self.take()

    def take(self):
        taken = []
        while (one := self.schedule.take(self.now)) is not None:
            taken.append(one)
        return taken


# What the configuration comes to


def test_a_provider_that_costs_money_finds_out_how_much_it_takes_and_a_free_one_is_used_in_full():
    road = Road(providers={"openai": Paid(), "mock": Free()})
    assert road.endpoint().adapts
    assert not road.endpoint(0, "mock").adapts
    assert len(road.fill(200, "openai")) < 20
    assert len(road.fill(200, "mock")) == 100


@pytest.mark.parametrize("adaptive", [True, False])
def test_whether_to_find_out_can_be_said(adaptive):
    road = Road(providers={"openai": Paid(), "mock": Free()}, adaptive=adaptive)
    assert {road.endpoint(0, name).adapts for name in road.providers} == {adaptive}


def test_nobody_is_given_more_than_the_threads_there_are():
    road = Road(procs=2, threads=8, adaptive=False)
    assert road.endpoint().limit.limit(0.0) == 16
    road = Road(procs=0, threads=8, adaptive=True, total_limit=5)
    assert road.endpoint().limit.ceiling == 5


def test_limits_are_by_provider_and_by_model():
    road = Road(adaptive=False, limits={"openai": 6, "openai/small": 2}, rpm={"openai/large": 6})
    assert len(road.fill(5, model="small")) == 2
    assert len(road.fill(5, model="large")) == 1, "six a minute are spread over it"
    assert len(road.fill(5, model="other")) == 3


def test_a_local_server_answers_one_at_a_time_unless_told_otherwise():
    ollama = {"ollama": Free()}
    two = ["ollama=http://n1", "ollama=http://n2"]
    assert len(Road(providers=ollama).fill(9, "ollama")) == 1
    assert len(Road(providers=ollama, endpoints=two).fill(9, "ollama")) == 2
    assert len(Road(providers=ollama, limits={"ollama": 4}).fill(9, "ollama")) == 4
    assert len(Road(providers=ollama, endpoints=[f"{two[0]} concurrency=3"]).fill(9, "ollama")) == 3


@pytest.mark.parametrize(
    ("told", "asked_again"), [(None, {"mock"}), (True, {"mock", "openai"}), (False, set())]
)
def test_who_is_asked_again_when_nobody_knows_what_became_of_a_request(told, asked_again):
    road = Road(providers={"openai": Paid(), "mock": Free()}, retry_unknown=told)
    retry = road.traffic.retry
    assert {name for name in road.providers if retry.delay(LOST, 1, name) is not None} == asked_again


def test_the_longest_wait_bounds_refusals_and_outages():
    road = Road(max_wait=60.0, max_retries=0, breaker_failures=1)
    assert road.traffic.retry.delay(BUSY, 0, "openai", 60.0) == 0.0
    assert road.traffic.retry.delay(BUSY, 0, "openai", 60.1) is None
    (one,) = road.fill(1)
    road.schedule.release(one, road.now, Report(0.0, DEAD))
    road.schedule.add(one)
    assert not list(road.schedule.expired(road.now + 60.0))
    assert len(list(road.schedule.expired(road.now + 60.1))) == 1


def test_a_cap_on_the_cost_is_kept():
    road = Road(max_cost=1.0)
    for number in range(5):
        road.schedule.add(Job(number, "openai", None, cost=0.4))
    assert len(road.take()) == 2


def test_error_rows_count_for_the_thresholds():
    def done(status):
        return events.RowDone(1, 0, "openai", "m", status, "", 1, 0.1, 1, 1, None)

    road = Road(fail_fast=True)
    road.traffic.note(done(Status.OK))
    road.traffic.note(done(Status.WARNING))
    assert road.traffic.thresholds.reason(0.0) is None
    road.traffic.note(done(Status.ERROR))
    assert road.traffic.thresholds.reason(0.0) is not None


# A file that changes


def test_endpoints_come_and_go_with_the_file_and_the_rest_keep_what_they_know(tmp_path):
    road = Road(tmp_path, "openai=http://a", "openai=http://b")
    kept = road.endpoint(1)
    end(lease(kept, road.now), road.now, later(500.0))
    road.reread("openai=http://b weight=3", "openai=http://c")
    assert road.urls() == ["http://b", "http://c"]
    assert road.endpoint(0) is kept
    assert kept.weight == 3.0
    assert kept.wait(road.now, job(), 1) > 400.0
    assert any("endpoint" in event.text for event in road.notices if isinstance(event, events.Notice))


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_limit_that_is_raised_in_the_file_is_used(tmp_path, adaptive):
    road = Road(tmp_path, "openai=http://a concurrency=2", adaptive=adaptive)
    assert len(road.fill(50)) == 2
    road.reread("openai=http://a concurrency=4")
    assert road.endpoint().limit.ceiling == 4
    assert len(road.take()) == (2 if not adaptive else road.endpoint().limit.limit(road.now) - 2)
    road.reread("openai=http://a")
    assert road.endpoint().limit.ceiling == 100
    road.reread("openai=http://a concurrency=1")
    assert road.take() == []


def test_one_that_comes_back_still_has_in_flight_what_was_sent_before(tmp_path):
    road = Road(tmp_path, "openai=http://a concurrency=3", "openai=http://b", adaptive=False)
    first = road.endpoint()
    for number in range(3):
        lease(first, road.now, job(number))
    road.reread("openai=http://b")
    road.reread("openai=http://a concurrency=3")
    assert road.pool().in_flight == 3
    assert road.fill(5) == []


def test_one_that_comes_back_is_given_a_fresh_start(tmp_path):
    road = Road(tmp_path, "openai=http://a", max_wait=60.0, breaker_failures=2)
    while not road.endpoint().blocked(road.now):
        end(lease(road.endpoint(), road.now), road.now, DEAD)
    road.reread("openai=http://b")
    road.now += 1000.0
    road.reread("openai=http://a")
    road.schedule.add(job(0, "openai"))
    assert list(road.schedule.expired(road.now)) == []
    assert len(road.take()) == 1


def test_rows_wait_for_a_file_to_name_a_server_and_not_for_ever(tmp_path):
    road = Road(tmp_path, max_wait=60.0)
    assert road.fill(2) == []
    assert list(road.schedule.expired(road.now + 59.0)) == []
    road.reread("openai=http://a")
    assert len(road.take()) == 2
    road.reread("# none")
    road.schedule.add(job(7, "openai"))
    start = road.now
    for number in range(20):
        road.reread(f"mock=http://{number}")
    assert road.now - start > 60.0
    ((given_up, failure),) = road.schedule.expired(road.now)
    assert given_up.id == 7
    assert "no endpoint of openai" in failure.message
