"""Run a table of LLM experiments over processes and threads; every row is written exactly once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parallamr_mp._version import __version__

if TYPE_CHECKING:
    from parallamr_mp.errors import (
        BadInput,
        CircuitOpen,
        ColumnsMismatch,
        EngineError,
        MissingKey,
        NotPicklable,
        OutputError,
        OutputExists,
        OutputLocked,
        ParallamrError,
        ProviderError,
        WorkerDied,
        WriterClosed,
    )
    from parallamr_mp.events import EventBus
    from parallamr_mp.models import ChatRequest, ModelInfo, Reply, Status
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
    from parallamr_mp.providers.base import ModelCatalogue, Provider, ProviderFactory, ProviderSettings
    from parallamr_mp.report import RunSummary
    from parallamr_mp.results.writer import IncrementalCSVWriter
    from parallamr_mp.runner import ExperimentRunner, create_experiment_runner
    from parallamr_mp.sources import FileLoader

# Imported when first asked for (PEP 562): a worker process imports this package
# and needs almost nothing of it.
_HOMES = {
    "parallamr_mp.errors": (
        "BadInput",
        "CircuitOpen",
        "ColumnsMismatch",
        "EngineError",
        "MissingKey",
        "NotPicklable",
        "OutputError",
        "OutputExists",
        "OutputLocked",
        "ParallamrError",
        "ProviderError",
        "WorkerDied",
        "WriterClosed",
    ),
    "parallamr_mp.events": ("EventBus",),
    "parallamr_mp.models": ("ChatRequest", "ModelInfo", "Reply", "Status"),
    "parallamr_mp.parallel.enums": (
        "ErrorStrategy",
        "EventType",
        "ExecutionStatus",
        "GroupStatus",
        "ParallelDisplayMode",
    ),
    "parallamr_mp.parallel.manager": ("ParallelExecutionManager",),
    "parallamr_mp.parallel.metrics": ("GroupMetrics", "StateMetrics"),
    "parallamr_mp.parallel.models": ("ExecutionEvent", "ParallelEventGroup", "ParallelGroupTracker"),
    "parallamr_mp.parallel.result": ("ExecutionResult",),
    "parallamr_mp.parallel.state": ("ExecutionState",),
    "parallamr_mp.printers": ("EventPrinter", "ParallelEventPrinter"),
    "parallamr_mp.providers.base": ("ModelCatalogue", "Provider", "ProviderFactory", "ProviderSettings"),
    "parallamr_mp.report": ("RunSummary",),
    "parallamr_mp.results.writer": ("IncrementalCSVWriter",),
    "parallamr_mp.runner": ("ExperimentRunner", "create_experiment_runner"),
    "parallamr_mp.sources": ("FileLoader",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BadInput",
    "ChatRequest",
    "CircuitOpen",
    "ColumnsMismatch",
    "EngineError",
    "ErrorStrategy",
    "EventBus",
    "EventPrinter",
    "EventType",
    "ExecutionEvent",
    "ExecutionResult",
    "ExecutionState",
    "ExecutionStatus",
    "ExperimentRunner",
    "FileLoader",
    "GroupMetrics",
    "GroupStatus",
    "IncrementalCSVWriter",
    "MissingKey",
    "ModelCatalogue",
    "ModelInfo",
    "NotPicklable",
    "OutputError",
    "OutputExists",
    "OutputLocked",
    "ParallamrError",
    "ParallelDisplayMode",
    "ParallelEventGroup",
    "ParallelEventPrinter",
    "ParallelExecutionManager",
    "ParallelGroupTracker",
    "Provider",
    "ProviderError",
    "ProviderFactory",
    "ProviderSettings",
    "Reply",
    "RunSummary",
    "StateMetrics",
    "Status",
    "WorkerDied",
    "WriterClosed",
    "__version__",
    "create_experiment_runner",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
