"""The documents tell the truth: their commands run, their options, links, diagram and versions exist.

A command in a block marked `sh` is run as it stands, in a folder with the files that the documents talk of. What cannot
be run here is replaced by an entry of `INSTEAD`, which says why.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import virnuc_dagster
from virnuc_dagster.cli import main
from virnuc_dagster.cli.app import virnuc

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "deploy" / "README.md"])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`(virnuc [^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(#[\w-]+)?\)")

#: Pattern of a documented command -> what is run instead, and why.
INSTEAD = {
    r"make (.+)": (rf"make --dry-run --directory {ROOT} \1", "installs everything; the gate runs it"),
    r"virnuc up.*": ("virnuc up --help", "runs until it is stopped; tests/ui run it"),
    r"virnuc models import .*": ("virnuc models import --help", "needs 12 GB of weights; tests/models/test_import.py"),
    r"virnuc models verify \./virnucpro-500": ("virnuc models verify mini", "that bundle was not imported here"),
    r"(virnuc predict .*)--bundle \./virnucpro-500(.*)": (r"\1--bundle mini\2", "that bundle was not imported here"),
    r"virnuc train .*": ("virnuc train --help", "needs many labelled genomes and an hour; tests/cli/test_train.py"),
    r"(virnuc predict .*)--bundle \./my-bundle(.*)": (r"\1--bundle mini\2", "that bundle was not trained here"),
    r"virnuc evaluate genomes.*": ("virnuc evaluate --help", "needs many labelled genomes; the README's runs"),
    r"ray .*|export (RAY|VIRNUC)_.*": ("true", "needs a cluster; tests/backends start one"),
    r"(virnuc predict .*)--backend ray(.*)": (r"\1\2", "tests/backends run it; CPUs are few here"),
    r"(virnuc predict .*)--home /shared/virnuc(.*)": (r"\1\2", "is not mounted here"),
    r"pip install 'virnuc-dagster\[\w+\]'": ("true", "the gate installs every extra"),
    r"virnuc predict .* --store s3:.*": ("virnuc predict --help", "needs a bucket; tests/s3"),
    r"VIRNUC_INSTANCE=postgres virnuc up": ("virnuc up --help", "needs a server; tests/postgres"),
    r"virnuc checkpoints accept .*": (
        "virnuc checkpoints accept --help",
        "that home is not here; tests/home/test_binding.py",
    ),
    r"virnuc checkpoints import .*": ("virnuc checkpoints import --help", "tests/pipeline/test_import.py runs it"),
}


def commands(document: Path) -> list[str]:
    """The commands of a document's `sh` blocks, without comments, continued lines joined."""
    blocks = [body for language, body in BLOCK.findall(document.read_text()) if language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s+)#.*", "", line).strip())]


def to_run(command: str) -> str:
    for pattern, (instead, _) in INSTEAD.items():
        if re.fullmatch(pattern, command):
            return re.sub(pattern, instead, command)
    return command


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with the files that the documents talk of, and a `virnuc` on the path."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "demo", root / "demo")
    contigs = "".join(f">contig_{i} found by us\n" + "GCTGCC" * (90 + i) + "\n" for i in range(3))
    (root / "contigs.fasta").write_text(contigs)
    (root / "contigs.fasta.gz").write_bytes(gzip.compress(contigs.encode(), mtime=0))
    for mate, text in ((1, "GCTGCC" * 25), (2, "GGCAGC" * 25)):
        reads = f"@read_1 {mate}:N:0\n{text}\n+\n{'I' * len(text)}\n"
        (root / f"R{mate}.fastq.gz").write_bytes(gzip.compress(reads.encode(), mtime=0))
    (root / "bin").mkdir()
    (root / "bin" / "virnuc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m virnuc_dagster "$@"\n')
    (root / "bin" / "virnuc").chmod(0o755)
    return root


def run(command: str, workspace: Path) -> int:
    """In this process where that means the same, which saves seconds each; else by the shell."""
    if command.startswith("virnuc ") and not re.search(r"[|<>$*;&?]", command):
        return main(shlex.split(command)[1:])
    path = f"{workspace / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    pythonpath = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        ["bash", "-c", command], cwd=workspace, env={**os.environ, "PATH": path, "PYTHONPATH": pythonpath}
    ).returncode


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d)], ids=lambda d: str(d.relative_to(ROOT)))
def test_every_command_runs(document, workspace, monkeypatch, capfd):
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("VIRNUC_HOME", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    shutil.rmtree(workspace / "results", ignore_errors=True)  # of another document, and of another batch
    for command in commands(document):
        code = run(to_run(command), workspace)
        shown = capfd.readouterr()
        assert code == 0, f"{command}\n{shown.out}{shown.err}"
    for language, body in BLOCK.findall(document.read_text()):
        if language == "python":
            exec(compile(body, document.name, "exec"), {})


def test_the_readme_shows_what_the_demo_says(workspace, monkeypatch, capfd):
    monkeypatch.chdir(workspace)
    assert main(["predict", "demo/demo.fasta", "--output", "demo-report", "--quiet"]) == 0
    assert main(["predict", "demo/demo.fasta", "--output", "demo-report"]) == 0
    said = {" ".join(line.split()) for line in capfd.readouterr().out.splitlines()}
    (shown,) = [body for _, body in BLOCK.findall((ROOT / "README.md").read_text()) if "scored/windows" in body]
    lines = [" ".join(line.split()) for line in shown.splitlines() if line not in ("", "...")]
    assert len(lines) > 4
    assert not set(lines) - said


def test_no_command_hides_in_an_unmarked_block():
    for document in DOCUMENTS:
        for language, body in BLOCK.findall(document.read_text()):
            hidden = re.search(r"^(\.venv/bin/)?(virnuc|make|pip) ", body, re.MULTILINE)
            assert language == "sh" or not hidden, f"{document.name}: {hidden and hidden.group(0)}"


def test_every_replacement_is_in_use():
    every = [command for document in DOCUMENTS for command in commands(document)]
    for pattern in INSTEAD:
        assert any(re.fullmatch(pattern, command) for command in every), pattern


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words lead to, and the words that are left."""
    command: click.Command = virnuc
    while words and isinstance(command, click.Group) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_in_the_text_have_the_options_they_are_said_to_have(document):
    for text in CODE.findall(document.read_text()):
        words = [word for word in text.split()[1:] if not word.startswith("--")]
        for name in (words or [""])[0].strip("()").split("|"):
            command, _ = find([name, *words[1:]])
            assert command is not virnuc or not words, f"{document.name}: {text}"
            known = {option for p in (*virnuc.params, *command.params) for option in p.opts} | {"--help"}
            asked = set(re.findall(r"--[a-z][a-z0-9-]+", text))
            assert asked <= known, f"{document.name}: {text}: {asked - known}"


def links(document: Path) -> Iterator[tuple[str, str]]:
    text = BLOCK.sub("", document.read_text())
    for target, anchor in LINK.findall(text):
        if not target.startswith(("http:", "https:", "mailto:")):
            yield target, anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target, anchor in links(document):
        path = (document.parent / target) if target else document
        assert path.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{document.name}: {target}{anchor}"


def test_the_diagram_is_that_of_the_definitions():
    made = subprocess.run([sys.executable, "tools/diagram.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"```mermaid\n{made.stdout.strip()}\n```" in (ROOT / "docs" / "architecture.md").read_text()


def test_the_table_of_sizes_is_that_of_the_plan():
    made = subprocess.run([sys.executable, "tools/scaling.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.strip() in (ROOT / "docs" / "scaling.md").read_text()


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == virnuc_dagster.__version__
    assert citation["preferred-citation"]["doi"] in (ROOT / "pyproject.toml").read_text()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f"## {virnuc_dagster.__version__}" in (ROOT / "CHANGELOG.md").read_text()


#: Starts programs one after another with `--help`, and says how each ended; one process, for imports take seconds.
HELP = """
import contextlib, io, json, os, runpy, sys
ends = {}
sys.path.insert(0, os.path.dirname(sys.argv[1]))  # as for a program that is started
for program in sys.argv[1:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            sys.argv = [program, "--help"]
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            ends[program] = [end.code or 0, "usage: " in said.getvalue()]
print(json.dumps(ends))
"""


def test_every_bench_starts():
    """The figures of the docs are theirs; they run too long for a test, but they must not have been left behind."""
    benches = sorted(str(path) for path in (ROOT / "bench").glob("*.py"))
    done = subprocess.run([sys.executable, "-c", HELP, *benches], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {bench: [0, True] for bench in benches}
