"""The first line of a function's docstring begins with a verb: what it does, not what comes out of it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "virnuc_dagster"
#: Rooms whose docstrings were gone through. The others follow; a room that is done is added here.
ROOMS = (
    "api", "backends", "classify", "cli", "evaluation", "home", "planning", "report", "sequences", "services",
    "training",
)  # fmt: skip
NOT_YET = {Path("api/destination.py")}
#: What a clause begins with that wants its reader to supply the verb.
NO_VERB = re.compile(
    "(a|all|an|and|as|at|both|each|every|everything|for|from|half|how|if|in|it|its|like|most|no|none|not|nothing|of|on|"
    "one|only|so|some|something|that|the|their|these|they|this|those|through|to|two|what|when|where|whether|which|who|whose|"
    "why|with|without)[^a-z]"
)


def summaries(path: Path) -> dict[str, str]:
    """First lines of the docstrings of functions; properties are named like what they hold."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or any("property" in ast.unparse(d) for d in node.decorator_list):
            continue
        if text := ast.get_docstring(node):
            found[f"{node.name}, line {node.lineno}"] = text.partition("\n")[0]
    return found


def has_verb(summary: str) -> bool:
    return bool(re.match(r"[A-Z][a-z-]+[\s.,:;]", summary)) and not NO_VERB.match(summary.lower())


@pytest.mark.parametrize("room", ROOMS)
def test_functions_say_what_they_do(room):
    said = {
        f"{path.relative_to(PACKAGE)}, {where}": summary
        for path in (PACKAGE / room).rglob("*.py")
        if path.relative_to(PACKAGE) not in NOT_YET
        for where, summary in summaries(path).items()
    }
    assert said
    assert not {where: summary for where, summary in said.items() if not has_verb(summary)}


def test_what_begins_without_a_verb_is_found():
    assert has_verb("Cut one sequence into windows.")
    assert not has_verb("The windows of a sequence.")
    assert not has_verb("Whether a window counts.")
    assert not has_verb("`data` (N, D).")
    assert not has_verb("95 % intervals.")
