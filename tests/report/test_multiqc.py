"""The real MultiQC reads what a report leaves for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kits.report import content, many

from virnuc_dagster.report import multiqc, paths


@pytest.fixture
def command() -> str:
    found = shutil.which("multiqc", path=Path(sys.executable).parent)
    if found is None:
        pytest.skip("multiqc is not installed")
    return found


def test_several_batches_end_up_in_one_plot_and_one_table(command, tmp_path):
    counts = {"a-1": 30, "b-2": 50}
    for batch, count in counts.items():
        summary = content(many(count)).summary | {"batch": batch}
        (tmp_path / batch).mkdir()
        (tmp_path / batch / paths.MULTIQC_VERDICTS).write_text(json.dumps(multiqc.verdicts(summary)))
        (tmp_path / batch / paths.MULTIQC_COLUMNS).write_text(json.dumps(multiqc.columns(summary)))

    subprocess.run(
        [command, "--force", "--quiet", "--outdir", tmp_path / "out", *(tmp_path / batch for batch in counts)],
        check=True, capture_output=True, env={**os.environ, "MULTIQC_NO_VERSION_CHECK": "true"},
    )  # fmt: skip

    data = tmp_path / "out" / "multiqc_data"
    header, *rows = [line.split("\t") for line in (data / "multiqc_general_stats.txt").read_text().splitlines()]
    assert [name.split("-")[-1] for name in header] == [
        "Sample",
        "viral",
        "sequences",
        "scored_percent",
        "unknown_percent",
    ]
    assert {row[0]: int(float(row[2])) for row in rows} == counts
    header, *rows = [line.split("\t") for line in (data / "multiqc_virnuc_verdicts_plot.txt").read_text().splitlines()]
    assert {row[0]: sum(int(float(cell)) for cell in row[1:]) for row in rows} == counts
    assert "VirNucPro" in (tmp_path / "out" / "multiqc_report.html").read_text()
