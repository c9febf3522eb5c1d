"""A third encoder costs one file and one row: the pipeline runs with it, and few files name an encoder at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "virnuc_dagster"
#: Every module that names an encoder, and why it must.
NAMING = {
    "embedding/registry.py": "the table",
    "embedding/dnabert_s.py": "an encoder",
    "embedding/esm2.py": "an encoder",
    "models/published.py": "files of fair-esm",
    "models/published_encoders.py": "published weights into our architectures",
    "models/esm_names.py": "published names of weights",
    "training/networks.py": "small encoders of both architectures, to be trained",
    "training/encoders.py": "how long and how large they are trained",
    "training/frames.py": "proteins in the alphabet of the encoder that is trained on them",
    "cli/models.py": "an example in a help text",
    "cli/checkpoints.py": "names of older programs' files in a help text",
}


def test_few_files_name_an_encoder():
    names = re.compile(r"dnabert|\besm|esm-?2", re.IGNORECASE)
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if names.search(path.read_text())}

    assert found == NAMING.keys()


def test_the_whole_pipeline_runs_with_a_third_encoder():
    """In a process of its own, whose table has one row more before anything that reads it is imported."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-p", "kits.toy_encoder", "-p", "no:cacheprovider", "-n", "0", "-q"]
    cases = str(Path(__file__).with_name("three_encoders.py"))
    env = {**os.environ, "PYTHONPATH": str(tests)}
    done = subprocess.run([*command, cases], cwd=tests.parent, capture_output=True, text=True, env=env)

    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert re.search(r"\b11 passed", done.stdout), done.stdout
