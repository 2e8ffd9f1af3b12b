"""`plan` tells what a run would do, and then the run does that."""

import pytest
from support.behaviours import answer, stall, status
from support.cli import Place, run_cli

from parallamr_mp import create_experiment_runner, lookups
from parallamr_mp.cli.plan import format_preview
from parallamr_mp.estimate import ASSUMPTIONS, CHAT_TOKENS
from parallamr_mp.preview import ModelCost
from parallamr_mp.tariff import Price

FEW = ("--procs", "1", "--threads", "2")


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(4)
    return place


def plan(place, *options):
    """What `plan` says, by its first column; repeated ones as a list."""
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    words = place.job("-o", "results.csv", *options)
    done = run_cli(place.folder, "plan", *words[1:], env=place.env)
    assert (done.code, done.stderr) == (0, ""), done
    assert before == {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    told, name = {}, ""
    for line in done.stdout.splitlines():
        name = line[:9].strip() or name
        told.setdefault(name, []).append(line[10:])
    return {name: lines[0] if len(lines) == 1 else lines for name, lines in told.items()}


def run(place, *options):
    return place.run("-o", "results.csv", *FEW, *options)


def test_a_first_run_would_ask_everything(place, server):
    place.table(
        [
            {"provider": name, "model": model, "id": n}
            for n, (name, model) in enumerate([("openai", "a"), ("mock", "m"), ("openai", "a")])
        ]
    )
    assert plan(place, "--repeat", "2") == {
        "table": "6 experiments",
        "output": "results.csv (new)",
        "new": "6",
        "to send": ["6 requests", "4 openai/a", "2 mock/m"],
        "cost": "no price known for openai/a: 4 rows are not in the estimate;"
        " --price openai/a=IN:OUT (USD a million tokens)",
    }
    assert server.requests == []


def test_after_a_run_nothing_would_be_asked(place, server):
    assert run(place).code == 0
    told = plan(place)
    assert (told["output"], told["done"], told["to send"]) == ("results.csv (exists)", "4", "nothing")
    assert len(server.requests) == 4


def test_each_kind_of_row_is_counted_and_the_run_does_as_told(place, server):
    server.behave(lambda request: status(400) if request.experiment in {"2", "3"} else answer())
    assert run(place).code == 3
    server.behave(answer())
    server.clear()
    place.table([{"provider": "openai", "model": "fake-small", "id": id_} for id_ in (1, 2, 3, 7, 8)])
    told = plan(place)
    assert told["done"].startswith("3 (2 error rows")
    assert told["new"] == "2"
    assert told["removed"].startswith("1 ")
    assert told["to send"] == ["2 requests", "2 openai/fake-small"]
    told = plan(place, "--retry-errors")
    assert (told["new"], told["done"], told["to retry"]) == ("2", "1", "2")
    assert told["to send"][0] == "4 requests"
    assert run(place, "--resume", "--retry-errors").code == 0
    assert len(server.requests) == 4


def test_changed_rows_are_told_apart(place, server):
    assert run(place).code == 0
    place.write("prompt.txt", "another id={{id}}")
    told = plan(place)
    assert told["changed"].startswith("4 (the old results stay")
    assert (told["new"], told["done"], told["to send"]) == ("0", "0", "nothing")
    told = plan(place, "--redo-changed")
    assert told["changed"] == "4 (asked again)"
    assert (told["new"], told["done"], told["to send"][0]) == ("0", "0", "4 requests")
    server.clear()
    assert run(place, "--resume", "--redo-changed").code == 0
    assert len(server.requests) == 4


def test_overwriting_asks_everything_and_says_what_goes(place):
    assert run(place).code == 0
    told = plan(place, "--overwrite")
    assert told["output"] == "results.csv (1 of them with results, to be replaced)"
    assert (told["new"], told["to send"][0]) == ("4", "4 requests")


def test_torn_and_rescued_records_are_told(place):
    assert run(place).code == 0
    path = place.folder / "results.csv"
    header, *records = path.read_bytes().splitlines(keepends=True)
    (place.folder / "results.csv.rescue-7.csv").write_bytes(header + records[2])
    path.write_bytes(header + b"".join(records[:2]) + b"torn")
    told = plan(place)
    assert told["torn"].startswith("4 bytes")
    assert told["rescued"].startswith("1 answer")
    assert (told["done"], told["new"]) == ("3", "1")


def test_a_column_more_is_told_and_costs_nothing(place):
    assert run(place).code == 0
    place.table([{"provider": "openai", "model": "fake-small", "id": n + 1, "note": "x"} for n in range(4)])
    told = plan(place)
    assert (told["done"], told["to send"]) == ("4", "nothing")
    assert "gets the columns note" in told["note"]


def test_rows_whose_files_are_missing_would_become_errors(place):
    place.write("p/1.txt", "one")
    told = plan(place, "-p", "p/{{id}}.txt")
    assert told["errors"].startswith("3 rows")
    assert told["to send"] == ["1 request", "1 openai/fake-small"]


def test_who_writes_at_the_moment_is_told(place, server):
    server.behave(stall())
    with place.start("-o", "results.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        done = run_cli(place.folder, "plan", *place.job("-o", "results.csv")[1:], env=place.env)
        assert f"process {process.pid} on" in done.stdout, done
        server.behave(answer())
        server.release_all()
        assert process.wait(10) == 0


@pytest.mark.parametrize("options", [(), ("--flatten",)])
def test_standard_output_is_planned_for_too(place, options):
    done = run_cli(place.folder, "plan", *place.job(*options)[1:], env=place.env)
    assert (done.code, done.stderr) == (0, ""), done
    assert "standard output" in done.stdout
    assert "4 requests" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "experiments.csv"), "is an input of this run"),
        (("-o", "no/such/../results.csv", "-e", "gone.csv"), "gone.csv"),
        (("-j", "0"), "--parallel 0"),
    ],
)
def test_bad_input_is_told_as_a_run_would(place, options, words):
    done = run_cli(place.folder, "plan", *place.job(*options)[1:], env=place.env)
    assert done.code == 2, done
    assert words in done.stderr


# --- what it would cost ------------------------------------------------------------------------

PRICES = {"openai/a": Price(2, 10), "openai/b": Price(20, 100)}


@pytest.fixture
def preview(place, monkeypatch):
    """What the library foresees for rows of these models, and what `plan` makes of it."""

    def foresee(*models, **options):
        for name, value in place.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(place.folder)
        place.write("prompt.txt", "x" * 400)
        place.table([{"provider": "openai", "model": model, "id": n} for n, model in enumerate(models)])
        runner = create_experiment_runner(**{"prices": PRICES, **options})
        found = runner.preview_experiments("prompt.txt", "experiments.csv", "results.csv")
        lines = format_preview(found)
        start = next((number for number, line in enumerate(lines) if line.startswith("cost")), len(lines))
        return found, [line[10:] for line in lines[start:]]

    return foresee


def test_the_cost_is_foreseen_low_likely_and_high(preview):
    found, lines = preview("a", "a", params={"max_tokens": 1000})
    assert found.costs == (
        ModelCost(
            "openai",
            "a",
            2,
            pytest.approx(2 * (80 * 2 + 20 * 10) / 1e6),
            pytest.approx(2 * (100 * 2 + 300 * 10) / 1e6),
            pytest.approx(2 * ((400 + CHAT_TOKENS) * 2 + 1000 * 10) / 1e6),
        ),
    )
    assert lines == ["likely 0.006400 USD (low 0.000720, high 0.0226)", ASSUMPTIONS]


def test_models_are_told_apart_and_those_without_a_price_are_named(preview):
    found, lines = preview("a", "b", "c", "c", params={"max_tokens": 10})
    assert [(cost.model, cost.rows, cost.likely is None) for cost in found.costs] == [
        ("a", 1, False),
        ("b", 1, False),
        ("c", 2, True),
    ]
    assert lines[0].startswith("likely 0.002750 USD")
    assert lines[1].startswith("openai/a: likely 0.000250 USD")
    assert lines[2].startswith("openai/b: likely 0.002500 USD")
    assert lines[4].startswith(
        "no price known for openai/c: 2 rows are not in the estimate; --price openai/c="
    )


def test_answers_without_a_limit_have_no_highest_cost(preview):
    found, lines = preview("a")
    assert found.costs[0].high is None
    assert lines[0].endswith("no upper bound)")
    assert "nothing limits the answers of openai/a; --param max_tokens=N does" in lines


@pytest.mark.parametrize(
    ("most", "words"),
    [(1, "enough at the worst"), (0.004, "likely to be enough"), (0.001, "before its last row")],
)
def test_a_budget_is_held_against_the_estimate(preview, most, words):
    _, lines = preview("a", params={"max_tokens": 1000}, max_cost=most)
    assert words in lines[-1]


def test_it_is_said_where_to_get_prices(preview, monkeypatch):
    monkeypatch.setattr(lookups, "table_installed", lambda: False)
    monkeypatch.setattr(lookups, "may_be_listed", lambda base: True)
    assert preview("c")[1][-1] == "a table of prices: pip install 'parallamr-mp[cost]'"
    assert len(preview("a")[1]) == 3


def test_what_is_done_costs_nothing_more(preview, place, server):
    assert preview("a")[0].costs
    assert run(place).code == 0
    assert preview("a")[0].costs == ()
