"""What `scripts/bench` tells of its runs: growth, goals, README's block. None of it is measured here."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchmark import publish
from benchmark.check import begins_with, faults_of, marker_of, write_table
from benchmark.contestants import CONTESTANTS
from benchmark.goals import GOALS, Figures, told
from benchmark.measure import Measures
from benchmark.memory import Memory, bytes_of_tree, has_open
from benchmark.report import Cell, summaries
from benchmark.scenarios import SCENARIOS, Size
from benchmark.tables import COLUMNS, table

ROOT = Path(__file__).resolve().parent.parent
BY_NAME = {each.name: each for each in SCENARIOS}


def cell(scenario, client, number=0, *, size, cpu=1.0, wall=1.0, peak=10_000_000, faults=()):
    measures = Measures(wall_s=wall, cpu_s=cpu, peak_bytes=peak, code=0, last_words="", peak_in_flight=1000)
    ideal = 0.9 if scenario.startswith("1s") else 0.0
    return Cell(scenario, client, client, number, size, ideal, measures, faults)


def summed(cells):
    return summaries(cells, {each.name: each.reference for each in SCENARIOS})


def growing(*cpus, more=()):
    """A start of a second, and then what is given for each size."""
    sizes = [Size(1000), Size(10_000), Size(100_000), Size(1_000_000), *more]
    return [cell("growth", "parallamr-mp", size=size, cpu=cpu) for size, cpu in zip(sizes, cpus, strict=True)]


def test_growth_that_is_linear_beyond_the_start_has_ratios_of_one():
    lines = summed(growing(*(1.0 + rows * 80e-6 for rows in (1000, 10_000, 100_000, 1_000_000))))
    assert [line.further_us and round(line.further_us, 6) for line in lines] == [None, 80.0, 80.0, 80.0]
    assert [line.further_ratio and round(line.further_ratio, 6) for line in lines] == [None, 1.0, 1.0, 1.0]


def test_rows_that_are_lost_in_the_noise_of_a_start_make_no_ratio():
    lines = summed(growing(1.0, 0.9, 0.8, 100.0))
    assert [line.further_ratio for line in lines] == [None] * 4


def test_growth_that_is_steeper_than_linear_is_seen_and_the_goal_not_met():
    cells = growing(1.0, 1.9, 10.9, 200.9)
    lines = summed(cells)
    assert [round(line.further_ratio or 0, 1) for line in lines] == [0.0, 1.0, 1.0, 2.0]
    (said,) = (
        line
        for line in told(Figures(cells, lines)).splitlines()
        if "a tenth of the rows" in line and "CPU" in line
    )
    assert said.startswith("- **not met**: growth: parallamr-mp: 2.00 x the CPU a further row")


def test_what_wider_tables_and_files_cost_is_told_apart():
    more = (Size(100_000, columns=50), Size(100_000, contexts=20))
    cells = growing(1.0, 1.9, 10.9, 100.9, 15.85, 10.9, more=more)
    said = told(Figures(cells, summed(cells)))
    assert "**not met**: growth: parallamr-mp: 1.50 x the CPU a further row with 50 columns" in said
    assert "met: growth: parallamr-mp: 1.00 x the CPU a further row with 20 context files" in said


def test_a_goal_is_judged_by_ratios_within_rounds():
    size = Size(40_000)
    cells = []
    for number, pace in enumerate((1.0, 10.0, 0.5)):  # a machine that is not the same in each round
        cells.append(cell("50ms", "aiohttp", number, size=size, wall=pace, cpu=pace))
        cells.append(cell("50ms", "parallamr-mp", number, size=size, wall=pace / 1.2, cpu=pace * 1.7))
    said = told(Figures(cells, summed(cells)))
    assert "- met: 50ms: parallamr-mp: 1.20 x the req/s of aiohttp (goal: at least 1.1)" in said
    assert "**not met**: 50ms: parallamr-mp: 1.70 x the CPU a request of aiohttp (goal: at most 1.6)" in said


def test_nothing_is_said_of_what_was_not_measured_or_was_wrong():
    wrong = cell("1s", "parallamr-mp", size=Size(10_000), faults=("3 rows missing",))
    assert told(Figures([wrong], summed([wrong]))) == ""
    right = cell("1s", "parallamr-mp", size=Size(10_000))
    assert "met: 1s: parallamr-mp: 0.90 of the ideal (goal: at least 0.85)" in told(
        Figures([right], summed([right]))
    )


def test_goals_are_of_scenarios_and_clients_that_exist_and_meet():
    names = {each.name for each in CONTESTANTS}
    for goal in GOALS:
        assert goal.client in names
        scenario = BY_NAME[goal.scenario]
        assert not scenario.only or goal.client in scenario.only


def tables():
    cells = [cell(name, "aiohttp", size=Size(100)) for name in BY_NAME]
    lines = summed(cells)
    return {line.scenario: table(BY_NAME[line.scenario], [line]) for line in lines}


def test_readme_gets_the_tables_between_its_marks_and_nothing_else_changes(tmp_path):
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{publish.BEGIN}\nold 123\n{publish.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        publish.publish(tmp_path, "two cores", tables(), "### Goals")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{publish.BEGIN}\n![")
    assert text.endswith(f"two cores.\n{publish.END}\nafter\n")
    assert "old 123" not in text
    assert [title for title, _ in publish.headings(text)] == [BY_NAME[name].title for name in publish.SHOWN]
    report = (tmp_path / "docs" / "bench.md").read_text(encoding="utf-8")
    assert [title for title, _ in publish.headings(report)] == [each.title for each in SCENARIOS]
    assert report.endswith("### Goals\n")


def test_a_readme_without_a_place_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("nothing\n")
    with pytest.raises(publish.NoBlockError):
        publish.publish(tmp_path, "two cores", tables(), "")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_block_in_readme_is_one_that_the_script_writes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition(publish.BEGIN)[2].partition(publish.END)[0]
    assert text.count(publish.BEGIN) == text.count(publish.END) == 1
    expected = [
        (scenario.title, ["client", *(COLUMNS[name][0] for name in scenario.columns)])
        for scenario in (BY_NAME[name] for name in publish.SHOWN)
    ]
    assert publish.headings(block) in ([], expected)  # nothing, as long as nobody has measured
    if publish.headings(block):
        assert (ROOT / publish.PICTURE).exists()
        assert (ROOT / publish.TABLES).exists()


@pytest.mark.parametrize(
    "options", [["--quick"], ["--rows", "10"], ["--only", "aiohttp"], ["--scenario", "start"]]
)
def test_a_call_of_less_than_everything_does_not_get_into_readme(options):
    before = (ROOT / "README.md").read_bytes()
    command = [sys.executable, "-m", "benchmark.bench", "--readme", *options]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--readme is for a call with everyone" in done.stderr
    assert (ROOT / "README.md").read_bytes() == before


def test_a_wider_table_has_the_same_rows_and_more_columns(tmp_path):
    write_table(tmp_path / "narrow.csv", Size(3))
    write_table(tmp_path / "wide.csv", Size(3, columns=50))
    narrow, wide = ((tmp_path / name).read_text().splitlines() for name in ("narrow.csv", "wide.csv"))
    assert [line.count(",") + 1 for line in wide] == [50] * 4
    assert all(long.startswith(f"{short},") for short, long in zip(narrow, wide, strict=True))


def test_a_table_of_fewer_rows_is_the_beginning_of_one_of_more(tmp_path):
    write_table(tmp_path / "few.csv", Size(3))
    write_table(tmp_path / "more.csv", Size(5))
    assert begins_with(tmp_path / "more.csv", tmp_path / "few.csv")
    assert not begins_with(tmp_path / "few.csv", tmp_path / "more.csv")


def test_an_answer_of_the_mock_provider_is_known_by_its_rows_marker(tmp_path):
    answers = [f'Variables: {{"marker": "{marker_of(number)}"}}' for number in (0, 2)]
    lines = [f"""{number},"{answer.replace('"', '""')}\"""" for number, answer in enumerate(answers)]
    (tmp_path / "r.csv").write_text("\n".join(["id,output", *lines]) + "\n")
    assert faults_of(tmp_path / "r.csv", 2, mock=True) == ["1 rows with an answer that is not theirs (id 1)"]


OPENER = """
import sys
file = open(sys.argv[1], "w")
print("open", flush=True)
sys.stdin.read()
"""
STARTER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def test_the_writer_is_told_from_the_workers_by_the_file_that_it_has_open(tmp_path):
    output = tmp_path / "results.csv"
    command = [sys.executable, "-c", STARTER, OPENER, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        (writer,) = bytes_of_tree(process.pid).keys() - {process.pid}
        assert has_open(writer, str(output))
        assert not has_open(writer, str(tmp_path / "other.csv"))
        memory = Memory(process.pid, output, 3600)
        memory._look()
        assert memory.peak == memory.parent > 1e6
        assert (memory.worker, memory.writer) == (None, None), "it may be on its way to another program"
        memory._look()
        assert memory.writer > 1e6
        assert memory.worker is None
        assert memory.peak > memory.parent
        process.stdin.close()
    assert bytes_of_tree(process.pid) == {}
