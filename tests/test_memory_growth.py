"""A run keeps nothing of a row that is written, however many there are."""

from __future__ import annotations

import gc
import tracemalloc

from parallamr_mp import events
from parallamr_mp.config import RunConfig
from parallamr_mp.sweep import run_sweep

ROWS = 2_000
BYTES_A_ROW = 12
"""What may stay: counts of latencies, say. The least that a list or a set keeps of a row is more."""


def test_a_run_keeps_nothing_of_the_rows_it_has_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MOCK_LATENCY", "0")
    (tmp_path / "p.md").write_text("Tell of {{topic}}.", encoding="utf-8")
    lines = [f"mock,mock,topic {number}\n" for number in range(ROWS)]
    (tmp_path / "e.csv").write_text("provider,model,topic\n" + "".join(lines), encoding="utf-8")
    done, early, late = 0, [], []
    bus = events.EventBus()

    def note(_event: events.RowDone) -> None:
        nonlocal done
        done += 1
        looks = (
            early if ROWS // 4 < done <= ROWS // 2 else late if ROWS // 2 < done <= ROWS * 3 // 4 else None
        )
        if done % 25 == 0 and looks is not None:
            gc.collect()
            looks.append(tracemalloc.get_traced_memory()[0])

    bus.subscribe(note, events.RowDone)
    config = RunConfig(
        prompt=str(tmp_path / "p.md"),
        experiments=str(tmp_path / "e.csv"),
        output=str(tmp_path / "r.csv"),
        procs=0,  # one process is parent, worker and writer, and one look sees what they all keep
        threads=2,
    )
    tracemalloc.start()
    try:
        run_sweep(config, bus)
    finally:
        tracemalloc.stop()
    assert done == ROWS
    # The least of many looks: at some of them, rows wait for their writer.
    assert min(late) - min(early) <= BYTES_A_ROW * ROWS // 4
