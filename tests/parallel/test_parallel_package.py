"""The package of groups: its names, who does without it, and what its documentation shows."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parallamr_mp
from parallamr_mp import parallel

ROOT = Path(__file__).parent.parent.parent
MODULES = [
    "parallamr_mp.events",
    "parallamr_mp.parallel",
    "parallamr_mp.printers.lines",
    "parallamr_mp.printers.printer",
    *(f"parallamr_mp.parallel.{module.name}" for module in pkgutil.iter_modules(parallel.__path__)),
]


def test_the_public_names():
    assert set(parallel.__all__) <= set(parallamr_mp.__all__)
    assert parallel.__all__ == dir(parallel) == sorted(parallel.__all__)
    for name in parallel.__all__:
        assert getattr(parallel, name) is getattr(parallamr_mp, name)
        assert getattr(parallel, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = parallel.Nonsense


@pytest.mark.parametrize("module", MODULES)
def test_what_docstrings_show_is_what_happens(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_classes_that_users_meet_first_show_how_they_are_used():
    found = {
        test.name.split(".")[-1]
        for module in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(module))
        if test.examples
    }
    assert {"ExecutionState", "ParallelExecutionManager", "ExecutionResult", "EventBus"} <= found
    assert {"EventPrinter", "ParallelEventPrinter"} <= found


HELP = """
from parallamr_mp.__main__ import main
sys.argv = ["parallamr-mp", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "code",
    [
        "import parallamr_mp.parallel, parallamr_mp.parallel.enums, parallamr_mp.parallel.result",
        "import parallamr_mp.sweep, parallamr_mp.attempt, parallamr_mp.engine.worker",
        "import parallamr_mp.printers, parallamr_mp.cli.display",
        HELP,
    ],
)
def test_who_runs_no_group_does_not_load_pydantic(code):
    code = f"import sys\n{code}\nassert 'pydantic' not in sys.modules, sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True)


def test_what_readme_shows_of_groups_runs(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Parallel groups")[2]
    blocks = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


EXAMPLES = sorted((ROOT / "scripts" / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_says_what_its_docstring_promises(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    promised = re.findall(r"^    (.+)$", example.read_text(encoding="utf-8").split('"""')[1], re.MULTILINE)
    assert promised
    for line in promised:
        assert line in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_examples_cover_what_readme_lists():
    names = {path.stem for path in EXAMPLES}
    assert names == {
        "basic",
        "streaming",
        "named_results",
        "error_handling",
        "retry_and_breaker",
        "processes",
        "replay",
        "printers",
    }


def test_the_benchmark_runs_small():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "time_groups.py", "--tasks", "300", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '"ratio"' in done.stdout


def test_the_benchmark_of_workers_runs_small():
    words = ["--procs", "2", "--seconds", "0.01", "--tasks", "50", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "time_groups.py", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert figures.keys() == {
        "one_by_one_s",
        "processes_s",
        "process_task_us",
        "thread_task_us",
        "speed_up",
    }
    assert min(figures.values()) > 0
