"""Event handlers that tell people how things go. They write to standard error and keep only counters.

    EventBus ──► ParallelEventPrinter ──┬─ realtime ─► a line an event ────────────────┐
             │                          └─ progress ─► RunView, GroupView: bars, or    ├─► Screen ─► tqdm
             ├─► EventPrinter                          plain lines where none can be   │
             └─► LinePrinter (-v) ──────────────────────────────────────────────────────┘

They run in the thread that publishes: the dispatcher's of a sweep, that of a
group's event loop.
"""

from __future__ import annotations

from parallamr_mp.printers.lines import EventPrinter, LinePrinter
from parallamr_mp.printers.printer import PLAIN_INTERVAL, ParallelEventPrinter
from parallamr_mp.printers.screen import pass_on

__all__ = ["PLAIN_INTERVAL", "EventPrinter", "LinePrinter", "ParallelEventPrinter", "pass_on"]
