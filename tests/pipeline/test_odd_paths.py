"""Folders of odd names: what is written lands in them, and nowhere else."""

import json

import pytest

from virnuc_dagster.cli import main
from virnuc_dagster.report import paths

SEQUENCE = ">a viral?\n" + "GCTGACCTGATCGTCCGCGGCACC" * 25 + "\n"


@pytest.mark.parametrize("name", ["a b#c% d\té\n'\"&;$HOME*[" + "x" * 180])
def test_home_store_and_output_may_have_odd_names(tmp_path, capsys, name):
    odd = tmp_path / name
    odd.mkdir()
    (odd / "reads #1.fasta").write_text(SEQUENCE)
    where = ["--home", str(odd / "home"), "--store", str(odd / "store"), "--output", str(odd / "out")]

    code = main(["predict", str(odd / "reads #1.fasta"), *where, "--device", "cpu", "--threads", "1", "--json"])

    (result,) = json.loads(capsys.readouterr().out)["batches"]
    assert code == 0
    assert result["output"] == str(odd / "out")
    assert (odd / "out" / paths.SEQUENCES).read_text().count("\n") == 2
    assert sorted(path.name for path in odd.iterdir()) == ["home", "out", "reads #1.fasta", "store"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert main(["checkpoints", "validate", *where[:4]]) == 0
