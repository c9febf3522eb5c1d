"""The web server and the daemon, for real: what a click on "Materialize" does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.ui import ASSETS, LAUNCH, Web, running

from virnuc_dagster.cli import main


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ui")
    (root / "ui.fa").write_text("".join(f">s{i}\n" + "GCTGCC" * (60 + i) + "\n" for i in range(4)))
    code = main(
        ["predict", str(root / "ui.fa"), "--output", str(root / "out"), "--home", str(root), "--shard-size", "10"]
    )
    assert code == 0
    return root


@pytest.fixture(scope="module")
def web(home) -> Iterator[Web]:
    with running(home) as web:
        yield web


def records(home: Path, stage: str) -> dict[str, str]:
    return {p.name.split(".")[0]: p.read_text() for p in (home / "store" / stage).glob("*/*.done")}


def test_the_ui_shows_what_predict_computed(home, web):
    shards = sorted(records(home, "predictions"))

    nodes = web.query(ASSETS)["assetNodes"]

    shown = {n["assetKey"]["path"][-1]: n["assetPartitionStatuses"]["materializedPartitions"] for n in nodes}
    assert len(shards) == 3
    assert shown["predictions"] == shown["esm2_embeddings"] == shown["dnabert_s_embeddings"] == shards
    assert len(shown["sequence_batch"]) == len(shown["batch_report"]) == 1


def test_selected_partitions_are_materialized_and_finished_ones_are_not_touched(home, web):
    stages = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
    whole = {stage: records(home, stage) for stage in stages}
    shards = sorted(whole["predictions"])
    batch = next(iter(records(home, "sequence_batch")))
    for stage in stages:
        for path in (home / "store" / stage).rglob(f"{shards[1]}*"):
            path.unlink()

    # Both at once: a backfill waits up to 30 seconds for the daemon's next tick.
    asked = [web.backfill(list(stages), shards), web.backfill(["sequence_batch"], [batch])]
    ended = [web.outcome(backfill) for backfill in asked]

    assert ended == ["COMPLETED_SUCCESS"] * 2, (home / "up.log").read_text()[-3000:]
    for stage in stages:
        after = records(home, stage)
        assert after.keys() == whole[stage].keys()
        assert {k: v for k, v in after.items() if k != shards[1]} == {
            k: v for k, v in whole[stage].items() if k != shards[1]
        }
        assert after[shards[1]] != whole[stage][shards[1]]
        assert len({json.loads(version[shards[1]])["sha256"] for version in (after, whole[stage])}) == 1


def test_one_request_for_shards_and_batches_together(home, web):
    stages = ["dnabert_s_embeddings", "esm2_embeddings", "predictions"]
    everything = ["sequence_batch", *stages, "batch_report"]
    whole = {stage: records(home, stage) for stage in stages}
    (batch,) = records(home, "sequence_batch")
    report = home / "reports" / batch / "sequences.tsv"
    expected = report.read_bytes()
    report.unlink()
    for path in (home / "store" / "predictions").rglob("*.*"):
        path.unlink()
    mixed = {"partitionNames": [*whole["predictions"], batch], "assetSelection": [{"path": [n]} for n in everything]}
    refused = web.query(LAUNCH, params=mixed)["launchPartitionBackfill"]
    assert refused["__typename"] == "PartitionKeysNotFoundError"  # one list of names for two kinds of partitions

    assert web.outcome(web.backfill_everything(everything)) == "COMPLETED_SUCCESS"

    assert {s: records(home, s).keys() for s in stages} == {s: whole[s].keys() for s in stages}
    assert report.read_bytes() == expected  # made after the predictions, in the same request


def test_dagster_asset_materialize_uses_the_same_home(home):
    lost = sorted(records(home, "predictions"))[0]
    for path in (home / "store" / "predictions").rglob(f"{lost}*"):
        path.unlink()

    done = subprocess.run(
        [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "virnuc_dagster.definitions",
         "--select", "predictions", "--partition", lost],
        capture_output=True, text=True,
        env={**os.environ, "DAGSTER_HOME": str(home / "dagster"), "VIRNUC_HOME": str(home)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    assert lost in records(home, "predictions")
