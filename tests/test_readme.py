"""What README promises is proved by the tests it names, and what it shows is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROOFS = re.findall(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)", README)


def test_the_table_of_promises_names_proofs():
    table = README.partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if not re.search(r"\(tests/[\w/]+\.py\) \|$", row)] == []


@pytest.mark.parametrize(("name", "path"), PROOFS)
def test_each_proof_is_there(name, path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_module_has_its_place_on_the_map():
    table = README.partition("## Where everything lives")[2].partition("```\n")[2].partition("```")[0]
    package = ROOT / "parallamr_mp"
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if path.name[0] != "_" and (path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))))
    }
    assert set(re.findall(r"\b([a-z]\w*(?:\.py|/))", table.replace("parallamr_mp/", ""))) == there
