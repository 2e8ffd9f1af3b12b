"""What rows cost: told by the server, else by prices and what it counted, else by nobody."""

import json

import pytest
from support.behaviours import answer, status
from support.cli import FAKE_KEY, read_rows, write_table

from parallamr_mp import BadInput, create_experiment_runner
from parallamr_mp.tariff import Price

PRICES = {"openai/a": Price(2, 10), "openrouter/a": Price(2, 10)}


@pytest.fixture
def job(tmp_path, server, monkeypatch):
    for name, url in (("OPENAI", server.openai_url), ("OPENROUTER", server.openrouter_url)):
        monkeypatch.setenv(f"{name}_BASE_URL", url)
        monkeypatch.setenv(f"{name}_API_KEY", FAKE_KEY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("id={{id}}")
    return tmp_path


def costs(job, *models, **options):
    """Asks one row of each (provider, model); their costs, and the summary."""
    rows = [{"provider": provider, "model": model, "id": n} for n, (provider, model) in enumerate(models)]
    write_table(job / "table.csv", rows)
    runner = create_experiment_runner(procs=0, threads=1, prices=PRICES, **options)
    summary = runner.run_experiments("prompt.txt", "table.csv", "results.csv", overwrite=True)
    return [row["cost_usd"] for row in read_rows(job / "results.csv")], summary


def test_a_price_makes_a_cost_of_what_the_server_counted(job, server):
    server.behave(answer("x", usage=(1000, 100)))
    assert costs(job, ("openai", "a"))[0] == ["0.003"]


def test_what_the_server_says_wins_over_the_price(job, server):
    server.behave(answer("x", usage={"prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.5}))
    assert costs(job, ("openrouter", "a"))[0] == ["0.5"]


def test_unknown_prices_and_uncounted_answers_cost_nobody_knows_what(job, server):
    server.behave(answer("x", usage=None))
    assert costs(job, ("openai", "a"), ("openai", "b"))[0] == ["", ""]


def test_mock_costs_nothing(job):
    assert costs(job, ("mock", "mock"))[0] == ["0.0"]


def test_the_price_that_openrouter_lists_is_used(job, server):
    pricing = {"prompt": "0.001", "completion": "0.002"}
    server.behave_lookup(status(200, body={"data": [{"id": "z", "pricing": pricing}]}))
    server.behave(answer("x", usage={"prompt_tokens": 3, "completion_tokens": 1}))
    assert costs(job, ("openrouter", "z"))[0] == ["0.005"]


def test_the_manifest_tells_the_prices_and_the_total(job, server):
    server.behave(answer("x", usage=(1000, 100)))
    costs(job, ("openai", "a"))
    (run,) = json.loads((job / "results.csv.manifest.json").read_text())["runs"]
    assert run["settings"]["prices"]["openai/a"] == {"input": 2, "output": 10, "request": 0.0, "tiers": []}
    assert run["totals"]["cost_usd"] == 0.003


def test_a_budget_without_a_price_is_refused_before_anything_is_sent_or_written(job, server):
    with pytest.raises(BadInput, match=r"no price is known for openai/b\n.*--price openai/b="):
        costs(job, ("openai", "a"), ("openai", "b"), max_cost=1.0, params={"max_tokens": 5})
    with pytest.raises(BadInput, match="nothing limits the answers of openai/a"):
        costs(job, ("openai", "a"), max_cost=1.0)
    assert server.requests == []
    assert not (job / "results.csv").exists()


def test_a_run_stops_before_its_budget_is_spent_and_can_be_gone_on_with(job, server):
    server.behave(answer("x", usage=(1000, 100)))  # 0.003 USD; the worst is 0.0104 a row
    rows = [("openai", "a")] * 20
    _, summary = costs(job, *rows, max_cost=0.02, params={"max_tokens": 980})
    assert 0 < summary.written < 20
    assert summary.missing == 20 - summary.written
    assert 0.02 - 0.0105 < summary.cost_usd <= 0.02
    assert len(server.requests) == summary.written
