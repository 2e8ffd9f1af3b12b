"""`--flatten`: JSON in answers gets columns of its own, in files, on stdout and after a resume."""

from __future__ import annotations

import json

import pytest
from support.behaviours import answer, stall, status
from support.cli import Place, parse_rows

from parallamr_mp.models import RESULT_COLUMNS

ANSWERS = {
    "1": '```json\n{"name": "Nile", "size": {"km": 6650}}\n```\nHope that helps!',
    "2": '{"name": "Amazon, the \\"great\\"", "tags": ["wide", "wet"], "id": 7}',
    "3": 'Sure! Here it is: {"name": "Rhine", "ok": true, "status": null} — anything else?',
    "4": "{'name': 'Elbe', \"size\": {km: 1094,}, ",
    "5": "No JSON in here, [sic], {not at all}.",
    "6": '[{"km": 1}, {"km": 2.50}]',
}
FOUND = {
    "1": {"name": "Nile", "size_km": "6650"},
    "2": {"name": 'Amazon, the "great"', "tags_0": "wide", "tags_1": "wet", "json_id": "7"},
    "3": {"name": "Rhine", "ok": "true", "json_status": ""},
    "4": {"name": "Elbe", "size_km": "1094"},
    "5": {},
    "6": {"items_0_km": "1", "items_1_km": "2.5"},
}
COLUMNS = ["provider", "model", "id", *RESULT_COLUMNS]
OWN = {name for cells in FOUND.values() for name in cells}


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(len(ANSWERS))
    server.behave(lambda request: answer(ANSWERS[request.experiment]))
    return place


def check(rows):
    """Every row has its own JSON in columns, the answer as it was, and nothing of another row."""
    assert {row["id"] for row in rows} == set(ANSWERS)
    columns = list(rows[0])
    assert columns[: len(COLUMNS)] == COLUMNS
    assert set(columns[len(COLUMNS) :]) == OWN
    for row in rows:
        assert row["output"] == ANSWERS[row["id"]]
        assert row["status"] == "ok"
        cells = {name: row[name] for name in OWN}
        assert cells == dict.fromkeys(OWN, "") | FOUND[row["id"]]


def test_json_of_every_kind_becomes_columns_of_the_file(place):
    done = place.run("-o", "results.csv", "--flatten", "--procs", "2", "--threads", "2")
    assert done.code == 0, done
    check(place.rows())
    assert sorted(path.name for path in place.folder.iterdir()) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]


def test_json_becomes_columns_on_stdout(place):
    done = place.run("--flatten", "--procs", "2", "--threads", "2")
    assert done.code == 0, done
    check(done.rows)


def test_keys_that_turn_up_after_a_resume_get_columns_too(place, server):
    assert place.run("-o", "results.csv", "--flatten", "--limit", "2").code == 0
    early = list(place.rows()[0])[len(COLUMNS) :]
    assert set(early) == FOUND["1"].keys() | FOUND["2"].keys()
    server.clear()
    done = place.run("-o", "results.csv", "--resume", "--flatten", "--range", "1:4")
    assert done.code == 0, done
    assert set(server.counts()) == {"3", "4"}
    # A flattened file stays one, whether the next run says so or not.
    done = place.run("-o", "results.csv", "--resume")
    assert done.code == 0, done
    rows = place.rows()
    check(rows)
    assert [row["row_number"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    before = (place.folder / "results.csv").read_bytes()
    assert place.run("-o", "results.csv", "--resume", "--flatten").code == 0
    assert (place.folder / "results.csv").read_bytes() == before, "nothing to do changes nothing"


def test_a_plain_file_may_be_flattened_later_without_asking_again(place, server):
    assert place.run("-o", "results.csv").code == 0
    assert list(place.rows()[0]) == COLUMNS
    server.clear()
    assert place.run("-o", "results.csv", "--resume", "--flatten").code == 0
    assert not server.requests
    check(place.rows())


def test_error_rows_have_empty_columns(place, server):
    server.behave(lambda request: status(400) if request.experiment in "25" else None)
    done = place.run("-o", "results.csv", "--flatten")
    assert done.code == 3
    rows = place.rows()
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "ok", "error", "ok"]
    assert "tags_0" not in rows[0]
    assert rows[1]["name"] == rows[4]["name"] == ""
    assert rows[3]["name"] == "Elbe"


def test_each_templated_output_has_its_own_columns(place):
    assert place.run("-o", "out/{{id}}.csv", "--flatten").code == 0
    for id_, cells in FOUND.items():
        [row] = place.rows(f"out/{id_}.csv")
        assert {name: row[name] for name in row if name not in COLUMNS} == cells


def test_too_many_keys_are_told_and_stay_in_the_answer(place, server):
    server.behave(lambda request: answer(json.dumps({f"k{request.experiment}_{n}": n for n in range(190)})))
    done = place.run("-o", "results.csv", "--flatten", "--procs", "1", "--threads", "1")
    assert done.code == 0, done
    assert "results.csv: 1000 columns from JSON are the most; 140 further keys" in done.stderr
    rows = place.rows()
    assert len(rows[0]) == len(COLUMNS) + 1000
    assert [len(json.loads(row["output"])) for row in rows] == [190] * 6


def test_stopped_runs_to_stdout_still_give_their_rows(place, server):
    server.behave(lambda request: stall() if request.experiment == "6" else None)
    with place.start("--flatten", "--threads", "6", "--drain-timeout", "0.2") as process:
        server.wait_until(lambda: len(server.requests) == 6 and server.in_flight == 1, 30)
        process.terminate()
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr.decode()
    rows = parse_rows(stdout.decode())
    assert {row["id"]: row["name"] for row in rows} == {
        id_: cells.get("name", "") for id_, cells in FOUND.items() if id_ != "6"
    }
