"""Answers that find no place in their results file are kept in the next best."""

import os

import pytest

from parallamr_mp.errors import OutputError
from parallamr_mp.results.records import encode_record
from parallamr_mp.results.rescue_file import RescueFile, rescue_files
from parallamr_mp.results.writer import IncrementalCSVWriter

COLUMNS = ("a", "b")
HEADER = encode_record(COLUMNS)
ROW = encode_record((1, 2))


def place(folder, name="r.rescue-"):
    return str(folder / name)


def own(folder, name="r.rescue-"):
    return folder / f"{name}{os.getpid()}.csv"


def test_the_first_place_that_takes_rows_gets_them(tmp_path):
    rescue = RescueFile([str(tmp_path / "missing" / "r-"), place(tmp_path)], COLUMNS)
    rescue.save(ROW)
    rescue.save(ROW)
    rescue.close()
    assert own(tmp_path).read_bytes() == HEADER + ROW + ROW
    assert rescue.paths == [str(own(tmp_path))]
    assert rescue_files([place(tmp_path)]) == [str(own(tmp_path))]


def test_a_place_that_fills_up_keeps_what_it_has_and_the_next_goes_on(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    write = IncrementalCSVWriter.write_record
    rows = []

    def stingy(self, record):
        rows.append(record)
        if "full" in self.path and len(rows) > 2:
            raise OutputError("No space left on device")
        return write(self, record)

    monkeypatch.setattr(IncrementalCSVWriter, "write_record", stingy)
    rescue = RescueFile([place(tmp_path / "full"), place(tmp_path)], COLUMNS)
    for _ in range(4):
        rescue.save(ROW)
    rescue.close()
    assert own(tmp_path / "full").read_bytes() == HEADER + ROW * 2
    assert own(tmp_path).read_bytes() == HEADER + ROW * 2
    assert rescue.paths == [str(own(tmp_path / "full")), str(own(tmp_path))]


def test_without_a_place_it_is_an_error_and_nothing_is_left(tmp_path, monkeypatch):
    def full(self, record):
        raise OutputError("No space left on device")

    monkeypatch.setattr(IncrementalCSVWriter, "write_record", full)
    rescue = RescueFile([place(tmp_path)], COLUMNS)
    for _ in range(2):
        with pytest.raises(OutputError, match="no place"):
            rescue.save(ROW)
    assert os.listdir(tmp_path) == []
    with pytest.raises(OutputError, match="no place"):
        RescueFile([], COLUMNS).save(ROW)


def test_rows_of_an_earlier_process_with_the_same_number_stay(tmp_path):
    own(tmp_path).write_bytes(HEADER + ROW)
    rescue = RescueFile([place(tmp_path)], COLUMNS)
    rescue.save(ROW)
    rescue.close()
    assert own(tmp_path).read_bytes() == HEADER + ROW + ROW


def test_a_file_that_is_no_rescue_file_is_left_alone(tmp_path):
    own(tmp_path).write_bytes(b"something,else\n")
    rescue = RescueFile([place(tmp_path), place(tmp_path, "second-")], COLUMNS)
    rescue.save(ROW)
    rescue.close()
    assert own(tmp_path).read_bytes() == b"something,else\n"
    assert own(tmp_path, "second-").read_bytes() == HEADER + ROW


def test_a_link_that_lies_in_wait_is_not_followed_and_not_taken_in(tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"")
    own(tmp_path).symlink_to(target)
    with pytest.raises(OutputError):
        RescueFile([place(tmp_path)], COLUMNS).save(ROW)
    assert target.read_bytes() == b""
    assert rescue_files([place(tmp_path)]) == []


def test_what_lies_in_wait_in_the_next_place_is_left_there_when_the_first_has_filled_up(
    tmp_path, monkeypatch
):
    (tmp_path / "full").mkdir()
    target = tmp_path / "precious"
    target.write_bytes(b"")
    own(tmp_path).symlink_to(target)
    write, rows = IncrementalCSVWriter.write_record, []

    def stingy(self, record):
        rows.append(record)
        if len(rows) > 1:
            raise OutputError("No space left on device")
        return write(self, record)

    monkeypatch.setattr(IncrementalCSVWriter, "write_record", stingy)
    rescue = RescueFile([place(tmp_path / "full"), place(tmp_path)], COLUMNS)
    rescue.save(ROW)
    with pytest.raises(OutputError, match="no place"):
        rescue.save(ROW)
    assert own(tmp_path).is_symlink()


def test_a_rescue_file_is_for_its_owner_alone(tmp_path):
    rescue = RescueFile([place(tmp_path)], COLUMNS)
    rescue.save(ROW)
    rescue.close()
    assert own(tmp_path).stat().st_mode & 0o077 == 0
