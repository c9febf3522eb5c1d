"""Whatever changes numbers is noticed, named and computed again; whatever does not is not."""

import json
import shutil
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
from kits.pipeline import DEMO, SHARDS
from safetensors.numpy import load_file, save_file

from virnuc_dagster.models.bundle import open_bundle


@pytest.fixture
def other_head(tmp_path) -> Path:
    """The packaged bundle with a slightly different head."""
    folder = tmp_path / "other"
    shutil.copytree(str(files("virnuc_dagster") / "models" / "mini"), folder)
    spec = json.loads((folder / "bundle.json").read_text())
    path = folder / spec["head"]["weights"]["file"]
    weights = load_file(path)
    weights["output_layer.bias"] = weights["output_layer.bias"] + [0.25, 0]
    save_file({name: value.astype("float32") for name, value in weights.items()}, path)
    spec["head"]["weights"]["sha256"] = sha256(path.read_bytes()).hexdigest()
    spec.pop("golden")
    (folder / "bundle.json").write_text(json.dumps(spec))
    return folder


def test_a_new_head_recomputes_predictions_and_no_embedding(done, unbroken, other_head):
    call = done.predict("--bundle", str(other_head))

    assert call.code == 0, call.err
    assert call.run["computed_shards"] == {
        "dnabert_s_embeddings": 0, "esm2_embeddings": 0, "predictions": SHARDS,
    }  # fmt: skip
    assert f"head_sha256: stored {open_bundle('mini').provenance('head')['head_sha256'][:12]}" in call.err
    assert call.files()["windows.tsv"] != unbroken.files()["windows.tsv"]


def test_another_precision_recomputes_embeddings_and_names_it(done):
    call = done.predict("--precision", "bfloat16")

    assert call.code == 0, call.err
    assert call.run["computed_shards"]["esm2_embeddings"] == SHARDS
    assert call.err.count("precision: stored float32, wanted bfloat16") == 2  # once an encoder, not once a shard


def test_another_token_budget_changes_nothing(done):
    assert set(done.predict("--token-budget", "999").run["computed_shards"].values()) == {0}


def test_a_changed_input_is_another_batch(done, tmp_path):
    changed = tmp_path / "demo.fasta"
    changed.write_text(DEMO.read_text().replace("ACGT", "ACGA", 1))

    refused = done.predict(source=changed)
    call = done.predict("--overwrite", source=changed)

    assert (refused.code, call.code) == (2, 0), call.err
    assert call.run["computed_shards"]["esm2_embeddings"] > 0
    assert len(list((done.store / "sequences").iterdir())) == 2
