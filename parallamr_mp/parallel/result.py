"""What became of one task."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from parallamr_mp.errors import ParallamrError


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The value or the error of one task of a group.

    >>> ExecutionResult(ok=True, result=42, index=0, name="task_0").unwrap()
    42
    """

    ok: bool
    result: Any = None
    """What the task returned; None if it failed."""
    error_message: str | None = None
    error_type: str | None = None
    """The name of the error's class."""
    execution_time: float = 0.0
    """Seconds that its attempts took, without the waits between them."""
    attempts: int = 1
    """How often it was tried; 0 if an open circuit breaker never let it try."""
    index: int = 0
    """Its place in the order of `add`."""
    name: str = ""
    """As given to `add`, else `task_<index>`."""
    is_replayed: bool = False
    """Taken from the history of an earlier run: it did not run now."""
    error: BaseException | None = field(default=None, repr=False)
    """The very error that the task raised, with its traceback."""

    def unwrap(self) -> Any:
        """The value; raises the original error if there is none.

        A `ParallamrError` with its message if the error itself is not there any
        more, as after a way through a file.
        """
        if self.error is not None:
            raise self.error.with_traceback(_without_unwrapping(self.error, self))
        if not self.ok:
            raise ParallamrError(f"{self.error_type or 'error'}: {self.error_message or 'no message'}")
        return self.result


def _without_unwrapping(error: BaseException, result: ExecutionResult) -> TracebackType | None:
    """The traceback of the error as it came: every `raise` of it by `unwrap` has added to it."""
    traceback = step = error.__traceback__
    while step is not None:
        frame, step = step.tb_frame, step.tb_next
        if frame.f_code is ExecutionResult.unwrap.__code__ and frame.f_locals.get("self") is result:
            traceback = step
    return traceback


def failed(
    error: BaseException, *, index: int, name: str, attempts: int, execution_time: float
) -> ExecutionResult:
    """The result of a task that raised `error` in the end."""
    return ExecutionResult(
        ok=False,
        error_message=message_of(error),
        error_type=type(error).__name__,
        execution_time=execution_time,
        attempts=attempts,
        index=index,
        name=name,
        error=error,
    )


def message_of(error: BaseException) -> str:
    """What the error says; its name if it says nothing, or fails to. Always text that can be written down."""
    try:
        said = str(error) or type(error).__name__
        return said.encode(errors="backslashreplace").decode()  # lone surrogates, as in names of files
    except Exception:
        return type(error).__name__
