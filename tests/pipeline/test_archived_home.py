"""A home that an earlier version wrote: its results are found, and only what is told of in the changelog is another.

`archive/home-2.tar.xz` was written once by the last version in which verdicts did not look at unknown bases and `.bgz`
was no ending, by `virnuc predict contigs.fa.bgz --shard-size 8 --threads 1`, without Dagster's databases and the page.
"""

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest

from virnuc_dagster.checkpoints import CommitRecord, LocalStore, store, versions
from virnuc_dagster.cli import main

ARCHIVE = Path(__file__).parent / "archive" / "home-2.tar.xz"
BATCH = "contigs-fa-bgz-0d74d966"
STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")


def table(path: Path, columns: int) -> dict[str, list[str]]:
    """Rows by sequence (several joined), the first columns of each."""
    rows: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        cells = line.split("\t")[:columns]
        rows[cells[0]] = [*rows.get(cells[0], []), *cells]
    return rows


def alike(old: list[str], new: list[str]) -> bool:
    """Equal, but for what another processor may make of a fallback's score."""
    pairs = zip(old, new, strict=True)
    return all(a == b or ("." in a and "." in b and abs(float(a) - float(b)) <= 2e-5) for a, b in pairs)


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> tuple[Path, dict]:
    """The archive after the same command by this version; and what `run.json` says of that."""
    root = tmp_path_factory.mktemp("archived")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    before = {path: path.read_bytes() for path in (root / "home" / "store").rglob("*.done")}
    places = ["--home", str(root / "home"), "--output", str(root / "out"), "--threads", "1"]
    assert main(["predict", str(root / "contigs.fa.bgz"), *places, "--shard-size", "8", "--quiet"]) == 0
    assert {path: path.read_bytes() for path in (root / "home" / "store").rglob("*.done")} == before
    return root, json.loads((root / "out" / "run.json").read_text())


def test_every_stored_result_is_found_and_none_is_computed_again(opened):
    _, run = opened
    assert run["batch"] == BATCH
    assert run["computed_shards"] == dict.fromkeys(STAGES, 0)
    assert run["reused_shards"] == dict.fromkeys(STAGES, 2)


def test_the_files_of_the_original_are_equal_byte_for_byte(opened):
    root, _ = opened
    for name in ("prediction_results.txt", "prediction_results_highestscore.csv"):
        assert (root / "out" / name).read_bytes() == (root / "results" / name).read_bytes()


@pytest.mark.parametrize(("name", "columns"), [("sequences.tsv", 7), ("windows.tsv", 9)])
def test_where_every_base_is_known_scores_and_verdicts_are_those_of_before(opened, name, columns):
    root, _ = opened
    old, new = (table(root / folder / name, columns) for folder in ("results", "out"))
    assert old.keys() == new.keys()
    assert {sequence for sequence in old if not alike(old[sequence], new[sequence])} <= {"masked"}
    assert {"phix", "host", "chance", "short"} <= old.keys()  # from frames, by the fallback, in part


def test_windows_of_mostly_unknown_bases_no_longer_count(opened):
    root, _ = opened
    old, new = (table(root / folder / "sequences.tsv", 9)["masked"] for folder in ("results", "out"))
    assert (old[3:5], old[6]) == (["2", "2"], "uncertain")  # windows scored from frames and by the fallback
    assert (new[3:5], new[6:]) == (["0", "2"], ["viral", "0.5769231", "NA"])


@dataclasses.dataclass(frozen=True)
class NextRecord(CommitRecord):
    """A commit record of a version to come."""

    novel: str = ""
    version: str = "2.1"


def test_a_version_whose_records_have_a_field_more_computes_nothing_either(opened, tmp_path, monkeypatch):
    root, _ = opened
    lift = {"2.0": lambda values: {**values, "version": "2.1", "novel": "not recorded"}}
    monkeypatch.setattr(versions, "RECORD_MIGRATIONS", lift)
    monkeypatch.setattr(store, "CommitRecord", NextRecord)
    records = {path: path.read_bytes() for path in (root / "home" / "store").rglob("*.done")}
    places = ["--home", str(root / "home"), "--output", str(tmp_path / "out"), "--threads", "1"]

    assert main(["predict", str(root / "contigs.fa.bgz"), *places, "--shard-size", "8", "--quiet"]) == 0

    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["computed_shards"] == dict.fromkeys(STAGES, 0)
    assert run["reused_shards"] == dict.fromkeys(STAGES, 2)
    assert {path: path.read_bytes() for path in (root / "home" / "store").rglob("*.done")} == records
    stored = LocalStore(root / "home" / "store")
    assert {stored.record(key).novel for stage in STAGES for key in stored.list(stage)} == {"not recorded"}
