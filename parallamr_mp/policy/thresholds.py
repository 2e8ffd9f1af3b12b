"""When a run is to stop by itself: too many error rows, or its time is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RATE_ROWS = 20
"""Rows before a share of errors counts: of three rows, one is no rate."""
_ROUNDING = 1e-6
"""0.29 * 100 is less than 29."""


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a run stopped itself. `text` is for people, and fits behind `Stopped: `."""

    kind: Literal["errors", "time", "budget"]
    text: str


class Thresholds:
    """Counts this run's rows against what was asked for. Pure: time is an argument.

    A reason, once there, stays: later rows that end well do not take back that
    a share was exceeded.
    """

    def __init__(
        self,
        fail_fast: bool = False,
        max_errors: int | None = None,
        max_error_share: float | None = None,
        stop_at: float | None = None,
        stop_words: str = "the time set for it is up",
    ) -> None:
        """`max_errors` and `max_error_share` (0 to 1) may be reached and not exceeded; none at all: 0.

        `stop_at` is on the clock of `now`; `stop_words` say what it stands for.
        """
        self._any = fail_fast or max_errors == 0 or max_error_share == 0
        self._option = "--fail-fast" if fail_fast else "--fail-on-error 0"
        self._max, self._share = max_errors, max_error_share
        self._stop_at, self._stop_words = stop_at, stop_words
        self._rows = self._errors = 0
        self._exceeded: StopReason | None = None

    def note(self, status_is_error: bool) -> None:
        """One more row has its result."""
        self._rows += 1
        self._errors += status_is_error
        if self._exceeded is None and self._errors:
            text = self._too_many()
            self._exceeded = None if text is None else StopReason("errors", text)

    def _too_many(self) -> str | None:
        if self._any:
            return f"a row is an error ({self._option})"
        if self._max is not None and self._errors > self._max:
            return f"{self._errors:,} rows are errors (--fail-on-error {self._max})"
        if self._share is None or self._rows < RATE_ROWS:
            return None
        if self._errors - self._share * self._rows > _ROUNDING:
            wish = f"--fail-on-error {self._share * 100:g}%"
            return f"{self._errors:,} of {self._rows:,} rows are errors ({wish})"
        return None

    def reason(self, now: float) -> StopReason | None:
        """Why to stop now; None: go on."""
        if self._exceeded is not None:
            return self._exceeded
        if self._stop_at is not None and now >= self._stop_at:
            return StopReason("time", self._stop_words)
        return None

    def next_due(self, now: float) -> float | None:
        """When to ask again for time's sake; None: time changes nothing any more."""
        return self._stop_at if self._stop_at is not None and self._stop_at > now else None
