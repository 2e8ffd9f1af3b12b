"""Who claims which result: a multiset of identities, the row number first."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp import claims
from parallamr_mp.claims import Claims, Identities, claim
from parallamr_mp.results.scan import STATUSES, Scan, row_key

OK, ERROR = STATUSES.index("ok"), STATUSES.index("error")


def asks(*identities: int, first_row: int = 1, repeat: int = 1, files=None) -> Identities:
    asked = Identities(first_row, repeat)
    for ordinal, identity in enumerate(identities):
        asked.ids.append(identity)
        asked.cells.append(0)
        asked.files.append(files[ordinal] if files else 0)
    return asked


def results(*rows: tuple[int, int, bool]) -> Scan:
    """Of (identity, `row_key`, whether it is an error)."""
    scan = Scan("results.csv")
    for identity, key, error in rows:
        scan.ids.append(identity)
        scan.rows.append(key)
        scan.cells.append(0)
        scan.statuses.append(ERROR if error else OK)
    return scan


def as_told(asked: Identities, scans: list[Scan | None]) -> Claims:
    """The same, looked for the long way, one experiment after the other."""
    told = asks()
    found = claim(told, [None] * len(scans))
    for number, scan in enumerate(scans):
        rows = [] if scan is None else list(zip(scan.ids, scan.rows, scan.statuses, strict=True))
        answered = {row[:2] for row in rows if row[2] != ERROR}
        beside = {index for index, row in enumerate(rows) if row[2] == ERROR and row[:2] in answered}
        left = [index for index in range(len(rows)) if index not in beside]
        found.superseded[number] = beside
        found.free[number] = left
    found.results.extend([-1] * len(asked.ids))
    for by_row in (True, False):
        for ordinal, identity in enumerate(asked.ids):
            scan, left = scans[asked.files[ordinal]], found.free[asked.files[ordinal]]
            fitting = [
                index
                for index in left
                if scan is not None
                and scan.ids[index] == identity
                and (not by_row or scan.rows[index] == asked.key(ordinal))
            ]
            if found.results[ordinal] < 0 and fitting and scan is not None:
                rows, statuses = scan.rows, scan.statuses
                best = min(fitting, key=lambda index: (rows[index], statuses[index] == ERROR, index))
                found.results[ordinal] = best
                left.remove(best)
    for number, left in enumerate(found.free):
        found.free[number] = sorted({*left, *found.superseded[number]})
    return found


# Ids in the upper half of 64 bits too: they must not overflow or sort as negative.
identities = st.sampled_from([0, 1, 2**63, 2**64 - 1])
keys = st.builds(row_key, st.integers(0, 5), st.integers(0, 2))
files = st.none() | st.lists(st.tuples(identities, keys, st.booleans()), max_size=12)


@pytest.mark.parametrize("bits", [1, 14])
@given(st.integers(1, 3), st.integers(1, 2), st.data())
def test_claims_are_what_looking_for_them_one_by_one_finds(bits, first_row, repeat, data):
    scans = [
        None if rows is None else results(*rows)
        for rows in data.draw(st.lists(files, min_size=1, max_size=2))
    ]
    row = st.lists(st.tuples(identities, st.integers(0, len(scans) - 1)), max_size=8)
    wanted = data.draw(row)
    wanted = wanted[: len(wanted) // repeat * repeat]
    asked = asks(
        *(identity for identity, _ in wanted),
        first_row=first_row,
        repeat=repeat,
        files=[file for _, file in wanted],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "_PART_BITS", bits)
        found, told = claim(asked, scans), as_told(asked, scans)
    assert list(found.results) == list(told.results)
    assert [list(each) for each in found.free] == [list(each) for each in told.free]
    assert found.superseded == told.superseded


few = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12)


@given(st.lists(st.integers(0, 3), max_size=12), few)
def test_as_many_are_left_without_a_result_as_multisets_say(wanted, done):
    scan = results(*((identity, row_key(row, 0), False) for identity, row in done))
    found = claim(asks(*wanted), [scan])
    open_ones = Counter(identity for identity, index in zip(wanted, found.results, strict=True) if index < 0)
    assert open_ones == Counter(wanted) - Counter(scan.ids)
    assert Counter(scan.ids[index] for index in found.free[0]) == Counter(scan.ids) - Counter(wanted)


def test_of_equal_rows_the_one_whose_number_is_missing_stays_to_be_asked():
    found = claim(asks(5, 5, 5), [results((5, row_key(1, 0), False), (5, row_key(3, 0), False))])
    assert list(found.results) == [0, -1, 1]
    assert not found.free[0]


def test_a_result_of_a_row_counts_before_an_error_of_it_wherever_it_stands():
    rows = [(5, row_key(1, 0), error) for error in (True, False, True)]
    found = claim(asks(5, 5), [results(*rows)])
    assert list(found.results) == [1, -1]
    assert list(found.free[0]) == [0, 2]
    assert found.superseded == [{0, 2}]


def test_an_experiment_has_the_place_that_its_key_says():
    asked = asks(*range(6), first_row=4, repeat=2)
    assert [asked.place(asked.key(ordinal)) for ordinal in range(6)] == [0, 1, 2, 3, 4, 5]
    strange = [row_key(3, 0), row_key(3, 1), row_key(7, 0), row_key(4, 2), row_key(0, 0)]
    assert [asked.place(key) for key in strange] == [-1] * 5


class Counting(list):
    """A list that counts how often it is looked into."""

    looked = 0

    def __getitem__(self, index):
        Counting.looked += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("shift", [0, 1_000_000], ids=["same rows", "other rows"])
@pytest.mark.parametrize("alike", [True, False])
def test_claiming_costs_a_constant_number_of_looks_each(shift, alike):
    def looks_each(size: int) -> float:
        names = [7] * size if alike else [number << 40 for number in range(size)]
        asked = asks(*names, *[8] * size)
        scan = results(*((name, row_key(shift + row, 0), False) for row, name in enumerate(names, start=1)))
        asked.ids, scan.ids, scan.rows = Counting(asked.ids), Counting(scan.ids), Counting(scan.rows)  # type: ignore[assignment]
        Counting.looked = 0
        found = claim(asked, [scan])
        assert list(found.results) == [*range(size), *[-1] * size]
        return Counting.looked / size

    small, large = looks_each(1_000), looks_each(10_000)
    assert large < small * 1.5
    assert large < 20
