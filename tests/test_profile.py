"""`scripts/profile`: how samples are put together, and that a run can be watched."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchmark.profiling import by_kind, shown

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
FOLDED = """
process 1:"p run";<module> (a.py:3);loop (parallamr_mp/engine/dispatcher.py:10) 6
process 1:"p run";<module> (a.py:3);loop (parallamr_mp/engine/dispatcher.py:20) 1
process 1:"p run";<module> (a.py:1);<module> (parallamr_mp/engine/worker.py:1) 1
process 1:"p run";process 2:"python -c import y; y(1)";start (spawn.py:1) 1
process 1:"p run";process 2:"python -c import y; y(1)";serve (parallamr_mp/engine/worker.py:5);ask (b.py:9) 3
process 1:"p run";process 3:"python -c import y; y(2)";writer_main (parallamr_mp/engine/writer.py:5) 4
"""


def test_samples_are_told_by_kind_of_process_and_lines_of_a_function_count_together():
    found = by_kind(FOLDED.splitlines())
    assert {kind: samples.total for kind, samples in found.items()} == {
        "main process": 8,
        "worker": 4,
        "writer": 4,
    }
    assert found["main process"].own["loop (parallamr_mp/engine/dispatcher.py)"] == 7
    assert found["worker"].within["serve (parallamr_mp/engine/worker.py)"] == 3
    assert "   87.5%       87.5%  loop (parallamr_mp/engine/dispatcher.py)" in shown(found, 3)


def test_profiling_counts_the_calls_of_a_run_that_is_right():
    command = [sys.executable, "-m", "benchmark.profiling", "--calls", "--mock", "--rows", "20", "--top", "3"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stdout.startswith("20 rows in ")
    assert "function calls" in done.stdout
