"""`--retry-truncated`: answers cut by their limit are asked again with a larger one, in real runs."""

from __future__ import annotations

import json
import signal
from collections import Counter

import pytest
from support.behaviours import answer, sequence, stall, status
from support.cli import Place

TEXT = "one two three four five six seven eight"


def tokens(request):
    body = request.body
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    return body.get("options", {}).get("num_predict") if limit is None else limit


def eight_words(request):
    """Answers that need 8 tokens, a word each."""
    limit = tokens(request)
    if limit is None or limit >= 8:
        return answer(TEXT, usage=(10, 8))
    return answer(" ".join(TEXT.split()[:limit]), finish_reason="length", usage=(10, limit))


@pytest.fixture
def place(tmp_path, server):
    server.behave(eight_words)
    return Place(tmp_path, server)


def limits(server, experiment):
    return [tokens(request) for request in server.requests if request.experiment == str(experiment)]


@pytest.mark.parametrize("procs", ["0", "2"])
def test_cut_answers_are_asked_again_until_they_are_whole_or_it_is_enough(place, server, procs):
    place.table(
        [
            {"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 4, "param:num_predict": ""},
            {"provider": "openai", "model": "m", "id": 2, "param:max_tokens": 8, "param:num_predict": ""},
            {"provider": "openrouter", "model": "m", "id": 3, "param:max_tokens": 3, "param:num_predict": ""},
            {"provider": "ollama", "model": "m", "id": 4, "param:max_tokens": "", "param:num_predict": 2},
            # 0.9 of a token, as it were: not whole after three times.
            {"provider": "openai", "model": "m", "id": 5, "param:max_tokens": 1, "param:num_predict": ""},
        ]
    )
    done = place.run("-o", "results.csv", "--retry-truncated", "1.9", "--procs", procs)
    assert done.code == 0, done
    rows = place.rows()
    assert [limits(server, number) for number in range(1, 6)] == [
        [4, 8],
        [8],
        [3, 6, 12],
        [2, 4, 8],
        [1, 2, 4, 8],
    ]
    assert [row["output"] for row in rows] == [TEXT] * 5
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["attempts"] for row in rows] == ["2", "1", "3", "3", "4"]
    # All answers were paid for: 13, 16 and 18 tokens at what the server says they cost.
    assert float(rows[2]["cost_usd"]) == pytest.approx(47e-6)


def test_what_is_still_cut_after_three_times_is_a_warning_that_says_so(place, server):
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 1}])
    assert place.run("-o", "results.csv", "--retry-truncated", "1.1").code == 0
    assert limits(server, 1) == [1, 2, 3, 4]
    (row,) = place.rows()
    assert (row["status"], row["output"], row["finish_reason"]) == ("warning", "one two three four", "length")
    assert row["error_message"].endswith("its limit was raised 3 times")


def test_without_the_option_nothing_is_asked_again(place, server):
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 1}])
    assert place.run("-o", "results.csv").code == 0
    assert limits(server, 1) == [1]


@pytest.mark.parametrize("procs", ["0", "1"])
def test_if_asking_again_fails_the_cut_answer_stays(place, server, procs):
    server.behave(lambda request: status(400) if tokens(request) > 4 else None)
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 4}])
    done = place.run("-o", "results.csv", "--retry-truncated", "2", "--procs", procs)
    assert done.code == 0, done
    (row,) = place.rows()
    assert (row["status"], row["output"]) == ("warning", "one two three four")
    assert row["error_message"].startswith("truncated")
    assert limits(server, 1) == [4, 8]


def test_a_failure_on_the_way_is_retried_with_the_larger_limit(place, server):
    server.behave(lambda request: status(503) if len(server.requests) == 2 else None)
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 4}])
    assert place.run("-o", "results.csv", "--retry-truncated", "2").code == 0
    assert limits(server, 1) == [4, 8, 8]
    (row,) = place.rows()
    assert (row["status"], row["output"], row["attempts"]) == ("ok", TEXT, "3")


def test_the_larger_limit_is_no_part_of_what_was_asked(place, server):
    place.table([{"provider": "openai", "model": "m", "id": n, "param:max_tokens": 4} for n in range(3)])
    assert place.run("-o", "a.csv").code == 0
    assert place.run("-o", "b.csv", "--retry-truncated", "2").code == 0
    ids = [[row["experiment_id"] for row in place.rows(name)] for name in ("a.csv", "b.csv")]
    assert ids[0] == ids[1]
    server.clear()
    assert place.run("-o", "b.csv", "--resume").code == 0
    assert not server.requests


def test_the_context_window_bounds_the_limit(place, server):
    server.models["small"] = 17  # 10 tokens of input leave 7
    place.table([{"provider": "openai", "model": "small", "id": 1, "param:max_tokens": 4}])
    assert place.run("-o", "results.csv", "--retry-truncated", "2").code == 0
    assert limits(server, 1) == [4, 7]
    assert place.rows()[0]["output"] == " ".join(TEXT.split()[:7])


def test_a_schema_is_held_against_the_whole_answer_only(place, server):
    place.write("schema.json", json.dumps({"type": "object", "required": ["a"]}))
    server.behave(
        lambda request: (
            answer('{"a": ', finish_reason="length") if tokens(request) == 4 else answer('{"a": [1]}')
        )
    )
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 4}])
    done = place.run("-o", "results.csv", "--retry-truncated", "2", "--json-schema", "schema.json")
    assert done.code == 0, done
    (row,) = place.rows()
    assert (row["status"], row["output"], row["error_message"]) == ("ok", '{"a": [1]}', "")


def test_a_run_that_is_stopped_meanwhile_keeps_the_cut_answers(place, server):
    server.behave(lambda request: stall() if tokens(request) > 4 else None)
    place.table([{"provider": "openai", "model": "m", "id": n, "param:max_tokens": 4} for n in range(3)])
    options = "--retry-truncated", "2", "--procs", "1", "--threads", "2"
    with place.start("-o", "results.csv", *options, "--drain-timeout", "0") as process:
        server.wait_until(lambda: server.in_flight == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    rows = place.rows()
    assert rows
    assert {(row["status"], row["output"]) for row in rows} == {("warning", "one two three four")}
    answered = {row["id"] for row in rows}
    server.release_all()
    server.clear()
    server.behave(eight_words)
    assert place.run("-o", "results.csv", *options, "--resume").code == 0
    assert len(place.rows()) == 3
    assert not answered & {request.experiment for request in server.requests}


@pytest.mark.parametrize(
    ("ending", "output"),
    [(answer(TEXT, usage=(10, 8)), TEXT), (status(400), "one two three four")],
    ids=["answered", "refused"],
)
def test_the_main_process_killed_meanwhile_loses_no_answer(place, server, ending, output):
    server.behave(lambda request: stall(then=ending) if tokens(request) > 4 else None)
    place.table([{"provider": "openai", "model": "m", "id": n, "param:max_tokens": 4} for n in range(4)])
    options = "--retry-truncated", "2", "--procs", "2", "--threads", "2"
    with place.start("-o", "results.csv", *options) as process:
        server.wait_until(lambda: server.in_flight == 4 and len(server.requests) == 8)
        process.kill()
    server.release_all()
    done = place.run("-o", "results.csv", *options, "--resume")
    assert done.code == 0, done
    rows = place.rows()
    assert Counter(row["id"] for row in rows) == Counter("0123")
    assert len(server.requests) == 8, "paid for already"
    assert {row["output"] for row in rows} == {output}
    assert not list(place.folder.glob("*rescue*"))


def test_every_provider_error_of_the_first_kind_is_no_cut_answer(place, server):
    server.behave(sequence(status(400)))
    place.table([{"provider": "openai", "model": "m", "id": 1, "param:max_tokens": 4}])
    assert place.run("-o", "results.csv", "--retry-truncated", "2").code == 3
    assert limits(server, 1) == [4]
