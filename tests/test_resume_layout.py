"""Results whose columns are not (or never were) those of the table: gone on with, nothing asked twice."""

import csv
import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallamr_mp import Reply, create_experiment_runner
from parallamr_mp.errors import ColumnsMismatch
from parallamr_mp.events import Notice
from parallamr_mp.models import ORIGINAL_COLUMNS, RESULT_COLUMNS
from parallamr_mp.verify import verify_file

BEFORE = ("provider", "model", "topic")
TOPICS = ["plain", 'with "quotes"', "two\nlines", "naïve 語😀", ""]


class Spy:
    def __init__(self):
        self.asked = Counter()

    def complete(self, request):
        self.asked[request.prompt] += 1
        return Reply(f'"{request.prompt}",\r\n{{"a": 1}}')


class Sweep:
    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "results.csv"
        self.prompt("on {{topic}}")

    def prompt(self, text):
        (self.folder / "prompt.txt").write_text(text)

    def table(self, columns, rows):
        with (self.folder / "exp.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([columns, *rows])

    def run(self, **options):
        """Runs; returns the prompts that were asked."""
        spy = Spy()
        runner = create_experiment_runner(procs=0, threads=2, providers={"mock": spy}, **options)
        self.told = []
        runner.bus.subscribe(lambda event: isinstance(event, Notice) and self.told.append(event.text))
        self.summary = runner.run_experiments(
            self.folder / "prompt.txt", self.folder / "exp.csv", self.output
        )
        return +spy.asked

    def resume(self, **options):
        return self.run(resume=True, **options)

    def read(self):
        header, *rows = csv.reader(io.StringIO(self.output.read_bytes().decode(), newline=""), strict=True)
        assert all(len(row) == len(header) for row in rows)
        return header, [dict(zip(header, row, strict=True)) for row in rows]

    def rows(self):
        return sorted(self.read()[1], key=lambda row: (int(row["row_number"]), int(row["repeat"])))

    def column(self, name):
        return [row[name] for row in self.rows()]


def old_table(sweep, topics=TOPICS):
    sweep.table(BEFORE, [("mock", "m", topic) for topic in topics])


def new_table(sweep, topics=TOPICS, name="note"):
    sweep.table(
        ("provider", name, "model", "topic"),
        [("mock", f"7{number}", "m", topic) for number, topic in enumerate(topics)],
    )


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


# --- columns that the table has got since ------------------------------------------------------


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_column_that_no_text_uses_is_filled_in_and_nothing_is_asked_again(sweep, repeat):
    old_table(sweep)
    sweep.run(repeat=repeat)
    outputs = sweep.column("output")
    new_table(sweep)
    assert not sweep.resume(repeat=repeat)
    assert sweep.told == [f"{sweep.output}: gets the columns note of the table"]
    header, _ = sweep.read()
    assert header == ["provider", "note", "model", "topic", *RESULT_COLUMNS]
    assert sweep.column("note") == [f"7{number}" for number in range(len(TOPICS)) for _ in range(repeat)]
    assert sweep.column("output") == outputs
    known = sweep.column("experiment_id")
    content = sweep.output.read_bytes()
    assert not sweep.resume(repeat=repeat, redo_changed=True)
    assert sweep.told == []
    assert sweep.output.read_bytes() == content
    # Every row is now what a run with the new table would have written.
    sweep.run(overwrite=True, repeat=repeat)
    assert sweep.column("experiment_id") == known


def test_a_column_that_the_prompt_has_come_to_use_makes_rows_changed_and_keeps_them(sweep):
    old_table(sweep)
    sweep.run()
    outputs = sweep.column("output")
    new_table(sweep)
    sweep.prompt("on {{topic}} with {{note}}")
    assert not sweep.resume()
    assert any("5 rows had another prompt" in text for text in sweep.told)
    assert sweep.column("output") == outputs
    assert not sweep.resume()
    assert sorted(sweep.resume(redo_changed=True).values()) == [1] * 5
    assert sweep.column("row_number") == ["1", "2", "3", "4", "5"]
    assert all("with 7" in output for output in sweep.column("output"))
    assert not sweep.resume(redo_changed=True)


def test_a_parameter_column_changes_what_is_asked_even_if_no_text_uses_it(sweep):
    old_table(sweep)
    sweep.run()
    new_table(sweep, name="param:seed")
    assert not sweep.resume()
    assert any("5 rows had another prompt" in text for text in sweep.told)
    assert sum(sweep.resume(redo_changed=True).values()) == 5


def test_columns_in_another_order_are_the_same_columns(sweep):
    sweep.table(BEFORE, [("mock", "m", "a"), ("mock", "m", "b")])
    sweep.run()
    sweep.table(("topic", "provider", "model"), [("b", "mock", "m"), ("c", "mock", "m"), ("a", "mock", "m")])
    assert sweep.resume() == {"on c": 1}
    assert sweep.read()[0][:3] == ["topic", "provider", "model"]
    assert sorted(sweep.column("topic")) == ["a", "b", "c"]


def test_with_rows_added_edited_and_removed_only_what_is_new_is_asked(sweep):
    old_table(sweep, ["a", "b", "c", "c"])
    sweep.run()
    new_table(sweep, ["c", "x", "a", "c", "d"])
    assert sweep.resume() == {"on x": 1, "on d": 1}
    found = {(row["topic"], row["note"]) for row in sweep.read()[1]}
    assert found == {("c", "70"), ("x", "71"), ("a", "72"), ("c", "73"), ("d", "74"), ("b", "")}
    assert not sweep.resume()


@settings(max_examples=40)
@given(st.data())
def test_a_file_cut_anywhere_is_brought_up_and_each_row_is_there_once(tmp_path_factory, data):
    sweep = Sweep(tmp_path_factory.mktemp("cut"))
    old_table(sweep)
    sweep.run()
    content = sweep.output.read_bytes()
    header = content.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(content)))
    whole = sum(1 for end in record_ends(content) if end <= cut) - 1
    sweep.output.write_bytes(content[:cut])
    new_table(sweep)
    asked = sweep.resume()
    assert sum(asked.values()) == len(TOPICS) - whole
    assert Counter(sweep.column("topic")) == Counter(TOPICS)
    assert sweep.column("note") == [f"7{number}" for number in range(len(TOPICS))]


def record_ends(content):
    quotes = 0
    for position, byte in enumerate(content):
        quotes += byte == ord('"')
        if byte == ord("\n") and quotes % 2 == 0:
            yield position + 1


def test_columns_of_flattened_answers_stay_behind_the_others(sweep):
    old_table(sweep)
    sweep.run(flatten=True)
    assert sweep.read()[0][-1] == "a"
    new_table(sweep)
    assert not sweep.resume(flatten=True)
    assert sweep.read()[0] == ["provider", "note", "model", "topic", *RESULT_COLUMNS, "a"]
    assert sweep.column("a") == ["1"] * 5


def test_a_new_column_is_not_taken_for_one_of_flattened_answers(sweep):
    old_table(sweep)
    sweep.run(flatten=True)
    assert sweep.read()[0][-1] == "a"
    new_table(sweep, name="a")
    assert not sweep.resume(flatten=True)
    header, _ = sweep.read()
    assert header == ["provider", "a", "model", "topic", *RESULT_COLUMNS, "json_a"]
    assert sweep.column("a") == [f"7{number}" for number in range(len(TOPICS))]
    assert sweep.column("json_a") == ["1"] * 5
    assert not sweep.resume(flatten=True)


def test_answers_saved_aside_before_the_column_came_are_taken_in(sweep):
    old_table(sweep)
    sweep.run()
    content = sweep.output.read_bytes()
    first, second, *_ = list(record_ends(content))
    rescue = sweep.folder / "results.csv.rescue-1.csv"
    rescue.write_bytes(content[:first] + content[second:])
    sweep.output.write_bytes(content[:second])
    new_table(sweep)
    assert not sweep.resume()
    assert Counter(sweep.column("topic")) == Counter(TOPICS)
    assert sweep.column("note") == [f"7{number}" for number in range(len(TOPICS))]
    assert not rescue.exists()


def test_a_column_that_the_table_has_lost_is_refused(sweep):
    new_table(sweep)
    sweep.run()
    content = sweep.output.read_bytes()
    old_table(sweep)
    with pytest.raises(ColumnsMismatch, match="not expected: note"):
        sweep.resume()
    assert sweep.output.read_bytes() == content


# --- results of the original parallamr ---------------------------------------------------------


def original(sweep, rows, extra=()):
    """What the original parallamr leaves: its six columns, in the order in which answers came."""
    with sweep.output.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow((*BEFORE, *ORIGINAL_COLUMNS, *(name for name, _ in extra)))
        for topic, status in rows:
            answer = "" if status == "error" else f"old answer on\n{topic}"
            message = "it failed" if status == "error" else ""
            more = [value for _, value in extra]
            writer.writerow(("mock", "m", topic, status, 10, 4096, 20, answer, message, *more))


def test_the_original_parallamrs_results_are_gone_on_with(sweep):
    original(sweep, [(topic, "ok") for topic in reversed(TOPICS[1:])])
    old_table(sweep)
    assert sweep.resume() == {"on plain": 1}
    assert "original parallamr" in sweep.told[0]
    header, _ = sweep.read()
    assert tuple(header) == (*BEFORE, *RESULT_COLUMNS)
    assert sweep.column("topic") == TOPICS
    assert [output.startswith("old answer on\n") for output in sweep.column("output")] == [False] + [True] * 4
    content = sweep.output.read_bytes()
    assert not sweep.resume()
    assert sweep.told == []
    assert sweep.output.read_bytes() == content


def test_of_the_original_parallamrs_results_errors_are_asked_again_on_demand(sweep):
    original(sweep, [("a", "ok"), ("b", "error"), ("gone", "ok"), ("gone", "ok"), ("a", "warning")])
    sweep.table(BEFORE, [("mock", "m", topic) for topic in ("a", "a", "a", "b")])
    assert sweep.resume() == {"on a": 1}
    assert sweep.resume(retry_errors=True) == {"on b": 1}
    rows = sweep.read()[1]
    assert Counter(row["topic"] for row in rows) == {"a": 3, "b": 1, "gone": 2}
    assert {row["status"] for row in rows if row["topic"] == "b"} == {"ok"}
    assert [row["experiment_id"] for row in rows if row["topic"] == "gone"] == ["", ""]
    assert verify_file(str(sweep.output)).whole
    assert not sweep.resume(retry_errors=True)


def test_the_original_parallamrs_results_may_have_columns_from_json_and_lack_some_of_the_tables(sweep):
    original(sweep, [("a", "ok")], extra=[("a", "2")])
    new_table(sweep, ["a", "b"])
    assert sweep.resume() == {"on b": 1}
    assert sweep.column("note") == ["70", "71"]
    assert sweep.column("a") == ["", "1"]


@settings(max_examples=40)
@given(st.data())
def test_the_original_parallamrs_results_may_be_cut_anywhere(tmp_path_factory, data):
    """Their lines end with CR LF: a cut may fall between the two."""
    sweep = Sweep(tmp_path_factory.mktemp("cut"))
    original(sweep, [(topic, "ok") for topic in TOPICS])
    content = sweep.output.read_bytes()
    ends = list(record_ends(content))
    cut = data.draw(st.integers(ends[0], len(content)) | st.sampled_from([end - 1 for end in ends[1:]]))
    whole = sum(end <= cut for end in ends) - 1
    sweep.output.write_bytes(content[:cut])
    old_table(sweep)
    assert sum(sweep.resume().values()) == len(TOPICS) - whole
    assert Counter(sweep.column("topic")) == Counter(TOPICS)
    assert sum(output.startswith("old answer") for output in sweep.column("output")) == whole
