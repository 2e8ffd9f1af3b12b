import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import BadInput, ColumnsMismatch
from parallamr_mp.models import RESULT_COLUMNS
from parallamr_mp.results.records import columns_for, complete_records, encode_record
from parallamr_mp.results.scan import STATUSES, Finished, Scan, row_key, scan_results

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
    ],
    ids=repr,
)
def test_a_damaged_record_in_the_middle_is_named_with_its_row(scan, bad):
    with pytest.raises(BadInput, match=r"results\.csv, row 2: ") as caught:
        scan(HEADER + result(1) + bad + result(3))
    assert caught.value.row == 2
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.csv: cannot be read: No such file"):
        scan_results(str(tmp_path / "gone.csv"), COLUMNS)


# --- claiming what is finished -----------------------------------------------------------------


def finished(rows) -> Finished:
    found = Scan("results.csv")
    for identity, row, error in rows:
        found.ids.append(identity)
        found.rows.append(row)
        found.statuses.append(STATUSES.index("error" if error else "ok"))
    return Finished(found)


few = st.integers(0, 3)
# Ids in the upper half of 64 bits too: they must not overflow or sort as negative.
identities = st.sampled_from([0, 1, 2**63, 2**64 - 1])
results = st.lists(st.tuples(identities, few, st.booleans()), max_size=12)
claims = st.lists(st.tuples(st.booleans(), identities, few), max_size=30)


@given(results, claims)
def test_claims_take_each_result_once_and_find_one_while_there_is_one(rows, claims):
    file, left = finished(rows), set(range(len(rows)))
    answered = {row[:2] for row in rows if not row[2]}
    superseded = {index for index, row in enumerate(rows) if row[2] and row[:2] in answered}
    for same_row, identity, row in claims:
        index = file.claim_same_row(identity, row) if same_row else file.claim_any(identity)
        fitting = {
            i for i in left - superseded if rows[i][0] == identity and (not same_row or rows[i][1] == row)
        }
        assert index in fitting if fitting else index is None
        left.discard(index)
        assert set(file.unclaimed()) == left
    for index, (_, _, error) in enumerate(rows):
        assert file.is_error(index) == error
        assert file.is_superseded(index) == (index in superseded)


@given(st.lists(st.tuples(few, few), max_size=12), st.lists(st.tuples(few, few), max_size=12))
def test_the_same_row_first_then_any_other_leaves_as_many_as_multisets_say(done, wanted):
    file = finished([(identity, row, False) for identity, row in done])
    missing = [pair for pair in wanted if file.claim_same_row(*pair) is None]
    unanswered = [identity for identity, _ in missing if file.claim_any(identity) is None]
    assert Counter(missing) == Counter(wanted) - Counter(done)
    ids = Counter(identity for identity, _ in wanted) - Counter(identity for identity, _ in done)
    assert Counter(unanswered) == ids


def test_of_equal_rows_the_one_whose_number_is_missing_stays_to_be_asked():
    file = finished([(5, row_key(1, 0), False), (5, row_key(3, 0), False)])
    claimed = {row: file.claim_same_row(5, row_key(row, 0)) for row in (1, 2, 3)}
    assert claimed == {1: 0, 2: None, 3: 1}
    assert file.claim_any(5) is None


class Counting(list):
    """A list that counts how often it is looked into."""

    looked = 0

    def __getitem__(self, index):
        Counting.looked += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", ["same rows", "other rows", "none left"])
def test_claiming_equal_identities_costs_a_constant_number_of_looks_each(kind):
    def looks_each(size: int) -> float:
        file = finished([(7, row, False) for row in range(size)])
        file._order, file._ids = Counting(file._order), Counting(file._ids)
        Counting.looked = 0
        shift = 0 if kind == "same rows" else size
        found = [file.claim_same_row(7, row + shift) for row in range(size)]
        if shift:
            found = [file.claim_any(7) for _ in range(size)]
        assert sorted(found) == list(range(size))
        for _ in range(size if kind == "none left" else 1):
            assert file.claim_any(7) is None
        return Counting.looked / size

    small, large = looks_each(2_000), looks_each(20_000)
    assert large < small * 1.5  # a bisection deeper, not ten times as many
    assert large < 100
