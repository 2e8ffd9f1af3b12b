"""`scripts/bench`: that it runs, finds wrong results, and compares only what was measured side by side."""

import csv
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchmark.chat import answer_to
from benchmark.check import faults_of, marker_of, write_table
from benchmark.contestants import CONTESTANTS, Contestant, known, turns
from benchmark.measure import Measures
from benchmark.picture import draw
from benchmark.report import Cell, summaries
from benchmark.scenarios import REFERENCE, SCENARIOS, Size
from benchmark.tables import table

ROOT = Path(__file__).resolve().parent.parent
LIAR = """
import argparse, csv
parser = argparse.ArgumentParser()
for name in ("url", "experiments", "prompt", "output", "procs", "threads"):
    parser.add_argument("--" + name)
given = parser.parse_args()
with open(given.experiments, newline="") as table, open(given.output, "w", newline="") as results:
    writer = csv.writer(results)
    for number, row in enumerate(csv.reader(table)):
        writer.writerow([*row, "sure!" if number else "output"])
"""


def bench(*options):
    command = [sys.executable, "-m", "benchmark.bench", "--quick", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def write_results(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "output"])
        writer.writerows(rows)


def right(number):
    return number, answer_to(marker_of(number))


def cell(client, number, *, wall, rows=100, faults=(), scenario="50ms", cpu=None, size=None):
    used = wall / 2 if cpu is None else cpu
    measures = Measures(wall_s=wall, cpu_s=used, peak_bytes=10_000_000, code=0, last_words="")
    return Cell(scenario, client, client, number, size or Size(rows), 0.5, measures, faults)


def summed(cells):
    return summaries(cells, {each.name: each.reference for each in SCENARIOS})


def test_quick_runs_every_kind_of_traffic_and_everyone_is_right(tmp_path):
    scenarios = ("50ms", "tls", "memory", "start")
    done = bench(
        *("--only", "parallamr-mp,raw-sockets", "--scenario", ",".join(scenarios)),
        *("--json", tmp_path / "figures.json"),
    )
    assert done.returncode == 0, done
    figures = json.loads((tmp_path / "figures.json").read_text())
    lines = {(line["scenario"], line["client"]): line for line in figures["summary"]}
    assert {scenario for scenario, _ in lines} == set(scenarios)
    for line in lines.values():
        assert (line["faults"], line["notes"]) == ([], [])
        assert line["peak_in_flight"] <= 16
    ours = lines["tls", "parallamr-mp"]
    assert ours["handshakes"] <= 16 + 1, "connections are kept; one more asks for the models"
    assert lines["tls", "raw-sockets"]["handshakes"] == 16
    assert lines["start", "parallamr-mp"]["help_s"] > 0
    assert ours["first_s"] < ours["wall_s"]
    assert ours["cpu_s"] > 0.1, "workers count too, not only the main process"
    assert ours["peak_bytes"] > 20e6
    assert figures["machine"]["versions"]["parallamr-mp"]
    assert "| **parallamr-mp** |" in done.stdout


def test_quick_grows_and_goes_on_with_what_is_finished(tmp_path):
    done = bench("--scenario", "engine,growth,resume", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done
    lines = json.loads((tmp_path / "figures.json").read_text())["summary"]
    assert {line["client"] for line in lines} == {"parallamr-mp"}, "the mock provider is ours alone"
    sizes = [tuple(line["size"].values()) for line in lines if line["scenario"] == "growth"]
    rows = [(number, 5, 0) for number in (100, 200, 300, 400)]
    assert sizes == [*rows, (300, 50, 0), (300, 5, 20)]
    (resumed,) = (line for line in lines if line["scenario"] == "resume")
    assert resumed["size"]["rows"] == 100
    for role in ("parent", "worker"):
        assert 5e6 < resumed[f"{role}_bytes"] < resumed["peak_bytes"]


def test_quick_connects_anew_for_each_request_and_unknown_authorities_are_refused(tmp_path):
    done = bench("--scenario", "connect", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done
    lines = json.loads((tmp_path / "figures.json").read_text())["summary"]
    assert [(line["client"], line["handshakes"]) for line in lines] == [
        ("parallamr-mp", 20),
        ("requests", 20),
    ]
    assert lines[0]["cpu_ratio"] is not None


def test_a_client_with_wrong_results_is_found_out(tmp_path):
    (tmp_path / "liar.py").write_text(LIAR)
    command = shlex.join([sys.executable, str(tmp_path / "liar.py")])
    done = bench("--scenario", "50ms", "--client", f"liar={command}", "--only", "liar,http.client")
    assert done.returncode == 1, done
    assert "| liar | wrong |" in done.stdout
    assert "liar: wrong results: 100 rows with an answer that is not theirs (id 0, 1, 2, …)" in done.stdout
    assert "http.client: wrong" not in done.stdout
    assert "0 requests for 100 rows" in done.stdout


def test_a_client_that_fails_is_told_with_its_last_words():
    command = f"broken={sys.executable} -c 'raise SystemExit(\"no luck\")'"
    done = bench("--scenario", "50ms", "--client", command, "--only", "broken")
    assert done.returncode == 1
    assert "it ended with code 1: no luck" in done.stdout
    assert "no results" in done.stdout


@pytest.mark.parametrize("options", [["--only", "nobody"], ["--scenario", "nowhere"]])
def test_a_name_that_is_unknown_is_told_with_those_that_are_known(options):
    done = bench(*options)
    assert done.returncode == 1
    assert options[1] in done.stderr
    assert ("parallamr-mp" if options[0] == "--only" else "50ms") in done.stderr


def test_right_results_in_any_order_have_no_fault(tmp_path):
    write_results(tmp_path / "r.csv", [right(2), right(0), right(1)])
    assert faults_of(tmp_path / "r.csv", 3) == []


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([right(0), right(1)], "1 rows missing (id 2)"),
        ([right(0), right(1), right(2), right(1)], "1 rows more than once (id 1)"),
        ([right(0), right(1), right(2), right(3)], "1 rows that no one asked for (id 3)"),
        (
            [right(0), (1, right(2)[1]), (2, right(1)[1])],
            "2 rows with an answer that is not theirs (id 1, 2)",
        ),
        ([right(0), right(1), (2, right(2)[1][:-1])], "1 rows with an answer that is not theirs (id 2)"),
        ([right(0), right(1), (2, "")], "1 rows with an answer that is not theirs (id 2)"),
    ],
)
def test_every_way_to_be_wrong_is_told(rows, fault, tmp_path):
    write_results(tmp_path / "r.csv", rows)
    assert faults_of(tmp_path / "r.csv", 3) == [fault]


def test_results_of_another_form_are_wrong_and_no_crash(tmp_path):
    (tmp_path / "r.csv").write_text("id,answer\n0,x\n")
    assert "no table of the asked form" in faults_of(tmp_path / "r.csv", 1)[0]


def test_the_table_has_as_many_markers_as_rows(tmp_path):
    write_table(tmp_path / "e.csv", Size(1000))
    with open(tmp_path / "e.csv", newline="", encoding="utf-8") as file:
        assert len({row["marker"] for row in csv.DictReader(file)}) == 1000


def test_ratios_are_within_a_round_and_the_median_is_taken_last():
    # A machine that is busy in the second round, and twice as fast in the third: no ratio shall show it.
    walls = [1.0, 10.0, 0.5]
    cells = [cell(REFERENCE, number, wall=wall) for number, wall in enumerate(walls)]
    cells += [cell("other", number, wall=wall / 2) for number, wall in enumerate(walls)]
    reference, other = summed(cells)
    assert (reference.rate_ratio, other.rate_ratio, other.cpu_ratio) == (1.0, 2.0, 0.5)
    assert (reference.rate, other.rate) == (100.0, 200.0)


def test_nobody_is_compared_with_a_reference_that_was_wrong():
    cells = [cell(REFERENCE, 0, wall=1.0, faults=("3 rows missing",)), cell("other", 0, wall=1.0)]
    assert summed(cells)[1].rate_ratio is None


def test_figures_of_wrong_results_are_not_shown():
    scenario = SCENARIOS[0]
    shown = table(scenario, summed([cell("one", 0, wall=0.5, faults=("3 rows missing",))]))
    assert "200" not in shown
    assert "**one: wrong results: 3 rows missing**" in shown


def test_who_did_fewer_rows_is_told():
    shown = table(SCENARIOS[0], summed([cell("slow", 0, wall=1.0, rows=512)]))
    assert "; slow 512 rows. One round." in shown


def test_the_picture_is_drawn(tmp_path, monkeypatch):
    # Fonts are looked for once, not once a test run.
    monkeypatch.setenv("MPLCONFIGDIR", str(ROOT / ".cache" / "matplotlib"))
    lines = summed([cell("parallamr-mp", 0, wall=1.0), cell(REFERENCE, 0, wall=2.0)])
    draw(SCENARIOS, lines, "a machine", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_every_scenario_names_contestants_and_columns_that_exist():
    names = {each.name for each in CONTESTANTS}
    for scenario in SCENARIOS:
        assert set(scenario.only) <= names
        assert scenario.in_brief().most_rows <= 400
        summary = summed([cell("one", 0, wall=1.0)])
        assert scenario.title in table(scenario, summary)
    assert REFERENCE in names


def test_slow_clients_do_a_share_that_still_fills_all_seats():
    scenario = next(each for each in SCENARIOS if each.name == "1s")
    assert scenario.sizes_for(1.0) == scenario.sizes
    assert scenario.sizes_for(0.01) == (Size(2 * scenario.in_flight),)


def test_rounds_are_interleaved_and_the_very_slow_run_once():
    scenario = next(each for each in SCENARIOS if each.name == "50ms")
    contestants = [
        Contestant("a", "a"),
        Contestant("b", "b", share=0.5),
        Contestant("slow", "slow", share=0.01),
    ]
    order = [(number, each.name) for number, each, _ in turns(scenario, contestants, 3)]
    assert order == [(0, "a"), (0, "b"), (0, "slow"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]
    shares = [size.rows for _, each, size in turns(scenario, contestants, 1) if each.name in "ab"]
    assert shares[1] == shares[0] / 2


def test_fewer_rows_keep_the_growth_and_the_start_what_they_are():
    rows = {each.name: [size.rows for size in each.with_rows(1000).sizes] for each in SCENARIOS}
    assert (rows["50ms"], rows["memory"]) == ([1000], [100, 1000])
    assert (rows["start"], rows["connect"]) == ([16], [200])
    assert rows["growth"] == [1, 10, 100, 1000, 100, 100]


def test_an_extra_takes_part_once_it_is_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert ("parallamr-mp[fast]" in {each.name for each in known()}) == ("fast" in extras)


def test_every_client_is_there():
    for each in CONTESTANTS:
        assert each.ours or Path(each.command[0]).is_file()
