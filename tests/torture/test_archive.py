"""T13: a file of every format version ever written; each is read for ever, with the same values, and stays as it is."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from virnuc_dagster.checkpoints import (
    CheckpointDamagedError,
    CheckpointIncompatibleError,
    CheckpointKey,
    Level,
    LocalStore,
    archive,
    compat,
)
from virnuc_dagster.checkpoints.audit import audit, examine
from virnuc_dagster.checkpoints.legacy import find_legacy, migrate_file, read_legacy
from virnuc_dagster.stages.pipeline import KINDS

ARCHIVE = Path(__file__).parents[1] / "checkpoints" / "archive"
EXPECTED = json.loads((ARCHIVE / "expected.json").read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(ARCHIVE, tmp_path / "archive"))


def bytes_and_times(folder: Path) -> dict:
    return {p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in folder.rglob("*.pt*")}


def test_every_older_file_reads_with_its_values(folder, ledger):
    before = bytes_and_times(folder)
    for name, wanted in EXPECTED.items():
        old = read_legacy(folder / name)
        assert (old.kind, old.version, old.ids) == (wanted["kind"], name.split("/")[0], wanted["ids"]), name
        assert torch.equal(old.data, torch.tensor(wanted["data"])), name
        assert old.labels is None if "labels" not in wanted else old.labels.tolist() == wanted["labels"], name
    assert bytes_and_times(folder) == before
    ledger("T13", "files of versions 0.x and 1.0 read", events=len(EXPECTED), whole=len(EXPECTED))


def test_every_current_kind_reads(folder, ledger):
    store = LocalStore(folder / "2.0")
    kinds = [kind for kind in KINDS if kind != "merged_features"]
    for kind in kinds:
        loaded = store.load(CheckpointKey(kind, "b", "b__0001"), Level.FULL)
        assert loaded["ids"] == ["seq_1_chunk_1F1", "seq_1_chunk_1R2", "seq_2_chunk_1F3"]
    assert store.load(CheckpointKey("predictions", "b", "b__0001"))["data"].tolist() == [
        [0.25, 0.75],
        [0.5, 0.5],
        [1, 0],
    ]
    assert store.load(CheckpointKey("sequences", "b", "b__0001"))["sequence"] == ["ACGT", "", "NNN"]
    ledger("T13", "files of version 2.0 read", events=len(kinds), whole=len(kinds))


def test_migration_writes_beside_and_only_once(folder, ledger):
    before = bytes_and_times(folder)
    paths = [path for path in find_legacy(folder) if "2.0" not in path.parts]

    first = {file.path: file for file in map(migrate_file, paths)}
    written = bytes_and_times(folder)
    again = {file.path: file for file in map(migrate_file, paths)}

    assert {p: facts for p, facts in written.items() if p in before} == before
    assert bytes_and_times(folder) == written
    whole = named = 0
    for path, file in first.items():
        name = str(path.relative_to(folder))
        if file.record is None:
            assert "encoder" in file.reason or "status" in file.reason, file
            named += 1
            continue
        loaded = compat.load_with_compatibility(
            path.parent / file.record.file.replace(f".{file.record.file[-19:-3]}", "")
        )
        assert loaded["ids"] == EXPECTED[name]["ids"]
        assert torch.equal(loaded["data"], torch.tensor(EXPECTED[name]["data"]))
        assert loaded.get("labels", torch.tensor([])).tolist() == EXPECTED[name].get("labels", [])
        assert again[path].done_before
        whole += 1
    assert (whole, named) == (8, 2)
    ledger("T13", "older files migrated", events=whole + named, whole=whole, named=named)


def test_names_that_differ_only_in_unsafe_characters_do_not_meet(folder):
    source = folder / "0.x" / "output_1_ESM.pt"
    for name in ("output 1 ESM.pt", "output+1+ESM.pt", "ÖUTPUT.pt", "...pt"):
        shutil.copy(source, folder / name)
    records = [migrate_file(path).record for path in sorted(folder.glob("*.pt"))]
    assert len({record.file for record in records}) == 4


def test_unfinished_files_are_refused(folder):
    with pytest.raises(CheckpointIncompatibleError, match="status"):
        read_legacy(folder / "1.0" / "output_9_merged.pt")
    (folder / "1.0" / "output_1_ESM.pt.done").unlink()
    with pytest.raises(CheckpointIncompatibleError, match=r"\.done is missing"):
        read_legacy(folder / "1.0" / "output_1_ESM.pt")


def test_the_audit_knows_them_all(folder):
    findings = {str(f.path.relative_to(folder)): f for f in audit(folder, full=True)}
    assert {name for name, f in findings.items() if f.bad} == {"1.0/output_9_merged.pt"}
    assert findings["0.x/output_1_ESM.pt"].version == "0.x"
    assert findings["1.0/esm/shard_0/batch_00001.pt"].rows == 3
    assert sum(f.version == "2.0" for f in findings.values()) == 6
    for name, wanted in EXPECTED.items():
        facts = examine(folder / name)
        assert (facts.rows, facts.dim) == (3, len(wanted["data"][0])), name


def test_a_flipped_bit_in_an_older_file_is_found(folder):
    """Older files have no digest; the archive's own CRCs find what hits a member."""
    path = folder / "0.x" / "output_1_merged.pt"
    good = path.read_bytes()
    largest = max(archive.members(good), key=lambda member: member.size * member.name.endswith("data/0"))
    for position in range(largest.start, largest.start + largest.size):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CheckpointDamagedError, match="CRC"):
            read_legacy(path)
