"""The short table at the end of a run."""

from __future__ import annotations

from tqdm import tqdm

from parallamr_mp.report import RunSummary
from parallamr_mp.text import count, one_line

_REASONS = 5
_REASON_WIDTH = 160


def format_summary(summary: RunSummary) -> str:
    """Rows by status, why some are not ok, tokens, times and places, as aligned lines."""
    rows = f"{summary.ok} ok · {summary.warning} warning · {summary.error} error"
    if summary.resumed:
        rows += f" · {summary.resumed} done before"
        if summary.resumed_errors:
            rows += f" ({summary.resumed_errors} of them error; --retry-errors asks those again)"
    if summary.missing:
        rows += f" · {summary.missing} missing"
    elif summary.resumed == summary.total:
        rows += " · nothing was left to ask"
    lines = [("rows", rows)]
    for status, example, number in summary.reasons[:_REASONS]:
        lines.append(("", f"{number:,} {status.value}: {one_line(example, _REASON_WIDTH)}"))
    if len(summary.reasons) > _REASONS:
        lines.append(("", f"and {count(len(summary.reasons) - _REASONS, 'other kind')}; see error_message"))
    if summary.written:
        lines.append(("tokens", f"{summary.input_tokens:,} in · {summary.output_tokens:,} out"))
        costs = [f"{summary.cost_usd:.6f} USD"] if summary.cost_usd else []
        if summary.unpriced:
            costs.append(f"unknown of {count(summary.unpriced, 'answer')}")
        if costs:
            lines.append(("cost", " · ".join(costs)))
        seconds = summary.seconds
        time = f"{seconds:.1f} s" if seconds < 100 else tqdm.format_interval(seconds)
        lines.append(("time", f"{time} · {summary.written / max(seconds, 1e-3):,.1f} rows/s"))
    if summary.latency_p50 is not None and summary.latency_p95 is not None:
        lines.append(("latency", f"p50 {summary.latency_p50:.3f} s · p95 {summary.latency_p95:.3f} s"))
    if summary.retries or summary.workers_lost:
        trouble = [("retries", summary.retries), ("workers lost", summary.workers_lost)]
        lines.append(("trouble", " · ".join(f"{name}: {number}" for name, number in trouble if number)))
    if summary.outputs:
        where = summary.outputs[0]
        if len(summary.outputs) > 1:
            where += f" and {count(len(summary.outputs) - 1, 'more file')}"
        lines.append(("results", where))
    return "\n".join(f"{name:<8} {text}" for name, text in lines)
