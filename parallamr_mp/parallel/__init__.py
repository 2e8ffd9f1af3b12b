"""Functions and coroutines of one's own, run in parallel: with limits, retries, events and a history.

>>> import asyncio
>>> from parallamr_mp.parallel import ExecutionState
>>> async def shout(word):
...     return word.upper()
>>> async def main():
...     state = ExecutionState()
...     async with state.parallel(max_workers=2) as p:
...         p.add(shout("a"))
...         p.add(shout, "b")
...         return [result.unwrap() for result in await p.gather()]
>>> asyncio.run(main())
['A', 'B']

    ExecutionState ──parallel()──► ParallelExecutionManager ──gather, stream──► GroupRun ──► Executor
       ▲    │ replay                                                              │
       │    └─────────────────────────────────────────────────────────────────────▼
       └──────────────────────────── History, EventBus ◄── Recorder ◄───── retries, breaker, limits
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallamr_mp.errors import CircuitOpen, NotPicklable, WorkerDied
    from parallamr_mp.events import EventBus
    from parallamr_mp.parallel.enums import (
        ErrorStrategy,
        EventType,
        ExecutionStatus,
        GroupStatus,
        ParallelDisplayMode,
    )
    from parallamr_mp.parallel.manager import ParallelExecutionManager
    from parallamr_mp.parallel.metrics import GroupMetrics, StateMetrics
    from parallamr_mp.parallel.models import ExecutionEvent, ParallelEventGroup, ParallelGroupTracker
    from parallamr_mp.parallel.result import ExecutionResult
    from parallamr_mp.parallel.state import ExecutionState
    from parallamr_mp.printers import EventPrinter, ParallelEventPrinter

# Imported when first asked for, as in `parallamr_mp`: it brings asyncio and Pydantic, and a worker process
# that imports a module of this package needs neither.
_HOMES = {
    "CircuitOpen": "parallamr_mp.errors",
    "ErrorStrategy": "parallamr_mp.parallel.enums",
    "EventBus": "parallamr_mp.events",
    "EventPrinter": "parallamr_mp.printers",
    "EventType": "parallamr_mp.parallel.enums",
    "ExecutionEvent": "parallamr_mp.parallel.models",
    "ExecutionResult": "parallamr_mp.parallel.result",
    "ExecutionState": "parallamr_mp.parallel.state",
    "ExecutionStatus": "parallamr_mp.parallel.enums",
    "GroupMetrics": "parallamr_mp.parallel.metrics",
    "GroupStatus": "parallamr_mp.parallel.enums",
    "NotPicklable": "parallamr_mp.errors",
    "ParallelDisplayMode": "parallamr_mp.parallel.enums",
    "ParallelEventGroup": "parallamr_mp.parallel.models",
    "ParallelEventPrinter": "parallamr_mp.printers",
    "ParallelExecutionManager": "parallamr_mp.parallel.manager",
    "ParallelGroupTracker": "parallamr_mp.parallel.models",
    "StateMetrics": "parallamr_mp.parallel.metrics",
    "WorkerDied": "parallamr_mp.errors",
}

__all__ = [
    "CircuitOpen",
    "ErrorStrategy",
    "EventBus",
    "EventPrinter",
    "EventType",
    "ExecutionEvent",
    "ExecutionResult",
    "ExecutionState",
    "ExecutionStatus",
    "GroupMetrics",
    "GroupStatus",
    "NotPicklable",
    "ParallelDisplayMode",
    "ParallelEventGroup",
    "ParallelEventPrinter",
    "ParallelExecutionManager",
    "ParallelGroupTracker",
    "StateMetrics",
    "WorkerDied",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
