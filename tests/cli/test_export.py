"""Exports, each read back by the library that its users use, and equal to the store bit for bit."""

import json
import subprocess
import sys

import numpy as np
import pytest

from virnuc_dagster.checkpoints import CheckpointKey, LocalStore
from virnuc_dagster.cli import main

STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with one batch of several shards, all computed."""
    root = tmp_path_factory.mktemp("export")
    (root / "x.fa").write_text("".join(f">seq_{i} header {i}\n" + "GCTGCC" * (70 + 9 * i) + "\n" for i in range(4)))
    arguments = ["predict", str(root / "x.fa"), "--output", str(root / "out"), "--shard-size", "7", "--threads", "1"]
    assert main([*arguments, "--home", str(root / "home"), "--quiet"]) == 0
    return root / "home"


@pytest.fixture
def export(home, tmp_path, capsys):
    def run(stage: str, kind: str, *more: str):
        target = tmp_path / "deep" / f"{stage}.{kind}"
        code = main(
            ["export", "x", "--stage", stage, "--format", kind, "--output", str(target), "--home", str(home), *more]
        )
        return code, target, capsys.readouterr()

    return run


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))
from virnuc_dagster.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["parquet", "safetensors", "h5ad", "tsv"])
def test_a_full_disk_is_exit_code_5_and_the_old_file_stays(home, tmp_path, kind):
    """In a process of its own: HDF5, left alone with a full disk, ends in a segmentation fault."""
    pytest.importorskip({"parquet": "pyarrow", "h5ad": "anndata"}.get(kind, "numpy"))
    target = tmp_path / f"file.{kind}"
    target.write_text("old")
    options = ["--stage", "esm2_embeddings", "--format", kind, "--output", target, "--home", home, "--overwrite"]

    done = subprocess.run(
        [sys.executable, "-c", FULL, "export", "x", *map(str, options)], capture_output=True, text=True
    )

    assert done.returncode == 5, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "old")]


@pytest.fixture(scope="module")
def stored(home):
    """Stage -> ids and values as the store holds them."""
    store = LocalStore(home / "store")
    found = {}
    for stage in STAGES:
        parts = [store.load(key) for key in store.list(stage)]
        assert len(parts) > 1
        found[stage] = [i for part in parts for i in part["ids"]], np.concatenate([p["data"].numpy() for p in parts])
    return found


def read_tsv(path):
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert header[0] == "id"
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)


def read_parquet(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    assert table.column("sequence_id").to_pylist()[0] == "seq_0"
    assert json.loads(table.schema.metadata[b"virnuc"])["batch"].startswith("x-")
    if "embedding" in table.column_names:
        return table.column("id").to_pylist(), np.stack(table.column("embedding").to_pylist()).astype(np.float32)
    values = [table.column(name).to_numpy() for name in ("score_others", "score_virus")]
    return table.column("id").to_pylist(), np.stack(values, axis=1)


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["ids"]), file.get_tensor("data")


def read_h5ad(path):
    table = pytest.importorskip("anndata").read_h5ad(path)
    assert list(table.obs["frame"].unique()) != []
    assert table.obs["sequence_id"].iloc[0] == "seq_0"
    assert json.loads(table.uns["virnuc"])["batch"].startswith("x-")
    return table.obs_names.tolist(), np.asarray(table.X)


READERS = {"tsv": read_tsv, "parquet": read_parquet, "safetensors": read_safetensors, "h5ad": read_h5ad}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_round_trip_gives_equal_values(export, stored, stage, kind):
    code, target, (out, _) = export(stage, kind, "--json")
    ids, values = READERS[kind](target)

    assert code == 0
    assert ids == stored[stage][0]
    assert values.dtype == np.float32
    assert values.tobytes() == stored[stage][1].tobytes()
    assert json.loads(out)["shape"] == list(values.shape)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.fixture(scope="module")
def without_frames(home):
    """A batch in the same home whose one sequence has a stop codon in every frame of every window."""
    (home.parent / "none.fa").write_text(">stops\n" + "TTAA" * 200 + "\n")
    arguments = ["predict", str(home.parent / "none.fa"), "--output", str(home.parent / "none"), "--threads", "1"]
    assert main([*arguments, "--home", str(home), "--quiet"]) == 0
    return home


def both(home, tmp_path, stage, kind):
    """The exports of the batch with frames and of the one without."""
    targets = [tmp_path / f"{batch}.{kind}" for batch in ("x", "none")]
    for target in targets:
        options = ["--stage", stage, "--format", kind, "--output", str(target), "--home", str(home)]
        assert main(["export", target.stem, *options]) == 0
    return targets


def parquet_shape(path):
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    return table.num_rows, table.schema.remove_metadata()


def safetensors_shape(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        data = file.get_tensor("data")
    return len(data), (data.shape[1], data.dtype)


def h5ad_shape(path):
    table = pytest.importorskip("anndata").read_h5ad(path)
    return table.n_obs, (table.var_names.tolist(), table.X.dtype, table.obs.columns.tolist())


def tsv_shape(path):
    header, *rows = path.read_text().splitlines()
    return len(rows), header


SHAPES = {"parquet": parquet_shape, "safetensors": safetensors_shape, "h5ad": h5ad_shape, "tsv": tsv_shape}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_without_frames_has_the_columns_of_one_with_frames(without_frames, stored, tmp_path, stage, kind):
    (rows, full), (none, empty) = map(SHAPES[kind], both(without_frames, tmp_path, stage, kind))

    assert (rows, none) == (len(stored[stage][0]), 0)
    assert empty == full


def test_joined_with_one_without_frames_no_dimension_is_lost(without_frames, stored, tmp_path):
    anndata, arrow = pytest.importorskip("anndata"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = stored["esm2_embeddings"][1]

    tables = [anndata.read_h5ad(path) for path in both(without_frames, tmp_path, "esm2_embeddings", "h5ad")]
    rows = [parquet.read_table(path) for path in both(without_frames, tmp_path, "esm2_embeddings", "parquet")]

    assert anndata.concat(tables).X.tobytes() == values.tobytes()
    joined = arrow.concat_tables(rows).column("embedding").to_pylist()
    assert np.array(joined, np.float32).tobytes() == values.tobytes()


def test_without_frames_a_bundle_of_other_windows_is_not_asked_for_the_width(
    without_frames, tmp_path, capsys, monkeypatch
):
    from virnuc_dagster.models import bundle

    spec = bundle.open_bundle("mini").spec.model_copy(update={"window_length": 501})
    monkeypatch.setattr("virnuc_dagster.upkeep.export.open_bundle", lambda name: bundle.Bundle(tmp_path, spec))
    options = ["--stage", "esm2_embeddings", "--format", "tsv", "--output", str(tmp_path / "f"), "--bundle", "other"]

    assert main(["export", "none", *options, "--home", str(without_frames)]) == 1

    error = capsys.readouterr().err
    assert "windows of 501 bases, not of 500" in error
    assert "--bundle" in error
    assert not (tmp_path / "f").exists()


def test_fasta_gives_proteins_and_the_whole_input(export, home):
    from Bio import SeqIO

    code, target, _ = export("frames", "fasta")
    assert code == 0
    proteins = {record.id: str(record.seq) for record in SeqIO.parse(target, "fasta")}
    frames = [LocalStore(home / "store").load(key) for key in LocalStore(home / "store").list("frames")]
    assert proteins == {i: p for part in frames for i, p in zip(part["ids"], part["protein"], strict=True)}

    code, target, _ = export("sequences", "fasta")
    assert code == 0
    assert [r.description for r in SeqIO.parse(target, "fasta")] == [f"seq_{i} header {i}" for i in range(4)]


def test_a_file_that_is_there_is_replaced_only_if_asked_for_and_the_batchs_own_input_never(export, home, capsys):
    _, target, _ = export("frames", "fasta")
    target.write_text("mine")
    code, _, (_, err) = export("frames", "fasta")
    assert (code, target.read_text()) == (2, "mine")
    assert "--overwrite" in err
    assert export("frames", "fasta", "--overwrite")[0] == 0

    source = home.parent / "x.fa"
    before = source.read_bytes()
    arguments = ["export", "x", "--stage", "sequences", "--format", "fasta", "--output", str(source), "--overwrite"]
    assert main([*arguments, "--home", str(home)]) == 2
    assert f"it is the input {source}" in capsys.readouterr().err
    assert source.read_bytes() == before


_MATRIX = "parquet, safetensors, h5ad, tsv"


@pytest.mark.parametrize(
    ("stage", "kind", "formats"),
    [("predictions", "fasta", _MATRIX), ("frames", "h5ad", "fasta"), ("sequences", "tsv", "fasta")],
)
def test_a_format_that_does_not_fit_is_refused(export, stage, kind, formats):
    code, target, (_, err) = export(stage, kind)
    assert code == 2
    assert f"formats of it: {formats}" in err
    assert not target.exists()


def test_missing_and_mixed_shards_are_not_exported(home, tmp_path, capsys):
    import shutil

    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    store = LocalStore(copy / "store")
    arguments = ["export", "x", "--stage", "predictions", "--format", "tsv", "--home", str(copy)]
    arguments += ["--output", str(tmp_path / "f")]
    keys = store.list("predictions")
    payload, record = store.load(keys[0]), store.record(keys[0])

    store.save(keys[0], payload, record.provenance | {"precision": "other"})
    assert main(arguments) == 1
    assert "not made alike" in capsys.readouterr().err

    store.save(keys[0], payload, record.provenance | {"inputs": {"esm2_embeddings": "0" * 64}})
    assert main(arguments) == 1
    assert "was not made from" in capsys.readouterr().err

    store.remove(CheckpointKey("predictions", keys[1].batch, keys[1].shard))
    assert main(arguments) == 1
    assert f"1 of {len(keys)} shards have no result" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("package", "kind", "extra"), [("pyarrow", "parquet", "parquet"), ("anndata", "h5ad", "anndata")]
)
def test_a_missing_optional_library_is_named_with_the_remedy(export, monkeypatch, package, kind, extra):
    monkeypatch.setitem(sys.modules, package, None)
    code, target, (_, err) = export("predictions", kind)
    assert code == 1
    assert f"pip install {package} (the extra `{extra}`" in err
    assert not list(target.parent.iterdir())


def test_importing_the_command_line_needs_no_optional_library():
    code = "import sys; sys.modules.update(dict.fromkeys(('pyarrow', 'anndata', 'h5py', 'pandas')));"
    code += "from virnuc_dagster.cli import main; sys.exit(main(['export', '--help']))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
