"""`verify` finds whatever is not as a run leaves it, says what to do, and lets a whole file pass."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.behaviours import answer, stall, status
from support.cli import Place, run_cli

from parallamr_mp import BadInput, Reply, create_experiment_runner
from parallamr_mp.verify import verify_file

FEW = ("--procs", "1", "--threads", "2")
TABLE = ("-p", "prompt.txt", "-e", "experiments.csv")


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(4)
    return place


def verify(place, *options):
    return run_cli(place.folder, "verify", *(options or ("results.csv", *TABLE)), env=place.env)


def assert_whole(place, *options):
    done = verify(place, *options)
    assert (done.code, done.stderr) == (0, ""), done
    assert "Whole" in done.stdout
    return done.stdout


def assert_not(place, words, *options, advice="--resume"):
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    done = verify(place, *options)
    assert (done.code, done.stderr) == (3, ""), done
    assert "Not whole:" in done.stdout
    _, _, then = done.stdout.partition(words)
    assert then, done.stdout
    assert advice in then.splitlines()[1]
    assert before == {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    return done.stdout


def finished(place, *options):
    done = place.run("-o", "results.csv", *FEW, *options)
    assert done.code in (0, 3), done
    return place.folder / "results.csv"


# --- whole -------------------------------------------------------------------------------------


def test_the_schema_that_answers_were_asked_for_belongs_to_what_was_asked(place, server):
    server.behave(answer("{}"))
    place.write("schema.json", '{"type": "object"}')
    finished(place, "--json-schema", "schema.json")
    assert_whole(place, "results.csv", *TABLE, "--json-schema", "schema.json")
    assert_not(place, "4 rows with answers to another prompt", advice="--redo-changed")


def test_what_a_run_leaves_is_whole(place, server):
    server.behave(lambda request: status(400) if request.experiment == "2" else answer('a "b",\r\nc'))
    finished(place)
    text = assert_whole(place)
    assert "results.csv: 4 rows (3 ok · 0 warning · 1 error)" in text
    assert "1 error row among them: --resume --retry-errors" in text
    assert "4 experiments, each with exactly one row" in text
    assert "With -e and -p" in assert_whole(place, "results.csv")
    assert len(server.requests) == 4


def test_with_the_options_of_the_run_it_is_compared_with_what_they_asked(place):
    place.write("context.txt", "on {{id}}")
    place.write("system.txt", "be brief")
    same = ("-c", "context.txt", "--system", "system.txt", "--param", "seed=1", "--repeat", "2")
    finished(place, *same, "--range", "2:3")
    assert "4 experiments, each" in assert_whole(place, "results.csv", *TABLE, *same, "--range", "2:3")
    assert_not(
        place,
        "4 rows with answers to another prompt",
        "results.csv",
        *TABLE,
        "--repeat",
        "2",
        "--range",
        "2:3",
    )
    assert_not(place, "4 experiments without a row", "results.csv", *TABLE, *same)
    assert_not(
        place,
        "2 rows of no experiment in the table (edited, removed, or out of range; row_number 3, 3",
        "results.csv",
        *TABLE,
        *same,
        "--limit",
        "2",
        advice="the table",
    )


def test_every_file_of_a_template_is_looked_at(place):
    place.table([{"provider": "mock", "model": f"mock-{n % 2}", "id": n} for n in range(5)])
    assert place.run("-o", "o/{{model}}.csv", *FEW).code == 0
    assert assert_whole(place, "o/{{model}}.csv", *TABLE).count("rows (") == 2
    (place.folder / "o/mock-1.csv").unlink()
    assert_not(place, "o/mock-1.csv: is not there", "o/{{model}}.csv", *TABLE)


def test_flattened_and_resumed_files_are_whole(place):
    finished(place, "--limit", "2", "--flatten")
    finished(place, "--resume", "--flatten")
    assert_whole(place)
    assert_whole(place, "results.csv")


# --- not whole ---------------------------------------------------------------------------------


def test_a_run_that_was_stopped_has_rows_missing(place):
    finished(place, "--limit", "3")
    assert_whole(place, "results.csv")
    assert_not(place, "1 experiment without a row")


def test_a_killed_run_is_told_with_and_without_a_table(place, server):
    server.behave(lambda request: answer() if request.experiment == "1" else stall())
    with place.start("-o", "results.csv", *FEW, "--orphan-grace", "0") as process:
        try:
            server.wait_until(lambda: server.in_flight == 2 and len(server.requests) == 3)
            while b"\n" not in (place.folder / "results.csv").read_bytes().partition(b"\n")[2]:
                assert process.poll() is None  # its one answer is about to be written
            assert "was killed" not in assert_not(place, "is writing to it", "results.csv", advice="wait")
        finally:
            process.kill()
        process.wait(10)
        server.wait_until(lambda: server.in_flight == 0)  # its worker is gone, too
    for options in (("results.csv",), ("results.csv", *TABLE)):
        text = assert_not(place, "was killed", *options)
        assert "the last run was killed" in text
    server.behave(answer())
    finished(place, "--resume")
    assert_whole(place)


def test_answers_saved_aside_are_not_in_the_file_yet(place):
    path = finished(place)
    header, *records = path.read_bytes().splitlines(keepends=True)
    (place.folder / "results.csv.rescue-7.csv").write_bytes(header + records[3])
    path.write_bytes(header + b"".join(records[:3]))
    text = assert_not(place, "1 answer saved aside, not taken in yet")
    assert "without a row" not in text
    assert_not(place, "results.csv.rescue-7.csv: answers that a run saved aside", "results.csv")
    finished(place, "--resume")
    assert_whole(place)


def edit(path, change):
    """Rewrites the rows; the manifest goes, so that the rest has to tell."""
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    path.with_name(f"{path.name}.manifest.json").unlink()


def put(row, column, value):
    return lambda rows: rows[row].__setitem__(rows[0].index(column), value)


@pytest.mark.parametrize(
    ("change", "words", "advice"),
    [
        (lambda rows: rows.append(rows[2]), "1 row of experiments that have one already", "take out"),
        (lambda rows: rows.pop(2), "1 experiment without a row", "--resume"),
        (
            put(2, "experiment_id", "0123456789abcdef"),
            "1 row with answers to another prompt",
            "--redo-changed",
        ),
        (put(2, "status", "good"), "1 record a status that is none ('good') (record 2)", "restore"),
        (put(2, "status", "error"), "1 record error without a message", "restore"),
        (put(2, "error_message", "oops"), "1 record ok with a message", "restore"),
    ],
)
def test_rows_that_were_changed_by_hand_are_found(place, change, words, advice):
    edit(finished(place), change)
    assert_not(place, words, advice=advice)


@pytest.mark.parametrize("column", ["row_number", "experiment_id", "repeat"])
def test_a_record_that_is_none_is_named(place, column):
    edit(finished(place), put(2, column, "??"))
    for options in ((), ("results.csv",)):
        assert_not(place, "results.csv, row 2: not a record of this results file", *options, advice="Mend")


def test_a_row_twice_is_found_without_a_table(place):
    edit(finished(place), lambda rows: rows.append(rows[1]))
    assert_not(place, "1 row there twice", "results.csv", advice="take out")


def test_the_manifest_and_the_file_have_to_agree(place):
    path = finished(place)
    content = path.read_bytes()
    path.write_bytes(content + content.splitlines(keepends=True)[1])
    assert_not(place, "says 4 ok · 0 warning · 0 error, and the file has 5 ok", "results.csv")
    path.write_bytes(content.replace(b"echo: id=1", b"echo: id=12"))
    assert_not(place, f"says {len(content)} bytes, and the file has {len(content) + 1}", "results.csv")
    path.write_bytes(content)
    assert_whole(place)
    manifest = place.folder / "results.csv.manifest.json"
    manifest.write_text("{")
    assert_not(place, "is not JSON", "results.csv", advice="remove")


def test_a_manifest_of_a_stopped_run_tells_of_missing_rows(place):
    finished(place)
    path = place.folder / "results.csv.manifest.json"
    content = json.loads(path.read_text())
    content["runs"][-1]["totals"]["missing"] = 2
    content["runs"][-1]["ended_by"] = "SIGTERM"
    path.write_text(json.dumps(content))
    assert_not(place, "2 experiments had no row when the last run ended (SIGTERM)", "results.csv")
    assert_whole(place)


def test_results_of_another_layout_are_told(place):
    finished(place)
    place.table([{"provider": "openai", "model": "fake-small", "id": n + 1, "note": "x"} for n in range(4)])
    assert_not(place, "gets the columns note of the table")


class Echo:
    def complete(self, request):
        return Reply(f'"{request.prompt}"\r\n語')


@settings(max_examples=40)
@given(st.data())
def test_any_proper_prefix_of_whole_results_is_not_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    (folder / "p.txt").write_text("on {{id}}")
    (folder / "e.csv").write_text('provider,model,id\nmock,m,1\nmock,m,"two\nlines"\n')
    runner = create_experiment_runner(procs=0, threads=1, providers={"mock": Echo()})
    files = folder / "p.txt", folder / "e.csv", folder / "r.csv"
    runner.run_experiments(*files)
    assert runner.verify_experiments(*files).whole
    assert verify_file(str(files[2])).whole
    content = files[2].read_bytes()
    files[2].write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert not runner.verify_experiments(*files).whole
    assert not verify_file(str(files[2])).whole


# --- what cannot be verified -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("gone.csv",), "gone.csv: is not there"),
        (("gone.csv", *TABLE), "gone.csv: is not there"),
        ((".",), "is a folder"),
        (("results.csv", "-e", "experiments.csv"), "go together"),
        (("results.csv", "-p", "prompt.txt"), "go together"),
        (("results.csv", "-p", "gone.txt", "-e", "experiments.csv"), "gone.txt"),
        (("o/{{id}}.csv",), "o/{{id}}.csv: stands for many files"),
    ],
)
def test_bad_input_is_no_verdict(place, options, words):
    done = verify(place, *options)
    assert (done.code, done.stdout) == (2, ""), done
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["my notes\n", "a,b\n1,2\n", "\0\0"])
def test_what_is_no_results_file_is_not_whole(place, content):
    place.write("results.csv", content)
    for options in (("results.csv",), ("results.csv", *TABLE)):
        assert verify(place, *options).code == 3


def test_the_library_tells_the_same(tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        verify_file(str(tmp_path / "r.csv"))
