"""A moody server, well driven: the schedule with all its policies against what `support/traffic.py` plays."""

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from support.traffic import Mood, MoodyServer, drive, endpoint, lognormal

QUICK, SLOW = lognormal(0.05, 0.2), lognormal(5.0, 0.7)
ROOT = Path(__file__).parent.parent


def driven(moods, latency=None, *, seed=1, rpm=None, **until):
    chance = random.Random(seed)
    server = MoodyServer(moods, latency or lognormal(1.0, 0.5), chance)
    return drive(server, endpoint(chance, rpm=rpm), **until)


def refused(record, start, end):
    return sum(start <= time < end for time in record.refused)


def answered(record, start, end):
    return sum(start <= time < end for time in record.answered)


def soon_near(record, k, start):
    """Seconds from `start` until the limit is within a fifth of `k`."""
    near = (time for time, limit, _ in record.limits if time >= start and abs(limit - k) <= 0.2 * k)
    return next(near) - start


@pytest.mark.parametrize("latency", [QUICK, None, SLOW], ids=["quick", "a second", "slow"])
@pytest.mark.parametrize("k", [4, 8, 32, 100, 256])
def test_the_limit_settles_at_what_the_server_takes_and_wastes_little(k, latency):
    record = driven([Mood(0, k)], latency, requests=4000)
    end = record.limits[-1][0]
    assert 0.8 * k <= record.limit(end / 2, end) <= 1.2 * k
    assert record.waste < 0.02
    assert len(record.answered) == 4000


@pytest.mark.parametrize("seed", range(3))
def test_it_follows_a_server_that_takes_more_and_less(seed):
    record = driven([Mood(0, 16), Mood(100, 64), Mood(250, 8)], seed=seed, seconds=350)
    for k, start, end in ((16, 50, 100), (64, 160, 250), (8, 270, 350)):
        assert 0.8 * k <= record.limit(start, end) <= 1.2 * k
    assert record.waste < 0.02
    assert soon_near(record, 64, 100) < 50
    assert soon_near(record, 8, 250) < 10


def test_hours_of_retry_after_do_not_pin_the_limit():
    hours = 5 * 3600
    record = driven([Mood(0, 64), Mood(60, 0, retry_after=3600), Mood(hours, 64)], seconds=hours + 200)
    assert refused(record, 60, hours) < 64 + 50
    back = next(time for time in record.answered if time > hours)
    assert back < hours + 100
    assert soon_near(record, 64, back) < 5
    assert record.lost == 0


def test_minutes_of_refusals_without_a_word_do_not_pin_it_either():
    record = driven([Mood(0, 64), Mood(60, 0), Mood(360, 64)], seconds=480)
    assert refused(record, 60, 360) < 64 + 60, "it asks less and less often"
    back = next(time for time in record.answered if time > 360)
    assert back < 425
    assert soon_near(record, 64, back) < 5


def test_a_retry_after_with_each_refusal_costs_little_of_what_the_server_gives():
    record = driven([Mood(0, 64, retry_after=2)], seconds=300)
    unlimited = 64 * 300 / statistics.mean(lognormal(1.0, 0.5)(random.Random(seed)) for seed in range(2000))
    assert len(record.answered) > 0.85 * unlimited
    assert record.waste < 0.02


def test_a_server_that_counts_minutes_gives_all_it_gives_and_refuses_little():
    record = driven([Mood(0, 64, rpm=600)], seconds=600)
    assert answered(record, 0, 600) >= 0.95 * 6000
    assert record.waste < 0.02


def test_a_limit_that_we_are_told_of_is_never_exceeded_and_used():
    record = driven([Mood(0, 1000, rpm=600)], rpm=600, seconds=600)
    assert refused(record, 0, 600) == 0
    assert answered(record, 0, 600) >= 0.95 * 6000


def test_an_outage_costs_seconds_and_no_job():
    record = driven([Mood(0, 64), Mood(60, 1, down=True), Mood(100, 64)], seconds=160)
    assert len(record.failed) <= 64 + 64 + 10
    assert next(time for time in record.answered if time > 100) < 100 + 40
    assert record.lost == 0
    assert soon_near(record, 64, 140) < 5


def test_the_same_seed_is_the_same_traffic():
    runs = [driven([Mood(0, 16)], seed=seed, requests=300) for seed in (7, 7, 8)]
    assert runs[0] == runs[1]
    assert runs[0].sent != runs[2].sent


def test_the_script_tells_how_it_went():
    command = [sys.executable, ROOT / "scripts" / "draw_traffic.py", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    *moods, whole = json.loads(done.stdout)
    assert len(moods) >= 5
    assert whole["wasted_percent"] < 2
    assert whole["sent"] > 10_000


def test_the_picture_is_light_enough_for_a_readme():
    picture = ROOT / "docs" / "traffic.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 80_000
