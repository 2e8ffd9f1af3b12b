"""A run against servers that are full, moody or slow: what it asks, when, and what it says of that."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest
from support.behaviours import answer, rate_limited, sequence, slow, stall, status, wait_for
from support.cli import Place
from support.moody import AtMost, PerWindow
from support.running import Run, assert_answered, assert_whole, entries, wait_until

ALL = ("-o", "results.csv", "--procs", "2", "--threads", "8")
LOGGED = (*ALL, "--attempts-log", "log.jsonl")


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def attempts(place):
    return {row["id"]: int(row["attempts"]) for row in place.rows()}


# --- servers that ask to come back later -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("retry-after", "1"), ("retry-after-ms", "1000"), ("Retry-After", "1.0")]
)
@pytest.mark.parametrize("adaptive", ["--adaptive", "--no-adaptive"])
def test_nobody_asks_while_a_server_has_asked_to_stay_away(place, server, name, value, adaptive):
    """No thread of either process, and no attempt that `--max-retries` allows is used up."""
    refused = []

    def full(request):
        if int(request.experiment) == 20 and not refused:
            refused.append(request.started)
            return status(429, {name: value})
        return slow(0.2)

    server.behave(full)
    place.questions(120)
    done = place.run(*ALL, "--max-retries", "0", adaptive)
    assert done.code == 0, done
    assert_answered(place.rows(), 120)
    # What was on its way when the refusal left cannot know of it: one request a thread, some more of a slow
    # run. Without a cool-down four threads would go on asking, five times a second each.
    assert sum(refused[0] + 0.5 < request.started < refused[0] + 1 for request in server.requests) <= 4
    assert attempts(place) == {str(id_): server.count(id_) for id_ in range(1, 121)}
    assert sum(attempts(place).values()) == 121


def test_a_server_with_a_window_is_not_asked_between_its_windows(place, server):
    moody = PerWindow(30, 1.0)
    server.behave(moody)
    place.questions(90)
    done = place.run(*ALL, "--max-retries", "0")
    assert done.code == 0, done
    assert_answered(place.rows(), 90)
    assert sum(attempts(place).values()) == len(server.requests)
    for _, ends in moody.refusals:
        # Once told, and for the time that this takes to come round.
        assert [r for r in server.requests if ends - 0.5 < r.started < ends - 0.01] == []


def test_openrouters_hint_in_the_body_is_heeded(place, server):
    """Its free models say only there when the minute is over."""
    soon = int((time.time() + 3.0) * 1000)
    hint = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(soon)}
    body = {"error": {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": hint}}}
    server.behave(lambda request: None if time.time() * 1000 >= soon else status(429, body=body))
    place.questions(20, "openrouter")
    done = place.run(*ALL, "--max-retries", "0")
    assert done.code == 0, done
    assert_answered(place.rows(), 20)
    assert len(server.requests) <= 20 + 16


def test_a_row_waits_no_longer_than_it_may_and_then_says_why(place, server):
    server.behave(rate_limited(1.5))
    place.questions(8)
    done = place.run(*ALL, "--max-wait", "1")
    assert done.code == 3, done
    rows = place.rows()
    assert {row["status"] for row in rows} == {"error"}
    assert all("HTTP 429" in row["error_message"] for row in rows)
    assert all("--max-wait" in row["error_message"] for row in rows), rows[0]["error_message"]
    assert {row["id"]: int(row["attempts"]) for row in rows} == {str(n): server.count(n) for n in range(1, 9)}
    assert_whole(place)
    server.behave(answer())
    assert place.run(*ALL, "--resume", "--retry-errors").code == 0
    assert_answered(place.rows(), 8)


# --- servers that take so many at a time -------------------------------------------------------


@pytest.mark.parametrize("most", [4, 16, 48])
def test_the_limit_of_a_server_is_found_out_and_used(place, server, most):
    """It is refused less than one request in fifty, and keeps the server busy."""
    moody = AtMost(most, 0.003 * most)
    server.behave(moody)
    rows = 1500
    place.questions(rows)
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "40", "--max-retries", "0")
    assert done.code == 0, done
    assert_answered(place.rows(), rows)
    assert moody.peak() >= 0.8 * most
    # To find the limit costs some, and the more the later a busy machine notices that it was passed.
    assert len(moody.refusals) <= 0.1 * len(server.requests), len(moody.refusals)
    # To keep to it, once it is known, costs next to nothing.
    known = sorted(request.started for request in server.requests)[len(server.requests) // 2]
    late = [at for at in moody.refusals if at > known]
    assert len(late) <= 12 + 0.02 * len(server.requests) / 2, len(late)
    assert sum(attempts(place).values()) == len(server.requests)


def test_the_limit_follows_a_server_that_takes_more_or_less_than_before(place, server):
    moody = AtMost(6, 0.03)
    server.behave(moody)
    place.questions(20_000)
    with Run(place, "-o", "results.csv", "--procs", "2", "--threads", "20", "--max-retries", "0") as run:
        server.wait_until(lambda: len(server.requests) > 200, 30)
        for now in (30, 6):
            moody.most = now
            moody.forget()
            server.wait_until(lambda now=now: moody.peak() >= 0.8 * now and moody.taken() > 900, 60)
        assert len(moody.refusals) <= 40 + 0.02 * moody.taken(), len(moody.refusals)
        run.process.send_signal(signal.SIGTERM)
        assert run.end().code == 128 + signal.SIGTERM
    assert {row["status"] for row in place.rows()} == {"ok"}


def test_without_adapting_as_many_are_asked_as_was_said(place, server):
    """From the first moment on, and again once a server that was full has been left alone for a while."""
    server.behave(stall(then=rate_limited("0.05")))
    place.questions(48)
    with Run(place, *ALL, "--no-adaptive", "--max-retries", "0") as run:
        for requests in (16, 32):
            server.wait_until(lambda requests=requests: len(server.requests) == requests)
            server.wait_until(lambda: server.in_flight == 16)
            server.release_all()
        server.behave(answer())
        server.wait_until(lambda: len(server.requests) > 32)
        server.release_all()
        assert run.end().code == 0
    assert_answered(place.rows(), 48)


def test_progress_tells_the_limit_that_was_found_out(place, server):
    server.behave(AtMost(8, 0.2))
    place.questions(400)
    with Run(place, *ALL, "--display", "plain") as run:
        found = run.wait_for(r"in flight (\d+)/(\d+)")
        assert 1 <= int(found[1]) <= 16
        assert int(found[2]) <= 16
        run.process.send_signal(signal.SIGTERM)
        run.end()


# --- the attempts log --------------------------------------------------------------------------


def test_there_is_a_line_for_each_request_that_the_server_saw(place, server):
    behaviours = {
        "2": sequence(status(503)),
        "3": sequence(rate_limited(0.1)),
        "4": sequence(stall()),
        "5": sequence(status(400)),
    }

    def moody(request):
        rule = behaviours.get(request.experiment)
        return rule(request) if rule else None

    server.behave(moody)
    place.questions(12)
    done = place.run(*LOGGED, "--timeout", "1")
    assert done.code == 3, done
    log = entries(place)
    assert len(log) == len(server.requests) == 14
    told = {str(row): [entry for entry in log if entry["row"] == row] for row in range(1, 13)}
    assert {row: len(lines) for row, lines in told.items()} == {str(n): server.count(n) for n in range(1, 13)}
    said = {row: [(e["status"], e["http_status"], e["known"]) for e in told[row]] for row in "12345"}
    assert said == {
        "1": [("ok", None, True)],
        "2": [("failed", 503, True), ("ok", None, True)],
        "3": [("failed", 429, True), ("ok", None, True)],
        "4": [("failed", None, False)],
        "5": [("failed", 400, True)],
    }
    assert told["4"][0]["seconds"] >= 0.9
    assert {entry["endpoint"] for entry in log} == {server.openai_url}
    assert_whole(place)


def test_the_requests_of_a_killed_worker_are_in_the_log_too(place, server):
    server.behave(stall())
    place.questions(30)
    with Run(place, *LOGGED, "-v", "--no-adaptive") as run:
        server.wait_until(lambda: server.in_flight == 16)
        os.kill(run.worker(0), signal.SIGKILL)
        server.wait_until(lambda: len(server.requests) == 24)
        server.behave(answer())
        server.release_all()
        assert run.end().code == 0
    log = entries(place)
    assert len(log) == len(server.requests) == 38
    died = [entry for entry in log if entry["kind"] == "worker_died"]
    assert len(died) == 8
    assert not any(entry["known"] for entry in died)
    assert_answered(place.rows(), 30)


# --- the last row ------------------------------------------------------------------------------


def test_a_request_that_hangs_does_not_hold_up_the_others_nor_the_end(place, server):
    server.behave(lambda request: stall() if request.experiment == "3" else None)
    place.questions(60)
    with Run(place, *ALL, "--timeout", "8", "--display", "plain") as run:
        # All others are answered long before; then it is told who is waited for.
        named = run.wait_for(r"(\d+)/60 rows.* oldest [\d.]+s \((row \d+)\)")
        assert named[2] == "row 3"
        assert int(named[1]) == 59
        done = run.end()
    assert done.code == 3
    rows = place.rows()
    assert [row["id"] for row in rows if row["status"] == "error"] == ["3"]
    assert "outcome unknown" in rows[2]["error_message"]
    assert float(rows[2]["latency_s"]) < 16
    assert_whole(place)


def test_rows_are_asked_in_the_order_of_the_table_as_far_as_limits_allow(place, server):
    reached = [threading.Event() for _ in range(120)]
    lock = threading.Lock()
    missing = [set(range(0, 120, 2)), set(range(1, 120, 2))]

    def in_order(request):
        # A busy system may leave a thread out between its lease and its request: others are not
        # answered, and so take no further rows, before what comes earlier in the table has been asked.
        id_ = int(request.experiment)
        with lock:
            mine = missing[id_ % 2]
            before = min(mine)
            mine.discard(id_)
            for asked in range(before, min(mine, default=120), 2):
                reached[asked].set()
        return wait_for(reached[id_], AtMost(seconds=0.01))

    server.behave(in_order)
    rows = [{"provider": "openai", "model": f"m{id_ % 2}", "id": id_} for id_ in range(120)]
    place.table(rows)
    done = place.run(*ALL, "--no-adaptive", "--concurrency", "openai/m0=2")
    assert done.code == 0, done
    for model in ("m0", "m1"):
        asked = [int(request.experiment) for request in server.requests if request.model == model]
        for place_, id_ in enumerate(asked):
            # 16 threads, and what each worker has waiting for one where answers take 10 ms.
            assert abs(place_ - (id_ // 2)) <= 16 + 2 * 2


def test_a_run_that_waits_costs_little(place, server):
    """Nothing is done over and over while all wait for a server that asked to stay away."""
    server.behave(rate_limited(4))
    place.questions(3000)
    with Run(place, *ALL, "-v") as run:
        server.wait_until(lambda: len(server.refused()) and not server.in_flight)
        wait_until(lambda: any(re.search("attempt 1 failed", line) for line in run.lines))
        time.sleep(0.5)
        before, asked = run.cpu_seconds(), len(server.requests)
        time.sleep(2)
        assert run.cpu_seconds() - before < 0.5
        assert len(server.requests) == asked
        server.behave(answer())
        assert run.end().code == 0
    assert_answered(place.rows(), 3000)
