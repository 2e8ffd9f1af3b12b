"""A group as those see it who use it in a plain `with`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from parallamr_mp.parallel.enums import GroupStatus
from parallamr_mp.parallel.result import ExecutionResult


class PlainGroup(Protocol):
    """The `ParallelExecutionManager`, returning itself what is awaited in an `async with`."""

    @property
    def name(self) -> str: ...
    @property
    def group_id(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def status(self) -> GroupStatus: ...
    @property
    def results(self) -> list[ExecutionResult]: ...
    def add(self, call: Callable[..., Any], /, *args: Any, name: str | None = None, **kwargs: Any) -> None:
        """Adds a function, and what it is called with."""

    def gather(self) -> list[ExecutionResult]:
        """Runs all tasks; their results, in the order of `add`."""

    def gather_dict(self) -> dict[str, ExecutionResult]:
        """As `gather`, by name."""

    def stream(self) -> Generator[ExecutionResult]:
        """Runs all tasks and yields their results as they come."""
