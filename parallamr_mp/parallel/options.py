"""How a group runs its tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parallamr_mp.parallel.enums import ErrorStrategy


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """What `ExecutionState.parallel` was told; see there."""

    max_workers: int
    error_strategy: ErrorStrategy
    timeout: float | None
    max_retries: int
    retry_delay: float
    retry_on: tuple[type[BaseException], ...]
    circuit_breaker_threshold: int | None
    circuit_breaker_timeout: float
    procs: int | None
    """Worker processes; 0: threads of this one; None: tasks run on the event loop."""
    threads: int
    """Of each process."""


def check(options: GroupOptions) -> None:
    """Raises a `TypeError` or `ValueError` that names the option and what is expected of it."""
    _whole("max_workers", options.max_workers, 1)
    if options.procs is not None:
        _whole("procs", options.procs, 0)
        _whole("threads", options.threads, 1)
    _whole("max_retries", options.max_retries, 0)
    if options.circuit_breaker_threshold is not None:
        _whole("circuit_breaker_threshold", options.circuit_breaker_threshold, 1)
    if options.timeout is not None:
        _seconds("timeout", options.timeout)
        if options.timeout == 0:
            raise ValueError("timeout must be more than 0 seconds; None sets none")
    _seconds("retry_delay", options.retry_delay)
    _seconds("circuit_breaker_timeout", options.circuit_breaker_timeout)
    kinds: tuple[object, ...] = options.retry_on
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"retry_on takes exception classes, not {kind!r}")


def strategy_of(given: ErrorStrategy | str) -> ErrorStrategy:
    """Raises a `ValueError` that tells what there is."""
    try:
        return ErrorStrategy(given)
    except ValueError:
        choices = " or ".join(repr(strategy.value) for strategy in ErrorStrategy)
        raise ValueError(f"error_strategy must be {choices}, not {given!r}") from None


def check_name(name: object) -> None:
    """Raises a `TypeError` or `ValueError` if events and files cannot tell it."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:  # half a character, as in the name of a file that is not UTF-8
        raise ValueError(f"name must be Unicode text: {error}") from error


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a number of seconds from 0 on, not {value}")
