"""The wheel: what is in it, and that it runs where there is no repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the wheel and nothing else; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder]
    subprocess.run([*pip, wheel], check=True)
    return folder


def run(installed: Path, cwd: Path, *arguments: str, program: tuple[str, ...]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed), "DAGSTER_HOME": ""}
    return subprocess.run([*program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_it_is_pure_python_with_data_and_types_and_without_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    packaged = [p for p in (ROOT / "virnuc_dagster").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in packaged} <= set(names)
    assert "virnuc_dagster/py.typed" in names
    assert "virnuc_dagster/report/static/main.js" in names
    assert "virnuc_dagster/models/mini/bundle.json" in names
    assert not [name for name in names if name.split("/")[0] not in ("virnuc_dagster", names[-1].split("/")[0])]


def test_no_path_of_the_building_machine_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            assert str(ROOT).encode() not in data, name
            data = data.replace(b"virnuc_dagster/home/", b"")
            assert b"/home/" not in data or name.endswith(".safetensors"), name


def test_it_predicts_outside_the_repository(installed, tmp_path):
    (tmp_path / "x.fa").write_text(">coding\n" + "GCTGCC" * 200 + "\n")
    where = run(
        installed, tmp_path, "-c", "import virnuc_dagster; print(virnuc_dagster.__file__)", program=(sys.executable,)
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)

    done = run(
        installed, tmp_path, "predict", "x.fa", "--output", "results",
        program=(sys.executable, "-m", "virnuc_dagster"),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "report.html").stat().st_size > 20_000
    assert "coding\t1200\t3\t3" in (tmp_path / "results" / "sequences.tsv").read_text()


def test_the_script_is_installed(installed, tmp_path):
    done = run(installed, tmp_path, "--version", program=(sys.executable, str(installed / "bin" / "virnuc")))
    assert done.stdout.startswith("virnuc, version "), done.stderr


def test_the_extras_that_errors_name_exist(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        extras = [line.split()[1] for line in archive.read(name).decode().splitlines() if line.startswith("Provides-E")]
    assert {"s3", "parquet", "anndata", "dev"} <= set(extras)
