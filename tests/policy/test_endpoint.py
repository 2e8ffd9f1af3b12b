import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pools import BROKEN, BUSY, DEAD, GATEWAY, LOST, WRONG, end, endpoint, job, later, lease

from parallamr_mp.models import Allowance
from parallamr_mp.policy.adaptive import AdaptiveLimit
from parallamr_mp.policy.quota import Limits


def wait(made, now, work=None):
    return made.wait(now, work or job(), 1)


def fill(made, now):
    """Leases as many as go. → the jobs"""
    taken = []
    while wait(made, now) == 0.0 and len(taken) < 1000:
        taken.append(lease(made, now))
    return taken


def states(made):
    return [news.state for news in made.news]


# Cool-down


def test_one_refusal_keeps_everybody_away_until_the_time_that_the_server_said():
    made = endpoint()
    first, second = lease(made, 10.0), lease(made, 10.0)
    end(first, 11.0, later(30.0))
    assert wait(made, 11.0) == 30.0
    end(second, 12.0)
    assert wait(made, 12.0) == 29.0, "an answer to what was asked before changes nothing"
    assert wait(made, 40.9) > 0.0
    assert wait(made, 41.0) == 0.0


def test_of_two_wishes_the_later_end_counts():
    made = endpoint()
    work = [lease(made, 0.0) for _ in range(3)]
    for one, seconds in zip(work, (30.0, 5.0, 40.0), strict=True):
        end(one, 1.0, later(seconds))
    assert wait(made, 1.0) == 40.0


@pytest.mark.parametrize("limit", [None, AdaptiveLimit(1000, start=1000)])
def test_after_a_cool_down_it_ramps_up_instead_of_bursting(limit):
    made = endpoint(limit=limit, ceiling=1000)
    work = [lease(made, 0.0) for _ in range(100)]
    for one in work:
        end(one, 1.0, later(10.0))
    assert 1 <= len(fill(made, 11.0)) <= 4
    at_once = [len(fill(made, 11.0 + step / 10)) for step in range(1, 60)]
    assert max(at_once) < 300, "not all in the same instant"
    assert sum(at_once) > 30, "and it does come back"


def test_a_year_is_cut_to_an_hour():
    made = endpoint()
    end(lease(made, 0.0), 1.0, later(365 * 86400.0))
    assert wait(made, 1.0) == 3600.0


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 5)), min_size=1, max_size=8))
def test_whatever_servers_wish_nobody_is_kept_away_for_longer_than_an_hour(wishes):
    made, now = endpoint(), 0.0
    work = [lease(made, now) for _ in wishes]
    for one, (seconds, passed) in zip(work, wishes, strict=True):
        now += passed
        end(one, now, later(seconds))
        assert wait(made, now) <= 3600.0 + 1e-6
    assert wait(made, now + 3600.0 + 1e-6) == 0.0


def refusals(made, count, now=0.0, failure=BUSY):
    """Refused as often, each as soon as it may ask. → how long each kept it away"""
    waits = []
    for _ in range(count):
        end(lease(made, now), now + 0.5, failure)
        now += 0.5
        waits.append(wait(made, now))
        now += waits[-1]
        now += wait(made, now)
    return waits


def test_refusals_without_a_hint_back_off_exponentially_up_to_a_minute():
    assert refusals(endpoint(), 8) == pytest.approx([0.75 * span for span in (1, 2, 4, 8, 16, 32, 60, 60)])


def test_to_come_back_after_no_time_at_all_is_no_hint():
    assert refusals(endpoint(), 4, failure=later(0.0)) == pytest.approx([0.75, 1.5, 3, 6])


def test_the_thousandth_refusal_overflows_nothing():
    assert refusals(endpoint(), 1200)[-1] == pytest.approx(45)


def test_an_answer_forgets_the_refusals():
    made = endpoint()
    assert refusals(made, 4)[-1] == pytest.approx(6.0)
    now = 100.0
    end(lease(made, now), now)
    assert refusals(made, 2, 101.0) == pytest.approx([0.75, 1.5])


def test_refusals_of_one_burst_are_one_episode():
    made = endpoint()
    for one in [lease(made, 0.0) for _ in range(50)]:
        end(one, 1.0, BUSY)
    assert wait(made, 1.0) == pytest.approx(0.75)


def test_who_can_ask_for_less_at_once_does_that_first_and_backs_off_at_one():
    made = endpoint(limit=AdaptiveLimit(64, start=64))
    now = 0.0
    waits = []
    for _ in range(12):
        for one in fill(made, now):
            end(one, now + 0.5, BUSY)
        now += 0.5
        cool = max(0.0, made.cool_until - now)
        waits.append(cool)
        assert cool == 0.0 or made.limit.limit(now) == 1
        now += max(0.1, cool)
    assert waits[0] == 0.0
    assert waits[-1] > 1.0


def test_people_are_told_once_of_a_cool_down():
    made = endpoint()
    for one in [lease(made, 0.0) for _ in range(5)]:
        end(one, 1.0, later(30.0))
    assert states(made) == ["cooling"]
    assert (made.news[0].seconds, made.news[0].reason) == (30.0, "busy")


def test_failures_of_one_model_behind_it_leave_the_endpoint_alone():
    made, now = endpoint(), 0.0
    upstream = replace(GATEWAY, one_model=True)
    for _ in range(20):
        end(lease(made, now), now, upstream)
        now += 1.0
        assert wait(made, now) == 0.0
    assert made.news == []


def test_a_refusal_of_one_model_leaves_the_endpoint_alone():
    made = endpoint()
    end(lease(made, 0.0), 1.0, later(30.0, one_model=True))
    assert wait(made, 1.0) == 0.0
    assert not made.blocked(1.0)


# Breaker


@pytest.mark.parametrize("failure", [DEAD, BROKEN, GATEWAY, LOST])
def test_failures_in_a_row_open_it_and_one_probe_at_a_time_is_sent(failure):
    made = endpoint(failures=3)
    for _ in range(3):
        assert not made.blocked(0.0)
        end(lease(made, 0.0), 0.0, failure)
    assert made.blocked(0.0)
    now, sent = 0.0, 0
    while now < 600:
        now += wait(made, now)
        probes = fill(made, now)
        assert len(probes) == 1
        assert probes[0].grant.probe
        assert wait(made, now) == math.inf
        sent += 1
        end(probes[0], now, failure)
    assert sent < 30
    assert states(made) == ["open"]


def test_what_was_asked_wrongly_is_not_its_fault():
    made = endpoint(failures=2)
    for _ in range(20):
        end(lease(made, 0.0), 0.0, WRONG)
    assert not made.blocked(0.0)
    assert made.last_failure is None
    assert made.down_since is None


def test_a_dead_worker_says_nothing_of_it_and_frees_the_probe():
    made = endpoint(failures=2)
    for _ in range(10):
        end(lease(made, 0.0), 0.0, died=True)
    assert not made.blocked(0.0)
    for _ in range(2):
        end(lease(made, 0.0), 0.0, DEAD)
    now = wait(made, 0.0)
    end(lease(made, now), now, died=True)
    assert wait(made, now) == 0.0
    assert made.lease(now, job(), 1).probe


@pytest.mark.parametrize("answer", [None, WRONG, BUSY])
def test_when_it_is_back_people_are_told_and_those_who_waited_come_in_a_ramp(answer):
    made = endpoint(failures=2, limit=AdaptiveLimit(1000, start=1000))
    for _ in range(2):
        end(lease(made, 0.0), 0.0, DEAD)
    now = wait(made, 0.0)
    end(lease(made, now), now, answer)
    now += wait(made, now)
    assert not made.blocked(now)
    assert states(made)[:2] == ["open", "closed"]
    assert len(fill(made, now)) <= 4


def test_it_has_been_down_since_its_first_trouble_without_an_answer_since():
    made = endpoint(failures=3)
    end(lease(made, 1.0), 1.0, DEAD)
    end(lease(made, 2.0), 2.0)
    assert made.down_since is None
    for now in (3.0, 4.0, 5.0):
        end(lease(made, now), now, DEAD)
    assert made.down_since == 3.0
    now = 5.0 + wait(made, 5.0)
    end(lease(made, now), now, DEAD)
    assert made.down_since == 3.0


# Its own limits, and what it says is left


def test_its_own_limits_hold_and_come_back():
    made = endpoint(limits=Limits(concurrency=2))
    first, _ = fill(made, 0.0)
    assert wait(made, 0.0) == math.inf
    end(first, 1.0)
    assert len(fill(made, 1.0)) == 1
    assert made.in_flight == 2


def test_what_it_says_is_left_is_kept_by_model():
    made = endpoint()
    poor, rich = job(0, model="poor"), job(1, model="rich")
    end(lease(made, 0.0, poor), 0.0, allowance=Allowance(requests_left=0, requests_reset=20.0))
    assert wait(made, 0.0, poor) == 20.0
    assert wait(made, 0.0, rich) == 0.0


def test_a_change_of_its_limits_forgets_neither_who_is_in_flight_nor_the_last_minute():
    made = endpoint(limits=Limits(concurrency=8, rpm=60))
    work = fill(made, 0.0)
    assert len(work) == 8
    made.limits = Limits(concurrency=4, rpm=60)
    assert made.in_flight == 8
    for one in work:
        end(one, 1.0)
    assert made.in_flight == 0
    sent = 8
    for step in range(1, 590):
        now = 1.0 + step / 10
        made.limits = Limits(concurrency=4 + step % 2, rpm=60 if step % 3 else 30)
        taken = fill(made, now)
        sent += len(taken)
        for one in taken:
            end(one, now)
    assert sent <= 60


def test_limits_may_come_and_go_while_it_is_used():
    made = endpoint()
    work = [lease(made, 0.0) for _ in range(3)]
    made.limits = Limits(rpm=6)
    work += fill(made, 0.0)
    assert wait(made, 0.0) > 0.0
    for one in work:
        end(one, 0.0)
    assert made.in_flight == 0
    made.limits = Limits()
    assert len(fill(made, 0.0)) == 1000
