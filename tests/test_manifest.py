"""The manifest tells how a results file came about, agrees with it, and is never in the way."""

import hashlib
import json
import os
import shutil
import signal

import pytest
from support.behaviours import answer, stall, status
from support.cli import Place, run_cli

from parallamr_mp import create_experiment_runner
from parallamr_mp.errors import OutputError
from parallamr_mp.results.manifest import load_manifest, manifest_path, save_manifest

FEW = ("--procs", "1", "--threads", "2")


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(4)
    return place


def manifest(place, name="results.csv"):
    return json.loads((place.folder / f"{name}.manifest.json").read_text())


def test_it_tells_who_ran_what_on_which_inputs_and_what_it_came_to(place, server):
    server.behave(lambda request: status(400) if request.experiment == "3" else answer())
    place.write("context.txt", "some context")
    done = place.run("-o", "results.csv", "-c", "context.txt", "--param", "temperature=0.5", *FEW)
    assert done.code == 3, done
    found = manifest(place)
    assert (found["results"], found["rows"]) == ("results.csv", {"ok": 3, "warning": 0, "error": 1})
    assert found["bytes"] == (place.folder / "results.csv").stat().st_size
    (run,) = found["runs"]
    assert run["command"][:2] == ["parallamr-mp", "run"]
    assert (run["ended_by"], run["experiments"]) == ("completed", 4)
    assert run["host"] == os.uname().nodename
    assert run["started"] < run["ended"]
    assert {entry["role"]: entry["sha256"] for entry in run["inputs"]} == {
        role: hashlib.sha256((place.folder / name).read_bytes()).hexdigest()
        for role, name in [
            ("prompt", "prompt.txt"),
            ("experiments", "experiments.csv"),
            ("context", "context.txt"),
        ]
    }
    assert (run["settings"]["threads"], run["settings"]["params"]) == (2, {"temperature": 0.5})
    totals = run["totals"]
    assert (totals["ok"], totals["error"], totals["missing"], totals["done_before"]) == (3, 1, 0, 0)
    assert totals["input_tokens"] > 0
    assert totals["latency_p50"] is not None


def test_each_run_on_a_file_is_added_and_rows_are_those_of_the_file(place, server):
    server.behave(lambda request: status(400) if request.experiment == "3" else answer())
    assert place.run("-o", "results.csv", *FEW, "--limit", "3").code == 3
    server.behave(answer())
    assert place.run("-o", "results.csv", *FEW, "--resume", "--retry-errors").code == 0
    found = manifest(place)
    assert [run["experiments"] for run in found["runs"]] == [3, 4]
    assert [run["totals"]["ok"] for run in found["runs"]] == [2, 2]
    assert found["rows"] == {"ok": 4, "warning": 0, "error": 0}
    assert place.run("-o", "results.csv", *FEW, "--overwrite").code == 0
    assert len(manifest(place)["runs"]) == 1


def test_a_run_under_way_or_killed_has_no_end(place, server):
    server.behave(lambda request: answer() if request.experiment == "1" else stall())
    with place.start("-o", "results.csv", *FEW, "--orphan-grace", "0") as process:
        server.wait_until(lambda: server.in_flight == 2 and len(server.requests) == 3)
        (run,) = manifest(place)["runs"]
        assert (run["ended"], manifest(place)["rows"]) == (None, None)
        process.kill()
    assert manifest(place)["runs"] == [run]
    server.release_all()
    server.behave(answer())
    assert place.run("-o", "results.csv", *FEW, "--resume").code == 0
    assert [run["ended_by"] for run in manifest(place)["runs"]] == [None, "completed"]


def test_a_stopped_run_tells_by_what(place, server):
    server.behave(stall())
    with place.start("-o", "results.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        process.send_signal(signal.SIGTERM)
        while b"SIGTERM" not in process.stderr.readline():
            assert process.poll() is None
        server.release_all()
        process.wait(10)
    (run,) = manifest(place)["runs"]
    assert (run["ended_by"], run["totals"]["missing"]) == ("SIGTERM", 2)
    assert manifest(place)["rows"] == {"ok": 2, "warning": 0, "error": 0}


def test_a_run_that_could_not_go_on_tells_why(place, server):
    server.behave(stall())
    with place.start("-o", "out/results.csv", *FEW) as process:
        server.wait_until(lambda: server.in_flight == 2)
        (place.folder / "out/results.csv").unlink()
        (place.folder / "out/results.csv").touch()
        server.behave(answer())
        server.release_all()
        assert process.wait(10) == 1
    found = manifest(place, "out/results.csv")
    assert "was removed" in found["runs"][0]["ended_by"]
    assert found["rows"] is None


def test_every_file_of_a_template_has_its_own(place):
    place.table([{"provider": "mock", "model": f"mock-{n % 2}", "id": n} for n in range(5)])
    assert place.run("-o", "o/{{model}}.csv", *FEW).code == 0
    assert manifest(place, "o/mock-0.csv")["rows"]["ok"] == 3
    assert manifest(place, "o/mock-1.csv")["rows"]["ok"] == 2


def test_where_none_can_be_written_it_is_told_and_the_run_goes_on(place):
    (place.folder / "results.csv.manifest.json").mkdir()
    done = place.run("-o", "results.csv", *FEW)
    assert done.code == 0, done
    assert "no manifest: results.csv.manifest.json" in done.stderr
    assert len(place.rows()) == 4
    shutil.rmtree(place.folder / "results.csv.manifest.json")


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"runs": 3}'])
def test_a_broken_one_is_made_anew(place, broken):
    assert place.run("-o", "results.csv", *FEW).code == 0
    place.write("results.csv.manifest.json", broken)
    with pytest.raises(OutputError, match="manifest"):
        load_manifest(str(place.folder / "results.csv"))
    assert place.run("-o", "results.csv", *FEW, "--resume").code == 0
    assert len(manifest(place)["runs"]) == 1


def test_a_file_of_somebody_else_in_its_place_stays_until_told(place):
    theirs = '{"mine": 1}'
    place.write("results.csv.manifest.json", theirs)
    done = place.run("-o", "results.csv", *FEW)
    assert done.code == 0, done
    assert "no manifest: results.csv.manifest.json: is not a manifest" in done.stderr
    assert (place.folder / "results.csv.manifest.json").read_text() == theirs
    assert place.run("-o", "results.csv", *FEW, "--overwrite").code == 0
    assert len(manifest(place)["runs"]) == 1


@pytest.mark.parametrize("options", [(), ("--flatten",), ("-o", "/dev/null")])
def test_a_stream_has_none(place, options):
    assert place.run(*options, *FEW).code == 0
    assert sorted(os.listdir(place.folder)) == ["experiments.csv", "prompt.txt"]


def test_secrets_of_the_environment_are_not_in_it(place):
    done = place.run(
        "-o",
        "results.csv",
        "--param",
        "user=open-sesame-7",
        *FEW,
        MY_TOKEN="open-sesame-7",
        HTTPS_PROXY="http://me:hunter-22@proxy",
    )
    assert done.code == 0, done
    text = (place.folder / "results.csv.manifest.json").read_text()
    assert "open-sesame-7" not in text
    assert "hunter-22" not in text
    assert "[redacted]" in text


def test_the_library_writes_one_without_a_command(tmp_path):
    (tmp_path / "p.txt").write_text("hello")
    (tmp_path / "e.csv").write_text("provider,model\nmock,mock\n")
    runner = create_experiment_runner(procs=0, threads=1)
    runner.run_experiments(tmp_path / "p.txt", tmp_path / "e.csv", tmp_path / "r.csv")
    found = load_manifest(str(tmp_path / "r.csv"))
    assert found is not None
    assert found["runs"][0]["command"] is None


def test_it_takes_its_place_in_one_step_and_leaves_no_draft(tmp_path):
    results = str(tmp_path / "r.csv")
    save_manifest(results, {"runs": [], "old": True})
    stale = tmp_path / ".r.csv.manifest.json-00000000.x.tmp"
    save_manifest(results, {"runs": [], "old": False})
    assert load_manifest(results) == {"runs": [], "old": False}
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(manifest_path(results))]
    assert not stale.exists()


def test_it_is_beside_the_file_whatever_link_leads_there(place):
    (place.folder / "d").mkdir()
    (place.folder / "link.csv").symlink_to("d/real.csv")
    assert place.run("-o", "d/real.csv", *FEW, "--limit", "1").code == 0
    assert place.run("-o", "link.csv", *FEW, "--resume").code == 0
    assert len(manifest(place, "d/real.csv")["runs"]) == 2
    assert not (place.folder / "link.csv.manifest.json").exists()


def test_a_name_without_room_for_it_has_none_and_is_whole(place):
    name = "n" * 245 + ".csv"
    done = place.run("-o", name, *FEW)
    assert done.code == 0, done
    assert "no manifest" in done.stderr
    assert run_cli(place.folder, "verify", name, env=place.env).code == 0


def test_a_name_that_is_no_utf8_is_a_name(place):
    name = os.fsdecode(b"r\xff.csv")
    done = place.run("-o", name, *FEW)
    assert done.code == 0, done
    assert manifest(place, name)["rows"]["ok"] == 4
    assert run_cli(place.folder, "verify", name, env=place.env).code == 0


@pytest.mark.parametrize("broken", ['{"runs":["x"]}', '{"runs":[{"totals":[1]}]}'])
def test_resuming_does_not_need_it(place, broken):
    assert place.run("-o", "results.csv", *FEW).code == 0
    place.write("results.csv.manifest.json", broken)
    assert run_cli(place.folder, "verify", "results.csv", env=place.env).code == 3
    assert place.run("-o", "results.csv", *FEW, "--resume").code == 0
    assert run_cli(place.folder, "verify", "results.csv", env=place.env).code == 0
