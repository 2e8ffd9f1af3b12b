import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.records import (
    columns_for,
    decode_record,
    encode_cell,
    encode_record,
    guard,
    unguarded,
)

# What CSV writers and readers trip over, more often than chance would bring it up.
awkward = st.text(alphabet="\",;\r\n\0 \t'\\ab\u2028\u0085\ufeffé😀", max_size=20)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40) | awkward
rows = st.lists(texts, min_size=1, max_size=8)

NASTY = [
    "",
    " ",
    " leading",
    "trailing ",
    "\ttab\t",
    '"',
    '""',
    'say "x"',
    "a,b",
    "a\nb",
    "a\r\nb",
    "a\rb",
    "\r",
    "\n",
    "\r\n",
    "\n\r",
    "a\0b",
    "\0",
    "\ufeffbom",
    "\x0b\x0c\x1c\x1d\x85\u2028\u2029",
    "'single'",
    "=1+1",
    "#comment",
    "back\\slash",
    'ends with a quote"',
    '"starts with one',
    "😀" * 10,
]


def read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))


@given(rows)
@example([""])
@example(["", ""])
@example(["\r"])
def test_any_text_comes_back_through_the_csv_module_as_one_row(cells):
    assert read(encode_record(cells)) == [cells]


@given(rows)
def test_any_text_comes_back_through_our_own_reader(cells):
    assert decode_record(encode_record(cells)) == cells


@given(st.lists(rows, max_size=6))
def test_records_one_after_another_are_rows_one_after_another(table):
    assert read(b"".join(encode_record(cells) for cells in table)) == table


@pytest.mark.parametrize("cell", NASTY)
@pytest.mark.parametrize("shape", ["alone", "first", "middle", "last"])
def test_an_awkward_cell_is_kept_wherever_it_stands(cell, shape):
    cells = {"alone": [cell], "first": [cell, "x"], "middle": ["x", cell, "y"], "last": ["x", cell]}[shape]
    record = encode_record(cells)
    assert read(record) == [cells]
    assert decode_record(record) == cells


@pytest.mark.parametrize("cell", ["x" * 300_000, '"' * 200_000, "a\r\n" * 100_000])
def test_a_very_long_cell_is_kept(cell):
    assert decode_record(encode_record([cell, "after"])) == [cell, "after"]


@given(rows)
def test_a_record_ends_in_one_line_feed_and_holds_no_line_break_outside_quotes(cells):
    record = encode_record(cells)
    assert record.endswith(b"\n")
    outside = b"".join(record[:-1].split(b'"')[::2])
    assert b"\n" not in outside
    assert b"\r" not in outside


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (1.5, "1.5"), (True, "True"), ("plain text", "plain text"), ("é, è", '"é, è"')],
)
def test_a_cell_is_the_text_of_its_value_and_quoted_only_if_need_be(value, text):
    assert encode_cell(value) == text


def test_a_lone_surrogate_becomes_a_question_mark():
    assert decode_record(encode_record(["a\ud800b", "c"])) == ["a?b", "c"]


def test_a_record_of_one_empty_cell_is_no_empty_line():
    assert encode_record([None]) == b'""\n'


@pytest.mark.parametrize("record", [b"", b"a\nb\n", b'"a\n', b'"a"b\n', b"a\xff\n", b"a\rb\n"], ids=repr)
def test_what_is_not_one_record_is_refused(record):
    with pytest.raises(ValueError):
        decode_record(record)


def test_the_results_columns_follow_those_of_the_input():
    columns = columns_for(("provider", "model", "topic"))
    assert columns[:3] == ("provider", "model", "topic")
    assert columns[3:] == RESULT_COLUMNS
    assert columns[3:9] == (
        "status",
        "input_tokens",
        "context_window",
        "output_tokens",
        "output",
        "error_message",
    )


# --- formulas ----------------------------------------------------------------------------------

signs = st.text(alphabet="=+-@\t\r\n\0＝＋－＠'0123456789.eE a", max_size=12)
numbers = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(str)
cells = signs | texts | numbers | numbers.map("+{}".format)


@given(cells)
@example("=1+1")
@example("'=1+1")
@example("-5\n")
@example("-٥")
def test_no_guarded_cell_begins_as_a_formula_unless_it_is_a_number(text):
    [[seen]] = read(encode_record([text], excel_safe=True))
    assert seen == guard(text)
    if seen[:1] in set("=+-@\t\r\n\0＝＋－＠"):
        assert seen == text
        float(seen)
        assert seen[-1] in "0123456789."
    else:
        assert seen in {text, f"'{text}"}


@given(cells)
def test_a_cell_and_its_guarded_form_are_the_same_without_the_guard(text):
    assert unguarded(guard(text)) == unguarded(text)
    assert guard(guard(text)) == guard(text)
    assert guard(text) == text or unguarded(guard(text)) == text


@pytest.mark.parametrize(
    "text", ["-5", "+3.2e4", "-.5", "-1.", "+0", "-1E-7", "", "a=1", "1-2", " =1", "'=1"]
)
def test_numbers_and_ordinary_text_are_left_alone(text):
    assert guard(text) == text


@pytest.mark.parametrize(
    "text",
    ["=1", "+1 2", "-5%", "--5", "-", "+", "@SUM(A1)", "\t=1", "\r=1", "-1e", "-inf", "-5\n", "＝1", "-1_0"],
)
def test_what_a_spreadsheet_may_run_is_guarded(text):
    assert guard(text) == f"'{text}"


def test_cells_that_are_no_text_stay_what_they_are():
    assert encode_record([None, -5, -0.25, 1e-9, "x"], excel_safe=True) == b",-5,-0.25,1e-09,x\n"
