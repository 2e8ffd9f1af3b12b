"""Requests of which nobody knows what became: who is asked again, and what the row says of it."""

from __future__ import annotations

import pytest
from support.behaviours import answer, cut_mid_body, reset, reset_mid_body, stall
from support.cli import FAKE_KEY, Place

from parallamr_mp import ProviderError, Reply, create_experiment_runner

TIMEOUT_S = 2.0
LOST = "outcome unknown: the server may have done the work"


@pytest.fixture
def place(tmp_path, server, monkeypatch):
    for name, url in (
        ("OPENAI", server.openai_url),
        ("OPENROUTER", server.openrouter_url),
        ("OLLAMA", server.ollama_url),
    ):
        monkeypatch.setenv(f"{name}_API_KEY", FAKE_KEY)
        monkeypatch.setenv(f"{name}_BASE_URL", url)
    return Place(tmp_path, server)


def run(place, *, procs=1, **options):
    """Runs the place's table through the library; returns its rows."""
    runner = create_experiment_runner(timeout=TIMEOUT_S, procs=procs, threads=4, **options)
    files = (place.folder / name for name in ("prompt.txt", "experiments.csv", "results.csv"))
    runner.run_experiments(*files)
    return place.rows()


@pytest.mark.parametrize(
    ("provider", "retry_unknown", "again"),
    [
        ("openai", None, False),
        ("openai", True, True),
        ("openrouter", None, False),
        ("ollama", None, True),
        ("ollama", False, False),
    ],
)
def test_an_unknown_outcome_is_asked_again_where_that_is_free_or_wished(
    place, server, provider, retry_unknown, again
):
    first = {"1": stall(), "2": cut_mid_body(), "3": reset_mid_body(), "4": reset()}
    server.behave(lambda seen: first[seen.experiment] if server.count(seen.experiment) == 1 else None)
    place.questions(4, provider)
    *unknown, refused = run(place, retry_unknown=retry_unknown, limits={"ollama": 4})
    # Broken before the answer's first byte: asked again in any case.
    assert (refused["status"], refused["attempts"]) == ("ok", "2")
    for row in unknown:
        if again:
            assert (row["status"], row["attempts"], row["error_message"]) == ("ok", "2", "")
            assert row["output"] == f"echo: id={row['id']}"
        else:
            assert (row["status"], row["attempts"], row["output"]) == ("error", "1", "")
            assert LOST in row["error_message"]
            assert "attempts" not in row["error_message"]
        assert server.count(row["id"]) == int(row["attempts"])
    assert ("no complete answer within 2 s" in unknown[0]["error_message"]) is not again


def test_a_row_whose_attempts_are_used_up_tells_how_many_there_were(place, server):
    server.behave(cut_mid_body())
    place.questions(1, "ollama")
    (row,) = run(place, max_retries=1)
    assert (row["status"], row["attempts"], server.count("1")) == ("error", "2", 2)
    assert row["error_message"].endswith(f"({LOST}) (after 2 attempts)")


def test_providers_of_one_table_are_each_treated_as_they_are(place, server):
    server.behave(lambda seen: cut_mid_body() if server.count(seen.experiment) == 1 else answer())
    place.table(
        [
            {"provider": provider, "model": "fake-small", "id": number}
            for number, provider in enumerate(("openai", "ollama"), 1)
        ]
    )
    assert [(row["status"], row["attempts"]) for row in run(place)] == [("error", "1"), ("ok", "2")]


@pytest.mark.parametrize(
    ("provider", "option", "env", "attempts"),
    [
        ("openai", [], {}, "1"),
        ("openai", ["--retry-unknown"], {}, "2"),
        ("openai", [], {"PARALLAMR_RETRY_UNKNOWN": "1"}, "2"),
        ("ollama", [], {}, "2"),
        ("ollama", ["--no-retry-unknown"], {}, "1"),
        ("ollama", ["--retry-unknown"], {"PARALLAMR_RETRY_UNKNOWN": "0"}, "2"),
    ],
)
def test_the_command_line_has_a_switch_for_it(place, server, provider, option, env, attempts):
    server.behave(lambda seen: stall() if server.count(seen.experiment) == 1 else None)
    place.questions(1, provider)
    done = place.run("-o", "results.csv", "--procs", "1", "--timeout", TIMEOUT_S, *option, **env)
    assert done.code == (0 if attempts == "2" else 3), done
    (row,) = place.rows()
    assert (row["attempts"], server.count("1")) == (attempts, int(attempts))
    assert (LOST in row["error_message"]) is (attempts == "1")


class Forgetful:
    """A provider of somebody else's, whose first answer to everything is lost."""

    def __init__(self):
        self.asked = set()

    def complete(self, request):
        if request.prompt not in self.asked:
            self.asked.add(request.prompt)
            raise ProviderError("timeout", "no answer (outcome unknown)", unknown=True)
        return Reply("at last")


class Free(Forgetful):
    free_of_charge = True


@pytest.mark.parametrize(
    ("kind", "retry_unknown", "attempts"),
    [(Forgetful, None, "1"), (Forgetful, True, "2"), (Free, None, "2"), (Free, False, "1")],
)
def test_a_provider_of_somebody_elses_costs_money_unless_it_says_that_it_does_not(
    place, kind, retry_unknown, attempts
):
    place.questions(1, "parrot")
    (row,) = run(place, procs=0, providers={"parrot": kind()}, retry_unknown=retry_unknown)
    assert row["attempts"] == attempts
    assert row["status"] == ("ok" if attempts == "2" else "error")
