"""The output takes no more rows in the middle of a run: what is answered is kept, nothing more is asked.

A limit on file sizes stands for a full disk: it stops a write in the middle of a record, as that would.
"""

import os
import shutil

import pytest
from support.behaviours import answer, stall
from support.cli import SCRIPT, Place, read_rows, run_cli
from support.dispatching import Results, jobs, run
from support.running import wait_until

from parallamr_mp.errors import OutputError

ROWS = 40
FEW = ("--procs", "2", "--threads", "4")
LONG = "x" * 200_000
LIMIT = 8192
"""Blocks of 512 bytes: about half of what the rows need, and more than anything else that is written."""


@pytest.fixture
def place(tmp_path, server):
    (tmp_path / "tmp").mkdir()
    place = Place(tmp_path, server, TMPDIR=str(tmp_path / "tmp"), XDG_STATE_HOME=str(tmp_path / "state"))
    place.questions(ROWS)
    return place


def limited(place, *options):
    """A run whose files can grow to the limit only."""
    return run_cli(
        place.folder,
        *place.job("-o", "out/results.csv", *options),
        env=place.env,
        command=["bash", "--posix", "-c", f'ulimit -f {LIMIT}; exec "$@"', "bash", SCRIPT],
    )


def rescued(place):
    return sorted(path.relative_to(place.folder) for path in place.folder.rglob("*.rescue-*"))


def assert_whole(place):
    rows = place.rows("out/results.csv")
    assert [int(row["row_number"]) for row in rows] == list(range(1, ROWS + 1))
    assert {row["status"] for row in rows} == {"ok"}
    assert rescued(place) == []
    assert os.listdir(place.folder / "tmp") == []


@pytest.mark.parametrize("procs", [("--procs", "2"), ("--procs", "0")])
def test_answers_that_a_full_disk_did_not_take_are_saved_and_taken_in(place, server, procs):
    server.behave(answer(LONG))
    done = limited(place, *procs, "--threads", "4")
    assert done.code == 1, done
    assert done.stderr.count("Error: ") == 1
    assert "out/results.csv: cannot be written: File too large" in done.stderr
    assert "saved in" in done.stderr
    assert "--resume" in done.stderr
    written = (place.folder / "out/results.csv").read_bytes()
    assert written.endswith(b"\n")
    before = len(read_rows(place.folder / "out/results.csv"))
    assert 0 < before < len(server.requests)
    asked = len(server.requests)
    resumed = place.run("-o", "out/results.csv", *FEW, "--resume")
    assert resumed.code == 0, resumed
    assert f"{asked - before} answers saved aside by an earlier run: taken in" in resumed.stderr
    assert_whole(place)
    assert len(server.requests) == ROWS


def test_requests_in_flight_when_the_output_goes_are_finished_and_kept(place, server):
    server.behave(lambda request: stall() if int(request.experiment) > 4 else answer())
    with place.start("-o", "out/results.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 8)
        wait_until(lambda: len(place.rows("out/results.csv")) == 4)
        shutil.rmtree(place.folder / "out")
        server.behave(answer())
        server.release_all()
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1, stderr
    assert b"out/results.csv: was removed" in stderr
    asked = len(server.requests)
    # The folder is gone, so there is no place beside the file.
    (saved,) = rescued(place)
    assert saved.parts[:2] == ("state", "parallamr-mp")
    assert len(read_rows(place.folder / saved)) == asked - 4
    (place.folder / "out").mkdir()
    resumed = place.run("-o", "out/results.csv", *FEW, "--resume")
    assert resumed.code == 0, resumed
    assert_whole(place)
    # Those that were in the removed file went with it.
    assert len(server.requests) == ROWS + 4


def test_answers_in_the_temporary_folder_are_found_when_that_is_another_by_then(place, server):
    """Every job of a batch system has its own. So /tmp itself is looked into as well."""
    place.write("state", "in the way")
    server.behave(lambda request: stall() if int(request.experiment) > 4 else answer())
    with place.start("-o", "out/results.csv", *FEW, TMPDIR="/tmp") as process:
        server.wait_until(lambda: server.in_flight == 8)
        wait_until(lambda: len(place.rows("out/results.csv")) == 4)
        shutil.rmtree(place.folder / "out")
        server.behave(answer())
        server.release_all()
        _, stderr = process.communicate(timeout=20)
    assert b"saved in /tmp/parallamr-mp-" in stderr, stderr
    asked = len(server.requests)
    resumed = place.run("-o", "out/results.csv", *FEW, "--resume")
    assert resumed.code == 0, resumed
    assert f"{asked - 4} answers saved aside" in resumed.stderr
    assert_whole(place)


class FullAfter(Results):
    """Takes that many rows, then no more."""

    def __init__(self, rows):
        self.left = rows
        super().__init__()

    def accept(self, job, outcome):
        super().accept(job, outcome)
        self.left -= 1
        if self.left == 0:
            self.problem = OutputError("results.csv: cannot be written: No space left on device")


def test_nothing_is_asked_once_it_is_known_that_it_could_not_be_written():
    results = FullAfter(5)
    asked = []

    def handle(payload, attempt):
        asked.append(payload)
        return payload

    with pytest.raises(OutputError, match="No space left"):
        run(jobs(50), handle, results=results, slots=1, threads=1)
    # The next one may be on its way already, where answers come at once.
    assert 5 <= len(asked) <= 6
