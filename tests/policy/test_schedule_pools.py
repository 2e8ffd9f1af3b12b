"""The schedule over pools of endpoints: a driver that may do anything, beside what servers and money see."""

import pickle

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.pools import BROKEN, BUSY, DEAD, GATEWAY, LOST, WRONG, endpoint, later

from parallamr_mp.models import Allowance
from parallamr_mp.policy.adaptive import AdaptiveLimit, FixedLimit
from parallamr_mp.policy.breaker import BreakerState
from parallamr_mp.policy.budget import Budget
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.schedule import Schedule

KEYS, MODELS = ("a", "b"), ("x", "y")
URLS = ("http://1", "http://2", "http://3")
ROUNDING = 1e-4
"""Seconds: times are rounded up, and the pace of a slow rate by a little more."""
MOST_WAKES = 200
"""Limits that come back in a ramp are looked at again and again."""

limits = st.builds(
    Limits,
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1100, 8000),
)
scopes = st.dictionaries(
    st.sampled_from([*KEYS, *(f"{key}/{model}" for key in KEYS for model in MODELS)]), limits
)
failures = st.sampled_from([DEAD, BROKEN, GATEWAY, WRONG, LOST, BUSY]) | st.builds(
    later, st.sampled_from([0.0, 0.3, 7.0, 90.0, 1e9]), one_model=st.booleans()
)
allowances = st.none() | st.builds(
    Allowance, requests_left=st.integers(0, 5), requests_reset=st.floats(0, 100)
)
MAX_WAIT = 300.0


class Driving(RuleBasedStateMachine):
    """Jobs are added, leased, answered, refused, lost; time passes; servers come and go."""

    @initialize(
        limits=scopes,
        total=st.none() | st.integers(1, 6),
        own=limits,
        adaptive=st.booleans(),
        cap=st.none() | st.floats(0, 2),
    )
    def start(self, limits, total, own, adaptive, cap):
        self.now = 1000.0
        self.limits, self.total, self.own, self.adaptive, self.cap = limits, total, own, adaptive, cap
        self.all = []
        self.endpoints = {key: {url: self.endpoint(url) for url in URLS} for key in KEYS}
        self.pools = {key: Pool(list(self.endpoints[key].values())[:2], self.now) for key in KEYS}
        self.budget = Budget(cap)
        self.schedule = Schedule(limits, total, pools=self.pools, budget=self.budget, max_wait=MAX_WAIT)
        self.added = 0
        self.parked, self.flying, self.over = {}, {}, {}
        self.log, self.paid = [], 0.0
        """What servers saw: [scopes, time, tokens]."""
        self.away = {}
        """Until when an endpoint, or a model, has asked to be left alone."""

    def endpoint(self, url):
        limit = AdaptiveLimit(8) if self.adaptive else FixedLimit(8)
        self.all.append(endpoint(url, limits=self.own, limit=limit, failures=2))
        return self.all[-1]

    # ── what may happen ──────────────────────────────────────────────────────

    @rule(
        key=st.sampled_from(KEYS),
        model=st.sampled_from(MODELS),
        max_tokens=st.integers(1, 1000),
        cost=st.sampled_from([0.0, 0.3, 0.9]),
        prefixes=st.lists(st.integers(0, 2), max_size=2).map(tuple),
        times=st.integers(1, 6),
    )
    def read(self, times, **row):
        for _ in range(times):
            self.add(**row)

    def add(self, key, model, max_tokens, cost, prefixes):
        job = Job(self.added, key, None, model=model, characters=30, max_tokens=max_tokens)
        job.cost, job.prefixes, job.size = cost if self.cap is not None else 0.0, prefixes, 10
        self.added += 1
        self.parked[job.id] = job
        self.schedule.add(job)

    @rule(way=st.floats(0, 1), times=st.integers(1, 8))
    def lease(self, way, times):
        for _ in range(times):
            if self.take(way) is None:
                return

    def take(self, way=0.0):
        job = self.schedule.take(self.now)
        if job is None:
            assert bool(self.schedule.broke) == self.only_money_is_missing()
            return None
        assert self.parked.pop(job.id) is job
        grant = job.grant
        assert grant.endpoint in self.pools[job.key].endpoints
        assert job.route == grant.endpoint.url
        for who in (grant.endpoint, (job.key, job.model)):
            assert self.now >= self.away.get(who, 0.0)
        assert grant.probe == (grant.endpoint.breaker.state(self.now) is not BreakerState.CLOSED)
        scopes = (job.key, f"{job.key}/{job.model}", grant.endpoint)
        entry = [scopes, self.now + way, grant.tokens]
        self.flying[job.id] = job, entry
        self.log.append(entry)
        return job

    def only_money_is_missing(self):
        if self.flying or self.schedule.waiting or not self.parked:
            return False
        return not any(self.budget.fits(job.cost) for job in self.heads())

    def heads(self):
        first = {}
        for _, job in sorted(self.parked.items()):
            first.setdefault((job.key, job.model), job)
        return first.values()

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(),
        failure=st.none() | failures,
        share=st.floats(0, 1),
        allowance=allowances,
        again=st.sampled_from(["over", "add"]) | st.floats(0, 30),
    )
    def comes_back(self, data, failure, share, allowance, again):
        job, entry = self.land(data)
        if failure is None:
            given = int(10 * share)
            made = min(int(job.max_tokens * share), entry[2] - given)
            report = Report(self.now - entry[1], None, given, made, job.cost * share, allowance)
            entry[2] = given + made
            self.paid += job.cost * share
        else:
            report = Report(self.now - entry[1], failure, allowance=allowance)
            self.heed(job, entry, failure)
        self.schedule.release(job, self.now, report)
        self.goes_on(job, "over" if failure in (None, WRONG) else again)

    def heed(self, job, entry, failure):
        job.troubled_since = job.troubled_since or self.now
        if failure.unknown:
            self.paid += job.cost
        if failure.refused or failure.unreached:
            entry[2] = 0
        if failure.retry_after:
            who = (job.key, job.model) if failure.one_model else job.grant.endpoint
            until = self.now + min(failure.retry_after, 3600.0)
            self.away[who] = max(until, self.away.get(who, 0.0))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), again=st.sampled_from(["over", "add"]))
    def worker_dies(self, data, again):
        job, _ = self.land(data)
        self.paid += job.cost
        self.schedule.release(job, self.now)
        self.goes_on(job, again)

    def land(self, data):
        job, entry = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        self.now = max(self.now, entry[1])
        return job, entry

    def goes_on(self, job, again):
        if again == "over":
            self.over[job.id] = job
            return
        self.parked[job.id] = job
        if again == "add":
            self.schedule.add(job)
        else:
            self.schedule.wait(job, self.now + again)

    @rule(key=st.sampled_from(KEYS), urls=st.sets(st.sampled_from(URLS)), fresh=st.booleans())
    def servers_come_and_go(self, key, urls, fresh):
        for url in urls if fresh else ():
            if self.endpoints[key][url] not in self.pools[key].endpoints:
                self.endpoints[key][url] = self.endpoint(url)
        self.pools[key].replace([self.endpoints[key][url] for url in sorted(urls)], self.now)

    @rule(seconds=st.floats(0, 1) | st.floats(0, 400))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def jobs_expire(self):
        down = {key: self.pools[key].down_since(self.now) for key in KEYS}
        for job, failure in self.schedule.expired(self.now):
            assert self.parked.pop(job.id) is job
            assert self.now - down[job.key] > MAX_WAIT
            assert "--max-wait" in failure.message
            self.over[job.id] = job

    # ── what must hold ───────────────────────────────────────────────────────

    @rule(share=st.just(1.0) | st.floats(0, 1))
    def the_loop_sleeps(self, share):
        """Until the time that it is told: it misses nothing, and does not wake up for nothing for ever."""
        asleep = copied(self.schedule)
        if asleep.take(self.now) is not None:
            return
        for _ in range(MOST_WAKES):
            due = asleep.next_due()
            if due is None:
                assert asleep.take(self.now + 1e6) is None, "nothing but time was missing"
                return
            assert due > self.now
            early = copied(asleep).take(self.now + (due - self.now - ROUNDING) * share)
            assert early is None, "it would have overslept"
            self.now = due
            if asleep.take(self.now) is not None:
                return
        raise AssertionError("it wakes up for nothing again and again")

    @rule()
    def the_earliest_that_may_go_goes_and_nobody_is_held_up_by_another_lane(self):
        """What would go if each lane were alone in the world?"""
        whole, alone = copied(self.schedule).take(self.now), []
        if whole is not None and whole.grant.probe:
            return  # whom it shows most with goes
        for lane in {(job.key, job.model) for job in self.parked.values()}:
            lonely = copied(self.schedule)
            for name, other in lonely._lanes.items():
                if name != lane:
                    other.ready.clear()
            lonely._waiting = [entry for entry in lonely._waiting if (entry[2].key, entry[2].model) == lane]
            job = lonely.take(self.now)
            alone += [job.id] if job is not None else []
        assert (whole.id if whole is not None else None) == min(alone, default=None)

    @invariant()
    def limits_hold(self):
        if not hasattr(self, "log"):
            return
        assert self.total is None or len(self.flying) <= self.total
        for scope, limit in (*self.limits.items(), *((one, self.own) for one in self.all)):
            flying = sum(scope in entry[0] for _, entry in self.flying.values())
            assert limit.concurrency is None or flying <= limit.concurrency
            if limit.rpm is not None or limit.tpm is not None:
                self.within_a_minute(limit, sorted(entry[1:] for entry in self.log if scope in entry[0]))
        for one in self.all:
            assert sum(job.grant.endpoint is one and job.grant.probe for job, _ in self.flying.values()) <= 1

    @staticmethod
    def within_a_minute(limit, seen):
        for start, _ in seen:
            tokens = [number for time, number in seen if start <= time < start + 60.0]
            assert limit.rpm is None or len(tokens) <= limit.rpm
            assert limit.tpm is None or sum(tokens) <= limit.tpm

    @invariant()
    def no_more_is_paid_than_the_cap(self):
        if getattr(self, "cap", None) is not None:
            assert self.paid + sum(job.cost for job, _ in self.flying.values()) <= self.cap + 1e-9

    @invariant()
    def everything_is_counted(self):
        if not hasattr(self, "log"):
            return
        assert self.added == len(self.parked) + len(self.flying) + len(self.over)
        assert self.schedule.parked == len(self.parked)
        assert self.schedule.parked_bytes == 10 * len(self.parked)
        for key in KEYS:
            assert self.schedule.parked_of(key) == sum(job.key == key for job in self.parked.values())
        assert sum(one.in_flight for one in self.all) == len(self.flying)

    def teardown(self):
        """Once all servers are well again all goes through, but for what money forbids."""
        if not hasattr(self, "log"):
            return
        for job, _ in self.flying.values():
            self.schedule.release(job, self.now)
            self.over[job.id] = job
        self.flying.clear()
        for key in KEYS:
            self.pools[key].replace(self.endpoints[key].values(), self.now)
        for _ in range(100 * (len(self.parked) + 1)):
            if (job := self.take()) is not None:
                del self.flying[job.id]
                self.schedule.release(job, self.now, Report(0.0, None, 1, 1, job.cost))
                self.over[job.id] = job
            elif (due := self.schedule.next_due()) is not None:
                self.now = max(self.now, due)
            else:
                break
        assert bool(self.schedule.broke) == bool(self.parked)
        assert len(self.over) + len(self.parked) == self.added
        assert all(one.in_flight == 0 for one in self.all)
        assert self.budget.reserved == 0


def copied(schedule):
    """Much faster than a deepcopy."""
    return pickle.loads(pickle.dumps(schedule, -1))


TestDriving = Driving.TestCase
TestDriving.settings = settings(max_examples=60, stateful_step_count=40)
