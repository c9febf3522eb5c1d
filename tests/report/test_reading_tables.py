"""The documented way to read a table loses no row, whatever the ids hold."""

import csv
import re
from pathlib import Path

import pytest
from kits.report import scored

from virnuc_dagster.report import paths
from virnuc_dagster.report.tables import COLUMNS, lines, sequence_row

IDS = ['"half', "5'UTR", "NA", "#hash", "nan", '"closed"', "1e5", "007", "z"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """A table of sequences, in the folder where the documented call looks for it."""
    monkeypatch.chdir(tmp_path)
    sequences = [scored(name, 600, [("frame", 0.9), None]) for name in IDS[:-1]] + [scored(IDS[-1], 2, [])]
    path = tmp_path / paths.SEQUENCES
    path.write_text(lines([COLUMNS[paths.SEQUENCES], *map(sequence_row, sequences)]))
    return path


def test_pandas_as_documented_keeps_every_row_and_id(table):
    pytest.importorskip("pandas")
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(code, names)

    found = names["table"]

    assert found["sequence_id"].tolist() == IDS
    assert found["score"].tolist()[:-1] == [0.9] * 8
    assert found["score"].isna().tolist() == [False] * 8 + [True]
    assert found["verdict"].tolist()[-1] == "too short"


def test_without_quoting_the_standard_library_keeps_every_row(table):
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

    assert [row["sequence_id"] for row in rows] == IDS
