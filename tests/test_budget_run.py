"""A run with a cap in USD: what it spends by the server's own count, how it stops, and how it goes on."""

from __future__ import annotations

import re

import pytest
from support.behaviours import answer, stall, status
from support.cli import Place, run_cli
from support.moody import AtMost
from support.running import TABLE, Run, assert_answered, assert_to_be_resumed, assert_whole, go_on

ALL = ("-o", "results.csv", "--procs", "2", "--threads", "8")
SHORT = ("--param", "max_tokens=50")
PRICED = ("--price", "openai/fake-small=1000:2000", *SHORT)
INPUT, OUTPUT = 0.001, 0.002
"""USD a token."""


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


def usages(input_tokens, output_tokens, seconds=0.0):
    return AtMost(seconds=seconds, then=answer(usage=(input_tokens, output_tokens)))


def spent(place):
    return sum(float(row["cost_usd"] or 0) for row in place.rows())


@pytest.mark.parametrize("output_tokens", [50, 3])
def test_a_run_never_spends_more_than_it_may_and_goes_on_when_it_may_more(place, server, output_tokens):
    """Whether answers are as long as they may be, or much shorter than was set aside for them."""
    server.behave(usages(20, output_tokens, 0.01))
    each = 20 * INPUT + output_tokens * OUTPUT
    place.questions(120)
    cap = 30 * each + 0.5
    done = place.run(*ALL, *PRICED, f"--max-cost={cap:g}")
    assert done.code == 4, done
    assert "--max-cost" in done.stderr.splitlines()[-1]
    assert len(server.given()) * each <= cap
    assert spent(place) == pytest.approx(len(server.given()) * each)
    # What is left at the end would not have paid for the worst case of one more.
    assert cap - spent(place) < (264 * INPUT + 50 * OUTPUT)
    assert 1 <= len(place.rows()) < 120
    assert_to_be_resumed(place, 120 - len(place.rows()), *SHORT)
    resumed = go_on(place, done, **{f"--max-cost={cap:g}": "--max-cost=1000"})
    assert resumed.code == 0, resumed
    assert_answered(place.rows(), 120)
    assert max(server.counts().values()) == 1
    assert spent(place) == pytest.approx(120 * each)
    assert_whole(place, *SHORT)


def test_a_cap_that_pays_for_no_row_sends_nothing(place, server):
    place.questions(20)
    done = place.run(*ALL, *PRICED, "--max-cost", "0.1")
    assert done.code == 4, done
    assert not server.requests
    assert_to_be_resumed(place, 20, *SHORT)


def test_requests_that_fail_cost_nothing_and_those_of_unknown_outcome_all_that_was_set_aside(place, server):
    server.behave(usages(20, 50))
    server.behave(lambda request: stall() if int(request.experiment) <= 2 else None)
    server.behave(lambda request: status(400) if 2 < int(request.experiment) <= 40 else None)
    place.questions(200)
    done = place.run(*ALL, *PRICED, "--max-cost", "5", "--timeout", "2")
    assert done.code == 4, done
    worst = 258 * INPUT + 50 * OUTPUT
    answered = sum(row["status"] == "ok" for row in place.rows())
    assert 2 * worst + answered * (20 * INPUT + 50 * OUTPUT) <= 5
    assert answered >= 20
    assert [row["id"] for row in place.rows() if "outcome unknown" in row["error_message"]] == ["1", "2"]
    assert_to_be_resumed(place, 200 - len(place.rows()), *SHORT)


def test_what_a_server_says_of_the_cost_counts(place, server):
    """OpenRouter's does; and its list has prices, so that none need be given."""
    place.questions(60, "openrouter", "fake-small")
    done = place.run(*ALL, *SHORT, "--max-cost", "0.0004")
    assert done.code == 4, done
    costs = [float(row["cost_usd"]) for row in place.rows()]
    assert costs
    assert sum(costs) <= 0.0004
    assert all(float(row["cost_usd"]) > 0 for row in place.rows())
    assert_to_be_resumed(place, 60 - len(costs), *SHORT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SHORT, "no price is known for openai/fake-small"),
        (
            ("--price", "openai/fake-mute=1:2", "--price", "openai/fake-small=1:2"),
            "nothing limits the answers",
        ),
    ],
)
def test_a_budget_that_could_not_be_kept_is_refused_before_anything_is_sent(place, server, options, said):
    place.table(
        [{"provider": "openai", "model": "fake-mute", "id": 1}]
        if "openai/fake-mute=1:2" in options
        else [{"provider": "openai", "model": "fake-small", "id": 1}]
    )
    done = place.run(*ALL, *options, "--max-cost", "1")
    assert done.code == 2, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.requests
    assert not (place.folder / "results.csv").exists()


def test_the_cost_is_told_while_the_run_is_on_and_at_its_end(place, server):
    server.behave(lambda request: stall() if int(request.experiment) > 40 else usages(20, 50))
    place.questions(48)
    with Run(place, *ALL, *PRICED, "--display", "plain") as run:
        run.wait_for(r"\$4\.8\d* ")
        server.behave(usages(20, 50))
        server.release_all()
        done = run.end()
    assert done.code == 0, done
    assert re.search(r"^cost +\d+\.\d+ USD", done.stderr, re.MULTILINE), done.stderr
    assert f'"cost_usd": {spent(place):g}'[:14] in (place.folder / "results.csv.manifest.json").read_text()


def test_plan_tells_what_the_rest_would_cost(place, server):
    place.questions(100)
    done = run_cli(
        place.folder, "plan", *TABLE, "-o", "results.csv", *PRICED, "--max-cost", "3", env=place.env
    )
    assert done.code == 0, done
    told = re.search(r"cost +likely ([\d.]+) USD \(low ([\d.]+), high ([\d.]+)\)", done.stdout)
    assert told, done.stdout
    likely, low, high = map(float, told.groups())
    assert 0 < low < likely < high
    # 100 rows of a few characters, answers of at most 50 tokens.
    assert likely == pytest.approx(100 * (2 * INPUT + 25 * OUTPUT), rel=0.2)
    assert high >= 100 * (256 * INPUT + 50 * OUTPUT)
    assert "--max-cost 3 is likely to end the run before its last row" in done.stdout
    assert not server.requests
