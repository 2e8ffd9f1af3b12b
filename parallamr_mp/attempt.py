"""One attempt at one experiment: fill the templates, ask, make the row. Runs in a worker's threads.

    RowTask ─► Template.render ─► Provider.complete ─► RowResult (an encoded record and what to count)

The worker encodes the record, so that parent and writer only pass bytes on.
Rows that end without an answer are encoded by the parent, with the same code.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import requests

from parallamr_mp.errors import OutputError, ProviderError
from parallamr_mp.models import ChatRequest, Failure, Inputs, Reply, Status, Unsaved
from parallamr_mp.prompts import Template, combine
from parallamr_mp.providers.base import Provider, ProviderSettings
from parallamr_mp.providers.http import make_session
from parallamr_mp.providers.registry import build_provider
from parallamr_mp.providers.secrets import environment_secrets, redactor
from parallamr_mp.results.records import columns_for, encode_record
from parallamr_mp.results.rescue_file import RescueFile


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """What all attempts of a run have in common. Sent to each worker once."""

    columns: tuple[str, ...]
    inputs: Inputs | None
    """The texts where they are the same for every row."""
    timeout: float
    """Total seconds for one request."""
    threads: int
    windows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Context windows in tokens by (provider, model), where the server told."""
    providers: Mapping[str, Provider] | None = None
    """Injected providers; they stay in this process."""
    session: requests.Session | None = None
    """An injected session; it stays in this process."""
    rescue: tuple[str, ...] = ()
    """Where a worker whose parent has died saves its answers: see `RescueFile`."""
    excel_safe: bool = False
    """Cells that a spreadsheet would run are guarded."""


@dataclass(frozen=True, slots=True)
class RowTask:
    """One experiment on its way to a worker."""

    row_number: int
    repeat: int
    experiment_id: str
    file: int
    """Number of the output file its row belongs to."""
    provider: str
    model: str
    values: tuple[str, ...]
    params: Mapping[str, Any]
    inputs: Inputs | None = None
    """The row's own texts where paths are templates."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row, encoded, and what the parent counts of it."""

    record: bytes
    status: Status
    message: str
    latency: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class Asker:
    """The handler of a sweep's workers. Called by all threads of a worker at once."""

    def __init__(self, spec: AttemptSpec) -> None:
        self._spec = spec
        self._providers = {(name, ""): provider for name, provider in (spec.providers or {}).items()}
        self._session = spec.session
        self._own_session = spec.session is None
        # Two threads must not build the same provider, nor two sessions.
        self._lock = threading.Lock()
        self._rescue = RescueFile(spec.rescue, columns_for(spec.columns))
        # Our own providers show no secrets. What a plug-in's exceptions quote is not known.
        self._hide = redactor(environment_secrets(os.environ))

    def __call__(self, task: RowTask, attempt: int, route: str) -> RowResult:
        """Asks once, at the base URL `route` where there is a choice.

        Raises `ProviderError`, whatever the provider raises, when there is no answer.
        """
        spec = self._spec
        inputs = task.inputs or spec.inputs
        if inputs is None:
            raise ValueError("a task without texts")
        values = dict(zip(spec.columns, task.values, strict=True))
        prompt, system, unfilled = _render(inputs, values)
        request = ChatRequest(task.model, prompt, system, task.params, values)
        failure: ProviderError | None = None
        try:
            provider = self._provider(task.provider, route)
            started = time.monotonic()
            reply = provider.complete(request)
        except BaseException as error:  # also SystemExit: one broken row must not cost a thread
            failure = self._failure(error)
        if failure is not None:
            # Outside of `except`: it would bring along the error with all that was hidden.
            raise failure
        latency = time.monotonic() - started
        characters = len(prompt) + len(system or "")
        return _answered(spec, task, attempt, reply, latency, characters, unfilled, self._hide)

    def rescue(self, unsaved: Sequence[Unsaved]) -> None:
        """Saves rows that may not have reached the results file; `--resume` knows which it has already."""
        # Nobody is left to be told that there is no place.
        with contextlib.suppress(OutputError):
            for each in unsaved:
                result = each.value
                if each.failure is not None:
                    result = unanswered(self._spec, each.payload, each.attempt, each.failure, each.seconds)
                self._rescue.save(result.record)
        with contextlib.suppress(OutputError):
            self._rescue.sync()

    def _failure(self, error: BaseException) -> ProviderError:
        """The error for what a provider raised, without the secrets of the environment."""
        if not isinstance(error, ProviderError):
            return ProviderError("internal", self._hide(f"{type(error).__name__}: {error}"))
        return ProviderError(
            error.kind,
            self._hide(str(error.message)),
            retryable=error.retryable,
            retry_after=error.retry_after,
            endpoint=self._hide(str(error.endpoint)),
            unknown=error.unknown,
            refused=error.refused,
            unreached=error.unreached,
            status=error.status,
            one_model=error.one_model,
            allowance=error.allowance,
        )

    def _provider(self, name: str, route: str) -> Provider:
        provider = self._providers.get((name, route))
        if provider is None:
            with self._lock:
                provider = self._providers.get((name, route))
                if provider is None:
                    if self._session is None:
                        self._session = make_session(self._spec.threads, os.environ)
                    settings = ProviderSettings(
                        self._spec.timeout, self._session, self._spec.threads, base_url=route or None
                    )
                    provider = self._providers[name, route] = build_provider(name, settings)
        return provider

    def close(self) -> None:
        if self._own_session and self._session is not None:
            self._session.close()


@lru_cache(maxsize=256)
def _template(text: str) -> Template:
    return Template(text)


def _render(inputs: Inputs, values: Mapping[str, str]) -> tuple[str, str | None, tuple[str, ...]]:
    """Prompt with its documents, system text, and the variables that had no value."""
    unfilled: dict[str, None] = {}

    def fill(text: str) -> str:
        filled, missing = _template(text).render(values)
        unfilled.update(dict.fromkeys(missing))
        return filled

    prompt = fill(inputs.prompt)
    if inputs.documents:
        prompt = combine(prompt, [(name, fill(text)) for name, text in inputs.documents])
    system = fill(inputs.system) if inputs.system is not None else None
    return prompt, system, tuple(unfilled)


def _answered(
    spec: AttemptSpec,
    task: RowTask,
    attempt: int,
    reply: Reply,
    latency: float,
    input_characters: int,
    unfilled: tuple[str, ...],
    hide: Callable[[str], str],
) -> RowResult:
    """The row of an answer. `hide` takes secrets out of what is said about it; the answer is what it is."""
    # Four characters a token where the provider does not count: a rule of thumb
    # for English text (OpenAI's help centre), kept from the original parallamr.
    input_tokens = reply.input_tokens if reply.input_tokens is not None else input_characters // 4
    output_tokens = reply.output_tokens if reply.output_tokens is not None else len(reply.text) // 4
    window = spec.windows.get((task.provider, task.model))
    warnings = list(reply.warnings)
    if unfilled:
        warnings.insert(0, f"no value for {', '.join('{{' + name + '}}' for name in unfilled)}")
    if window is not None and max(input_tokens, input_characters // 4) > window:
        warnings.append(f"the input may exceed the context window of {window} tokens")
    status = Status.WARNING if warnings else Status.OK
    message = hide("; ".join(warnings))
    record = _record(
        spec,
        task,
        status=status,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        output=reply.text,
        message=message,
        attempts=attempt,
        latency=latency,
        finish_reason=None if reply.finish_reason is None else hide(str(reply.finish_reason)),
        cost=reply.cost_usd,
        endpoint=hide(str(reply.endpoint)),
    )
    return RowResult(record, status, message, latency, input_tokens, output_tokens, reply.cost_usd)


def unanswered(
    spec: AttemptSpec, task: RowTask, attempts: int, failure: Failure, latency: float
) -> RowResult:
    """The `error` row of an experiment that got no answer. Called in the parent."""
    message = failure.message
    if attempts > 1:
        message += f" (after {attempts} attempts)"
    record = _record(
        spec,
        task,
        status=Status.ERROR,
        input_tokens=None,
        output_tokens=None,
        output="",
        message=message,
        attempts=attempts,
        latency=latency if attempts else None,
        finish_reason=None,
        cost=None,
        endpoint=failure.endpoint,
    )
    return RowResult(record, Status.ERROR, message, latency, 0, 0, None)


def _record(
    spec: AttemptSpec,
    task: RowTask,
    *,
    status: Status,
    input_tokens: int | None,
    output_tokens: int | None,
    output: str,
    message: str,
    attempts: int,
    latency: float | None,
    finish_reason: str | None,
    cost: float | None,
    endpoint: str,
) -> bytes:
    return encode_record(
        (
            *task.values,
            status.value,
            input_tokens,
            spec.windows.get((task.provider, task.model)),
            output_tokens,
            output,
            message,
            task.row_number,
            task.repeat,
            task.experiment_id,
            attempts,
            None if latency is None else f"{latency:.3f}",
            finish_reason,
            cost,
            endpoint,
            datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        ),
        excel_safe=spec.excel_safe,
    )
