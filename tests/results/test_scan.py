import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import BadInput, ColumnsMismatch
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.records import columns_for, complete_records, encode_record
from parallamr_mp.results.scan import STATUSES, Scan, row_key, scan_results

COLUMNS = columns_for(("provider", "model", "topic"))
HEADER = encode_record(COLUMNS)

cells = st.text(alphabet='",\r\n\0 aé😀', max_size=8) | st.text(
    st.characters(exclude_categories=("Cs",)), max_size=8
)
tables = st.lists(st.lists(cells, min_size=1, max_size=4), max_size=5)


def result(row, *, repeat=0, identity=1, status="ok", output="answer", extra=()):
    named = {"status": status, "output": output, "row_number": row, "repeat": repeat}
    named["experiment_id"] = f"{identity:016x}"
    return encode_record(["mock", "m", "t", *(named.get(name) for name in RESULT_COLUMNS), *extra])


@pytest.fixture
def scan(tmp_path):
    def scan(data: bytes, expected=COLUMNS) -> Scan:
        path = tmp_path / "results.csv"
        path.write_bytes(data)
        return scan_results(str(path), expected)

    return scan


# --- complete records --------------------------------------------------------------------------


def ends(records: list[bytes]) -> list[int]:
    return [sum(map(len, records[: index + 1])) for index in range(len(records))]


@given(tables, st.booleans())
def test_after_a_cut_anywhere_the_whole_records_before_it_come_back(table, crlf):
    records = [encode_record(row) for row in table]
    if crlf:  # as another program would save the file
        records = [record[:-1] + b"\r\n" for record in records]
    data, offsets = b"".join(records), ends(records)
    for cut in range(len(data) + 1):
        whole = [(end, record) for end, record in zip(offsets, records, strict=True) if end <= cut]
        assert list(complete_records(io.BytesIO(data[:cut]))) == whole


def test_a_line_break_inside_quotes_ends_no_record():
    assert [record for _, record in complete_records(io.BytesIO(b'"a\n""\nb"\n"c\n'))] == [b'"a\n""\nb"\n']


# --- what a results file holds -----------------------------------------------------------------


def test_identities_rows_and_errors_are_read_in_the_order_of_the_file(scan):
    found = scan(
        HEADER
        + result(2, identity=2**64 - 1)
        + result(1, repeat=3, identity=7, status="error", output='multi\n"line"')
        + result(9, identity=7, status="warning")
    )
    assert found.header == COLUMNS
    assert list(found.ids) == [2**64 - 1, 7, 7]
    assert list(found.rows) == [row_key(2, 0), row_key(1, 3), row_key(9, 0)]
    assert [STATUSES[code] for code in found.statuses] == ["ok", "error", "warning"]
    assert found.counts == {"ok": 1, "warning": 1, "error": 1}
    assert found.torn == 0


def test_cut_anywhere_the_rest_of_the_file_is_torn_and_the_rows_before_it_count(scan):
    records = [HEADER, *(result(row, identity=row, output=f'é "{row}"\r\nline') for row in (1, 2, 3))]
    data, offsets = b"".join(records), ends(records)
    for cut in range(len(data) + 1):
        found = scan(data[:cut])
        whole = [end for end in offsets if end <= cut]
        assert found.end == (whole[-1] if whole else 0)
        assert found.torn == cut - found.end
        assert list(found.ids) == list(range(1, len(whole)))
        assert found.header == (COLUMNS if whole else ())


def test_a_file_with_a_byte_order_mark_and_dos_line_ends_is_read(scan):
    data = b"\xef\xbb\xbf" + (HEADER + result(1) + result(2)).replace(b"\n", b"\r\n")
    found = scan(data)
    assert found.header == COLUMNS
    assert len(found.ids) == 2
    assert found.end == len(data)


def test_flattened_columns_behind_the_expected_ones_are_accepted(scan):
    found = scan(encode_record((*COLUMNS, "a", "b_c")) + result(1, extra=("1", "2")))
    assert found.header == (*COLUMNS, "a", "b_c")
    assert len(found.ids) == 1


def test_an_empty_file_holds_nothing(scan):
    found = scan(b"")
    assert (found.end, found.size, found.header, list(found.ids)) == (0, 0, (), [])


@pytest.mark.parametrize(
    "data",
    [b"My notes", b"provider,model,other", b"\xff\xfe\x00", b"\x89PNG\r", HEADER[:40] + b"!"],
    ids=repr,
)
def test_a_file_without_a_line_that_is_no_torn_header_is_somebody_elses(scan, data):
    with pytest.raises(ColumnsMismatch, match=r"results\.csv: this is not a results file"):
        scan(data)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (columns_for(("provider", "model", "topic", "lang")), ["not expected: lang"]),
        (columns_for(("provider", "model", "subject")), ["missing: topic", "not expected: subject"]),
        (columns_for(("provider", "model"))[::-1], ["missing: topic"]),
        (COLUMNS[::-1], ["another order"]),
        (columns_for(("provider", "topic")), ["missing: model"]),
        (("a", "b"), ["missing: provider, model, topic, status", "not expected: a, b"]),
        (COLUMNS[:-1], ["missing: completed_at"]),
    ],
)
def test_other_columns_are_refused_with_the_difference(scan, header, told):
    with pytest.raises(ColumnsMismatch, match=r"results\.csv: .*do not fit") as caught:
        scan(encode_record(header))
    for words in told:
        assert words in str(caught.value)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        b"just,three,cells\n",
        b"\n",
        result(2).replace(b",2,0,", b",two,0,"),
        result(2).replace(b",2,0,", b",-2,0,"),
        result(2).replace(b",0000000000000001,", b",,"),
        result(2).replace(b",0000000000000001,", b",12345678123456781,"),
        result(2).replace(b"answer", b"\xff"),
        result(2).replace(b"answer", b'"an"swer'),
        result(2, extra=("one too many",)),
        # Even in number, but not where quotes belong: to a csv reader the last one opens a cell.
        result(2).replace(b"mock,m,t,", b'mock,m"x,"t,'),
        result(2).replace(b"mock,m,t,", b'mock,m"\nx",t,'),
        result(2).replace(b"answer", b"an\rswer"),
        result(2)[:-1] + b"\r\r\n",
    ],
    ids=repr,
)
def test_a_damaged_record_in_the_middle_is_named_with_its_row(scan, bad):
    with pytest.raises(BadInput, match=r"results\.csv, row 2: ") as caught:
        scan(HEADER + result(1) + bad + result(3))
    assert caught.value.row == 2
    assert caught.value.hint


def test_a_stray_quote_is_named_with_its_row_where_it_would_swallow_all_that_follows(scan):
    bad = result(2).replace(b"mock,m,t,", b'mock,m"x,"t,')
    with pytest.raises(BadInput, match=r"results\.csv, row 2: .*unexpected end of data"):
        scan(HEADER + result(1) + bad + b"".join(map(result, range(3, 9))))
    with pytest.raises(BadInput, match=r"results\.csv, row 2: "):
        scan(HEADER + result(1) + bad + bad + result(4) + b"torn")


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.csv: cannot be read: No such file"):
        scan_results(str(tmp_path / "gone.csv"), COLUMNS)
