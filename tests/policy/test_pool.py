import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pools import DEAD, end, endpoint, job, later, lease, pool

from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits


def put(made, work, now=0.0):
    """Leases the job where the pool wants it. → the endpoint's URL"""
    chosen, wait = made.choose(now, work, 1)
    assert chosen is not None, f"in {wait} s"
    made.leased(work, chosen)
    lease(chosen, now, work)
    return work.route


def break_(made, now=0.0):
    """Makes it fail until nothing is sent there."""
    while not made.blocked(now):
        end(lease(made, now), now, DEAD)


def loads(made):
    return [one.in_flight for one in made.endpoints]


# Balance


def test_the_least_busy_is_chosen():
    made = pool("a", "b", "c")
    work = [job(number) for number in range(9)]
    assert [put(made, one) for one in work] == ["a", "b", "c"] * 3
    for one in (work[1], work[4]):
        end(one, 1.0)
    assert [put(made, job()) for _ in range(2)] == ["b", "b"]


def test_a_weight_of_two_gets_twice_as_much():
    made = Pool([endpoint("big", weight=2.0), endpoint("small")])
    assert Counter(put(made, job()) for _ in range(90)) == {"big": 60, "small": 30}


@given(st.lists(st.floats(0.5, 8), min_size=2, max_size=5), st.integers(20, 100))
def test_under_load_shares_are_as_weights_are(weights, count):
    made = Pool([endpoint(str(number), weight=weight) for number, weight in enumerate(weights)])
    for _ in range(count):
        put(made, job())
    for weight, load in zip(weights, loads(made), strict=True):
        assert abs(load - count * weight / sum(weights)) <= len(weights) + weight / min(weights)


def test_who_is_full_or_cools_down_is_passed_over():
    made = Pool([endpoint("full", limits=Limits(concurrency=1)), endpoint("cool"), endpoint("c")])
    end(lease(made.endpoints[1], 0.0), 0.0, later(30.0))
    assert [put(made, job()) for _ in range(4)] == ["full", "c", "c", "c"]
    assert put(made, job(), 30.0) == "cool"


def test_when_none_is_free_it_tells_the_earliest_time():
    made = pool("a", "b")
    for one, seconds in zip(made.endpoints, (30.0, 20.0), strict=True):
        end(lease(one, 0.0), 0.0, later(seconds))
    assert made.choose(0.0, job(), 1) == (None, 20.0)


def test_when_only_an_outcome_can_help_the_time_is_infinite():
    made = pool("a", "b", limits=Limits(concurrency=1))
    for _ in range(2):
        put(made, job())
    assert made.choose(0.0, job(), 1) == (None, math.inf)


# Trouble


@pytest.mark.parametrize("failure", [DEAD, later(0.5)])
def test_a_job_that_failed_at_one_goes_to_another_if_that_is_free(failure):
    made = Pool([endpoint("a"), endpoint("b", limits=Limits(concurrency=20))])
    troubled = job()
    assert put(made, troubled) == "a"
    end(troubled, 0.0, failure)
    troubled.troubled_since = 0.0
    for _ in range(10):
        lease(made.endpoints[1], 1.0)
    assert put(made, troubled, 10.0) == "b", "even if it is busier"
    end(troubled, 11.0, failure)
    for _ in range(10):
        lease(made.endpoints[1], 20.0)
    assert put(made, troubled, 20.0) == "a"
    end(troubled, 21.0, failure)
    assert put(made, troubled, 30.0) == "a", "nobody else is free"


def test_all_go_to_the_living_while_one_is_dead_but_for_one_probe_at_a_time():
    made = pool("dead", "alive")
    break_(made.endpoints[0])
    now, probes = 0.0, 0
    for number in range(600):
        now += 0.5
        one = job(number)
        if put(made, one, now) == "dead":
            assert one.grant.probe
            probes += 1
        end(one, now, DEAD if one.route == "dead" else None)
    assert 1 <= probes <= 16


def test_a_pool_is_down_when_all_of_it_is_and_since_the_last_one_went():
    made = pool("a", "b")
    break_(made.endpoints[0], 1.0)
    assert made.down_since(1.0) is None
    break_(made.endpoints[1], 5.0)
    assert made.down_since(5.0) == 5.0
    now = 5.0 + made.endpoints[0].wait(5.0, job(), 1)
    end(lease(made.endpoints[0], now), now)
    assert made.down_since(now) is None


def test_a_pool_that_cools_down_is_down_since_the_first_refusal_without_an_answer():
    made = pool("a")
    for now in (1.0, 12.0, 23.0):
        end(lease(made.endpoints[0], now), now, later(10.0))
    assert made.down_since(24.0) == 1.0
    assert made.down_since(33.0) is None, "it may be asked again"


# Replacement


def test_an_empty_pool_is_down_since_it_became_empty():
    made = Pool([], 3.0)
    assert made.choose(5.0, job(), 1) == (None, math.inf)
    assert made.down_since(5.0) == 3.0
    made.replace([], 10.0)
    assert made.down_since(11.0) == 3.0, "the file was read again, and is as empty as before"
    made.replace([endpoint("a")], 20.0)
    assert made.down_since(20.0) is None
    made.replace([], 30.0)
    assert made.down_since(31.0) == 30.0


def test_what_is_in_flight_at_one_that_was_taken_out_comes_back_to_it():
    made = pool("a", "b")
    work = [job(number) for number in range(4)]
    for one in work:
        put(made, one)
    gone = made.endpoints[0]
    made.replace([made.endpoints[1], endpoint("c")], 1.0)
    assert made.in_flight == 2
    assert [put(made, job(), 1.0) for _ in range(2)] == ["c", "c"]
    for one in work:
        end(one, 2.0)
    assert gone.in_flight == 0
    assert loads(made) == [0, 2]


# Affinity


def test_jobs_that_begin_alike_go_to_one_endpoint_while_it_is_not_much_busier():
    made = pool("a", "b", "c")
    assert [put(made, job(prefixes=(prefix,))) for prefix in range(3)] == ["a", "b", "c"]
    for number in range(30):
        one = job(number, prefixes=(number * 7 % 3,))
        assert put(made, one) == "abc"[number * 7 % 3]
        end(one, 0.0)
    busy = [put(made, job(prefixes=(0,))) for _ in range(6)]
    assert busy[0] == "a"
    assert len({*busy}) > 1, "it is not left to do all the work"


def test_a_beginning_that_all_share_is_spread_evenly():
    made = pool("a", "b", "c", "d")
    for number in range(400):
        put(made, job(number, prefixes=(7,)))
    assert max(loads(made)) <= 1.3 * min(loads(made))


def test_a_beginning_that_all_share_is_spread_by_weight():
    made = Pool([endpoint("big", weight=2.0), endpoint("small")])
    for number in range(300):
        put(made, job(number, prefixes=(7,)))
    big, small = loads(made)
    assert 1.6 <= big / small <= 2.6


def test_the_longest_beginning_that_is_known_decides():
    made = pool("a", "b")
    assert put(made, job(0, prefixes=(11, 1))) == "a"
    assert put(made, job(1, prefixes=(22, 2))) == "b"
    assert put(made, job(2, prefixes=(33, 2))) == "b"
    assert put(made, job(3, prefixes=(11, 2))) == "a"


def test_no_beginning_is_worth_waiting_for_a_dead_endpoint():
    made = pool("a", "b")
    assert put(made, job(0, prefixes=(1,))) == "a"
    break_(made.endpoints[0])
    assert [put(made, job(number, prefixes=(1,))) for number in range(20)] == ["b"] * 20


def test_to_look_for_a_place_is_not_yet_to_go_there():
    made = pool("a", "b")
    chosen, _ = made.choose(0.0, job(0, prefixes=(1,)), 1)
    assert chosen is made.endpoints[0]
    assert put(made, job(1)) == "a"
    assert put(made, job(2, prefixes=(1,))) == "b", "nobody has been at a with that beginning"


def test_as_many_beginnings_are_remembered_as_a_server_may_hold_and_no_more():
    made = pool("a", "b")
    for number in range(10_000):
        one = job(number, prefixes=(number, number + 10**9))
        put(made, one)
        end(one, 0.0)
    assert len(made._warm) <= 5000
