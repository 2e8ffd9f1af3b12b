"""Answers saved by orphaned workers find their way into the results, once each."""

import os
from itertools import permutations

import pytest

from parallamr_mp.answered import AttemptSpec, RowResult
from parallamr_mp.attempt import Asker
from parallamr_mp.claims import Identities
from parallamr_mp.models import RESULT_COLUMNS, Inputs, Status, Unsaved
from parallamr_mp.outputs import Output
from parallamr_mp.rescue import adopt
from parallamr_mp.results.records import columns_for, complete_records, decode_record, encode_record
from parallamr_mp.results.rescue_file import rescue_files
from parallamr_mp.results.scan import scan_results

INPUT = ("provider", "model", "topic")
COLUMNS = columns_for(INPUT)


def record(identity, row, output="an answer,\nof two lines", status="ok"):
    cells = dict.fromkeys(RESULT_COLUMNS, "") | {
        "status": status,
        "output": output,
        "row_number": row,
        "repeat": 0,
        "experiment_id": f"{identity:016x}",
    }
    return encode_record(["mock", "mock", f"t{row}", *cells.values()])


def write(path, *records, extra=()):
    path.write_bytes(encode_record((*COLUMNS, *extra)) + b"".join(records))
    return str(path)


def asked(*identities, files=None):
    found = Identities()
    for number, identity in enumerate(identities):
        found.ids.append(identity)
        found.cells.append(-1 - number)  # unlike those of any record
        found.files.append(files[number] if files else 0)
    return found


def rows(path):
    with open(path, "rb") as stream:
        return [decode_record(raw) for _, raw in complete_records(stream)][1:]


def numbers(path):
    return [int(cells[COLUMNS.index("row_number")]) for cells in rows(path)]


# --- saving ------------------------------------------------------------------------------------


def result(row):
    return Unsaved(None, 1, RowResult(record(row, row), Status.OK, "", 0.1, 1, 1, None), None, 0.1)


def test_a_worker_saves_rows_in_a_file_that_resume_finds(tmp_path):
    spec = AttemptSpec(INPUT, Inputs(""), 1.0, threads=2, rescue=(str(tmp_path / "r.csv.rescue-"),))
    asker = Asker(spec)
    assert rescue_files(spec.rescue) == []
    asker.rescue([result(1), result(2)])
    asker.rescue([result(3)])
    (path,) = rescue_files(spec.rescue)
    assert path == f"{spec.rescue[0]}{os.getpid()}.csv"
    assert numbers(path) == [1, 2, 3]


def test_a_full_disk_or_no_place_to_save_to_ends_no_worker(tmp_path):
    (tmp_path / "file").write_text("")
    for rescue in ((), (str(tmp_path / "file" / "x-"),)):
        asker = Asker(AttemptSpec(INPUT, Inputs(""), 1.0, threads=2, rescue=rescue))
        asker.rescue([result(1)])
        asker.rescue([result(2)])


# --- taking in ---------------------------------------------------------------------------------


def test_rescued_rows_are_added_once_and_their_file_is_removed(tmp_path):
    results = write(tmp_path / "r.csv", record(1, 1))
    first = write(tmp_path / "r.csv.rescue-7.csv", record(1, 1), record(2, 2), record(3, 3))
    second = write(tmp_path / "r.csv.rescue-8.csv", record(3, 3), record(4, 4))
    prefix = str(tmp_path / "r.csv.rescue-")
    assert rescue_files([prefix]) == [first, second]
    output = Output(0, results, existed=True)
    taken, foreign = adopt(
        [first, second], COLUMNS, asked(1, 2, 3, 4), [scan_results(results, COLUMNS)], [output]
    )
    assert (taken, foreign) == (3, [])
    assert numbers(results) == [1, 2, 3, 4]
    assert rescue_files([prefix]) == []


@pytest.mark.parametrize("order", list(permutations(["error", "warning", "ok"])))
def test_of_several_rows_of_an_experiment_the_best_is_taken_in(tmp_path, order):
    paths = [
        write(tmp_path / f"r.csv.rescue-{number}.csv", record(1, 1, status, status))
        for number, status in enumerate(order)
    ]
    output = Output(0, str(tmp_path / "r.csv"))
    assert adopt(paths, COLUMNS, asked(1), [None], [output]) == (1, [])
    assert [cells[COLUMNS.index("output")] for cells in rows(output.path)] == ["ok"]
    assert not any(map(os.path.exists, paths))


def test_of_equal_rows_in_one_file_the_later_is_taken_in(tmp_path):
    path = write(
        tmp_path / "r.csv.rescue-1.csv", record(1, 1, "cut", "warning"), record(1, 1, "longer", "warning")
    )
    output = Output(0, str(tmp_path / "r.csv"))
    assert adopt([path], COLUMNS, asked(1), [None], [output]) == (1, [])
    assert [cells[COLUMNS.index("output")] for cells in rows(output.path)] == ["longer"]


def test_a_torn_end_is_cut_off_on_both_sides(tmp_path):
    results = write(tmp_path / "r.csv", record(1, 1), record(2, 2)[:-5])
    rescue = write(tmp_path / "r.csv.rescue-7.csv", record(2, 2), record(3, 3)[:-5])
    adopt([rescue], COLUMNS, asked(1, 2, 3), [scan_results(results, COLUMNS)], [Output(0, results, True)])
    assert numbers(results) == [1, 2]


def test_equal_rows_are_told_apart_by_their_number(tmp_path):
    results = write(tmp_path / "r.csv", record(5, 1))
    rescue = write(tmp_path / "r.csv.rescue-7.csv", record(5, 1), record(5, 2))
    adopt([rescue], COLUMNS, asked(5, 5), [scan_results(results, COLUMNS)], [Output(0, results, True)])
    assert numbers(results) == [1, 2]


def test_a_results_file_that_was_never_begun_is_made_with_its_header(tmp_path):
    rescue = write(tmp_path / "r.csv.rescue-7.csv", record(1, 1))
    output = Output(0, str(tmp_path / "r.csv"))
    assert adopt([rescue], COLUMNS, asked(1), [None], [output]) == (1, [])
    assert numbers(output.path) == [1]
    assert tuple(scan_results(output.path, COLUMNS).header) == COLUMNS
    assert output.existed


def test_each_row_goes_to_its_own_output_and_fills_up_flattened_columns(tmp_path):
    flat = write(tmp_path / "a.csv", record(1, 1)[:-1] + b",yes\n", extra=("good",))
    rescue = write(tmp_path / "x.rescue-7.csv", record(2, 2), record(3, 3))
    outputs = [Output(0, flat, existed=True, extra=("good",)), Output(1, str(tmp_path / "b.csv"))]
    adopt([rescue], COLUMNS, asked(1, 2, 3, files=[0, 0, 1]), [scan_results(flat, COLUMNS), None], outputs)
    assert numbers(flat) == [1, 2]
    assert [cells[-1] for cells in rows(flat)] == ["yes", ""]
    assert numbers(outputs[1].path) == [3]


def test_rows_of_no_experiment_of_this_run_stay_where_they_are(tmp_path):
    results = write(tmp_path / "r.csv")
    rescue = write(tmp_path / "r.csv.rescue-7.csv", record(1, 1), record(9, 9))
    other = tmp_path / "r.csv.rescue-8.csv"
    other.write_text("some,other\ntable,\n")
    taken, foreign = adopt(
        [rescue, str(other)], COLUMNS, asked(1), [scan_results(results, COLUMNS)], [Output(0, results, True)]
    )
    assert (taken, sorted(foreign)) == (1, sorted([rescue, str(other)]))
    assert numbers(results) == [1]
    assert os.path.exists(rescue)
