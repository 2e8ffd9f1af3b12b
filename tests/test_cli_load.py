"""How many requests are in flight, in which order, over how many connections: counted by the server."""

from __future__ import annotations

import contextlib
import time

import pytest
from support.behaviours import answer, slow, stall
from support.cli import Place


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path, server)


@contextlib.contextmanager
def running(place, *arguments, **env):
    """A run that is killed if the test fails before it ends."""
    with place.start(*arguments, **env) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=20)


def end_of(process):
    """Exit code and standard error of a run that is about to end."""
    stderr = process.communicate(timeout=30)[1].decode()
    return process.returncode, stderr


def let_go(server):
    """Answers what is held and whatever follows, slowly enough for a surplus request to be seen."""
    server.behave(slow(0.02))
    server.release_all()


def test_sequential_asks_one_after_the_other_in_the_order_of_the_table(place, server):
    server.behave(slow(0.02))
    place.questions(12)
    done = place.run("-o", "results.csv", "--sequential")
    assert done.code == 0, done
    assert [request.experiment for request in server.requests] == [str(n) for n in range(1, 13)]
    assert server.peak_in_flight == 1
    assert server.requests[0].connection == server.requests[-1].connection
    done = place.run("-o", "other.csv", "--sequential", "--threads", "2")
    assert done.code == 2
    assert "--sequential and --threads exclude each other" in done.stderr


def test_what_is_typed_wins_over_the_environment(place, server):
    place.questions(4)
    done = place.run("-o", "results.csv", "--sequential", PARALLAMR_THREADS="3", PARALLAMR_PARALLEL="9")
    assert done.code == 0, done
    assert server.peak_in_flight == 1
    done = place.run("-o", "other.csv", "--parallel", "2", PARALLAMR_THREADS="3")
    assert done.code == 0, done


@pytest.mark.parametrize(
    ("options", "peak"),
    [
        (["--parallel", "5"], 5),
        (["--procs", "2", "--threads", "3"], 6),
        (["--procs", "0", "--threads", "4"], 4),
        (["--procs", "2", "--threads", "4", "--max-concurrent", "3"], 3),
        (["--procs", "2", "--threads", "4", "--openai-concurrency", "2"], 2),
        (["-j", "9", "--procs", "2", "--max-concurrent", "7"], 7),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_as_many_requests_as_asked_for_are_in_flight_and_never_more(place, server, options, peak):
    server.behave(stall())
    place.questions(3 * peak)
    with running(place, "-o", "results.csv", *options) as process:
        server.wait_until(lambda: server.in_flight == peak, 30)
        time.sleep(0.2)  # for one too many to turn up
        let_go(server)
        code, stderr = end_of(process)
    assert code == 0, stderr
    assert server.peak_in_flight == peak
    assert set(server.counts().values()) == {1}
    assert len(place.rows()) == 3 * peak


def test_one_provider_at_its_limit_does_not_hold_up_another(place, server):
    names = ["ollama"] * 6 + ["openrouter"] * 4
    place.table([{"provider": p, "model": "fake-small", "id": f"{p}{n}"} for n, p in enumerate(names)])
    server.behave(stall())
    with running(place, "-o", "results.csv", "--procs", "2", "--threads", "4") as process:
        # One GPU answers one question at a time, unless told otherwise.
        server.wait_until(lambda: server.in_flight == 5, 30)
        time.sleep(0.2)
        held = [request.api for request in server.requests]
        assert sorted(held) == ["ollama"] + ["openrouter"] * 4
        let_go(server)
        assert end_of(process)[0] == 0
    server.clear()
    server.behave(stall())
    options = ["--ollama-concurrency", "3", "--openrouter-concurrency", "1"]
    with running(place, "-o", "other.csv", "--procs", "2", "--threads", "4", *options) as process:
        server.wait_until(lambda: server.in_flight == 4, 30)
        time.sleep(0.2)
        assert sorted(request.api for request in server.requests) == ["ollama"] * 3 + ["openrouter"]
        let_go(server)
        assert end_of(process)[0] == 0


def test_a_hundred_requests_open_no_more_connections_than_threads(place, server):
    server.behave(slow(0.005))
    place.questions(100)
    done = place.run("-o", "results.csv", "--procs", "2", "--threads", "3")
    assert done.code == 0, done
    assert len(server.requests) == 100
    assert len({request.connection for request in server.requests}) <= 6
    assert server.connections <= 6 + 1, "one more for the look-up of context windows"


def test_rows_are_in_the_file_while_the_run_goes_on(place, server):
    place.questions(10)
    server.behave(lambda request: stall() if request.experiment == "10" else None)
    with running(place, "-o", "results.csv", "--procs", "2", "--threads", "2") as process:
        server.wait_until(lambda: len(server.requests) == 10 and server.in_flight == 1, 30)
        answered = time.monotonic()
        path = place.folder / "results.csv"
        while len(path.read_bytes().splitlines()) < 10:
            # A second is the promise; three, as other tests run beside this one.
            assert time.monotonic() < answered + 3, "a row was not there in time"
            time.sleep(0.01)
        assert [row["id"] for row in place.rows()] == [str(n) for n in range(1, 10)]
        assert process.poll() is None
        server.release_all()
        assert end_of(process)[0] == 0
    assert len(place.rows()) == 10


def test_a_request_that_takes_too_long_is_given_up(place, server):
    server.behave(lambda request: stall() if request.experiment == "2" else answer("quick"))
    place.questions(3)
    started = time.monotonic()
    done = place.run("-o", "results.csv", "--timeout", "1", "--max-retries", "0", "--threads", "3")
    assert done.code == 3, done
    assert time.monotonic() - started < 15
    rows = place.rows()
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert "1 s" in rows[1]["error_message"]
    assert 0.9 < float(rows[1]["latency_s"]) < 4


def test_a_signal_lets_requests_in_flight_finish_and_tells_how_to_go_on(place, server):
    place.questions(8)
    server.behave(stall())
    with running(place, "-o", "results.csv", "--procs", "2", "--threads", "2") as process:
        server.wait_until(lambda: server.in_flight == 4, 30)
        process.terminate()
        time.sleep(0.3)
        let_go(server)
        code, stderr = end_of(process)
    assert code == 128 + 15
    assert "SIGTERM: no new requests; 4 in flight" in stderr
    assert "Stopped by SIGTERM: 4 of 8 rows have no result yet." in stderr
    assert "parallamr-mp run -p prompt.txt -e experiments.csv -o results.csv" in stderr
    assert stderr.rstrip().endswith("--resume")
    assert len(server.requests) == len(place.rows()) == 4
    done = place.run("-o", "results.csv", "--resume")
    assert done.code == 0, done
    assert set(server.counts().values()) == {1}
    assert len(place.rows()) == 8


def test_a_second_run_on_the_same_output_is_refused_until_the_first_is_gone(place, server):
    place.questions(4)
    server.behave(lambda request: stall() if request.experiment == "4" else None)
    with running(place, "-o", "results.csv", "--threads", "4", "--orphan-grace", "0") as process:
        server.wait_until(lambda: len(server.requests) == 4 and server.in_flight == 1, 30)
        for option in ("--resume", "--overwrite"):
            done = place.run("-o", "results.csv", option)
            assert done.code == 2
            assert f"process {process.pid}" in done.stderr
            assert "is writing this output" in done.stderr
        assert len(server.requests) == 4
        # Killed, it leaves no word, and its lock behind.
        process.kill()
        process.communicate(timeout=20)
    server.wait_until(lambda: server.in_flight == 0, 30)
    server.clear()
    server.behave(answer("at last"))
    done = place.run("-o", "results.csv", "--resume")
    assert done.code == 0, done
    assert set(server.counts()) == {"4"}
    assert [row["id"] for row in place.rows()] == ["1", "2", "3", "4"]
    assert sorted(path.name for path in place.folder.iterdir()) == [
        "experiments.csv",
        "prompt.txt",
        "results.csv",
        "results.csv.manifest.json",
    ]
