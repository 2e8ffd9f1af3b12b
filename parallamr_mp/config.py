"""Everything a sweep is told, in one frozen object, and what this machine offers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parallamr_mp.errors import BadInput
from parallamr_mp.models import RESERVED_PARAMS
from parallamr_mp.tariff import Price

MAX_DEFAULT_PROCS = 4
DEFAULT_THREADS = 8
DEFAULT_TIMEOUT = 300.0
SLURM_DRAIN = 25.0
DEFAULT_MAX_WAIT = 3600.0
DEFAULT_LIMITS = {"ollama": 1}
"""Requests in flight at one endpoint, unless told otherwise: one GPU answers one question at a time."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One base URL of a provider, and what may be asked of it."""

    provider: str
    url: str = field(repr=False)
    """May hold a password."""
    weight: float = 1.0
    """Its share of the load, relative to its provider's other endpoints."""
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One sweep. Paths may be templates; times are in seconds."""

    prompt: str
    experiments: str
    contexts: tuple[str, ...] = ()
    system: str | None = None
    output: str | None = None
    """None: standard output."""
    procs: int = 1
    """Worker processes; 0: threads of this process alone."""
    threads: int = DEFAULT_THREADS
    """Threads a process."""
    total_limit: int | None = None
    """Most requests in flight altogether."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Most requests in flight by scope: a provider (`openai`) or one of its models (`openai/gpt-4o`)."""
    rpm: Mapping[str, float] = field(default_factory=dict)
    """Most requests in any minute, by scope."""
    tpm: Mapping[str, float] = field(default_factory=dict)
    """Most tokens in any minute, by scope."""
    endpoints: tuple[EndpointSpec, ...] = ()
    """Where requests of a provider go; of a provider that is not named here: where its variable says."""
    endpoints_file: str | None = None
    """One endpoint a line, read again when it changes."""
    adaptive: bool | None = None
    """Whether to find out how many requests at once an endpoint takes. None: of providers that cost money."""
    max_wait: float = DEFAULT_MAX_WAIT
    """How long a row may wait for a server that refuses it or cannot be reached before it is an error."""
    breaker_failures: int = 5
    """Failures in a row that keep everybody away from an endpoint for a while."""
    attempts_log: str | None = None
    """A JSONL file that gets a line for each request."""
    max_cost: float | None = None
    """USD that this run may cost at most."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """By model (`openai/gpt-4o`), instead of what is known of them."""
    fail_fast: bool = False
    """The first error row stops the run."""
    max_errors: int | None = None
    """More error rows than that stop the run."""
    max_error_share: float | None = None
    """A larger share of error rows (0..1) among this run's, 20 or more, stops it."""
    stop_after: float | None = None
    """No new requests once the run has taken that long."""
    stop_before: float | None = None
    """No new requests that long before the end of the Slurm job."""
    json_schema: str | None = None
    """A file with the JSON schema that answers are asked for and checked against."""
    retry_truncated: float | None = None
    """Answers cut by length are asked again with a limit that many times as large."""
    timeout: float = DEFAULT_TIMEOUT
    """Total time for one request."""
    drain_timeout: float | None = None
    """How long requests in flight may go on after a signal; None: see `drain_seconds`."""
    orphan_grace: float = 30.0
    """How long workers go on with their requests when the parent has been killed."""
    max_retries: int = 5
    retry_unknown: bool | None = None
    """Whether to ask again when it is unknown what became of a request, and it may be paid for twice.
    None: of providers that cost nothing."""
    first_row: int = 1
    last_row: int | None = None
    """Rows of the table that take part, both ends included; None: to its end."""
    repeat: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    """Body parameters of every row; a row's own win."""
    resume: bool = False
    retry_errors: bool = False
    redo_changed: bool = False
    overwrite: bool = False
    flatten: bool = False
    excel_safe: bool = False
    """Cells that a spreadsheet would run as formulas get an apostrophe before them."""
    config_file: str | None = None
    """The file that settings were read from; this program writes into none such."""
    command: tuple[str, ...] = ()
    """The command line that this was made from, for the manifest; empty: none."""


_LEAST: Mapping[str, float] = {
    "procs": 0,
    "threads": 1,
    "total_limit": 1,
    "timeout": 0.001,
    "drain_timeout": 0,
    "orphan_grace": 0,
    "max_retries": 0,
    "max_wait": 0,
    "breaker_failures": 1,
    "max_cost": 0,
    "stop_after": 0.001,
    "stop_before": 0,
    "first_row": 1,
    "repeat": 1,
}


def check(config: RunConfig) -> None:
    """Raises `BadInput` for values that make no sense, alone or together."""
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            option = "--" + name.replace("_", "-")
            wish = f"must be at least {least}" if least in {0, 1} else "must be positive"
            raise BadInput(f"{option} {value}: {wish}")
    if config.max_cost == math.inf:
        raise BadInput("--max-cost inf: must be a sum of money; for no limit leave it out")
    if config.retry_truncated is not None and not 1 < config.retry_truncated < math.inf:
        raise BadInput(f"--retry-truncated {config.retry_truncated}: must be more than 1")
    if config.max_errors is not None and config.max_errors < 0:
        raise BadInput(f"--fail-on-error {config.max_errors}: must be at least 0")
    if config.max_error_share is not None and not 0 <= config.max_error_share <= 1:
        raise BadInput(f"--fail-on-error {100 * config.max_error_share:.6g}%: must be from 0 % to 100 %")
    if config.last_row is not None and config.last_row < config.first_row:
        raise BadInput(f"rows {config.first_row} to {config.last_row}: there is none")
    for scope in {**config.limits, **config.rpm, **config.tpm}:
        _check_limits(scope, config.limits.get(scope), config.rpm.get(scope), config.tpm.get(scope))
    for endpoint in config.endpoints:
        whose = f"an endpoint of {endpoint.provider}"
        _check_limits(whose, endpoint.concurrency, endpoint.rpm, endpoint.tpm)
        if not 0 < endpoint.weight < math.inf:
            raise BadInput(f"{whose}: weight {endpoint.weight:g}; must be positive")
    for model, price in config.prices.items():
        if not (0 <= price.input < math.inf and 0 <= price.output < math.inf):
            raise BadInput(f"{model}: price {price.input:g}:{price.output:g}; must be at least 0")
    for name in config.params:
        if name in RESERVED_PARAMS:
            raise BadInput(f"--param {name}: cannot be set by a parameter")
    if config.json_schema is not None and (asked := config.params.keys() & {"response_format", "format"}):
        raise BadInput(
            f"--json-schema and --param {min(asked)} exclude each other",
            hint="Give one of them for all rows.",
        )
    if config.resume and config.overwrite:
        raise BadInput("--resume and --overwrite exclude each other", hint="Give one of them.")
    if config.retry_errors and not config.resume:
        raise BadInput("--retry-errors needs --resume", hint="Give both to redo the error rows of an output.")
    if config.redo_changed and not config.resume:
        raise BadInput(
            "--redo-changed needs --resume", hint="Give both to ask changed rows of an output again."
        )
    if config.resume and config.output is None:
        raise BadInput("--resume needs --output", hint="Standard output cannot be resumed.")


def _check_limits(whose: str, concurrency: int | None, rpm: float | None, tpm: float | None) -> None:
    if concurrency is not None and concurrency < 1:
        raise BadInput(f"{whose}: {concurrency} requests at once; must be at least 1")
    for name, value in (("requests", rpm), ("tokens", tpm)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{whose}: {value:g} {name} a minute; must be positive")


def drain_seconds(config: RunConfig, env: Mapping[str, str] | None = None) -> float:
    """How long requests in flight may go on after a signal.

    As long as one may take, unless told otherwise; less in a Slurm job, which
    is killed `KillWait` seconds (30 unless set otherwise, slurm.conf) after its
    SIGTERM, and needs some of them for writing.
    """
    if config.drain_timeout is not None:
        return config.drain_timeout
    env = os.environ if env is None else env
    return min(config.timeout, SLURM_DRAIN) if env.get("SLURM_JOB_ID") else config.timeout


def usable_cpus(env: Mapping[str, str] | None = None) -> int:
    """CPUs this process may use: affinity, cgroup quota and Slurm's allotment, whichever is least."""
    env = os.environ if env is None else env
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity
        count = os.cpu_count() or 1
    if (quota := _cgroup_cpus()) is not None:
        count = min(count, quota)
    slurm = env.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal() and int(slurm) > 0:
        count = min(count, int(slurm))
    return max(1, count)


def _cgroup_cpus() -> int | None:
    """The CPU quota of a version 2 cgroup, rounded up; None where there is none."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as stream:
            quota, period = stream.read().split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def default_procs() -> int:
    """Worker processes when nobody says: the usable CPUs, at most four."""
    return min(MAX_DEFAULT_PROCS, usable_cpus())


def split_parallel(parallel: int, procs: int | None = None) -> tuple[int, int]:
    """Processes and threads for `parallel` requests at once: few processes, full ones."""
    if parallel < 1:
        raise BadInput(f"--parallel {parallel}: must be at least 1")
    if procs is None:
        # A process pays off from several threads on; below that it only costs memory.
        procs = max(1, min(default_procs(), -(-parallel // DEFAULT_THREADS)))
    procs = min(procs, parallel)
    return procs, -(-parallel // max(1, procs))
