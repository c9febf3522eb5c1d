"""The directions of the house: the science does not know Dagster, checkpoints know nothing but errors."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from virnuc_dagster.orchestration import private
from virnuc_dagster.stages.pipeline import KINDS

PACKAGE = Path(__file__).parents[1] / "virnuc_dagster"
SCIENCE = ("sequences", "embedding", "models", "classify", "checkpoints", "report")
#: Rooms above the stages.
OUTER = ("api", "cli", "definitions", "evaluation", "home", "inbox", "orchestration", "planning", "services", "upkeep")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_orchestration_imports_dagster():
    knows = {PACKAGE / "definitions.py", *(PACKAGE / "orchestration").rglob("*.py")}
    for path in {*PACKAGE.rglob("*.py")} - knows:
        assert not {name for name in imports(path) if name.split(".")[0] == "dagster"}, path


def of_dagsters_insides(path: Path) -> set[str]:
    """Names, with their modules, that a file imports of `dagster._*`."""
    return {name for name in imports(path) if name.startswith("dagster._")}


def test_one_module_holds_every_private_import_of_dagster():
    for path in {*PACKAGE.rglob("*.py")} - {Path(private.__file__)}:
        assert not of_dagsters_insides(path), path
    table = {f"{module}.{name}" for name, (module, _) in private.NAMES.items()}
    assert of_dagsters_insides(Path(private.__file__)) == table | {module for module, _ in private.NAMES.values()}


@pytest.mark.parametrize("name", private.NAMES)
def test_a_private_name_of_dagster_exists_is_needed_and_has_a_reason(name):
    users = [path for path in PACKAGE.rglob("*.py") if path != Path(private.__file__) and name in path.read_text()]

    assert getattr(private, name) is not None
    assert users
    assert private.NAMES[name][1]


@pytest.mark.parametrize("part", SCIENCE)
def test_science_imports_no_stage_and_no_asset(part):
    outer = (*OUTER, "stages")
    for path in (PACKAGE / part).rglob("*.py"):
        forbidden = {f"virnuc_dagster.{name}" for name in outer}
        assert not {n for n in imports(path) if ".".join(n.split(".")[:2]) in forbidden}, path


def test_the_command_line_is_a_user_of_the_package_and_no_part_of_it():
    for path in {*PACKAGE.rglob("*.py")} - {*(PACKAGE / "cli").rglob("*.py"), PACKAGE / "__main__.py"}:
        assert not {name for name in imports(path) if name.startswith("virnuc_dagster.cli")}, path


def test_checkpoints_are_usable_alone():
    for path in (PACKAGE / "checkpoints").rglob("*.py"):
        ours = {n for n in imports(path) if n.startswith("virnuc_dagster")}
        allowed = ("virnuc_dagster.checkpoints", "virnuc_dagster.errors", "virnuc_dagster.files")
        assert all(name.startswith(allowed) for name in ours), path


def test_checkpoints_name_no_encoder_and_no_stage():
    for path in (PACKAGE / "checkpoints").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"dnabert|esm-?2", text, re.IGNORECASE), path
        nodes = list(ast.walk(ast.parse(text)))
        words = {node.value for node in nodes if isinstance(node, ast.Constant)}
        words |= {getattr(node, name, "") for node in nodes for name in ("id", "attr", "arg", "name")}
        assert not KINDS.keys() & words, path


def test_no_remote_code_and_no_unsafe_pickle():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                assert (node.arg, node.value.value) not in {("trust_remote_code", True), ("weights_only", False)}, path
        assert not imports(path) & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, path


def test_definitions_load_without_torch_and_without_touching_the_disk(tmp_path):
    code = "import sys, virnuc_dagster.definitions; print([m in sys.modules for m in ('torch', 'transformers', 'ray')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert done.stdout.strip() == "[False, False, False]", done.stderr
    assert list(tmp_path.iterdir()) == []


def imported_at_once(path: Path) -> set[str]:
    """Modules of the package that are imported when this one is, in functions and for types excepted."""
    found: set[str] = set()

    def look(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                found.update({str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names})
            elif isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    look(node.body)
                look(node.orelse)
            elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
                look(node.body)

    look(ast.parse(path.read_text()).body)
    return found


def test_no_import_runs_in_a_circle():
    """Any module may be the first one imported. A package is imported before its modules, so it counts with them."""
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    parents = {name: {p for p in modules if name.startswith(f"{p}.")} for name in modules}
    needs = {
        name: {n for wanted in imported_at_once(path) & modules.keys() for n in {wanted, *parents[wanted]}}
        - {name, *parents[name]}
        for name, path in modules.items()
    }
    graph = graphlib.TopologicalSorter(needs)

    graph.prepare()  # raises CycleError, which names the circle
