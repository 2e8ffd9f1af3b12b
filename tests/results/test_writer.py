import csv
import io
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import BadInput, ColumnsMismatch, OutputError, WriterClosed
from parallamr_mp.results import writer as module
from parallamr_mp.results.records import encode_record
from parallamr_mp.results.writer import IncrementalCSVWriter

COLUMNS = ("id", "text")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and /dev/full")


def read(path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, strict=True))


def open_files(path) -> int:
    """How many descriptors of this process show `path`."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.path.samefile(f"/proc/self/fd/{fd}", path)
        except OSError:
            continue
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.csv"


# --- writing -----------------------------------------------------------------------------------


def test_a_thousand_rows_from_twenty_threads_are_whole_and_all_there(path):
    writer = IncrementalCSVWriter(path, COLUMNS)
    start = threading.Barrier(20)

    def write(thread: int) -> None:
        start.wait()
        for number in range(50):
            row = thread * 50 + number
            writer.write_result({"id": row, "text": f'row {row}, "quoted"\r\n' * (1 + row % 40)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    header, *rows = read(path)
    assert tuple(header) == COLUMNS
    assert sorted(int(row[0]) for row in rows) == list(range(1000))
    for number, text in rows:
        assert text == f'row {number}, "quoted"\r\n' * (1 + int(number) % 40)


@linux
def test_one_descriptor_is_opened_and_kept(path, monkeypatch):
    opened = []
    real_open = os.open

    def spy(name, *args, **kwargs):
        opened.append(name)
        return real_open(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", spy)
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        for number in range(100):
            writer.write_result({"id": number})
            assert open_files(path) == 1
    assert open_files(path) == 0
    assert opened == [str(path)]


def test_a_row_can_be_read_as_soon_as_it_is_written(path):
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        assert read(path) == [list(COLUMNS)]
        for number in range(3):
            writer.write_result({"id": number, "text": "x"})
            assert len(read(path)) == number + 2
            assert writer.offset == path.stat().st_size


def test_without_columns_those_of_the_first_row_count(path):
    with IncrementalCSVWriter(path) as writer:
        writer.write_result({"b": 1, "a": 2})
        writer.write_result({"a": 3})
    assert read(path) == [["b", "a"], ["1", "2"], ["", "3"]]


def test_an_unknown_column_is_bad_input_and_writes_nothing(path):
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        with pytest.raises(BadInput, match=r"no such column: colour") as caught:
            writer.write_result({"id": 1, "colour": "red"})
        assert "id, text" in str(caught.value)
        writer.write_result({"id": 2})
    assert read(path) == [list(COLUMNS), ["2", ""]]


def test_encoded_records_are_written_as_they_are_and_the_offset_told(path):
    with IncrementalCSVWriter(path, header=b"id,text\n", resume_at=0) as writer:
        assert writer.write_record(b"1,a\n2,b\n") == 16
    assert path.read_bytes() == b"id,text\n1,a\n2,b\n"


def test_folders_on_the_way_are_made(tmp_path):
    IncrementalCSVWriter(tmp_path / "a" / "b" / "c.csv", COLUMNS).close()
    assert read(tmp_path / "a" / "b" / "c.csv") == [list(COLUMNS)]


# --- closing -----------------------------------------------------------------------------------


def test_closing_twice_is_fine_and_writing_afterwards_is_a_clear_error(path):
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        assert not writer.closed
    assert writer.closed
    writer.close()
    writer.sync()
    with pytest.raises(WriterClosed, match=r"results\.csv: this writer has been closed"):
        writer.write_result({"id": 1})
    with pytest.raises(WriterClosed):
        writer.write_record(b"1,a\n")
    assert read(path) == [list(COLUMNS)]


def test_without_a_path_rows_go_to_standard_output_which_stays_open(capfd):
    with IncrementalCSVWriter(columns=COLUMNS) as writer:
        writer.write_result({"id": 1, "text": "a\nb"})
    with pytest.raises(WriterClosed, match="standard output"):
        writer.write_result({"id": 2})
    os.write(1, b"still open")
    assert capfd.readouterr().out == 'id,text\n1,"a\nb"\nstill open'


def test_a_removed_file_takes_no_more_rows(path):
    writer = IncrementalCSVWriter(path, COLUMNS)
    path.unlink()
    with pytest.raises(OutputError, match="was removed while"):
        writer.write_result({"id": 1})
    with pytest.raises(OutputError, match="was removed"):
        writer.close()
    assert writer.closed
    writer.close()


@pytest.mark.parametrize("replace", [lambda path: path.write_text("new"), lambda path: None])
def test_a_file_that_was_renamed_is_noticed_on_sync(path, replace):
    writer = IncrementalCSVWriter(path, COLUMNS)
    path.rename(path.with_name("other.csv"))
    replace(path)
    writer.write_result({"id": 1})
    for end in (writer.sync, writer.close):
        with pytest.raises(OutputError, match="was removed or replaced while"):
            end()
    assert path.with_name("other.csv").read_text() == "id,text\n1,\n"


# --- files that exist --------------------------------------------------------------------------


def test_rows_are_appended_to_a_file_that_fits(path):
    for columns in (COLUMNS, COLUMNS, None):
        with IncrementalCSVWriter(path, columns) as writer:
            writer.write_result({"id": 1, "text": 'a\n"b"'})
    assert read(path) == [list(COLUMNS)] + [["1", 'a\n"b"']] * 3


def test_columns_that_do_not_fit_are_refused_with_both_lists_and_the_file_kept(path):
    path.write_bytes(b"id,name\n1,a\n2,tor")
    with pytest.raises(ColumnsMismatch, match=r"results\.csv") as caught:
        IncrementalCSVWriter(path, COLUMNS)
    assert "id, name" in str(caught.value)
    assert "id, text" in str(caught.value)
    assert path.read_bytes() == b"id,name\n1,a\n2,tor"


@pytest.mark.parametrize(
    "content", [b"no line feed", b'"open quote\n', b'a"b"c,"d"e\nx,y\n', b"\xff\xfe\n"], ids=repr
)
def test_a_file_that_is_no_table_is_refused_and_kept(path, content):
    path.write_bytes(content)
    with pytest.raises(ColumnsMismatch, match=r"results\.csv"):
        IncrementalCSVWriter(path, COLUMNS)
    assert path.read_bytes() == content


@given(st.data())
def test_after_a_cut_anywhere_the_torn_record_goes_and_rows_are_appended(tmp_path_factory, data):
    texts = st.text(alphabet='a",\r\né', max_size=6)
    rows = data.draw(st.lists(st.tuples(st.just("1"), texts), max_size=4))
    records = [encode_record(row) for row in (COLUMNS, *rows)]
    whole = b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.mktemp("cut") / "results.csv"
    path.write_bytes(whole[:cut])
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        writer.write_result({"id": "new"})
    ends = [len(b"".join(records[: index + 2])) for index in range(len(rows))]
    kept = [list(row) for row, end in zip(rows, ends, strict=True) if end <= cut]
    assert read(path) == [list(COLUMNS), *kept, ["new", ""]]


def test_a_byte_order_mark_before_the_header_is_no_part_of_it(path):
    path.write_bytes(b"\xef\xbb\xbfid,text\r\n1,a\r\n")
    with IncrementalCSVWriter(path, COLUMNS) as writer:
        writer.write_result({"id": 2})
    assert path.read_bytes() == b"\xef\xbb\xbfid,text\r\n1,a\r\n2,\n"


def test_resuming_at_an_offset_cuts_what_is_behind_it(path):
    path.write_bytes(b"id,text\n1,a\n2,b\n")
    with IncrementalCSVWriter(path, header=b"id,text\n", resume_at=12) as writer:
        assert writer.offset == 12
        writer.write_record(b"3,c\n")
    assert path.read_bytes() == b"id,text\n1,a\n3,c\n"


@linux
def test_a_file_shorter_than_what_had_been_written_is_an_error(path):
    path.write_bytes(b"id,text\n")
    with pytest.raises(OutputError, match="is 8 bytes long where 12 had been written"):
        IncrementalCSVWriter(path, header=b"id,text\n", resume_at=12)
    assert open_files(path) == 0


# --- what cannot be written --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "file/results.csv"], ids=["a folder", "below a file"])
def test_a_path_that_cannot_be_a_file_is_an_error_with_its_name(tmp_path, name):
    (tmp_path / "file").write_text("x")
    path = str(tmp_path / name) if name else str(tmp_path)
    with pytest.raises(OutputError, match="cannot be opened for writing") as caught:
        IncrementalCSVWriter(path, COLUMNS)
    assert path in str(caught.value)


def test_a_write_that_fails_leaves_whole_records_only(path):
    # The limit on a file's size stands in for a disk that fills up: the last write comes back short.
    script = """
        import resource, signal, sys
        from parallamr_mp.errors import OutputError
        from parallamr_mp.results.writer import IncrementalCSVWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        writer = IncrementalCSVWriter(sys.argv[1], ["id", "text"])
        written = 0
        try:
            for written in range(100):
                writer.write_result({"id": written, "text": 'x"' * 30})
        except OutputError as error:
            print(written, writer.offset, error)
        writer.write_result({"id": "small"})
        writer.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    written, offset, message = done.stdout.split(" ", 2)
    assert "results.csv: cannot be written: File too large" in message
    rows = read(path)
    assert rows[1:-1] == [[str(number), 'x"' * 30] for number in range(int(written))]
    assert rows[-1] == ["small", ""]
    assert path.stat().st_size == int(offset) + len("small,\n")


def test_a_device_takes_rows():
    with IncrementalCSVWriter(os.devnull, COLUMNS) as writer:
        writer.write_result({"id": 1})
        writer.sync()


@linux
def test_a_full_device_is_an_error():
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left"):
        IncrementalCSVWriter("/dev/full", COLUMNS)


def test_a_named_pipe_waits_for_its_reader_who_gets_every_row(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    found = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()), daemon=True)
    reader.start()
    with IncrementalCSVWriter(fifo, COLUMNS) as writer:
        for number in range(5000):
            writer.write_result({"id": number, "text": "x" * 50})
    reader.join()
    rows = list(csv.reader(io.StringIO(found[0].decode(), newline="")))
    assert [row[0] for row in rows] == ["id", *map(str, range(5000))]


def test_a_named_pipe_without_a_reader_is_an_error_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: nobody reads this pipe"):
        IncrementalCSVWriter(tmp_path / "pipe", COLUMNS)


def test_a_named_pipe_whose_reader_left_is_an_error_and_no_hang(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)

    def read_the_header_and_leave():
        with open(fifo, "rb", buffering=0) as stream:
            stream.read(8)

    reader = threading.Thread(target=read_the_header_and_leave, daemon=True)
    reader.start()
    with IncrementalCSVWriter(fifo, COLUMNS) as writer:
        reader.join()
        with pytest.raises(OutputError, match="pipe: cannot be written: Broken pipe"):
            writer.write_result({"id": 1, "text": "x" * 1_000_000})
