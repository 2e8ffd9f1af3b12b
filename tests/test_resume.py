import csv
import json
import os
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallamr_mp import (
    BadInput,
    ColumnsMismatch,
    OutputExists,
    ProviderError,
    Reply,
    create_experiment_runner,
)
from parallamr_mp.errors import InputChanged
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.past import Past
from parallamr_mp.results.records import columns_for

INPUT_COLUMNS = ("provider", "model", "topic")
BASE = columns_for(INPUT_COLUMNS)


class Spy:
    """Answers with what breaks CSV files, counts what it is asked by topic, and fails when told to."""

    def __init__(self):
        self.asked = Counter()
        self.failing = set()
        self._lock = threading.Lock()

    def complete(self, request):
        topic = request.variables["topic"]
        with self._lock:
            self.asked[topic] += 1
        if topic in self.failing:
            raise ProviderError("bad_request", f'no {topic},\n"please"')
        return Reply(f'é 語 "{topic}",\r\nprompt: {request.prompt}\n{{"key_{topic}": "😀"}}', input_tokens=1)


class Sweep:
    """One table, one prompt, one output; each run with a spy of its own."""

    def __init__(self, folder):
        self.prompt, self.table, self.output = (
            str(folder / name) for name in ("prompt.txt", "exp.csv", "results.csv")
        )
        self.folder = folder
        self.write_prompt("Tell me about {{topic}}.")
        self.contexts = []

    def write_prompt(self, text):
        with open(self.prompt, "w", encoding="utf-8") as stream:
            stream.write(text)

    def write_table(self, topics):
        with open(self.table, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(INPUT_COLUMNS)
            writer.writerows(("mock", "m", topic) for topic in topics)

    def run(self, topics=None, *, failing=(), **options):
        """Runs and returns what was asked, by topic, and the run's summary."""
        if topics is not None:
            self.write_table(topics)
        spy = Spy()
        spy.failing.update(failing)
        runner = create_experiment_runner(procs=0, threads=2, providers={"mock": spy})
        self.summary = runner.run_experiments(
            self.prompt, self.table, self.output, context_files=self.contexts, **options
        )
        return spy.asked

    def resume(self, topics=None, **options):
        return self.run(topics, resume=True, **options)

    def rows(self) -> list[dict[str, str]]:
        with open(self.output, encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream, strict=True)
        assert tuple(header[: len(BASE)]) == BASE
        assert all(len(row) == len(header) for row in rows)
        return [dict(zip(header, row, strict=True)) for row in rows]

    def topics(self) -> Counter:
        return Counter(row["topic"] for row in self.rows())

    def numbers(self) -> list[tuple[int, int]]:
        return sorted((int(row["row_number"]), int(row["repeat"])) for row in self.rows())

    def content(self) -> bytes:
        with open(self.output, "rb") as stream:
            return stream.read()

    def replace(self, content: bytes) -> None:
        with open(self.output, "wb") as stream:
            stream.write(content)


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


# --- a run that was killed ---------------------------------------------------------------------

TOPICS = ["plain", 'with "quotes"', "two\nlines", "carriage\rreturn", "naïve 語😀", ""]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep, and the offsets where its records end."""
    sweep = Sweep(tmp_path_factory.mktemp("finished"))
    sweep.run(TOPICS)
    content = sweep.content()
    ends = list(record_ends(content))
    assert len(ends) == len(TOPICS) + 1
    return sweep, content, ends


def record_ends(content):
    """The offset behind each record: a line feed that stands in no quotes."""
    quoted = False
    for at, byte in enumerate(content, start=1):
        quoted ^= byte == ord('"')
        if byte == ord("\n") and not quoted:
            yield at


def cut_and_resume(finished, cut):
    sweep, content, ends = finished
    sweep.replace(content[:cut])
    done = max(0, sum(end <= cut for end in ends) - 1)
    kept = content[: max((end for end in ends if end <= cut), default=0)]
    asked = sweep.resume(TOPICS)
    assert sweep.content().startswith(kept)
    assert sweep.numbers() == [(row, 0) for row in range(1, len(TOPICS) + 1)]
    assert sweep.topics() == Counter(TOPICS)
    assert asked.total() == len(TOPICS) - done
    assert set(asked.values()) <= {1}
    assert sweep.summary.resumed == done
    assert sweep.summary.missing == 0
    for row in sweep.rows():
        assert row["output"].startswith(f'é 語 "{row["topic"]}",\r\nprompt: ')
    assert sorted(path.name for path in sweep.folder.iterdir()) == [
        "exp.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]


@pytest.mark.parametrize("part", ["header", "record", "multi-byte", "quotes", "end"])
def test_cut_at_any_kind_of_place_each_row_is_there_once_and_only_the_missing_are_asked(finished, part):
    _, content, ends = finished
    middle = range(ends[2], ends[4])
    cuts = {
        "header": [0, 1, 2, ends[0] // 2, ends[0] - 2, ends[0] - 1, ends[0], ends[0] + 1],
        "record": [*range(ends[0], ends[1], 9), *(end + near for end in ends for near in (-2, -1, 0))],
        "multi-byte": [at for at in middle if content[at] >= 0x80],
        "quotes": [at for at in middle if content[at - 1] in b'"\r\n,'],
        "end": range(len(content) - 12, len(content) + 1),
    }[part]
    for cut in cuts:
        cut_and_resume(finished, cut)


@given(st.data())
def test_cut_anywhere_each_row_is_there_once_and_only_the_missing_are_asked(finished, data):
    cut_and_resume(finished, data.draw(st.integers(0, len(finished[1]))))


def test_the_cut_off_bytes_are_told(finished):
    sweep, content, _ = finished
    sweep.replace(content[:-5])
    sweep.resume()
    assert any("unfinished last record" in notice for notice in sweep.summary.notices)
    sweep.resume()
    assert sweep.summary.notices == ()


def test_when_all_is_done_nothing_is_asked_and_the_file_stays(finished):
    sweep, content, _ = finished
    sweep.replace(content)
    assert not sweep.resume()
    assert sweep.content() == content


def test_a_file_with_dos_line_ends_is_resumed(sweep):
    sweep.run(["a", "b"])
    # As a spreadsheet saves it: the ends of records only; inside quotes there is none here.
    header, *records = sweep.rows()[0].keys(), *(row.values() for row in sweep.rows())
    with open(sweep.output, "w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([header, *records])
    assert sweep.resume(["a", "b", "c"]) == {"c": 1}


# --- a table that changed ----------------------------------------------------------------------

tables = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6)


def expected(results, table):
    """What a resumed run asks: everything that has no result of its own."""
    left = sorted(results)
    pending = []
    for row in enumerate(table, start=1):
        left.remove(row) if row in left else pending.append(row)
    for number, topic in tuple(pending):
        same = [result for result in left if result[1] == topic]
        if same:
            left.remove(same[0])
            pending.remove((number, topic))
    return Counter(topic for _, topic in pending)


@settings(max_examples=100)
@given(before=tables, after=tables, lost=st.integers(0, 6), redo_changed=st.booleans())
def test_whatever_became_of_the_table_only_what_has_no_result_is_asked(
    tmp_path_factory, before, after, lost, redo_changed
):
    sweep = Sweep(tmp_path_factory.mktemp("changed"))
    sweep.run(before)
    ends = list(record_ends(sweep.content()))
    sweep.replace(sweep.content()[: ends[max(0, len(before) - lost)]])
    results = [(int(row["row_number"]), row["topic"]) for row in sweep.rows()]
    asked = sweep.resume(after, redo_changed=redo_changed)
    assert asked == expected(results, after)
    assert {number for number, _ in sweep.numbers()} >= {int(row) for row, _ in results}
    assert sweep.topics() >= Counter(after)
    assert not sweep.resume(after, redo_changed=redo_changed)
    assert sweep.summary.missing == 0


def test_duplicated_rows_each_get_their_own_number(sweep):
    topics = ["x", "y", "x", "x"]
    assert sweep.run(topics) == {"x": 3, "y": 1}
    lines = [row for row in sweep.rows() if row["row_number"] != "3"]
    with open(sweep.output, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([BASE, *(row.values() for row in lines)])
    assert sweep.resume(topics) == {"x": 1}
    assert sweep.numbers() == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_reordered_added_and_removed_rows(sweep):
    sweep.run(["a", "b", "c"])
    before = sweep.content()
    assert not sweep.resume(["c", "a", "b"])
    assert sweep.content() == before
    assert sweep.resume(["new", "c", "a", "b", "newer"]) == {"new": 1, "newer": 1}
    assert sweep.summary.notices == ()
    assert not sweep.resume(["a"])
    assert sweep.summary.notices[0].startswith("4 results in the file from rows that were edited or removed")
    assert sweep.topics() == Counter(["a", "b", "c", "new", "newer"])


def test_an_edited_row_is_a_new_experiment_and_the_old_answer_stays_with_a_notice(sweep):
    sweep.run(["a", "b"])
    assert sweep.resume(["a", "bee"]) == {"bee": 1}
    assert sweep.summary.notices[0].startswith("1 result in the file from rows that were edited or removed")
    assert sweep.topics() == Counter(["a", "b", "bee"])
    assert not sweep.resume(["a", "bee"], redo_changed=True)


def test_rows_that_moved_while_the_prompt_was_edited_are_known_by_their_cells(sweep):
    sweep.run(["a", "b", "b"])
    sweep.write_prompt("Tell me everything about {{topic}}.")
    assert sweep.resume(["new", "b", "a", "b", "b"]) == {"new": 1, "b": 1}
    assert sweep.resume(redo_changed=True) == {"a": 1, "b": 2}
    assert sweep.topics() == Counter(["new", "b", "a", "b", "b"])


@pytest.mark.parametrize("what", ["prompt", "params", "context"])
def test_after_what_all_rows_share_was_edited_all_are_asked_again_if_so_wished(sweep, what):
    (sweep.folder / "context.md").write_text("On pets")
    sweep.run(["a", "b"])
    options = {"params": {"seed": 1}} if what == "params" else {}
    if what == "prompt":
        sweep.write_prompt("Tell me everything about {{topic}}.")
    elif what == "context":
        sweep.contexts = [str(sweep.folder / "context.md")]
    assert not sweep.resume(**options)
    assert sweep.summary.notices[0].startswith(
        "2 rows had another prompt, context, system text or parameters"
    )
    assert sweep.resume(redo_changed=True, **options) == {"a": 1, "b": 1}
    assert sweep.numbers() == [(1, 0), (2, 0)]
    assert not sweep.resume(redo_changed=True, **options)


def test_more_repeats_ask_only_for_the_new_ones(sweep):
    sweep.run(["a", "b"])
    assert sweep.resume(repeat=3) == {"a": 2, "b": 2}
    assert sweep.numbers() == [(row, repeat) for row in (1, 2) for repeat in (0, 1, 2)]
    assert not sweep.resume(repeat=3)
    assert not sweep.resume(repeat=1)


def test_a_range_is_resumed_by_the_whole(sweep):
    topics = ["a", "b", "c", "d"]
    assert sweep.run(topics, first_row=2, last_row=3) == {"b": 1, "c": 1}
    assert sweep.resume(topics) == {"a": 1, "d": 1}
    assert sweep.numbers() == [(row, 0) for row in (1, 2, 3, 4)]


# --- error rows --------------------------------------------------------------------------------


def test_error_rows_count_as_done_unless_they_are_to_be_redone(sweep):
    sweep.run(["a", "b", "c"], failing=["b"], max_retries=0)
    assert Counter(row["status"] for row in sweep.rows()) == {"ok": 2, "error": 1}
    assert not sweep.resume()
    assert sweep.summary.resumed_errors == 1
    ok = [row for row in sweep.rows() if row["status"] == "ok"]
    assert sweep.resume(retry_errors=True) == {"b": 1}
    assert sweep.topics() == Counter("abc")
    assert {row["status"] for row in sweep.rows()} == {"ok"}
    assert sweep.rows()[:2] == ok
    assert not sweep.resume(retry_errors=True)


def test_an_error_that_stays_one_is_there_once(sweep):
    for _ in range(3):
        asked = sweep.run(["a", "b"], failing=["a"], resume=bool(sweep.folder), retry_errors=True)
        assert asked["a"] == 1
        assert sweep.topics() == Counter("ab")


@given(tables, st.sets(st.sampled_from("abcd")), st.floats(0, 1))
def test_redoing_errors_after_a_cut_gives_each_row_once(tmp_path_factory, topics, failing, cut):
    sweep = Sweep(tmp_path_factory.mktemp("errors"))
    sweep.run(topics, failing=failing)
    sweep.replace(sweep.content()[: int(cut * len(sweep.content()))])
    sweep.resume(retry_errors=True)
    assert sweep.topics() == Counter(topics)
    assert sweep.numbers() == [(row, 0) for row in range(1, len(topics) + 1)]
    assert {row["status"] for row in sweep.rows()} == {"ok"}


def test_an_error_row_stays_until_its_result_is_there(sweep):
    sweep.run(["a", "b", "c"], failing=["b", "c"])
    before = sweep.content()
    with_errors = []

    class Looks(Spy):
        def complete(self, request):
            with_errors.append(sweep.content().startswith(before))
            return super().complete(request)

    runner = create_experiment_runner(procs=0, threads=1, providers={"mock": Looks()})
    runner.run_experiments(sweep.prompt, sweep.table, sweep.output, resume=True, retry_errors=True)
    assert with_errors == [True, True]
    assert [row["status"] for row in sweep.rows()] == ["ok", "ok", "ok"]


def test_an_error_beside_its_result_as_a_killed_run_leaves_it_goes_and_the_result_stays(sweep):
    topics = ["a", "b", "b"]
    sweep.run(topics, failing=["b"])
    failed = sweep.content()
    sweep.resume(retry_errors=True)
    done = sweep.content()
    # Killed before it could take the errors out: everything that was ever written is there.
    results = done[len(failed[: next(end for n, end in enumerate(record_ends(failed)) if n == 1)]) :]
    for retry_errors in (False, True):
        sweep.replace(failed + results)
        assert not sweep.resume(retry_errors=retry_errors)
        assert sweep.numbers() == [(1, 0), (2, 0), (3, 0)]
        assert {row["status"] for row in sweep.rows()} == {"ok"}
        assert sweep.summary.notices == ()


def test_a_missing_input_file_that_turns_up_replaces_its_error_row(sweep):
    sweep.contexts = [str(sweep.folder / "{{topic}}.md")]
    (sweep.folder / "a.md").write_text("On a")
    assert sweep.run(["a", "b"]) == {"a": 1}
    error = next(row for row in sweep.rows() if row["topic"] == "b")
    assert error["status"] == "error"
    assert "b.md" in error["error_message"]
    assert not sweep.resume()
    (sweep.folder / "b.md").write_text("On b")
    assert sweep.resume() == {"b": 1}
    assert sweep.numbers() == [(1, 0), (2, 0)]
    assert {row["status"] for row in sweep.rows()} == {"ok"}


# --- flattening --------------------------------------------------------------------------------


def test_resuming_a_flattened_file_flattens_the_new_rows_too(sweep):
    sweep.run(["a", "b"], flatten=True)
    assert [name for name in sweep.rows()[0] if name not in BASE] == ["key_a", "key_b"]
    old = sweep.rows()
    # Also without --flatten: a file that has such columns keeps having them.
    assert sweep.resume(["a", "b", "c"]) == {"c": 1}
    assert [name for name in sweep.rows()[0] if name not in BASE] == ["key_a", "key_b", "key_c"]
    assert sweep.resume(["a", "b", "c", "d"], flatten=True) == {"d": 1}
    rows = sweep.rows()
    for row in rows:
        assert {name: row[name] for name in row if name not in BASE and row[name]} == {
            f"key_{row['topic']}": "😀"
        }
    assert [{name: row[name] for name in BASE} for row in rows[:2]] == [
        {name: row[name] for name in BASE} for row in old
    ]
    assert not sweep.resume(flatten=True)


@settings(max_examples=30)
@given(st.data())
def test_a_flattened_file_cut_anywhere_is_resumed(tmp_path_factory, data):
    sweep = Sweep(tmp_path_factory.mktemp("flat"))
    sweep.run(["a", "b"], flatten=True)
    content = sweep.content()
    sweep.replace(content[: data.draw(st.integers(0, len(content)))])
    sweep.resume(flatten=True)
    assert sweep.topics() == Counter("ab")
    assert {json.loads(f'"{row["key_" + row["topic"]]}"') for row in sweep.rows()} == {"😀"}


def test_an_answer_gives_way_to_an_answer_only(sweep):
    sweep.run(["a", "b", "c"])
    old = {row["topic"]: row["output"] for row in sweep.rows()}
    sweep.write_prompt("Tell me more about {{topic}}.")
    assert sweep.resume(redo_changed=True, failing={"b"}) == {"a": 1, "b": 1, "c": 1}
    assert sweep.summary.error == 1
    rows = {row["topic"]: row for row in sweep.rows()}
    assert len(sweep.rows()) == len(rows) == 3
    assert (rows["b"]["status"], rows["b"]["output"]) == ("ok", old["b"])
    assert "more" in rows["a"]["output"]
    with open(sweep.output + ".manifest.json", encoding="utf-8") as stream:
        assert json.load(stream)["rows"] == {"ok": 3, "warning": 0, "error": 0}
    assert sweep.resume() == {}
    assert sweep.resume(redo_changed=True) == {"b": 1}
    assert sum("more" in row["output"] for row in sweep.rows()) == 3


def test_a_table_edited_while_a_resumed_run_reads_it_ends_that_run(sweep, monkeypatch):
    sweep.run(["a", "b"])
    take_up = Past.take_up

    def edit(self, *given):
        told = take_up(self, *given)
        sweep.write_table(["a", "b", "c", "X"])
        return told

    monkeypatch.setattr(Past, "take_up", edit)
    with pytest.raises(InputChanged):
        sweep.resume(["a", "b", "c", "d"])
    assert set(sweep.topics()) <= {"a", "b", "c"}


def test_an_error_that_has_been_made_up_for_is_nobodys_result(sweep):
    """Two equal rows; a run was killed that had retried the first."""
    sweep.run(["a", "a"])
    first = sweep.content().splitlines(keepends=True)
    sweep.run(["a"], failing={"a"}, overwrite=True)
    content = sweep.content()
    sweep.run(["a"], overwrite=True)
    answer = sweep.content().partition(b"\n")[2]
    sweep.replace(content + answer)
    assert first[0] == content.splitlines(keepends=True)[0]
    assert sweep.resume(["a", "a"]) == {"a": 1}
    assert [row["status"] for row in sweep.rows()] == ["ok", "ok"]
    assert sweep.numbers() == [(1, 0), (2, 0)]


def test_old_answers_that_a_killed_run_had_redone_go_with_the_next(sweep):
    sweep.run(["a", "b"])
    old = sweep.content()
    sweep.write_prompt("Tell me more about {{topic}}.")
    sweep.run(overwrite=True)
    new = sweep.content().partition(b"\n")[2]
    sweep.replace(old + new)
    assert sweep.resume(redo_changed=True) == {}
    assert sweep.topics() == {"a": 1, "b": 1}
    assert all("more" in row["output"] for row in sweep.rows())


def test_an_error_row_of_a_removed_row_stays_though_its_number_is_another_rows_now(sweep):
    sweep.run(["a", "b", "c"], failing={"b"})
    assert sweep.resume(["a", "c"]) == {}
    assert sweep.topics() == {"a": 1, "b": 1, "c": 1}


def test_a_status_that_is_none_does_not_keep_a_row_from_being_redone(sweep):
    sweep.run(["a", "b"])
    sweep.replace(sweep.content().replace(b",ok,", b",done,"))
    sweep.write_prompt("Tell me more about {{topic}}.")
    assert sweep.resume(redo_changed=True, failing={"b"}) == {"a": 1, "b": 1}
    assert {row["topic"]: row["status"] for row in sweep.rows()} == {"a": "ok", "b": "done"}


# --- answers saved aside -----------------------------------------------------------------------


def saved_aside(sweep):
    """Makes a row of the results an answer that an earlier run has saved aside."""
    header, *records = sweep.content().splitlines(keepends=True)
    path = f"{sweep.output}.rescue-7.csv"
    with open(path, "wb") as stream:
        stream.write(header)
        stream.writelines(records)
    os.unlink(sweep.output)
    return path


def test_without_resume_answers_saved_aside_are_not_asked_for_again(sweep):
    sweep.run(["a"])
    path = saved_aside(sweep)
    with pytest.raises(OutputExists, match=r"rescue-7\.csv: .* has saved answers here\n.*--resume"):
        sweep.run(["a"])
    assert os.path.exists(path)
    assert sweep.resume() == {}
    assert sweep.topics() == {"a": 1}
    assert not os.path.exists(path)


def test_an_answer_saved_aside_makes_up_for_the_error_that_it_was_to_replace(sweep):
    """As a run leaves it that was killed while it retried."""
    sweep.run(["a", "b"])
    content = sweep.content()
    sweep.run(["a", "b"], failing={"b"}, overwrite=True)
    with open(f"{sweep.output}.rescue-7.csv", "wb") as stream:
        stream.write(content)
    for options in ({"retry_errors": True}, {}):
        assert sweep.resume(**options) == {}
        assert sweep.topics() == {"a": 1, "b": 1}
        assert {row["status"] for row in sweep.rows()} == {"ok"}


def test_answers_saved_aside_to_an_earlier_prompt_are_kept_as_those_in_the_file_are(sweep):
    sweep.run(["a", "b"])
    path = saved_aside(sweep)
    sweep.write_prompt("Tell me more about {{topic}}.")
    assert sweep.resume() == {}
    assert not os.path.exists(path)
    assert sweep.topics() == {"a": 1, "b": 1}
    assert sweep.resume(redo_changed=True) == {"a": 1, "b": 1}
    assert sweep.topics() == {"a": 1, "b": 1}


def test_overwriting_removes_answers_saved_aside(sweep):
    sweep.run(["a"])
    path = saved_aside(sweep)
    assert sweep.run(["a"], overwrite=True) == {"a": 1}
    assert not os.path.exists(path)


# --- what is refused ---------------------------------------------------------------------------


def test_an_output_that_exists_is_refused_without_a_word_about_it(sweep):
    sweep.run(["a"])
    content = sweep.content()
    with pytest.raises(OutputExists, match="--resume"):
        sweep.run(["a"])
    assert sweep.content() == content
    assert sweep.run(["a"], overwrite=True) == {"a": 1}


@pytest.mark.parametrize("damage", ["other columns", "other file", "damaged middle"])
def test_a_file_that_does_not_fit_is_refused_and_kept(sweep, damage):
    sweep.run(["a", "b"])
    content = {
        "other columns": sweep.content().replace(b"provider,model,topic", b"provider,model,subject"),
        "other file": b"precious notes",
        "damaged middle": sweep.content().replace(b"mock,m,a", b"mock,m,a,", 1),
    }[damage]
    sweep.replace(content)
    with pytest.raises(BadInput, match=r"results\.csv") as caught:
        sweep.resume()
    assert isinstance(caught.value, ColumnsMismatch) == (damage != "damaged middle")
    assert sweep.content() == content


def test_the_columns_of_the_results_are_those_of_the_input_and_ours(sweep):
    sweep.run(["a"])
    assert tuple(sweep.rows()[0]) == (*INPUT_COLUMNS, *RESULT_COLUMNS)
