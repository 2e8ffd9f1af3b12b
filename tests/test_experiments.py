import contextlib
import csv
import io
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import BadInput
from parallamr_mp.experiments import Experiment, Table, in_range, parse_param
from parallamr_mp.models import RESULT_COLUMNS

HEADER = b"provider,model,topic\n"


@contextlib.contextmanager
def unprivileged():
    """The same process without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Opens bytes as a table: as a file of a given name, or through standard input for `-`."""
    opened = []

    def open_table(data: bytes, name: str = "exp.csv") -> Table:
        if name == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
        else:
            path = tmp_path / name
            path.write_bytes(data)
            name = str(path)
        opened.append(Table(name))
        return opened[-1]

    yield open_table
    for each in opened:
        each.close()


@pytest.fixture
def refused(table):
    """The error for a table: raised when it is opened, or when its rows and parameters are read."""

    def refused(data: bytes, name: str = "exp.csv") -> BadInput:
        with pytest.raises(BadInput) as caught:
            check(table(data, name))
        assert ("standard input" if name == "-" else name) in str(caught.value)
        return caught.value

    return refused


def check(table: Table) -> None:
    for row in table.rows():
        table.params(row)


# --- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp.csv", "-"])
def test_a_csv_table_is_read_row_by_row_and_again(table, name):
    read = table(b'provider,model,topic\r\nmock,m,"a, ""b"""\r\n mock , m ,\r\n', name)
    assert read.columns == ("provider", "model", "topic")
    rows = [
        Experiment(1, "mock", "m", ("mock", "m", 'a, "b"')),
        Experiment(2, "mock", "m", (" mock ", " m ", "")),
    ]
    for _ in range(3):
        assert list(read.rows()) == rows
    assert read.variables(rows[0]) == {"provider": "mock", "model": "m", "topic": 'a, "b"'}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("name", ["exp.jsonl", "exp.ndjson", "exp.JSONL", "-"])
def test_json_lines_are_read_with_columns_in_order_of_appearance(table, name, bom):
    lines = [
        '{"provider": "mock", "model": "m", "topic": "é", "n": 3}',
        "",
        '{"model": "m2", "provider": "mock", "late": [1, {"a": null}], "topic": null, "n": true}',
    ]
    read = table(bom + "\n".join(lines).encode(), name)
    assert read.columns == ("provider", "model", "topic", "n", "late")
    for _ in range(2):
        assert [row.values for row in read.rows()] == [
            ("mock", "m", "é", "3", ""),
            ("mock", "m2", "", "true", '[1,{"a":null}]'),
        ]
        assert [row.row_number for row in read.rows()] == [1, 2]


def test_json_lines_on_standard_input_may_follow_blank_lines(table):
    assert table(b' \n\n{"provider": "mock", "model": "m"}\n', "-").json_lines


@pytest.mark.parametrize("data", [HEADER + b"mock,m,x\n" * 2000, b'{"provider":"p","model":"m"}\n' * 2000])
def test_a_pipe_is_read_once_and_gives_its_rows_again(data):
    # What a shell's <(…) gives: opened again, it would go on where it was left.
    read_end, write_end = os.pipe()
    os.write(write_end, data)  # less than a pipe holds
    os.close(write_end)
    try:
        with contextlib.closing(Table(f"/dev/fd/{read_end}")) as table:
            for _ in range(2):
                assert sum(1 for _ in table.rows()) == 2000
    finally:
        os.close(read_end)


def test_a_byte_order_mark_and_blanks_around_names_and_blank_lines_are_no_part_of_the_table(table):
    read = table(b"\xef\xbb\xbf\r\nprovider , model\r\n\r\nmock,m\r\n\r\n")
    assert read.columns == ("provider", "model")
    assert [row.values for row in read.rows()] == [("mock", "m")]


def test_line_breaks_inside_quotes_belong_to_the_cell(table):
    read = table(HEADER + b'mock,m,"one\ntwo\r\nthree\rfour"\nmock,m,x\n')
    assert [row.values[2] for row in read.rows()] == ["one\ntwo\r\nthree\rfour", "x"]


def test_a_cell_may_hold_a_whole_document(table):
    assert next(table(HEADER + b"mock,m," + b"x" * 300_000).rows()).values[2] == "x" * 300_000


text = st.text(st.characters(exclude_categories=("Cs",))) | st.text(alphabet='",\r\n\0 \ufeff;é')
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).map(str.strip)
NO_NAMES = {"", "provider", "model", "param:", *RESULT_COLUMNS}


@given(
    st.lists(names.filter(lambda name: name not in NO_NAMES), max_size=3, unique=True),
    st.data(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_what_the_csv_module_writes_is_what_is_read(tmp_path_factory, extra, data, quoting, from_json):
    columns = ["provider", "model", *extra]
    values = data.draw(st.lists(st.tuples(*(text for _ in extra)), max_size=4))
    rows = [("mock", "m", *cells) for cells in values]
    path = tmp_path_factory.mktemp("table") / ("exp.jsonl" if from_json and rows else "exp.csv")
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            columns = [name.removeprefix("param:") for name in columns]
            rows = rows if len(set(columns)) == len(columns) else []
            stream.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        else:
            writer = csv.writer(stream, quoting=quoting)
            writer.writerow(columns)
            writer.writerows(rows)
    if rows or path.suffix == ".csv":
        read = Table(str(path))
        assert read.columns == tuple(columns)
        assert [row.values for row in read.rows()] == rows


# --- parameters --------------------------------------------------------------------------------


def test_param_columns_give_typed_values_and_empty_ones_none(table):
    read = table(
        b"provider,model,param:temperature,param:seed,param:effort,param:response_format,param:x\n"
        b'mock,m,0.7, 42 ,high,"{""type"": ""json_object""}",\nmock,m,,null,"""7""",[1],true\n'
    )
    first, second = (read.params(row) for row in read.rows())
    assert first == {
        "temperature": 0.7,
        "seed": 42,
        "effort": "high",
        "response_format": {"type": "json_object"},
    }
    assert second == {"seed": None, "effort": "7", "response_format": [1], "x": True}
    assert isinstance(first["seed"], int)


def test_params_of_json_lines_keep_their_types(table):
    read = table(
        b'{"provider":"p","model":"m","param:a":"0.7","param:b":0.7,"param:c":{"d":[]},"param:e":null}\n',
        "e.jsonl",
    )
    assert read.params(next(read.rows())) == {"a": "0.7", "b": 0.7, "c": {"d": []}}


@pytest.mark.parametrize(
    ("given_", "value"), [("1e3", 1000.0), ("-0.5", -0.5), ("low", "low"), ("a b", "a b")]
)
def test_a_bare_word_is_a_string(given_, value):
    assert parse_param(given_) == value


@pytest.mark.parametrize("bad", ['{"a": 1', "[1,", '"open'])
def test_json_that_is_none_names_row_and_column(refused, bad):
    quoted = '"' + bad.replace('"', '""') + '"'
    error = refused(f"provider,model,param:x\nmock,m,1\nmock,m,{quoted}\n".encode())
    assert (error.row, error.column) == (2, "param:x")
    assert "is not JSON" in str(error)


@pytest.mark.parametrize("number", [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_whole_numbers_keep_every_digit(number):
    value = parse_param(f'{{"a": [{number}], "b": "{2**70}"}}')
    assert value == {"a": [number], "b": str(2**70)}
    assert isinstance(value["a"][0], int)


@pytest.mark.parametrize("bad", [str(2**64), f"[{-(2**63) - 1}]", "9" * 100])
def test_a_whole_number_that_would_become_another_one_is_refused(refused, bad):
    error = refused(f"provider,model,param:seed\nmock,m,{bad}\n".encode())
    assert (error.row, error.column) == (1, "param:seed")
    assert "beyond 64 bits" in str(error)


def test_a_parameter_that_no_body_can_hold_is_refused(refused):
    error = refused(f"provider,model,param:x\nmock,m,{'[' * 201 + ']' * 201}\n".encode())
    assert "nested deeper than 200 levels" in str(error)
    assert parse_param("[" * 200 + "]" * 200)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "row", "line", "words"),
    [
        (b"", None, None, ["is empty", "header"]),
        (b"\n\n", None, None, ["is empty"]),
        (b"\xef\xbb\xbf", None, None, ["is empty"]),
        (b"model,topic\n", None, 1, ["missing column: provider", "Found: model, topic"]),
        (b"topic\nx\n", None, 1, ["missing columns: provider, model"]),
        (b"provider;model;topic\nmock;m;x\n", None, 1, ["missing", "Expected commas"]),
        (b"provider\tmodel\nmock\tm\n", None, 1, ["missing", "Expected commas"]),
        (b"provider,model,x,x\n", None, 1, ["column 'x'", "twice"]),
        (b"provider,model, provider\n", None, 1, ["column 'provider'", "twice"]),
        (b"provider,model,,x\n", None, 1, ["column 3", "no name"]),
        (b"provider,model,output\n", None, 1, ["column 'output'", "Rename"]),
        (b"provider,model,param:\n", None, 1, ["column 'param:'", "param:NAME"]),
        (b"provider,model,param:messages\n", None, 1, ["column 'param:messages'"]),
        (b"provider,model,parm:seed\n", None, 1, ["column 'parm:seed'", "Did you mean param:seed?"]),
        (b"provider,model,Param:seed\n", None, 1, ["column 'Param:seed'", "Did you mean param:seed?"]),
        (b"provider,model,params :seed\n", None, 1, ["column 'params :seed'", "Did you mean param:seed?"]),
        (b'provider,"model\n', None, 1, ["is not CSV"]),
        (HEADER + b"mock,m,x\nmock,m\n", 2, 3, ["2 fields", "3 columns", "quoted"]),
        (HEADER + b"mock,m,x,y\n", 1, 2, ["4 fields", "3 columns"]),
        (HEADER + b'mock,m,"a\nb"\nmock,m,x,y\n', 2, 4, ["4 fields"]),
        (HEADER + b"mock,m,x\n,m,x\n", 2, 3, ["column 'provider'", "empty"]),
        (HEADER + b"mock, ,x\n", 1, 2, ["column 'model'", "empty"]),
        (HEADER + b'mock,m,x\nmock,m,"open\n', 2, 3, ["is not CSV"]),
        (HEADER + b'mock,m,"a"b\n', 1, 2, ["is not CSV"]),
        (HEADER + b"mock,m,x\nmock,m,caf\xe9\n", None, 3, ["not UTF-8", "Save the file as UTF-8"]),
        (b"provider,mod\xe9l\n", None, 1, ["not UTF-8"]),
        ("provider,model\nmock,m\n".encode("utf-16"), None, None, ["UTF-16, not UTF-8"]),
        (b"\xfe\xff\0p", None, None, ["UTF-16, not UTF-8"]),
    ],
)
@pytest.mark.parametrize("name", ["exp.csv", "-"])
def test_a_bad_csv_table_is_refused_with_file_row_and_line(refused, data, row, line, words, name):
    error = refused(data, name)
    assert (error.row, error.line) == (row, line)
    for word in words:
        assert word in str(error)
    if row is not None:
        assert f"row {row} (line {line})" in str(error)


@pytest.mark.parametrize(
    ("data", "row", "line", "words"),
    [
        (b"", None, None, ["is empty", "one JSON object a line"]),
        (b"{}\n", None, None, ["is empty"]),
        (b'{"provider":"p","model":"m"}\n\n{"provider":"p",\n', 2, 3, ["is not JSON"]),
        (b'{"provider":"p","model":"m"}\n["p","m"]\n', 2, 2, ["expected one JSON object a line"]),
        (b'{"provider":"p"}\n', None, 1, ["missing column: model"]),
        (b'{"provider":"p","model":"m"}\n{"provider":"p"}\n', 2, 2, ["column 'model'", "empty"]),
        (b'{"provider":"p","model":"m","":1}\n', None, 1, ["column 3", "no name"]),
        (b'{"provider":"p","model":"m","row_number":1}\n', None, 1, ["column 'row_number'", "Rename"]),
        (b'{"provider":"p","model":"m"}\n{"provider":"\xff"}\n', None, 2, ["not UTF-8"]),
    ],
)
def test_bad_json_lines_are_refused_with_file_row_and_line(refused, data, row, line, words):
    error = refused(data, "exp.jsonl")
    assert (error.row, error.line) == (row, line)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("name", RESULT_COLUMNS)
def test_the_columns_of_the_results_are_reserved(refused, name):
    assert refused(f"provider,model,{name}\n".encode()).column == name


def test_a_header_alone_is_a_table_without_rows(table):
    assert list(table(b"provider,model").rows()) == []


def test_the_line_that_is_not_utf_8_is_named_far_into_a_big_file(refused):
    good = b"mock,m,\xc3\xa9 and more text\n" * 40_000
    assert refused(HEADER + good + b"mock,m,caf\xe9\n" + good).line == 40_002


def test_a_character_torn_at_the_end_of_the_file_is_not_utf_8(refused):
    assert refused(HEADER + b"mock,m,caf\xc3").line == 2


def test_a_folder_a_missing_file_and_a_forbidden_one_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"is a folder; expected a CSV") as caught:
        Table(str(tmp_path))
    assert caught.value.file == str(tmp_path)
    with pytest.raises(BadInput, match=r"gone\.csv: cannot be read: No such file"):
        Table(str(tmp_path / "gone.csv"))
    forbidden = tmp_path / "secret.csv"
    forbidden.write_bytes(HEADER)
    forbidden.chmod(0)
    with unprivileged(), pytest.raises(BadInput, match=r"secret\.csv: cannot be read: Permission denied"):
        Table(str(forbidden))


def test_rows_before_a_bad_one_come_first_and_the_generator_may_be_left(table):
    read = table(HEADER + b"mock,m,1\nmock,m,2\nbad\n")
    rows = read.rows()
    assert next(rows).row_number == 1
    rows.close()
    assert len(list(in_range(read.rows(), 1, 2))) == 2
    with pytest.raises(BadInput):
        list(read.rows())


# --- ranges and identities ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [(1, None, [1, 2, 3]), (2, None, [2, 3]), (2, 2, [2]), (1, 9, [1, 2, 3]), (4, None, [])],
)
def test_a_range_holds_both_its_ends(table, first, last, numbers):
    read = table(HEADER + b"mock,m,x\n" * 3)
    assert [row.row_number for row in in_range(read.rows(), first, last)] == numbers
