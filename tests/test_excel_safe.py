"""Results that a spreadsheet may open: no cell is a formula. Resuming does not care which are guarded."""

import csv
import json
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.behaviours import answer, status

from parallamr_mp import BadInput, ProviderError, Reply, create_experiment_runner
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.records import columns_for, guard

COLUMNS = ("provider", "model", "topic")
DANGEROUS = tuple("=+-@\t\r\n\0＝＋－＠")
FORMULA = "=cmd|'/c calc'!A1"
TOPICS = [FORMULA, f"'{FORMULA}", "-5", "+1 2", "@here", "\tx", "\r", "plain", "'", "''=1", "＝1", "-5%", ""]


class Spy:
    """Answers with a formula that holds JSON, counts what it is asked, and fails when told to."""

    def __init__(self, failing=()):
        self.asked, self.failing = Counter(), failing
        self._lock = threading.Lock()

    def complete(self, request):
        topic = request.variables["topic"]
        with self._lock:
            self.asked[topic] += 1
        if topic in self.failing:
            raise ProviderError("bad_request", f"@no {topic}")
        words = json.dumps({"=key": f"={request.prompt}", "n": -5, "": "-"})
        return Reply(f"={words}", finish_reason="-stop", endpoint="@home")


class Sweep:
    def __init__(self, folder):
        self.prompt, self.table, self.output = (
            folder / "prompt.txt",
            folder / "exp.csv",
            folder / "results.csv",
        )
        self.prompt.write_text("about {{topic}}")

    def run(self, topics, *, failing=(), **options):
        """Runs and returns what was asked, by topic."""
        with self.table.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *(("mock", "m", topic) for topic in topics)])
        spy = Spy(failing)
        runner = create_experiment_runner(procs=0, threads=2, providers={"mock": spy})
        runner.run_experiments(self.prompt, self.table, self.output, **options)
        return spy.asked

    def cells(self):
        """Header and rows as a spreadsheet sees them."""
        with self.output.open(encoding="utf-8", newline="") as stream:
            return list(csv.reader(stream, strict=True))

    def rows(self):
        header, *rows = self.cells()
        return [dict(zip(header, row, strict=True)) for row in rows]

    def lose(self, count):
        """Cuts the last rows off, as a killed run would have left the file."""
        header, *rows = self.cells()
        with self.output.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
                [header, *rows[: len(rows) - count]]
            )


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def formulas(cells):
    """The cells that a spreadsheet would run."""
    return [cell for row in cells for cell in row if cell[:1] in DANGEROUS and cell != "-5"]


@pytest.mark.parametrize("flatten", [False, True])
def test_no_cell_is_a_formula(sweep, flatten):
    assert formulas([TOPICS])
    sweep.run(TOPICS, failing=("plain", FORMULA), excel_safe=True, flatten=flatten)
    assert formulas(sweep.cells()) == []
    rows = {row["topic"]: row for row in sweep.rows()}
    assert rows.keys() == {guard(topic) for topic in TOPICS}
    assert rows["plain"]["error_message"] == "'@no plain"
    row = rows["'@here"]
    assert row["output"] == """'={"=key": "=about @here", "n": -5, "": "-"}"""
    assert (row["finish_reason"], row["endpoint"]) == ("'-stop", "'@home")
    if flatten:
        assert (row["'=key"], row["n"], row["_"]) == ("'=about @here", "-5", "'-")


def test_without_it_every_cell_is_what_it_was(sweep):
    sweep.run(TOPICS, failing=("plain",), flatten=True)
    assert [row["topic"] for row in sorted(sweep.rows(), key=lambda row: int(row["row_number"]))] == TOPICS
    row = next(row for row in sweep.rows() if row["topic"] == "@here")
    assert row["output"].startswith('={"=key"')
    assert (row["=key"], row["finish_reason"]) == ("=about @here", "-stop")


def test_flattening_guards_the_rows_that_were_there_and_finds_the_json_of_both(sweep):
    sweep.run(TOPICS[:6], flatten=True)
    assert formulas(sweep.cells())
    assert not sweep.run(TOPICS[:6], resume=True, excel_safe=True, flatten=True)
    assert formulas(sweep.cells()) == []
    assert [row["'=key"] for row in sweep.rows() if row["topic"] == "'@here"] == ["'=about @here"]
    assert all(row["n"] == "-5" for row in sweep.rows())
    once = sweep.output.read_bytes()
    assert not sweep.run(TOPICS[:6], resume=True, excel_safe=True, flatten=True)
    assert sweep.output.read_bytes() == once


def test_keys_that_are_guarded_into_the_same_name_keep_a_column_each(sweep):
    class Two:
        def complete(self, request):
            return Reply('{"=a": 1, "\'=a": 2}')

    sweep.run(["x"], excel_safe=True)
    runner = create_experiment_runner(procs=0, providers={"mock": Two()})
    runner.run_experiments(
        sweep.prompt, sweep.table, sweep.output, overwrite=True, excel_safe=True, flatten=True
    )
    assert sweep.cells()[0][-2:] == ["'=a", "json_'=a"]
    assert sweep.cells()[1][-2:] == ["1", "2"]


@pytest.mark.parametrize("name", ["=x", "-x", "@x", "+x"])
def test_a_column_whose_name_is_a_formula_is_refused_before_anything_is_asked(sweep, name):
    sweep.table.write_text(f"provider,model,{name}\nmock,m,1\n")
    spy = Spy()
    runner = create_experiment_runner(procs=0, providers={"mock": spy})
    for check in (runner.validate_experiments, runner.run_experiments):
        with pytest.raises(BadInput, match="a spreadsheet would run its name as a formula"):
            check(sweep.prompt, sweep.table, sweep.output, excel_safe=True)
    assert not spy.asked
    assert not sweep.output.exists()


topics = st.lists(
    st.sampled_from(TOPICS) | st.text("=+-@'\t\r5a", max_size=4), min_size=1, max_size=6, unique=True
)


@settings(max_examples=40)
@given(
    topics=topics,
    flags=st.lists(st.booleans(), min_size=6, max_size=6),
    flatten=st.booleans(),
    lost=st.integers(0, 6),
    failing=st.integers(0, 5),
)
def test_rows_are_found_again_whether_they_were_guarded_or_not(
    tmp_path_factory, topics, flags, flatten, lost, failing
):
    sweep, more = Sweep(tmp_path_factory.mktemp("sweep")), {"resume": True, "flatten": flatten}
    one = {"excel_safe": flags.pop()}
    bad = topics[failing % len(topics)]
    assert sweep.run(topics, failing=(bad,), flatten=flatten, **one).total() == len(topics)
    lost = min(lost, len(topics))
    missing = [topics[int(row["row_number"]) - 1] for row in sweep.rows()[len(topics) - lost :]]
    sweep.lose(lost)
    asked = sweep.run(topics, failing=(bad,), excel_safe=flags.pop(), **more)
    assert asked == dict.fromkeys(missing, 1)
    assert not sweep.run(topics, excel_safe=flags.pop(), **more)
    # The error rows, and only those.
    assert sweep.run(topics, excel_safe=flags.pop(), retry_errors=True, **more) == {bad: 1}
    # What was changed, and only that; its old rows go.
    sweep.prompt.write_text("now about {{topic}}")
    assert not sweep.run(topics, excel_safe=flags.pop(), **more)
    assert sweep.run(topics, excel_safe=flags.pop(), redo_changed=True, **more) == dict.fromkeys(topics, 1)
    rows = sweep.rows()
    assert len(rows) == len(topics)
    assert all("now about" in row["output"] for row in rows)
    assert "error" not in {row["status"] for row in rows}


@pytest.mark.parametrize("procs", [0, 2])
def test_workers_and_the_parent_guard_what_they_write(tmp_path, server, monkeypatch, procs):
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    prompt, table, output = tmp_path / "p.txt", tmp_path / "e.csv", tmp_path / "r.csv"
    prompt.write_text("id={{id}}")
    table.write_text("provider,model,id\nopenai,fake-small,=1\nopenai,fake-small,-2\nopenai,fake-small,+x\n")
    server.behave(lambda request: status(400) if request.experiment == "-2" else answer("=1+1"))
    runner = create_experiment_runner(procs=procs, threads=2)
    runner.run_experiments(prompt, table, output, excel_safe=True)
    with output.open(encoding="utf-8", newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert {id_: (row["status"], row["output"]) for id_, row in rows.items()} == {
        "'=1": ("ok", "'=1+1"),
        "-2": ("error", ""),
        "'+x": ("ok", "'=1+1"),
    }
    assert {request.experiment for request in server.requests} == {"=1", "-2", "+x"}


def test_the_columns_of_results_need_no_guard():
    assert [guard(name) for name in columns_for(COLUMNS)] == [*COLUMNS, *RESULT_COLUMNS]
