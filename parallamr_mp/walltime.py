"""How long a run may go on: as long as it was told, or until shortly before its Slurm job ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from parallamr_mp.errors import BadInput

_SQUEUE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """How many seconds from now no new requests are to be made, and in words why."""

    seconds: float
    why: str


def time_left(
    stop_after: float | None, stop_before: float | None, env: Mapping[str, str], now: float
) -> TimeLeft | None:
    """The shorter of the two; None: no limit.

    `stop_after` is in seconds from now, `stop_before` in seconds before the end
    of the Slurm job; `now` is unix time. Raises `BadInput` when nobody tells
    when the job ends, or when it ends too soon.
    """
    found = []
    if stop_after is not None:
        found.append(TimeLeft(stop_after, f"the time of --stop-after is up ({_told(stop_after)})"))
    if stop_before is not None:
        left = seconds_to_job_end(env, now)
        if left <= stop_before:
            raise BadInput(
                f"--stop-before {_told(stop_before)}: the Slurm job ends in {_told(max(0.0, left))}",
                hint="Give less, or start a job that may run longer.",
            )
        words = f"the Slurm job ends in {_told(stop_before)} (--stop-before)"
        found.append(TimeLeft(left - stop_before, words))
    return min(found, key=lambda limit: limit.seconds, default=None)


def seconds_to_job_end(env: Mapping[str, str], now: float) -> float:
    """Until the Slurm job ends, as its environment says, else as `squeue` does. Raises `BadInput`."""
    end = env.get("SLURM_JOB_END_TIME", "").strip()
    if end.isascii() and end.isdecimal():
        return int(end) - now
    if job := env.get("SLURM_JOB_ID", "").strip():
        told = _ask_squeue(job, env)
        try:
            return datetime.fromisoformat(told).timestamp() - now
        except ValueError:
            raise BadInput(
                f"--stop-before: squeue does not tell when Slurm job {job} ends"
                + (f": {told}" if told else ""),
                hint="Give --stop-after instead, or set SLURM_JOB_END_TIME to the unix time of its end.",
            ) from None
    raise BadInput(
        "--stop-before: this is no Slurm job; neither SLURM_JOB_END_TIME nor SLURM_JOB_ID is set",
        hint="Give --stop-after instead, or set SLURM_JOB_END_TIME to the unix time of its end.",
    )


def _ask_squeue(job: str, env: Mapping[str, str]) -> str:
    """The end of the job in local time, as `2026-01-31T23:59:00`; else whatever it said, or nothing."""
    asked = {**env, "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%e"],
            env=asked,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SQUEUE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SQUEUE_SECONDS:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    lines = os.fsdecode(done.stdout or done.stderr).split("\n")
    return lines[0].strip()[:200]


def _told(seconds: float) -> str:
    """`5400` as `1h30m`."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
