"""The short table at the end of a run."""

from __future__ import annotations

from tqdm import tqdm

from parallamr_mp.report import RunSummary


def format_summary(summary: RunSummary) -> str:
    """Rows by status, tokens, times and places, as aligned lines."""
    rows = f"{summary.ok} ok · {summary.warning} warning · {summary.error} error"
    if summary.resumed:
        rows += f" · {summary.resumed} done before"
        if summary.resumed_errors:
            rows += f" ({summary.resumed_errors} of them error; --retry-errors asks those again)"
    if summary.missing:
        rows += f" · {summary.missing} missing"
    lines = [("rows", rows)]
    lines.append(("tokens", f"{summary.input_tokens:,} in · {summary.output_tokens:,} out"))
    if summary.cost_usd is not None:
        lines.append(("cost", f"{summary.cost_usd:.6f} USD"))
    pace = f"{summary.written / summary.seconds:,.1f} rows/s" if summary.seconds > 0 else ""
    lines.append(("time", f"{tqdm.format_interval(summary.seconds)} ({summary.seconds:.1f} s) · {pace}"))
    if summary.latency_p50 is not None and summary.latency_p95 is not None:
        lines.append(("latency", f"p50 {summary.latency_p50:.3f} s · p95 {summary.latency_p95:.3f} s"))
    if summary.retries or summary.workers_lost:
        lines.append(("trouble", f"{summary.retries} retries · {summary.workers_lost} workers lost"))
    if summary.outputs:
        where = summary.outputs[0]
        if len(summary.outputs) > 1:
            where += f" and {len(summary.outputs) - 1} more files"
        lines.append(("results", where))
    return "\n".join(f"{name:<8} {text}" for name, text in lines)
