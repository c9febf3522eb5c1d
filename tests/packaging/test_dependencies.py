"""What the package imports is what it says it needs: nothing comes by luck with another dependency."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"import_module", "find_spec", "_optional"}  # calls that name a module in a text


def imported() -> set[str]:
    """The first parts of all modules that the package imports, also inside functions and by name."""
    found = set()
    for path in (ROOT / "virnuc_dagster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                found |= {str(node.args[0].value)} if called in OPTIONAL else set()
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"virnuc_dagster"}


def plain(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement.strip())[0]).lower()


def test_every_import_is_a_declared_dependency():
    declared = {plain(r) for group in PROJECT["optional-dependencies"].values() for r in group}
    declared |= {plain(r) for r in PROJECT["dependencies"]}
    owners = packages_distributions()

    undeclared = {m for m in imported() if not declared & {plain(owner) for owner in owners.get(m, [m])}}

    assert "huggingface_hub" in imported()
    assert undeclared == set()


def test_what_is_imported_at_once_needs_no_extra():
    needed = {plain(r) for r in PROJECT["dependencies"]}

    assert {"click", "huggingface-hub", "pydantic", "pyyaml", "sqlalchemy", "transformers"} <= needed


def test_every_dependency_has_a_version_that_was_tried():
    tried = {plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}

    assert {plain(r) for r in PROJECT["dependencies"]} <= tried
