"""Versions, migrations, older files, and files that want to run code."""

import io
import pickle
import zipfile

import pytest
import torch

from virnuc_dagster.checkpoints import CheckpointDamagedError, CheckpointError, CheckpointIncompatibleError, differences
from virnuc_dagster.checkpoints.format import content_digests
from virnuc_dagster.checkpoints.validate import Level, read_payload
from virnuc_dagster.checkpoints.versions import VersionError, migrate, parse_version, refuse_newer


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_versions_compare_as_numbers():
    assert parse_version("10.0") > parse_version("2.0") > parse_version("1.10") > parse_version("1.9") > (0, 0)
    assert parse_version(None) == parse_version("0.x") == (0, 0)


@pytest.mark.parametrize("text", ["", "2", "2.0.1", "v2.0", "2.x", " 2.0", "2.0\n", 2.0, "٢.٠", "99999999.0"])
def test_unreadable_versions_are_refused(text):
    with pytest.raises(VersionError, match="cannot read version"):
        parse_version(text)


def test_newer_major_says_what_to_do():
    with pytest.raises(VersionError, match=r"version 10\.0, newest readable 2\.0; upgrade"):
        refuse_newer("10.0")
    refuse_newer("2.7")


def test_real_files_of_the_original_program_read_and_stay_untouched(shared):
    folder = shared / "vanilla"
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("*.pt")}

    dna, esm, merged = (
        read_payload(before[folder / f"output_1_{name}.pt"][0], name, None) for name in ("DNABERT_S", "ESM", "merged")
    )

    rows = {kind["kind"]: dict(zip(kind["ids"], kind["data"], strict=True)) for kind in (dna, esm, merged)}
    assert (dna["data"].shape, esm["data"].shape) == ((4, 768), (4, 2560))
    assert esm["ids"] != merged["ids"]  # sorted by length: only the ids can join them
    for frame, feature in rows["merged_features"].items():
        assert torch.equal(feature[:768], rows["dnabert_s_embeddings"][frame])
        assert torch.equal(feature[768:], rows["esm2_embeddings"][frame])
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("*.pt")} == before


@pytest.mark.parametrize("column", ["nucleotide", "proteins"])
def test_an_older_file_without_rows_is_whole(column):
    found = read_payload(saved({column: [], "data": []}), "old.pt", None)

    assert (found["ids"], found["data"].ndim, len(found["data"])) == ([], 2, 0)


def test_a_file_laid_out_as_the_original_program_does_is_read():
    file = io.BytesIO()
    torch.save({"proteins": ["b", "a"], "data": [torch.full((3,), 2.0), torch.ones(3)]}, file)

    found = read_payload(file.getvalue(), "old.pt", None)

    assert (found["kind"], found["ids"]) == ("esm2_embeddings", ["b", "a"])
    assert found["data"].tolist() == [[2.0] * 3, [1.0] * 3]


def test_migration_changes_no_argument():
    old = {"proteins": ["a"], "data": [torch.ones(3)]}
    assert migrate(old)["kind"] == "esm2_embeddings"
    assert old.keys() == {"proteins", "data"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "not a dict"),
        ({}, "missing required keys"),
        ({"version": "2.0"}, "unknown kind"),
        ({"version": "2.0", "kind": "frames", "ids": [], "status": "complete"}, "nucleotide, protein"),
        ({"version": "3.0"}, "upgrade"),
        ({"version": "2,0"}, "cannot read version"),
        ({"version": "1.0", "status": "in_progress", "ids": [], "data": torch.zeros(0, 1)}, "in_progress"),
    ],
)
def test_what_is_no_checkpoint_is_incompatible(value, reason):
    with pytest.raises(CheckpointIncompatibleError, match=reason):
        read_payload(saved(value), "x.pt", None)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("level", Level)
def test_no_code_runs_on_load(tmp_path, protocol, level):
    canary = tmp_path / "canary"
    hostile = {"version": "2.0", "status": "complete", "kind": "frames", "ids": [], "nucleotide": Canary(canary)}
    plain = pickle.dumps(hostile, protocol=protocol)
    buffer = io.BytesIO()
    torch.save(hostile, buffer, pickle_protocol=protocol)

    for data in (plain, buffer.getvalue()):
        with pytest.raises(CheckpointError):
            read_payload(data, "x.pt", None, level)

    assert not canary.exists()


def test_compressed_archives_are_not_opened():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10_000_000)
    with pytest.raises(CheckpointDamagedError, match="is compressed"):
        read_payload(buffer.getvalue(), "x.pt", None)


def test_content_digests_see_ids_order_values_and_dtype():
    base = {"ids": ["a", "b"], "data": torch.tensor([[1.0], [2.0]])}
    variants = [
        base,
        {**base, "ids": ["b", "a"]},
        {**base, "ids": ["ab", ""]},
        {**base, "data": base["data"].flip(0)},
        {**base, "data": base["data"].half()},
        {**base, "data": base["data"].reshape(1, 2)},
    ]
    assert len({content_digests(v)["data"] for v in variants}) == len(variants)
    assert content_digests(base) == content_digests({**base, "data": torch.tensor([[1.0, 9], [2.0, 9]])[:, :1]})


def test_differences_name_every_field_with_both_values():
    found = differences({"a": 1, "m": {"id": "x", "p": "f32"}}, {"a": 1, "m": {"id": "y"}, "n": True})
    assert [str(d) for d in found] == [
        "m.id: stored x, wanted y",
        "m.p: stored f32, wanted nothing",
        "n: stored nothing, wanted True",
    ]


def test_the_size_is_looked_at_first():
    with pytest.raises(CheckpointDamagedError, match="0 bytes"):
        read_payload(b"", "x.pt", None)
