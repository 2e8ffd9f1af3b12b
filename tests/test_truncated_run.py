"""`--retry-truncated` on the wire: the larger limit is asked for, and no answer that is paid for is lost."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from support.behaviours import answer, reset, stall, status, wait_for
from support.cli import Place
from support.running import Run, assert_to_be_resumed, assert_whole, entries, go_on

TEXT = "".join(f"{word:04}" for word in range(40))
"""40 tokens as the server counts them."""
LIMITED = ("--param", "max_tokens=25")
ALL = ("-o", "results.csv", "--procs", "2", "--threads", "4", *LIMITED)
TWICE = ("--retry-truncated", "2")
PRICED = ("--price", "openai/fake-small=1000:1000")


class Cutting:
    """Answers with as much of the text as the request allows."""

    def play(self, exchange):
        allowed = exchange.recorded.body["max_tokens"]
        reason = "stop" if allowed >= 40 else "length"
        usage = (10, min(allowed, 40))
        answer(TEXT[: 4 * allowed], finish_reason=reason, usage=usage).play(exchange)


def larger(then):
    """What happens to requests whose limit was raised."""
    return lambda request: then if request.body["max_tokens"] > 25 else None


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(12)
    server.behave(Cutting())
    return place


def assert_cut(rows):
    assert {row["status"] for row in rows} == {"warning"}
    assert {row["output"] for row in rows} == {TEXT[:100]}
    assert {row["finish_reason"] for row in rows} == {"length"}
    assert all("truncated" in row["error_message"] or "cut" in row["error_message"] for row in rows), rows[0]


def test_an_answer_that_was_cut_is_asked_for_again_with_a_larger_limit(place, server):
    done = place.run(*ALL, *TWICE, *PRICED, "--attempts-log", "log.jsonl")
    assert done.code == 0, done
    rows = place.rows()
    assert {row["output"] for row in rows} == {TEXT}
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert {row["attempts"] for row in rows} == {"2"}
    assert [float(row["cost_usd"]) for row in rows] == pytest.approx([0.035 + 0.050] * 12)
    limits = sorted(request.body["max_tokens"] for request in server.requests)
    assert limits == [25] * 12 + [50] * 12
    log = entries(place)
    assert len(log) == 24
    assert sum(entry["cost_usd"] for entry in log) == pytest.approx(12 * 0.085)
    assert_whole(place, *LIMITED)
    again = place.run(*ALL, *TWICE, "--resume")
    assert (again.code, len(server.requests)) == (0, 24)


def test_without_it_a_cut_answer_is_a_warning(place, server):
    assert place.run(*ALL).code == 0
    assert_cut(place.rows())
    assert len(server.requests) == 12


@pytest.mark.parametrize(
    "then", [status(400), status(500), stall(), reset()], ids=["400", "500", "hangs", "breaks"]
)
def test_when_the_larger_one_fails_the_cut_answer_stays(place, server, then):
    first, all_asked = set(), threading.Event()

    def play(request):
        # Else five failures in a row may put the endpoint out of order before the last rows were asked.
        if request.body["max_tokens"] > 25:
            return then
        first.add(request.experiment)
        if len(first) == 12:
            all_asked.set()
        return wait_for(all_asked, Cutting())

    server.behave(play)
    limits = ("--timeout", "2", "--max-retries", "0", "--max-wait", "3")
    done = place.run(*ALL, *TWICE, "--threads", "6", "--no-adaptive", *limits)
    assert done.code == 0, done
    rows = place.rows()
    assert len(rows) == 12
    assert_cut(rows)
    assert_whole(place, *LIMITED)


def test_a_signal_in_between_loses_no_cut_answer(place, server):
    server.behave(larger(stall()))
    with Run(place, *ALL, *TWICE, "--drain-timeout", "0.5", "--no-adaptive") as run:
        server.wait_until(lambda: server.in_flight == 8)
        run.process.send_signal(signal.SIGTERM)
        done = run.end()
    assert done.code == 128 + signal.SIGTERM
    cut = [request.experiment for request in server.requests if request.body["max_tokens"] == 25]
    assert sorted(row["id"] for row in place.rows()) == sorted(cut)
    assert_cut(place.rows())
    if len(cut) < 12:
        assert_to_be_resumed(place, 12 - len(cut), *LIMITED)


def test_a_killed_run_loses_no_cut_answer(place, server):
    """Its workers save what they know of, should the larger one not come within their grace."""
    server.behave(larger(stall()))
    with Run(place, *ALL, *TWICE, "--orphan-grace", "1", "--no-adaptive") as run:
        server.wait_until(lambda: server.in_flight == 8)
        run.process.kill()
        run.end()
    cut = [request.experiment for request in server.requests if request.body["max_tokens"] == 25]
    server.clear()
    server.behave(Cutting())
    resumed = place.run(*ALL, "--resume")
    assert resumed.code == 0, resumed
    assert_cut(place.rows())
    assert len(place.rows()) == 12
    assert set(server.counts()).isdisjoint(cut)
    assert_whole(place, *LIMITED)


def test_a_budget_that_pays_for_no_larger_one_leaves_the_cut_answers(place, server):
    worst = (266 + 25) * 0.001
    cap = 12 * 0.035 + worst - 0.01
    done = place.run(*ALL, *TWICE, *PRICED, f"--max-cost={cap:g}")
    assert done.code in (0, 4), done
    rows = place.rows()
    assert sum(float(row["cost_usd"]) for row in rows) <= cap
    given = sum(10 + request.body["max_tokens"] for request in server.requests) * 0.001
    assert given <= cap + 1e-9
    assert {row["output"] for row in rows} <= {TEXT, TEXT[:100]}
    if done.code == 4:
        assert_to_be_resumed(place, 12 - len(rows), *LIMITED)
        resumed = go_on(place, done, **{f"--max-cost={cap:g}": "--max-cost=100"})
        assert resumed.code == 0, resumed
    assert len(place.rows()) == 12
    assert_whole(place, *LIMITED)


def test_a_worker_that_dies_with_the_larger_one_does_not_take_the_cut_answer_along(place, server):
    server.behave(larger(stall(then=status(400))))
    with Run(place, *ALL, *TWICE, "-v", "--no-adaptive") as run:
        server.wait_until(lambda: server.in_flight == 8)
        os.kill(run.worker(0), signal.SIGKILL)
        run.wait_for("died")
        server.behave(larger(status(400)))
        server.release_all()
        assert run.end().code == 0
    assert_cut(place.rows())
    assert len(place.rows()) == 12
