"""The web server and the daemon, for real: what a click on "Materialize" does.

All of it in folders of odd names, and where files lie that must not be executed: other people start `virnuc up`, too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.ui import ASSETS, LAUNCH, Web, running

from virnuc_dagster.cli import main

#: What the processes of `virnuc up` and their runs import, of Dagster's, of torch's and of ours.
MODULES = ("gql", "sqlalchemy", "dagster", "torch", "numpy", "yaml", "click", "grpc", "starlette")
ODD = "a b#c% d é\n'\"&" + "x" * 180


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of an odd name, with `home`, `tmp`, and `work`, whose files tell when they are executed."""
    place = tmp_path_factory.mktemp("ui") / ODD
    for name in ("home", "tmp", "work"):
        (place / name).mkdir(parents=True)
    for name in MODULES:
        tell = f"open({str(place / 'executed')!r}, 'a').write('{name} ')"
        (place / "work" / f"{name}.py").write_text(tell)
    return place


@pytest.fixture(scope="module")
def home(place) -> Path:
    source, home = place / "ui.fa", place / "home"
    source.write_text("".join(f">s{i}\n" + "GCTGCC" * (60 + i) + "\n" for i in range(4)))
    code = main(["predict", str(source), "--output", str(place / "out"), "--home", str(home), "--shard-size", "10"])
    assert code == 0
    return home


@pytest.fixture(scope="module")
def web(place, home) -> Iterator[Web]:
    with running(home, folder=place / "work", env={"TMPDIR": str(place / "tmp")}, automation="false") as web:
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


def test_files_named_like_modules_are_not_executed(place, home, web):
    """A run of its own, after all that was done above."""
    assert web.end_of_run(web.launch(["store_audit"], {})) == "SUCCESS", (home / "up.log").read_text()
    assert not (place / "executed").exists(), (place / "executed").read_text()
