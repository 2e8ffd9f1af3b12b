"""What a run notes about itself in the manifest of each results file: when it begins, and how it has ended.

Runs in the parent, under the outputs' locks. That a manifest cannot be written
is told and stops nothing: the results file alone suffices to go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from parallamr_mp import events
from parallamr_mp._version import __version__
from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.errors import OutputError
from parallamr_mp.fleet import shown_settings
from parallamr_mp.outputs import Output
from parallamr_mp.plan import Plan
from parallamr_mp.providers.secrets import environment_secrets, redactor, route_secrets
from parallamr_mp.report import RunSummary
from parallamr_mp.results.manifest import FORMAT, load_manifest, save_manifest
from parallamr_mp.text import utc

_FILES = ("prompt", "experiments", "contexts", "system", "json_schema", "config_file", "output", "command")
"""Fields of the configuration that are told elsewhere than among the settings."""


class Provenance:
    """Writes the manifests of one run. Used by one thread."""

    def __init__(self, config: RunConfig, plan: Plan, bus: events.EventBus) -> None:
        self._config, self._outputs, self._bus = config, plan.outputs, bus
        # The command line may hold a base URL with a password in it.
        given = route_secrets(spec.url for spec in config.endpoints)
        self._hide = redactor(environment_secrets(os.environ) | given)
        self._run: dict[str, Any] = {
            "version": __version__,
            "python": platform.python_version(),
            "command": list(config.command) or None,
            "host": socket.gethostname(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "started": utc(),
            "ended": None,
            "ended_by": None,
            "experiments": plan.survey.experiments,
            "inputs": list(_inputs(config)),
            "settings": {
                field.name: _plain(getattr(config, field.name))
                for field in fields(config)
                if field.name not in _FILES
            },
        }

    def begin(self) -> None:
        """Notes that the run is under way."""
        for output in self._kept():
            self._save(output, rows=None)

    def end(self, summary: RunSummary, error: BaseException | None = None) -> None:
        """Notes what the run came to; with an `error`, nobody knows what the files hold."""
        self._run["ended"] = utc()
        if error is not None:
            self._run["ended_by"] = (str(error) or type(error).__name__).partition("\n")[0]
        elif summary.signum is not None:
            self._run["ended_by"] = signal.Signals(summary.signum).name
        else:
            self._run["ended_by"] = "completed"
        self._run["totals"] = _totals(summary)
        for output in self._kept():
            self._save(output, rows=None if error is not None else output.counts, quiet=error is not None)

    def _kept(self) -> Iterator[Output]:
        """Results files; a pipe or device has nothing beside it."""
        return (output for output in self._outputs.files if output.path and os.path.isfile(output.path))

    def _save(self, output: Output, rows: Mapping[str, int] | None, *, quiet: bool = False) -> None:
        path = output.path or ""
        earlier = []
        try:
            found = load_manifest(path)
            if found is not None and self._config.resume:
                earlier = found["runs"]
        except OutputError as error:
            # Somebody else's, perhaps, unless the results were there already.
            if not (self._config.resume or self._config.overwrite):
                if not quiet:
                    self._bus.publish(events.Notice(f"no manifest: {error}"))
                return
        if earlier and earlier[-1].get("started") == self._run["started"]:
            earlier.pop()
        content = {
            "format": FORMAT,
            "results": os.path.basename(path),
            "rows": None if rows is None else dict(rows),
            "bytes": None if rows is None else _size(path),
            "runs": [*earlier, self._run],
        }
        try:
            save_manifest(path, _hidden(content, self._hide))
        except OutputError as error:
            if not quiet:
                self._bus.publish(events.Notice(f"no manifest: {error}"))


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:  # removed just now
        return None


def _totals(summary: RunSummary) -> dict[str, Any]:
    """Of this run alone. Times in seconds, cost in USD."""
    return {
        "ok": summary.ok,
        "warning": summary.warning,
        "error": summary.error,
        "done_before": summary.resumed,
        "missing": summary.missing,
        "input_tokens": summary.input_tokens,
        "output_tokens": summary.output_tokens,
        "cost_usd": summary.cost_usd,
        "unpriced": summary.unpriced,
        "retries": summary.retries,
        "workers_lost": summary.workers_lost,
        "seconds": round(summary.seconds, 3),
        "latency_p50": _rounded(summary.latency_p50),
        "latency_p95": _rounded(summary.latency_p95),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _inputs(config: RunConfig) -> Iterator[dict[str, Any]]:
    """Every input by its path, with its digest where that is one file and not a template or a stream."""
    given = [
        ("prompt", config.prompt),
        ("experiments", config.experiments),
        *(("context", path) for path in config.contexts),
        *([("system", config.system)] if config.system is not None else []),
        *([("json_schema", config.json_schema)] if config.json_schema is not None else []),
        *([("config", config.config_file)] if config.config_file is not None else []),
    ]
    for role, path in given:
        noted: dict[str, Any] = {"role": role, "path": path}
        if os.path.isfile(path):
            with contextlib.suppress(OSError), open(path, "rb") as stream:
                noted["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
        yield noted


def _plain(value: Any) -> Any:
    """What JSON can hold. Fields that are not to be shown are left out."""
    match value:
        case EndpointSpec():
            return shown_settings(value)
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _ if is_dataclass(value):
            return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.repr}
        case _:
            return value


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    """The same, with secrets taken out of every text in it."""
    match value:
        case str():
            return hide(value)
        case dict():
            return {hide(str(key)): _hidden(inner, hide) for key, inner in value.items()}
        case list() | tuple():
            return [_hidden(inner, hide) for inner in value]
        case _:
            return value
