"""One attempt at one experiment: fill the templates, ask, make the row. Runs in a worker's threads.

RowTask ─► Template.render ─► Provider.complete ─► answered ─► RowResult (an encoded record and what to count)
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from parallamr_mp.answered import AttemptSpec, RowResult, RowTask, answered, unanswered
from parallamr_mp.errors import OutputError, ProviderError
from parallamr_mp.models import ChatRequest, Inputs, Unsaved
from parallamr_mp.prompts import Template
from parallamr_mp.providers.base import Provider, ProviderSettings
from parallamr_mp.providers.registry import build_provider, session_for
from parallamr_mp.providers.secrets import environment_secrets, redactor, route_secrets
from parallamr_mp.results.records import columns_for
from parallamr_mp.results.rescue_file import RescueFile

if TYPE_CHECKING:
    import requests


class Asker:
    """The handler of a sweep's workers. Called by all threads of a worker at once."""

    def __init__(self, spec: AttemptSpec) -> None:
        self._spec = spec
        self._providers = {(name, ""): provider for name, provider in (spec.providers or {}).items()}
        self._texts = None if spec.inputs is None else _texts(spec.inputs)
        """Those of rows without texts of their own: not looked up for each."""
        self._session = spec.session
        self._own_session = spec.session is None
        for name in spec.asked:
            self._session_for(name)
        # Two threads must not build the same provider, nor two sessions.
        self._lock = threading.Lock()
        self._rescue = RescueFile(spec.rescue, columns_for(spec.columns))
        # Our own providers show no secrets. What a plug-in's exceptions quote is not known.
        self._secrets = environment_secrets(os.environ)
        self._hide = redactor(self._secrets)
        self._hides: dict[str, Callable[[str], str]] = {}
        """By route, for those that hold a secret of their own."""

    def __call__(self, task: RowTask, attempt: int, route: str) -> RowResult:
        """Asks once, at the base URL `route` where there is a choice.

        Raises `ProviderError`, whatever the provider raises, when there is no answer.
        """
        spec = self._spec
        texts = self._texts if task.inputs is None else _texts(task.inputs)
        if texts is None:
            raise ValueError("a task without texts")
        values = dict(zip(spec.columns, task.values, strict=True))
        prompt, system, unfilled = _render(*texts, values)
        request = ChatRequest(task.model, prompt, system, task.params, values)
        failure: ProviderError | None = None
        try:
            provider = self._provider(task.provider, route)
            started = time.monotonic()
            reply = provider.complete(request)
        except BaseException as error:  # also SystemExit: one broken row must not cost a thread
            failure = self._failure(error, route)
        if failure is not None:
            # Outside of `except`: it would bring along the error with all that was hidden.
            raise failure
        latency = time.monotonic() - started
        characters = len(prompt) + len(system or "")
        hide = self._hides.get(route, self._hide)
        return answered(spec, task, attempt, reply, latency, characters, unfilled, hide)

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

    def _failure(self, error: BaseException, route: str) -> ProviderError:
        """The error for what a provider raised, without the secrets of the environment and of `route`."""
        hide = self._hides.get(route, self._hide)
        if not isinstance(error, ProviderError):
            return ProviderError("internal", hide(f"{type(error).__name__}: {error}"))
        return ProviderError(
            error.kind,
            hide(str(error.message)),
            retryable=error.retryable,
            retry_after=error.retry_after,
            endpoint=hide(str(error.endpoint)),
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
                    if secrets := route_secrets([route]) - self._secrets:
                        self._hides[route] = redactor(self._secrets | secrets)
                    session, spec = self._session_for(name), self._spec
                    settings = ProviderSettings(spec.timeout, session, spec.threads, base_url=route or None)
                    provider = self._providers[name, route] = build_provider(name, settings)
        return provider

    def _session_for(self, provider: str) -> requests.Session | None:
        """The one session of this process, made for the first provider that may have a use for it."""
        if self._session is None:
            self._session = session_for(provider, self._spec.threads, os.environ)
        return self._session

    def close(self) -> None:
        if self._own_session and self._session is not None:
            self._session.close()


@lru_cache(maxsize=256)
def _template(text: str) -> Template:
    return Template(text)


@lru_cache(maxsize=64)
def _texts(inputs: Inputs) -> tuple[Template, Template | None]:
    """The prompt with its documents, and the system text: put together once, however many rows there are."""
    prompt = _template(inputs.prompt)
    if inputs.documents:
        prompt = Template.combined(prompt, [(name, _template(text)) for name, text in inputs.documents])
    return prompt, None if inputs.system is None else _template(inputs.system)


def _render(
    texts: Template, system: Template | None, values: Mapping[str, str]
) -> tuple[str, str | None, tuple[str, ...]]:
    """Prompt with its documents, system text, and the variables that had no value."""
    prompt, unfilled = texts.render(values)
    if system is None:
        return prompt, None, unfilled
    filled, missing = system.render(values)
    return prompt, filled, tuple(dict.fromkeys(unfilled + missing)) if missing else unfilled
