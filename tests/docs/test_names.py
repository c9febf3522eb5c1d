"""What docstrings call by name, in backticks, exists: in this code base, among its commands, or in a library's API."""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import dagster
import pytest
import torch

from virnuc_dagster.cli.app import virnuc

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "virnuc_dagster"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
FILE = re.compile(r"[\w/-]+\.(?:py|md)")
LIBRARIES = (builtins, dagster, torch, torch.nn)

#: Names in docstrings that neither the code nor a library above defines, and whose they are.
FOREIGN = {
    "EsmForMaskedLM": "transformers",
    "EsmModel": "transformers",
    "F.linear": "torch.nn.functional, as everyone imports it",
    "K8sRunLauncher": "dagster-k8s",
    "MLPClassifier": "the class of a published head",
    "OMP_NUM_THREADS": "OpenMP",
    "classify_virnucpro_contigs": "broadinstitute/viral-pipelines",
    "context.add_asset_metadata": "a method of Dagster's contexts",
    "endpoint_url": "a parameter of fsspec's S3",
    "max_restarts": "an option of Ray's actors",
    "max_task_retries": "an option of Ray's actors",
    "model.fp16.safetensors": "an example of a file name",
    "nohup": "a command",
    "obs": "a part of AnnData",
    "outer.inner": "an example",
    "pad_token_id": "an entry of a published config.json",
    "planned": "a state of Dagster's checks",
    "ray.init": "Ray",
    "serve_forever": "Python's http.server",
    "starttime": "a field of /proc/PID/stat",
    "bacteria": "an example of a category",
    "phage": "an example of a category",
    "major.minor": "the form of a version",
}
#: Files that pages talk of and that are not ours.
EXAMPLES = {"gql.py", "inbox/rejected/"}


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Texts that stand alone: docstrings, and what is said below a constant."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a module or class define or import."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).split(".")[0] for alias in statement.names)
            case ast.If() | ast.Try() | ast.With() | ast.For():
                yield from defined(statement.body)
            case ast.Assign() | ast.AnnAssign():
                yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))


class Known:
    """Everything that the package defines.

    Attributes:
        members: Module, package or class -> what it holds.
        names: All of these, parameters, attributes, names of files, and every text with its words.
    """

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = defaultdict(set)
        self.names: set[str] = set()
        for path in PACKAGE.rglob("*"):
            self.names |= {path.name, path.stem}
            self.members[path.parent.name].add(path.stem)
        for path in SOURCES:
            self._read(path.parent.name if path.stem == "__init__" else path.stem, ast.parse(path.read_text()))

    def _read(self, module: str, tree: ast.Module) -> None:
        said = {id(text) for text in docstrings(tree)}
        for node in ast.walk(tree):
            match node:
                case ast.Module():
                    self.members[module] |= set(defined(node.body))
                case ast.ClassDef():
                    own = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                    self.members[node.name] |= set(defined(node.body)) | own
                    self.names.add(node.name)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.names.add(node.name)
                case ast.arg() | ast.keyword(arg=str()):
                    self.names.add(str(node.arg))
                case ast.Name(ctx=ast.Store()):
                    self.names.add(node.id)
                case ast.Attribute():
                    self.names.add(ast.unparse(node))
                    self.names |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
                case ast.alias():
                    self.names |= {node.name, *node.name.split(".")}
                case ast.Constant(value=str()) if id(node) not in said:
                    self.names |= {node.value, *re.findall(r"[\w.-]+", node.value)}

    def __contains__(self, name: str) -> bool:
        owner, _, last = name.rpartition(".")
        if name in self.names or name in FOREIGN or any(hasattr(library, name) for library in LIBRARIES):
            return True
        owner = owner.rpartition(".")[2]
        return any(last in self.members[known] for known in (owner, owner.capitalize()) if known in self.members)


known = cache(Known)


def exists(text: str) -> bool:
    """Whether what stands in backticks is no name, or the name of something that is there."""
    if FILE.fullmatch(text):
        return any((folder / text).is_file() for folder in (PACKAGE, ROOT)) or text in known().names
    if option := re.fullmatch(r"(?:virnuc [a-z ]*)?(--[a-z][a-z-]+)", text):
        return option[1] in options()
    return not NAME.fullmatch(text.removesuffix("()")) or text.removesuffix("()") in known()


@cache
def options() -> set[str]:
    """Every option of every command."""
    waiting, found = [virnuc], {"--help"}
    while waiting:
        command = waiting.pop()
        found |= {option for parameter in command.params for option in parameter.opts}
        waiting += getattr(command, "commands", {}).values()
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_in_docstrings_exist(path):
    said = {name for text in docstrings(ast.parse(path.read_text())) for name in re.findall(r"`([^`\n]+)`", text.value)}
    assert not {name for name in said if not exists(name)}


def test_what_does_not_exist_is_found():
    assert exists("SequenceScore.score")
    assert exists("checkpoints.store")
    assert exists("--bundle")
    assert not exists("no_such_function")
    assert not exists("store.no_such_method")
    assert not exists("cli/no_such.py")
    assert not exists("--no-such-option")


def test_every_foreign_name_is_in_use():
    said = "".join(path.read_text() for path in SOURCES)
    assert not {name for name in FOREIGN if f"`{name}`" not in said and f"`{name}()`" not in said}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_docs_exist(page):
    folders = (ROOT, PACKAGE, ROOT / "tests" / "torture")
    for text in re.findall(r"`([^`\n]+)`", page.read_text()):
        path = re.fullmatch(r"(?:python )?([\w/*-]+\.py)(?: .*)?", text) or re.fullmatch(r"(\w+(?:/\w+)+/)", text)
        if path and path[1] not in EXAMPLES:
            assert any(any(folder.glob(path[1])) for folder in folders), f"{page.name}: {text}"


def test_where_to_change_something_leads_to_files():
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Where do I change X?")[1].split("\n## ")[0]
    named = [name for line in table.splitlines() if line.startswith("|") for name in re.findall(r"`([^`]+)`", line)]
    paths = [name for name in named if "/" in name or name.endswith(".py")]
    assert len(paths) > 40
    assert not [path for path in paths if not any((folder / path).exists() for folder in (PACKAGE, ROOT))]
