"""The package map of DESIGN.md §4, held to by reading every file: imports point down, and what is public."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import parallamr_mp

ROOT = "parallamr_mp"
PACKAGE = Path(parallamr_mp.__file__).parent

# Module (or folder of modules), without the package's name → (layer, group). Within a layer, modules of one
# group may import each other; those of different groups may where `MAY` says so.
MAP = {
    "models": (0, "base"),
    "events": (0, "base"),
    "mailbox": (0, "base"),
    "crossing": (0, "base"),
    "values": (0, "base"),
    "errors": (0, "base"),
    "config": (0, "base"),
    "tariff": (0, "base"),
    "_version": (0, "base"),
    "policy": (1, "policy"),
    "providers": (1, "providers"),
    "experiments": (1, "experiments"),
    "identity": (1, "experiments"),
    "prompts": (1, "prompts"),
    "results": (1, "results"),
    "printers": (1, "printers"),
    "engine": (2, "engine"),
    "parallel": (2, "parallel"),
    "answered": (2, "rows"),
    "attempt": (2, "rows"),
    "schemas": (2, "rows"),
    "sources": (2, "rows"),
    "truncated": (2, "rows"),
    "outputs": (2, "rows"),
    "plan": (3, "sweep"),
    "questions": (3, "sweep"),
    "past": (3, "sweep"),
    "claims": (3, "sweep"),
    "resume": (3, "sweep"),
    "rescue": (3, "sweep"),
    "rows": (3, "sweep"),
    "provenance": (3, "sweep"),
    "lookups": (2, "lookups"),
    "fleet": (2, "fleet"),
    "prices": (2, "lookups"),
    "text": (0, "base"),
    "report": (3, "sweep"),
    "sweep": (3, "sweep"),
    "sweep_events": (3, "sweep"),
    "prepare": (3, "sweep"),
    "crew": (3, "sweep"),
    "flattening": (3, "sweep"),
    "traffic": (3, "sweep"),
    "attempts_log": (3, "sweep"),
    "prefixes": (3, "sweep"),
    "walltime": (2, "walltime"),
    "estimate": (3, "sweep"),
    "preview": (3, "sweep"),
    "verify": (3, "sweep"),
    "runner": (4, "runner"),
    "cli": (4, "cli"),
    "__main__": (4, "top"),
    "": (4, "top"),
}
MAY = {("cli", "runner"), ("top", "cli"), ("top", "runner"), ("parallel", "engine")}
LAZY = {"", "__main__", "events", "providers.registry", "runner", "schemas", "sweep"}
"""May import our own code inside functions: what a worker shall not load, or may not need."""
MAY_PRINT = ("cli", "printers")


def name_of(path: Path) -> str:
    """`providers.http`; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def place_of(module: str) -> tuple[int, str]:
    return MAP[module.split(".", maxsplit=1)[0]]


def imports_of(node: ast.AST, module: str) -> set[str]:
    """Modules of ours that the import statements below `node` name."""
    found = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{module}: relative import"
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}".removeprefix(f"{ROOT}.")
                found.add(f"{ROOT}.{inner}" if inner in MODULES else str(statement.module))
    ours = {name for name in found if name == ROOT or name.startswith(f"{ROOT}.")}
    return {name.removeprefix(ROOT).removeprefix(".") for name in ours} - {module}


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The module's statements that are executed: imports for annotations alone make no cycle."""
    body = [
        statement
        for statement in tree.body
        if not (isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body, [])


def functions_of(tree: ast.Module) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_module_has_its_place_on_the_map():
    assert {module.split(".")[0] for module in MODULES} == set(MAP)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    layer, group = place_of(module)
    for imported in imports_of(MODULES[module], module):
        assert imported in MODULES, f"{module} imports {imported}, which is not there"
        lower, other = place_of(imported)
        allowed = lower < layer or group == other or (group, other) in MAY
        assert allowed, f"{module} (layer {layer}, {group}) imports {imported} (layer {lower}, {other})"


def test_no_imports_go_in_a_circle():
    graph = {
        module: imports_of(without_type_checking(tree), module) for module, tree in MODULES.items() if module
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(map(str, error.args[1]))}")
    assert set(MODULES) - {""} <= set(order)


@pytest.mark.parametrize("module", sorted(set(MODULES) - LAZY))
def test_no_function_imports_our_own_code(module):
    for function in functions_of(MODULES[module]):
        assert not imports_of(function, module), f"{module}.{function.name} (line {function.lineno})"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_line_and_the_printers_print(module):
    if module.split(".")[0] in MAY_PRINT:
        return
    for node in ast.walk(MODULES[module]):
        called = isinstance(node, ast.Call) and ast.unparse(node.func)
        assert called not in {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write"}, (
            f"{module}, line {node.lineno}"
        )


def test_the_engine_knows_no_experiments():
    """It runs a callable in slots and moves messages: of the lower layers it needs no word about models."""
    for module, tree in MODULES.items():
        if module.startswith("engine"):
            known = {imported.split(".")[0] for imported in imports_of(tree, module)}
            assert not known & {"providers", "prompts", "experiments", "printers"}, module


def test_a_worker_loads_neither_the_command_line_nor_the_displays():
    """What a spawned worker imports, it pays for in time and memory, as many times as there are workers."""
    reached, todo = set(), ["attempt", "engine.worker", "engine.writer", "parallel.remote"]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += imports_of(without_type_checking(MODULES[module]), module)
    assert not {
        name for name in reached if name.split(".")[0] in {"cli", "printers", "runner", "sweep", "plan"}
    }
    foreign = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module).split(".")[0]
        for module in reached
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not foreign & {"typer", "click", "tqdm", "dotenv", "pydantic", "pandas", "numpy"}


def test_a_worker_of_a_group_loads_nothing_that_its_tasks_may_not_need():
    reached, todo = set(), ["parallel.remote"]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += imports_of(without_type_checking(MODULES[module]), module)
    assert {name.split(".")[0] for name in reached} <= {
        "",
        "crossing",
        "engine",
        "errors",
        "models",
        "parallel",
        "values",
    }
    assert {name for name in reached if name.startswith("parallel.")} == {
        "parallel.pickling",
        "parallel.remote",
        "parallel.streams",
    }


def test_the_public_names():
    assert parallamr_mp.__all__ == [
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
    for name in parallamr_mp.__all__:
        public = getattr(parallamr_mp, name)
        assert getattr(public, "__name__", name) in {name, "Callable"}, name
    assert dir(parallamr_mp) == sorted(parallamr_mp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = parallamr_mp.Nonsense
