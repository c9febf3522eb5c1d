"""Embeddings of older programs are adopted: joined by id, not computed again, named in the report, files untouched."""

import json
import random

import pytest
import torch
from kits.pipeline import SHARD_SIZE, SHARDS, Home

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.cli import main
from virnuc_dagster.report import paths

DNA, ESM = "dnabert_s_embeddings", "esm2_embeddings"


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """An ordinary run, and what it computed."""
    home = Home(tmp_path_factory.mktemp("computed"))
    call = home.predict()
    assert call.code == 0, call.err
    store = LocalStore(home.store)
    rows = {}
    for stage in (DNA, ESM):
        loaded = [store.load(key) for key in store.list(stage)]
        ids = [name for payload in loaded for name in payload["ids"]]
        rows[stage] = ids, torch.cat([payload["data"] for payload in loaded])
    return call, rows


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    source = str(home.arguments()[1])
    assert main(["batches", "add", source, "--home", str(tmp_path / "home"), "--shard-size", SHARD_SIZE]) == 0
    return home


def write_original(folder, rows, count=None, kinds=("dna", "esm")):
    """Files as the original program wrote them: a row at a time, ESM-2 in an order of its own."""
    folder.mkdir()
    ids, data = rows[DNA]
    ids, data = ids[:count], data[:count]
    if "dna" in kinds:
        listed = [{"label": name, "mean_representation": row.tolist()} for name, row in zip(ids, data, strict=True)]
        torch.save({"nucleotide": ids, "data": listed}, folder / "output_1_DNABERT_S.pt")
    if "esm" in kinds:
        pairs = list(zip(rows[ESM][0][:count], rows[ESM][1][:count], strict=True))
        random.Random(1).shuffle(pairs)
        torch.save(
            {"proteins": [name for name, _ in pairs], "data": [row.clone() for _, row in pairs]},
            folder / "output_1_ESM.pt",
        )
    if "merged" in kinds:
        torch.save({"ids": ids, "data": torch.cat([data, rows[ESM][1][:count]], 1)}, folder / "output_1_merged.pt")


def run_import(home, folder, capsys, code=0):
    capsys.readouterr()
    arguments = ["checkpoints", "import", str(folder), "--batch", "demo", "--home", str(home.root / "home"), "--json"]
    assert main(arguments) == code
    return json.loads(capsys.readouterr().out)


def same_but_for_the_import(call, other):
    mine, theirs = call.files(), other.files()
    for name in mine.keys() - {paths.HTML, paths.SUMMARY}:
        assert mine[name] == theirs[name], name


@pytest.mark.parametrize("kinds", [("dna", "esm"), ("merged",)])
def test_adopted_embeddings_are_not_computed_again(computed, home, tmp_path, capsys, kinds):
    call, rows = computed
    write_original(tmp_path / "old", rows, kinds=kinds)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "old").iterdir()}

    done = run_import(home, tmp_path / "old", capsys)
    resumed = home.predict()

    assert [len(stage["adopted"]) for stage in done["stages"]] == [SHARDS, SHARDS]
    assert resumed.code == 0, resumed.err
    assert resumed.run["computed_shards"] == {DNA: 0, ESM: 0, "predictions": SHARDS}
    same_but_for_the_import(call, resumed)
    assert f"{SHARDS} shards hold embeddings computed by another program" in resumed.out
    assert b"computed by another program" in resumed.files()[paths.HTML]
    provenance = json.loads((resumed.output / paths.PROVENANCE).read_text())["checkpoints"]
    imported = {key for key, facts in provenance.items() if "imported" in facts}
    assert len(imported) == 2 * SHARDS
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "old").iterdir()} == before


def test_a_partial_folder_adopts_what_fits_and_says_what_is_missing(computed, home, tmp_path, capsys):
    call, rows = computed
    write_original(tmp_path / "old", rows, count=47)

    done = run_import(home, tmp_path / "old", capsys)
    again = run_import(home, tmp_path / "old", capsys)
    resumed = home.predict()

    for stage in done["stages"]:
        assert len(stage["adopted"]) == 2
        assert len(stage["missing"]) == SHARDS - 2
        assert min(stage["missing"].values()) >= 1
        assert next(iter(stage["missing"].values())) == 13  # 47 = 2 x 20 + 7
    assert [len(stage["present"]) for stage in again["stages"]] == [2, 2]
    assert resumed.run["computed_shards"] == {DNA: SHARDS - 2, ESM: SHARDS - 2, "predictions": SHARDS}
    same_but_for_the_import(call, resumed)


def test_files_of_another_batch_or_bundle_are_refused_with_counts(computed, home, tmp_path, capsys, shared):
    _, rows = computed
    folder = tmp_path / "old"
    write_original(folder, rows, count=20, kinds=("dna",))
    ids, data = rows[ESM]
    torch.save({"proteins": [*ids[:5], "x_chunk_1F1"], "data": list(data[:6].clone())}, folder / "output_1_ESM.pt")
    torch.save({"proteins": ids[:3], "data": list(torch.ones(3, 2560))}, folder / "output_2_ESM.pt")
    (folder / "output_3_ESM.pt").write_bytes((shared / "vanilla" / "output_1_ESM.pt").read_bytes()[:-9])

    done = run_import(home, folder, capsys, code=3)

    reasons = {path.rsplit("/", 1)[-1]: reason for path, reason in done["refused"].items()}
    assert reasons["output_1_ESM.pt"] == "5 of its 6 ids are frames of this batch"
    assert "2,560 columns" in reasons["output_2_ESM.pt"]
    assert "--bundle" in reasons["output_2_ESM.pt"]
    assert "corrupted" in reasons["output_3_ESM.pt"]
    assert len(done["stages"][0]["adopted"]) == 1
    assert done["stages"][1]["adopted"] == []


def test_files_that_disagree_are_an_error_and_nothing_is_adopted(computed, home, tmp_path, capsys):
    _, rows = computed
    folder = tmp_path / "old"
    write_original(folder, rows, kinds=("esm",))
    torch.save({"proteins": rows[ESM][0][:1], "data": [rows[ESM][1][0] + 1]}, folder / "output_2_ESM.pt")

    capsys.readouterr()
    arguments = ["checkpoints", "import", str(folder), "--batch", "demo", "--home", str(home.root / "home")]
    assert main(arguments) == 1

    message = capsys.readouterr().err
    assert "output_1_ESM.pt" in message
    assert "output_2_ESM.pt" in message
    assert list(LocalStore(home.store).list(ESM)) == []


def test_the_original_programs_own_files_fit_our_frames(shared, tmp_path, capsys):
    """The real files: their ids are the ids of our frames, and vectors of 768 and 2,560 are not taken for `mini`'s."""
    home = Home(tmp_path)
    where = ["--home", str(tmp_path / "home")]
    assert main(["batches", "add", str(shared / "vanilla" / "test_with_orfs.fa"), *where]) == 0
    capsys.readouterr()
    code = main(["checkpoints", "import", str(shared / "vanilla"), "--batch", "test-with-orfs", *where, "--json"])
    done = json.loads(capsys.readouterr().out)

    assert code == 3
    assert len(done["refused"]) == 3
    assert all("columns" in reason for reason in done["refused"].values()), done["refused"]
    assert list(LocalStore(home.store).list(ESM)) == []
