"""Which answers are asked again with a larger limit, and what the row then says and costs."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.behaviours import answer
from support.cli import parse_rows

from parallamr_mp.answered import AttemptSpec, RowResult, RowTask, unanswered
from parallamr_mp.attempt import Asker
from parallamr_mp.config import RunConfig, check
from parallamr_mp.errors import BadInput
from parallamr_mp.models import Allowance, Failure, Inputs, Reply, Status, Unsaved
from parallamr_mp.results.records import columns_for, encode_record
from parallamr_mp.truncated import MAX_ENLARGED, enlarged

TASK = RowTask(1, 0, "0123456789abcdef", 0, "openai", "m", ("openai", "m"), {"max_tokens": 10})
CUT = RowResult(b"row\n", Status.WARNING, "truncated", 0.5, 40, 10, 0.25, truncated=True, reported=True)
BOTH = {"max_completion_tokens": 7, "max_tokens": 5}
LIMITS = ["max_tokens", "max_completion_tokens", "num_predict"]


def asked(params, *, provider="openai", factor=2.0, window=None, result=CUT):
    task = enlarged(replace(TASK, provider=provider, params=params), result, factor, window)
    return None if task is None else task.params


@pytest.mark.parametrize(
    ("provider", "params", "larger"),
    [
        ("openai", {"max_tokens": 10, "seed": 1}, {"max_tokens": 20, "seed": 1}),
        ("openai", {"max_completion_tokens": 7}, {"max_completion_tokens": 14}),
        ("openai", BOTH | {"max_tokens": None}, {"max_completion_tokens": 14, "max_tokens": None}),
        # Whichever of the two counts for the server.
        ("openai", BOTH, {"max_completion_tokens": 14, "max_tokens": 10}),
        ("openai", {}, {"max_tokens": 20}),
        ("openai", {"max_tokens": None}, {"max_tokens": 20}),
        ("openai", {"max_completion_tokens": None}, {"max_completion_tokens": 20}),
        ("openai", {"num_predict": 3}, {"num_predict": 3, "max_tokens": 20}),
        ("ollama", {"max_tokens": 10}, {"max_tokens": 20}),
        ("ollama", {"num_predict": 3}, {"num_predict": 6}),
        ("ollama", {"options": {"num_predict": 3}}, {"options": {"num_predict": 3}, "max_tokens": 6}),
        ("ollama", {"options": {"seed": 3}}, {"options": {"seed": 3}, "max_tokens": 20}),
        ("ollama", {"num_predict": -1}, None),
        ("ollama", {"options": {"num_predict": -2}}, None),
        ("openai", {"max_tokens": "10"}, None),
        ("openai", {"max_tokens": True}, None),
        ("openai", {"max_tokens": 0}, None),
        ("openai", {"max_tokens": math.inf}, None),
        ("openai", {"max_tokens": [10]}, None),
    ],
)
def test_the_row_s_own_limit_grows_and_a_row_without_one_gets_it_from_its_answer(provider, params, larger):
    assert asked(params, provider=provider) == larger


def test_the_limit_is_rounded_up_and_always_grows():
    assert asked({"max_tokens": 10}, factor=1.01) == {"max_tokens": 11}
    assert asked({"max_tokens": 3}, factor=1.5) == {"max_tokens": 5}
    assert asked({}, result=replace(CUT, output_tokens=0)) == {"max_tokens": 2}


@pytest.mark.parametrize(
    ("window", "limit"), [(1000, 20), (60, 20), (55, 15), (51, 11), (50, None), (1, None)]
)
def test_input_and_limit_stay_within_the_context_window(window, limit):
    assert asked({"max_tokens": 10}, window=window) == (None if limit is None else {"max_tokens": limit})


def test_what_was_not_cut_is_not_asked_again():
    assert enlarged(TASK, replace(CUT, truncated=False), 2.0, None) is None


def test_after_three_times_it_is_enough():
    task, limits = TASK, []
    while (larger := enlarged(task, CUT, 2.0, None)) is not None:
        task = larger
        limits.append(task.params["max_tokens"])
    assert limits == [20, 40, 80]
    assert task.enlarged == MAX_ENLARGED == 3


def test_what_is_asked_and_the_row_stay_the_same():
    larger = enlarged(TASK, CUT, 2.0, None)
    assert TASK.params == {"max_tokens": 10}
    assert replace(larger, params=TASK.params, enlarged=0, earlier=None, spent=None) == TASK
    assert (larger.earlier, larger.spent) == (CUT, 0.25)
    assert pickle.loads(pickle.dumps(larger)) == larger


@given(
    st.dictionaries(
        st.sampled_from([*LIMITS, "seed", "options"]),
        st.none()
        | st.integers()
        | st.floats()
        | st.text()
        | st.dictionaries(st.just("num_predict"), st.integers()),
    ),
    st.sampled_from(["openai", "openrouter", "ollama", "other"]),
    st.floats(1, 100, exclude_min=True),
    st.none() | st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)
def test_whatever_the_parameters_only_limits_change_and_they_grow(
    params, provider, factor, window, sent, got
):
    task = replace(TASK, provider=provider, params=params)
    larger = enlarged(task, replace(CUT, input_tokens=sent, output_tokens=got), factor, window)
    if larger is None:
        return
    changed = {name for name in larger.params if larger.params[name] is not params.get(name)}
    assert changed
    assert changed <= set(LIMITS)
    for name in changed:
        limit = larger.params[name]
        assert isinstance(limit, int)
        assert limit > (params.get(name) or 0)
        assert window is None or sent + limit <= window
    assert larger.experiment_id == task.experiment_id


# --- the row -----------------------------------------------------------------------------------


class Saying:
    def __init__(self, reply):
        self.reply = reply

    def complete(self, request):
        return self.reply


def ask(reply, task=TASK):
    spec = AttemptSpec(("provider", "model"), Inputs("x"), 10.0, 1, providers={"openai": Saying(reply)})
    return Asker(spec)(task, 1, "")


def cells(result):
    header = encode_record(columns_for(("provider", "model")))
    (row,) = parse_rows((header + result.record).decode())
    return row


@pytest.mark.parametrize(
    ("reply", "truncated", "reported"),
    [
        (Reply("x", "length", 1, 2), True, True),
        (Reply("x", "max_tokens", 1, None), True, False),
        (Reply("x", "stop", None, None), False, False),
        (Reply("x", None, None, 5), False, False),
        (Reply("x", ["length"], 0, 0), False, True),
    ],
)
def test_a_result_tells_whether_it_was_cut_and_who_counted(reply, truncated, reported):
    result = ask(reply)
    assert (result.truncated, result.reported) == (truncated, reported)


def test_a_result_brings_along_what_the_server_said_of_its_limits():
    allowance = Allowance(requests_left=3)
    assert ask(Reply("x", "stop", allowance=allowance)).allowance == allowance
    assert ask(Reply("x", "stop")).allowance is None


@pytest.mark.parametrize(
    ("spent", "cost", "total"),
    [(None, 0.5, 0.5), (0.25, 0.5, 0.75), (0.25, None, None), (None, None, None), (0.0, 0.0, 0.0)],
)
def test_a_row_costs_what_all_its_answers_have_cost(spent, cost, total):
    result = ask(Reply("x", "stop", 1, 1, cost_usd=cost), replace(TASK, spent=spent))
    assert result.cost_usd == total
    assert cells(result)["cost_usd"] == ("" if total is None else str(total))


def test_what_is_unknown_of_one_answer_is_unknown_of_the_row():
    cut = ask(Reply("ha", "length", 4, 10))
    assert ask(Reply("half", "stop", 4, 15, cost_usd=0.5), enlarged(TASK, cut, 2.0, None)).cost_usd is None


def test_a_whole_answer_leaves_no_trace_of_the_cut_one_but_its_cost():
    cut = ask(Reply("ha", "length", 4, 10, cost_usd=0.25, warnings=("truncated: …",)))
    whole = ask(Reply("half", "stop", 4, 15, cost_usd=0.5), enlarged(TASK, cut, 2.0, None))
    row = cells(whole)
    assert (row["status"], row["output"], row["error_message"]) == ("ok", "half", "")
    assert (row["output_tokens"], row["cost_usd"], row["experiment_id"]) == ("15", "0.75", TASK.experiment_id)


def test_an_answer_cut_again_says_how_often_the_limit_was_raised():
    warning = "truncated: the answer was cut at the token limit"
    reply = Reply("ha", "length", 4, 10, warnings=(warning,))
    first = ask(reply)
    assert first.message == warning
    task = enlarged(TASK, first, 2.0, None)
    assert ask(reply, task).message == f"{warning}; its limit was raised 1 time"
    task = enlarged(task, ask(reply, task), 2.0, None)
    assert ask(reply, task).message == f"{warning}; its limit was raised 2 times"


def test_if_asking_again_fails_the_cut_answer_is_the_row(tmp_path):
    spec = AttemptSpec(("provider", "model"), Inputs("x"), 10.0, 1, rescue=(str(tmp_path / "r.csv.rescue-"),))
    cut = ask(Reply("ha", "length", 4, 10, cost_usd=0.25, warnings=("truncated: …",)))
    task = enlarged(TASK, cut, 2.0, None)
    failure = Failure("server", "broken")
    assert unanswered(spec, task, 2, failure, 1.0) is cut
    assert unanswered(spec, TASK, 2, failure, 1.0).status == "error"
    # Also in a worker whose parent has died meanwhile.
    Asker(spec).rescue([Unsaved(task, 2, None, failure, 1.0)])
    (saved,) = tmp_path.iterdir()
    assert cut.record in saved.read_bytes()


@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_the_larger_limit_is_on_the_wire(server, monkeypatch, provider):
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("OLLAMA_BASE_URL", server.ollama_url)
    server.behave(answer("ha", finish_reason="length", usage=(4, 10)))
    asker = Asker(AttemptSpec(("provider", "model"), Inputs("x"), 10.0, 1))
    task = replace(TASK, provider=provider)
    try:
        while task is not None:
            task = enlarged(task, asker(task, 1, ""), 1.5, 46)
    finally:
        asker.close()
    bodies = [request.body for request in server.requests]
    limits = [body.get("max_tokens", body.get("options", {}).get("num_predict")) for body in bodies]
    assert limits == [10, 15, 23, 35]


@pytest.mark.parametrize("factor", [1, 0.5, -2, math.inf, math.nan])
def test_a_factor_that_enlarges_nothing_is_bad_input(factor):
    with pytest.raises(BadInput, match=r"--retry-truncated .*: must be more than 1"):
        check(RunConfig("p", "e", retry_truncated=factor))
    check(RunConfig("p", "e", retry_truncated=1.5))
