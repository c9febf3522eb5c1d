"""A damaged or failing shard stops nobody else, is named, and is repaired by the next call."""

import csv
import os
import shutil
import subprocess
import sys

import torch
from kits.damage import flip_a_bit
from kits.pipeline import SHARDS

from virnuc_dagster.checkpoints.format import Sink, serialise
from virnuc_dagster.report import paths


def verdicts(call):
    with (call.output / paths.SEQUENCES).open() as file:
        return {row["sequence_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_a_damaged_shard_is_named_and_the_others_finish(done, unbroken):
    for stage in ("dnabert_s_embeddings", "esm2_embeddings", "predictions"):
        for path in (done.store / stage).rglob("*"):
            if path.is_file():
                path.unlink()
    (damaged,) = (done.store / "frames").glob("*/*__0003.*.pt")
    flip_a_bit(damaged)

    broken = done.predict()

    assert broken.code == 3
    assert "__0003" in broken.err
    assert "digest differs" in broken.err
    assert "--force-resume" in broken.err
    assert "predictions: 1 shards have none, because their embedding failed" in broken.err
    assert "materialize it first" not in broken.err.split("going on with the other shards")[1]
    assert len(done.records("predictions")) == SHARDS - 1
    assert broken.run["computed_shards"] == dict.fromkeys(broken.run["computed_shards"], SHARDS - 1)
    assert all(failed[0].endswith("__0003") for failed in broken.run["failed_shards"].values())
    rows, whole = verdicts(broken), verdicts(unbroken)
    incomplete = {name for name, row in rows.items() if row["verdict"] == "incomplete"}
    assert incomplete
    assert {rows[name]["score"] for name in incomplete} == {"NA"}
    assert {n: r for n, r in rows.items() if n not in incomplete} == {
        n: r for n, r in whole.items() if n not in incomplete
    }
    assert b"This report is incomplete" in (broken.output / paths.HTML).read_bytes()

    repaired = done.predict("--force-resume")

    assert repaired.code == 0, repaired.err
    assert repaired.run["computed_shards"]["predictions"] == 1
    assert repaired.files() == unbroken.files()
    assert len(list((done.store / ".quarantine").iterdir())) == 2


def test_a_truncated_prediction_stops_with_3_and_is_repaired_on_request(done, unbroken):
    (path,) = (done.store / "predictions").glob("*/*__0002.*.pt")
    path.write_bytes(path.read_bytes()[:-1])

    assert done.predict().code == 3
    repaired = done.predict("--force-resume")

    assert repaired.code == 0
    assert repaired.files() == unbroken.files()


def test_skipping_validation_hands_out_what_the_digest_would_refuse(done):
    """The flag does what it says: a whole file of the right size with other numbers is not noticed."""
    (path,) = (done.store / "predictions").glob("*/*__0001.*.pt")
    payload = torch.load(path, weights_only=True)
    with path.open("wb") as file:
        serialise("predictions", payload | {"data": payload["data"].flip(1)}, Sink(file))

    assert done.predict().code == 3
    shutil.rmtree(done.root / "home" / "reports")  # or the report that was made of the right numbers is handed out
    trusting = done.predict("--skip-checkpoint-validation")

    assert trusting.code == 0
    first = verdicts(trusting)["NC_001416.1"]
    assert first["verdict"] != "incomplete"


def test_damaged_sequences_are_named_and_read_again_on_request(done, unbroken):
    (path,) = (done.store / "sequences").glob("*/*.pt")
    flip_a_bit(path)

    refused = done.predict("--quiet")
    repaired = done.predict("--force-resume")

    assert refused.code == 3
    assert "digest differs" in refused.err
    assert repaired.code == 0, repaired.err
    assert repaired.files() == unbroken.files()


def test_a_database_that_reaches_the_limit_of_file_size_is_no_space(home):
    """SQLite hides EFBIG behind "disk I/O error"; the exit code is that of a full disk all the same."""
    source = home.root / "one.fa"
    source.write_text(">a\n" + "GCTGCC" * 40 + "\n")
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", sys.executable, "-m", "virnuc_dagster"]  # 64 x 512 bytes
    limited += home.arguments(source=source)

    done = subprocess.run(limited, capture_output=True, text=True, env={**os.environ, "DAGSTER_HOME": ""})

    assert done.returncode == 5, done.stderr[-2000:]
    assert "a database of this home cannot be written: disk I/O error" in done.stderr
    assert "Traceback" not in done.stderr
