import csv
import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import OutputError
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results import rewrite
from parallamr_mp.results.records import columns_for, encode_record
from parallamr_mp.results.rewrite import Flattened, drop_records, flatten_results

BASE = columns_for(("provider", "model", "topic"))
HEADER = encode_record(BASE)


def result(row, output="", *, extra=()):
    named = {"status": "ok", "output": output, "row_number": row, "repeat": 0}
    named["experiment_id"] = f"{row:016x}"
    return encode_record(["mock", "m", "t", *(named.get(name) for name in RESULT_COLUMNS), *extra])


def read(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream, strict=True)
    assert len(set(header)) == len(header)
    return [dict(zip(header, row, strict=True)) for row in rows]


def flattened(row: dict[str, str]) -> dict[str, str]:
    """The row's filled cells from JSON."""
    return {name: value for name, value in row.items() if name not in BASE and value}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.csv"


# --- dropping records --------------------------------------------------------------------------


def test_dropped_records_go_and_the_others_stay_byte_for_byte(path):
    records = [result(row, f'answer "{row}"\r\né') for row in range(5)]
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + b"".join(records) + result(6)[:30])
    kept = b"\xef\xbb\xbf" + HEADER + records[0] + records[2] + records[4]
    assert drop_records(str(path), {1, 3}.__contains__) == (2, len(kept))
    assert path.read_bytes() == kept


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_rewritten_file_has_the_old_ones_mode(path, mode):
    path.write_bytes(HEADER + result(1))
    path.chmod(mode)
    drop_records(str(path), lambda _: True)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    flatten_results(str(path), BASE)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_a_link_and_its_target_is_rewritten(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target, link = folder / "real.csv", tmp_path / "link.csv"
    target.write_bytes(HEADER + result(1) + result(2))
    link.symlink_to(target)
    drop_records(str(link), lambda index: index == 0)
    assert link.is_symlink()
    assert target.read_bytes() == HEADER + result(2)
    assert os.listdir(folder) == ["real.csv"]


def test_who_looks_meanwhile_sees_the_old_file_whole(path):
    content = HEADER + result(1) + result(2)
    path.write_bytes(content)
    seen = []

    def drop(index):
        seen.append(path.read_bytes())
        return True

    drop_records(str(path), drop)
    assert seen == [content, content]
    assert path.read_bytes() == HEADER


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [Interrupted, ZeroDivisionError])
def test_an_interruption_leaves_the_file_as_it_was_and_nothing_beside_it(path, error):
    content = HEADER + result(1) + result(2)
    path.write_bytes(content)

    def drop(index):
        raise error

    with pytest.raises(error):
        drop_records(str(path), drop)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_disk_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(path, monkeypatch, broken):
    def fail(*args):
        raise OSError(28, "No space left on device")

    content = HEADER + result(1)
    path.write_bytes(content)
    monkeypatch.setattr(rewrite.os, broken, fail)
    with pytest.raises(OutputError, match=r"results\.csv: cannot be rewritten: No space left"):
        drop_records(str(path), lambda _: True)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_a_name_as_long_as_a_name_may_be_can_be_rewritten(tmp_path):
    path = tmp_path / ("語" * 83 + ".csv")
    path.write_bytes(HEADER + result(1))
    assert drop_records(str(path), lambda _: True)[0] == 1
    assert os.listdir(tmp_path) == [path.name]


# --- flattening --------------------------------------------------------------------------------


def test_keys_get_columns_whatever_order_they_turn_up_in(path):
    answers = [{"a": 1, "b": "x"}, {"b": "y", "a": 2}, {"c": {"d": [True, None, 1.5]}}, {"a": 3}]
    path.write_bytes(HEADER + b"".join(result(row, json.dumps(a)) for row, a in enumerate(answers, start=1)))
    assert flatten_results(str(path), BASE) == Flattened(columns=5, rows=4, folded=0, dropped=0)
    rows = read(path)
    assert list(rows[0])[len(BASE) :] == ["a", "b", "c_d_0", "c_d_1", "c_d_2"]
    assert [flattened(row) for row in rows] == [
        {"a": "1", "b": "x"},
        {"a": "2", "b": "y"},
        {"c_d_0": "true", "c_d_2": "1.5"},
        {"a": "3"},
    ]


answers = st.one_of(
    st.text(alphabet='{}[]",:ab1\r\n\0 é😀', max_size=30),
    st.dictionaries(st.sampled_from(["a", "b", "a_b", "output", "model", ""]), st.integers() | st.text()).map(
        json.dumps
    ),
    st.dictionaries(
        st.text(max_size=3), st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=2))
    ).map(lambda value: f"Sure:\n```json\n{json.dumps(value)}\n```\r\n"),
)


@given(st.lists(answers, max_size=6), st.booleans())
def test_the_base_columns_stay_byte_for_byte_and_a_second_time_changes_nothing(tmp_path_factory, texts, torn):
    path = tmp_path_factory.mktemp("flat") / "results.csv"
    records = [result(row, text) for row, text in enumerate(texts, start=1)]
    path.write_bytes(HEADER + b"".join(records))
    before = read(path)
    with path.open("ab") as stream:
        stream.write(b'mock,"torn' * torn)
    told = flatten_results(str(path), BASE)
    once = path.read_bytes()
    rows = read(path)
    assert [{name: row[name] for name in BASE} for row in rows] == before
    # Each old record is there as it was, with the new cells behind it.
    assert all(record[:-1] in once for record in records)
    assert all(len(row) == len(BASE) + told.columns for row in rows)
    assert flatten_results(str(path), BASE) == told
    assert path.read_bytes() == once


def test_rows_without_json_are_left_empty_behind_their_own_columns(path):
    path.write_bytes(HEADER + result(1, "plain") + result(2, '{"a": 1}') + result(3, "") + result(4, "7"))
    assert flatten_results(str(path), BASE).rows == 1
    assert [flattened(row) for row in read(path)] == [{}, {"a": "1"}, {}, {}]


def test_a_file_without_json_or_without_rows_stays_as_it_is(path):
    for content in (HEADER, HEADER + result(1, "plain")):
        path.write_bytes(content)
        assert flatten_results(str(path), BASE) == Flattened(0, 0, 0, 0)
        assert path.read_bytes() == content


def test_names_of_the_inputs_and_results_are_prefixed(path):
    path.write_bytes(
        HEADER + result(1, '{"topic": "x", "output": {"x": 1}, "status": "fine", "json_topic": "y"}')
    )
    flatten_results(str(path), BASE)
    row = read(path)[0]
    assert (row["topic"], row["status"]) == ("t", "ok")
    assert flattened(row) == {
        "json_topic": "x",
        "output_x": "1",
        "json_status": "fine",
        "json_json_topic": "y",
    }


def test_different_paths_of_one_name_keep_their_own_columns(path):
    path.write_bytes(HEADER + result(1, '{"a": {"b": 1}, "a_b": 2}') + result(2, '{"a_b": 3}'))
    flatten_results(str(path), BASE)
    assert [flattened(row) for row in read(path)] == [{"a_b": "1", "json_a_b": "2"}, {"json_a_b": "3"}]


@pytest.mark.parametrize(
    ("answer", "cells"),
    [
        ('[{"x": 1}, {"x": 2}]', {"items_0_x": "1", "items_1_x": "2"}),
        ('{"x": [1, [2, 3]]}', {"x_0": "1", "x_1_0": "2", "x_1_1": "3"}),
        ('{"x": []}', {"x": "[]"}),
        ('Here:\n```json\n{"a": "two\\nlines, \\"quoted\\""}\n```', {"a": 'two\nlines, "quoted"'}),
        ('{"a": 1, "b": [1, 2,}', {"a": "1", "b_0": "1", "b_1": "2"}),
    ],
)
def test_arrays_and_json_in_prose_and_mended_json_are_flattened(path, answer, cells):
    path.write_bytes(HEADER + result(1, answer))
    flatten_results(str(path), BASE)
    row = read(path)[0]
    assert flattened(row) == cells
    assert row["output"] == answer


def test_after_more_rows_the_columns_are_made_anew_from_every_answer(path):
    path.write_bytes(HEADER + result(1, '{"a": 1}'))
    flatten_results(str(path), BASE)
    with open(path, "ab") as stream:
        stream.write(result(2, '{"new": 2, "a": 3}', extra=("",)))
        stream.write(result(3, "plain", extra=("",)))
    assert flatten_results(str(path), BASE) == Flattened(columns=2, rows=2, folded=0, dropped=0)
    assert [flattened(row) for row in read(path)] == [{"a": "1"}, {"new": "2", "a": "3"}, {}]


def test_a_column_that_no_answer_gives_any_more_goes(path):
    path.write_bytes(HEADER + result(1, '{"a": 1}') + result(2, '{"b": 2}'))
    flatten_results(str(path), BASE)
    drop_records(str(path), lambda index: index == 0)
    flatten_results(str(path), BASE)
    rows = read(path)
    assert list(rows[0])[len(BASE) :] == ["b"]
    assert flattened(rows[0]) == {"b": "2"}


def test_beyond_the_cap_on_columns_keys_are_counted_and_stay_in_the_output(path, monkeypatch):
    monkeypatch.setattr(rewrite, "MAX_COLUMNS", 3)
    answer = json.dumps({f"k{number}": number for number in range(10)})
    path.write_bytes(HEADER + result(1, answer) + result(2, answer))
    assert flatten_results(str(path), BASE) == Flattened(columns=3, rows=2, folded=0, dropped=7)
    for row in read(path):
        assert flattened(row) == {"k0": "0", "k1": "1", "k2": "2"}
        assert row["output"] == answer


def test_names_that_utf_8_cannot_hold_do_not_double_a_column(path):
    path.write_bytes(HEADER + result(1, r'{"\ud800": 1, "\ud801": 2, "?": 3}'))
    flatten_results(str(path), BASE)
    assert sorted(flattened(read(path)[0]).values()) == ["1", "2", "3"]


def test_a_disk_that_fails_while_flattening_leaves_the_file_as_it_was(path, monkeypatch):
    content = HEADER + result(1, '{"a": 1}')
    path.write_bytes(content)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rewrite.os, "fsync", fail)
    with pytest.raises(OutputError, match="cannot be rewritten"):
        flatten_results(str(path), BASE)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]
