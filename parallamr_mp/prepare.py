"""What a run needs before it may begin: its plan, its endpoints, its providers, each checked.

Nothing here sends or writes. `run`, `plan` and `verify` begin with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallamr_mp.attempts_log import check_attempts_log
from parallamr_mp.config import RunConfig, check
from parallamr_mp.errors import BadInput
from parallamr_mp.experiments import Table
from parallamr_mp.fleet import Fleet
from parallamr_mp.lookups import build_scouts, close_providers
from parallamr_mp.outputs import Outputs
from parallamr_mp.past import Past
from parallamr_mp.plan import Plan
from parallamr_mp.providers.base import Provider, ProviderSettings
from parallamr_mp.providers.registry import is_built_in, known_providers, session_for
from parallamr_mp.results.manifest import manifest_path
from parallamr_mp.results.records import guard
from parallamr_mp.sources import FileLoader, Sources, read_schema

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True, slots=True)
class Injected:
    """What a caller of the library brings along instead of what the environment says."""

    providers: Mapping[str, Provider] | None = None
    session: requests.Session | None = None
    file_loader: FileLoader | None = None


def make_plan(config: RunConfig, table: Table, injected: Injected) -> Plan:
    """Reads and checks the whole table, and that its providers can be used. Raises `BadInput`."""
    if config.excel_safe:
        _check_names(table)
    outputs = Outputs(config.output, table.columns)
    sources = Sources(
        prompt=config.prompt,
        contexts=config.contexts,
        system=config.system,
        columns=table.columns,
        loader=injected.file_loader,
    )
    schema = None
    if config.json_schema is not None:
        schema = read_schema(config.json_schema, injected.file_loader)
    plan = Plan(config, table, sources, outputs, schema)
    plan.look(frozenset(injected.providers if injected.providers is not None else known_providers()))
    return plan


def _check_names(table: Table) -> None:
    """Refuses columns that a spreadsheet would run: prompts and `resume` go by the names as they are."""
    for name in table.columns:
        if guard(name) != name:
            raise BadInput(
                f"column {name!r}: a spreadsheet would run its name as a formula",
                file=table.label,
                hint="Rename the column, or go without --excel-safe.",
            )


def input_files(config: RunConfig, plan: Plan) -> set[str]:
    """Every file that is read, and thus cannot be an output."""
    fixed = (
        config.prompt,
        config.experiments,
        *config.contexts,
        config.system,
        config.json_schema,
        config.endpoints_file,
        config.config_file,
    )
    return {path for path in fixed if path} | plan.survey.inputs


def check_files(config: RunConfig, plan: Plan) -> None:
    """Raises `BadInput` for an output or log that cannot be written, or that is read, too. Makes nothing."""
    inputs = input_files(config, plan)
    plan.outputs.check(inputs, rewritten=config.flatten)
    if config.attempts_log is not None:
        outputs = [output.path for output in plan.outputs.files if output.path is not None]
        locks = [path for path, _ in plan.outputs.locks()]
        manifests = [manifest_path(path) for path in outputs]
        check_attempts_log(config.attempts_log, [*inputs, *outputs, *locks, *manifests])


def unused_scopes(config: RunConfig, plan: Plan) -> list[str]:
    """A notice of limits and prices for models that no row has: most likely one is written wrongly."""
    scopes = {*config.limits, *config.rpm, *config.tpm, *config.prices}
    known = {"/".join(model) for model in plan.survey.models}
    unused = sorted(scope for scope in scopes if "/" in scope and scope not in known)
    return [f"a limit or price is for {scope}, which no row asks" for scope in unused]


def make_fleet(config: RunConfig, injected: Injected) -> Fleet:
    """The endpoints there are. Raises `BadInput`."""
    own = injected.providers
    return Fleet(config, os.environ, known_providers() if own is None else [*own], fixed=own or ())


def build_used_providers(
    plan: Plan, config: RunConfig, injected: Injected, fleet: Fleet
) -> dict[str, Provider]:
    """Each provider the table names, for look-ups. Raises `MissingKey` for one that cannot be used."""
    used = dict.fromkeys(provider for provider, _ in plan.survey.models)
    if injected.providers is not None:
        return {name: injected.providers[name] for name in used}
    if injected.session is None and not all(map(is_built_in, used)):
        _try_session(next(name for name in used if not is_built_in(name)))
    settings = ProviderSettings(config.timeout, injected.session, threads=1)
    return {name: build_scouts(name, fleet.of(name), settings) for name in used}


def _try_session(plug_in: str) -> None:
    """Raises `BadInput` for bad proxies or authorities: workers make a session for plug-ins, too."""
    session = session_for(plug_in, 1, os.environ)
    if session is not None:
        session.close()


def validate(config: RunConfig, injected: Injected | None = None) -> Plan:
    """Everything `run_sweep` checks before it sends, and nothing else. Raises `BadInput`."""
    check(config)
    injected = injected or Injected()
    with contextlib.closing(Table(config.experiments)) as table:
        plan = make_plan(config, table, injected)
        providers = build_used_providers(plan, config, injected, make_fleet(config, injected))
        if injected.providers is None:
            close_providers(providers)
        if not config.resume and not config.overwrite:
            plan.outputs.refuse_existing()
        if config.resume:
            Past(config, plan).scan()
        check_files(config, plan)
        return plan
