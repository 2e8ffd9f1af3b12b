"""Limits of a run, as the servers see them: at once, and in any minute, for whoever they are told.

No test lasts a minute. A window of one is exceeded as soon as more than the limit has come, so the limits are
so small that a run which did not heed them would be beyond them within a second.
"""

from __future__ import annotations

import os
import signal

import pytest
from support.behaviours import answer, stall
from support.cli import Place
from support.moody import AtMost, PerWindow, most_within
from support.running import Run, assert_answered, assert_to_be_resumed, assert_whole, go_on
from support.server import FakeServer

WIDE = ("-o", "results.csv", "--procs", "4", "--threads", "8")
FEW = ("-o", "results.csv", "--procs", "2", "--threads", "8")


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def started(server):
    return [request.started for request in server.requests]


# --- at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", ["--adaptive", "--no-adaptive"])
def test_no_more_are_at_a_provider_or_a_model_at_once_than_was_said(place, server, adaptive):
    models = AtMost(seconds=0.02, key=lambda request: request.model)
    server.behave(models)
    names = ["fake-small", "fake-large", "fake-mute"]
    place.table([{"provider": "openai", "model": names[id_ % 3], "id": id_} for id_ in range(240)])
    done = place.run(*WIDE, adaptive, "--concurrency", "openai=12,openai/fake-small=2,openai/fake-mute=3")
    assert done.code == 0, done
    assert server.peak_in_flight <= 12
    assert (models.peak("fake-small"), models.peak("fake-mute")) == (2, 3)
    assert models.peak("fake-large") > 3
    assert len(server.requests) == 240


def test_each_endpoint_has_its_own_limit(place, server):
    with FakeServer() as other:
        for each in (server, other):
            each.behave(AtMost(seconds=0.02))
        place.questions(160)
        endpoints = ("--endpoint", f"openai={server.openai_url} concurrency=2")
        endpoints += ("--endpoint", f"openai={other.openai_url} concurrency=5")
        done = place.run(*WIDE, "--no-adaptive", *endpoints)
        assert done.code == 0, done
        assert (server.peak_in_flight, other.peak_in_flight) == (2, 5)
        assert_answered(place.rows(), 160)


def test_a_killed_worker_takes_no_part_of_a_limit_along(place, server):
    server.behave(stall())
    place.questions(60)
    with Run(place, *FEW, "-v", "--no-adaptive", "--concurrency", "openai=12") as run:
        server.wait_until(lambda: server.in_flight == 12, 60)
        os.kill(run.worker(0), signal.SIGKILL)
        server.wait_until(lambda: len(server.requests) > 12 and server.in_flight == 12, 60)
        server.behave(AtMost(seconds=0.01))
        server.release_all()
        assert run.end().code == 0
    # What a killed worker had asked for is still there for as long as its connection takes to break.
    assert len(server.requests) <= 68
    assert_answered(place.rows(), 60)
    assert_whole(place)


def test_a_limited_provider_does_not_hold_up_the_rows_of_another(place, server):
    """Even when there are more rows of it, in front, than the run looks ahead."""
    server.behave(answer())
    slow = [{"provider": "mock", "model": "mock", "id": id_ + 1} for id_ in range(12_000)]
    quick = [{"provider": "openai", "model": "fake-small", "id": id_ + 1} for id_ in range(100)]
    place.table(slow + quick)
    # Its 12,000 rows would take 100 minutes.
    options = (*FEW, "--concurrency", "mock=1", "--stop-after", "120")
    with Run(place, *options, MOCK_LATENCY="0.5") as run:
        server.wait_until(lambda: len(server.requests) == 100 and not server.in_flight, 60)
        run.process.send_signal(signal.SIGTERM)
        done = run.end()
    assert done.code == 128 + signal.SIGTERM
    rows = place.rows()
    assert {row["status"] for row in rows} == {"ok"}
    assert sum(row["provider"] == "openai" for row in rows) == 100
    assert_to_be_resumed(place, 12_100 - len(rows))


# --- in any minute -----------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["openai", "openai/fake-small", "endpoint"])
def test_no_more_requests_come_in_any_minute_than_was_said(place, server, scope):
    """From 32 threads of 4 processes, of which one is killed with what it had asked for."""
    server.behave(stall())
    place.questions(200)
    limit = ("--limit-rpm", f"{scope}=20")
    if scope == "endpoint":
        limit = ("--endpoint", f"openai={server.openai_url} rpm=20")
    with Run(place, *WIDE, "-v", "--stop-after=5", *limit) as run:
        server.wait_until(lambda: len(server.requests) >= 3)
        workers = [run.worker(slot) for slot in range(4)]
        os.kill(workers[0], signal.SIGKILL)
        server.behave(answer())
        server.release_all()
        done = run.end()
    assert done.code == 4
    assert most_within(started(server), 60) <= 20
    # Spread over the minute rather than at once: three of them, then one each three seconds.
    assert 3 <= len(server.requests) <= 12
    assert most_within(started(server), 1.0) <= 5
    rows = place.rows()
    assert {row["status"] for row in rows} <= {"ok"}
    assert_to_be_resumed(place, 200 - len(rows))
    server.clear()
    endless = {limit[1]: limit[1].replace("rpm=20", "").replace("=20", "=100k"), "--stop-after=5": "-v"}
    resumed = go_on(place, done, **endless)
    assert resumed.code == 0, resumed
    assert len(server.requests) == 200 - len(rows)
    assert_answered(place.rows(), 200)
    assert_whole(place)


def test_no_more_tokens_are_used_in_any_minute_than_was_said(place, server):
    """Answers are longer than anybody could know, each of 100 tokens; the real numbers count."""
    server.behave(answer(usage=(20, 80)))
    place.questions(300)
    done = place.run(*WIDE, "--stop-after", "4", "--limit-tpm", "openai=2k", "--param", "max_tokens=80")
    assert done.code == 4, done
    used = [request.started for request in server.requests for _ in range(100)]
    assert most_within(used, 60) <= 2000
    assert 1 <= len(place.rows()) <= 20
    assert_to_be_resumed(place, 300 - len(place.rows()), "--param", "max_tokens=80")


def test_one_request_that_needs_more_tokens_than_a_minute_has_is_sent_all_the_same(place, server):
    place.questions(2)
    done = place.run(*FEW, "--limit-tpm", "openai=50", "--param", "max_tokens=80", "--stop-after", "3")
    assert done.code == 4, done
    assert len(server.requests) == 1


def test_limits_of_models_leave_the_other_models_alone(place, server):
    rows = [{"provider": "openai", "model": "fake-small", "id": id_} for id_ in range(100)]
    rows += [{"provider": "openai", "model": "fake-large", "id": id_} for id_ in range(100, 200)]
    place.table(rows)
    done = place.run(*FEW, "--limit-rpm", "openai/fake-small=6", "--stop-after", "5")
    assert done.code == 4, done
    asked = [request.model for request in server.requests]
    assert asked.count("fake-large") == 100
    assert 1 <= asked.count("fake-small") <= 3


def test_what_a_server_says_is_left_is_not_overdrawn(place, server):
    """Without a word on the command line. Waits for the minute to be over rather than be refused."""
    # One after the other: answers that overtake each other tell of more than there is left.
    moody = PerWindow(20, 1.5, told=True, each=0.02)
    server.behave(moody)
    place.questions(60)
    done = place.run(*FEW)
    assert done.code == 0, done
    assert_answered(place.rows(), 60)
    # Those that left before the first answer had come could not know.
    assert len(moody.refusals) <= 4, len(moody.refusals)
