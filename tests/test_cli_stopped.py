"""How `run` ends when the run has stopped itself: the exit code, and the line that tells how to go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import typer

from parallamr_mp.cli.app import make_app
from parallamr_mp.policy.thresholds import StopReason
from parallamr_mp.report import Tally
from parallamr_mp.runner import ExperimentRunner

WORDS = ["run", "-p", "p.txt", "-e", "e.csv", "-o", "r.csv"]
BUDGET = StopReason("budget", "2.00 USD are spent or reserved (--max-cost 2)")
TIME = StopReason("time", "the time is up")
ERRORS = StopReason("errors", "a row is an error (--fail-fast)")


@pytest.fixture
def ended(monkeypatch, tmp_path, capsys):
    """Runs `run WORDS`, whose run comes to what is given; returns the exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def ended(*more, error=0, **changes):
        summary = Tally().summary(("r.csv",), None)
        summary = replace(summary, **{"total": 9, "resumed": 0, "ok": 5 - error, "error": error, **changes})
        monkeypatch.setattr(ExperimentRunner, "run_experiments", lambda *args: summary)
        words = [*WORDS, *more]
        monkeypatch.setattr("sys.argv", ["/usr/bin/parallamr-mp", *words])
        code = typer.main.get_command(make_app(words)).main(words, standalone_mode=False)
        return code or 0, capsys.readouterr().err

    return ended


@pytest.mark.parametrize("stop", [BUDGET, TIME])
def test_a_run_that_met_its_limit_ends_with_code_4_and_says_how_to_go_on(ended, stop):
    code, told = ended("--overwrite", stop=stop)
    assert code == 4
    last = told.splitlines()[-1]
    assert last.startswith(f"Stopped: {stop.text}; 4 of 9 rows have no result yet. To go on: ")
    assert last.endswith("parallamr-mp run -p p.txt -e e.csv -o r.csv --resume")


def test_a_run_that_stopped_for_errors_ends_with_code_3_and_offers_to_ask_these_rows_again(ended):
    code, told = ended(stop=ERRORS, error=1)
    assert code == 3
    last = told.splitlines()[-1]
    assert "Stopped: a row is an error (--fail-fast); 4 of 9 rows" in last
    assert last.endswith("-o r.csv --resume --retry-errors")


def test_a_signal_wins_over_a_limit(ended):
    code, told = ended(stop=BUDGET, signum=15)
    assert code == 143
    assert "Stopped by SIGTERM: 4 of 9 rows" in told


def test_a_limit_that_left_nothing_to_ask_is_no_stop(ended):
    assert ended(stop=TIME, ok=9)[0] == 0
    code, told = ended(stop=ERRORS, ok=8, error=1)
    assert code == 3
    assert "Stopped" not in told
