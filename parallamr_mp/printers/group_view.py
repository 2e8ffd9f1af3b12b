"""How groups are shown: a bar each, drawn ten times a second, or plain lines now and then; and a summary."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tqdm import tqdm

from parallamr_mp.printers.executions import (
    TaskEvent,
    Tracker,
    depth_of,
    done_of,
    error_of,
    indented,
    is_of_group,
    label_of,
    summary,
)
from parallamr_mp.printers.screen import Bar, Screen
from parallamr_mp.printers.tell import Teller
from parallamr_mp.printers.ticker import Ticker

_BAR_INTERVAL = 0.1
_TITLE_WIDTH = 24


@dataclass(slots=True, eq=False)
class _Shown:
    """A group that is running."""

    tracker: Tracker
    bar: Bar | None = None
    running: set[object] = field(default_factory=set)
    """Tasks that have started, and not ended; those that wait for a retry among them."""
    drawn: tuple[int, str] = (0, "")
    """How many tasks had ended when its bar was last drawn, and what else the bar said."""


class GroupView:
    """Shows the groups that are running.

    Events come in one thread; a second one draws (`Ticker`), so that bars go on
    while nothing happens. The lock guards what both read.
    """

    def __init__(self, screen: Screen, teller: Teller, interval: float) -> None:
        """`interval`: seconds between plain lines."""
        self._screen, self._teller, self._interval = screen, teller, interval
        self._shown: dict[str, _Shown] = {}
        self._lock = threading.RLock()
        self._ticker: Ticker | None = None
        self._ticks = 0

    def show(self, event: TaskEvent, tracker: Tracker) -> None:
        """Takes an event into account; `tracker` has done so already."""
        with self._lock:
            if is_of_group(event) and event.status != "started":
                self._end(event, tracker)
                return
            if is_of_group(event):
                self._begin(event, tracker)
                return
            shown = self._shown.get(event.group_id or "") or self._begin(event, tracker)
            if shown is None:
                return
            who = event.address if event.parallel_index is None else event.parallel_index
            if event.status in {"completed", "failed", "cancelled"}:
                shown.running.discard(who)
            else:
                shown.running.add(who)
            if event.status in {"failed", "retrying"} and self._teller.is_new(error_of(event)):
                self._screen.write(f"{indented(event, tracker, self._screen.paint).lstrip()} (told once)")

    def give_up(self) -> set[str]:
        """Shows nothing more of the groups that are shown: something else does. Which these are."""
        with self._lock:
            groups = set(self._shown)
            self.close()
            return groups

    def refresh(self) -> None:
        """Draws all bars; without bars, a line for each group."""
        with self._lock:
            for shown in self._shown.values():
                self._draw(shown)

    def close(self) -> None:
        """Takes the bars away, of groups whose end nobody tells."""
        with self._lock:
            while self._shown:
                self._remove(self._shown.popitem()[1])
            self._rest()

    def _begin(self, event: TaskEvent, tracker: Tracker) -> _Shown | None:
        """Begins to show a group, unless it has ended: an event of it may come late."""
        if event.group_id is None or tracker.status not in {"pending", "running"}:
            return None
        if (old := self._shown.pop(event.group_id, None)) is not None:
            self._remove(old)  # it runs again, and nobody has told its end
        shown = self._shown[event.group_id] = _Shown(tracker)
        if self._screen.bars:
            shown.bar = self._screen.bar(tracker.total or None, "task", title=_title(tracker), leave=False)
            self._align()
            self._draw(shown)
        seconds = _BAR_INTERVAL if shown.bar is not None else self._interval
        if self._ticker is None and seconds < threading.TIMEOUT_MAX:
            self._ticker = Ticker(self._tick, seconds)
            self._ticker.start()
        return shown

    def _end(self, event: TaskEvent, tracker: Tracker) -> None:
        shown = self._shown.pop(event.group_id or "", None)
        if shown is not None:
            self._remove(shown)
        self._screen.write(summary(tracker, event.error_message, self._screen.paint))
        if not self._shown:
            self._rest()

    def _remove(self, shown: _Shown) -> None:
        if shown.bar is not None:
            shown.bar.take_away([other.bar for other in self._shown.values() if other.bar is not None])

    def _rest(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None

    def _tick(self) -> None:
        """Draws the bars that have changed, and once a second all, for the time on them."""
        with self._lock:
            self._ticks += 1
            for shown in self._shown.values():
                now = done_of(shown.tracker), _details(shown)
                if shown.bar is None or shown.drawn != now or self._ticks % 10 == 0:
                    self._draw(shown)

    def _draw(self, shown: _Shown) -> None:
        tracker, bar = shown.tracker, shown.bar
        done, details = shown.drawn = done_of(tracker), _details(shown)
        if bar is not None:
            bar.total = tracker.total or None
            bar.show(done, details)
            return
        seconds = tracker.elapsed_time
        rate = done / max(1e-3, seconds)
        share = f" ({100 * done / tracker.total:.0f}%)" if tracker.total else ""
        left = ""
        if rate > 0 and tracker.total:
            left = f" · {tqdm.format_interval((tracker.total - done) / rate)} left"
        self._screen.write(
            f"{label_of(tracker)}: {done}/{tracker.total or '?'} tasks{share}"
            f" · {rate:.1f} tasks/s{left} · {details}"
        )

    def _align(self) -> None:
        """Has the titles of all bars take the same room."""
        shown = [
            (_title(shown.tracker), shown.bar) for shown in self._shown.values() if shown.bar is not None
        ]
        width = max(len(title) for title, _ in shown)
        for title, bar in shown:
            bar.desc = title.ljust(width)


def _title(tracker: Tracker) -> str:
    return "  " * min(4, depth_of(tracker)) + label_of(tracker, _TITLE_WIDTH)


def _details(shown: _Shown) -> str:
    tracker = shown.tracker
    parts = [f"failed {tracker.failed}"] if tracker.failed else []
    parts.append(f"in flight {len(shown.running)}")
    if tracker.retries:
        parts.append(f"retries {tracker.retries}")
    return " · ".join(parts)
