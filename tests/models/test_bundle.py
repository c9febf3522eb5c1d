"""Bundles: what opens, what loads, and that nothing damaged, foreign or dangerous does either."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kits.bundles import CPU, edit, load_all
from safetensors.torch import load_file, save, save_file
from xxhash import xxh3_128

from virnuc_dagster.classify.composition import feature_count, kmer_feature
from virnuc_dagster.classify.fallback import FallbackModel
from virnuc_dagster.classify.head import predict
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import BundleError, SettingsError
from virnuc_dagster.models.bundle import Bundle, list_bundles, open_bundle

WEIGHTS = ["dnabert_s.safetensors", "esm2.safetensors", "head.safetensors"]


def edit_weights(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Bundle:
    """Change the tensors of a part and record the new digest, as a wrongly made bundle would."""
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return open_bundle(str(edit(folder, lambda spec: spec[part]["weights"].update(sha256=digest, xxh3=None))))


def test_the_packaged_bundle_scores_a_frame():
    bundle = open_bundle("mini")
    golden = bundle.spec.golden
    dna = embed(bundle.load_encoder("dnabert_s", CPU), ["f"], [golden.nucleotide], token_budget=99)
    protein = embed(bundle.load_encoder("esm2", CPU), ["f"], [golden.protein], token_budget=99)

    scores = predict(bundle.load_head(CPU), {"dnabert_s": dna, "esm2": protein})

    assert scores[0].tolist() == pytest.approx(golden.score, abs=1e-4)
    assert dna.shape[1] + protein.shape[1] == bundle.spec.head.features


def test_the_packaged_bundle_is_intact_and_says_what_it_is():
    bundle = open_bundle("mini")

    bundle.verify()

    assert "mini" in list_bundles()
    assert "not for science" in bundle.spec.description
    assert bundle.spec.training["val"]["all_windows"]["n"] > 5_000


def test_codons_of_mini_come_in_pairs_skip_odd_last_bases_and_mark_ambiguous_ones():
    tokens = open_bundle("mini").load_encoder("dnabert_s", CPU).tokenize(["AAATTTC", "AAANNNC", "AAATTTAAA"])

    assert tokens == [[1, 132, 2], [1, 0, 2], [1, 132, 5, 2]]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_passes_the_golden_check_and_gives_float32(precision):
    bundle = open_bundle("mini")

    golden = bundle.spec.golden
    pooled = [
        embed(bundle.load_encoder(part, CPU, precision), ["f"], [golden.text(part)], token_budget=99)
        for part in golden.vectors
    ]

    assert [p.dtype for p in pooled] == [torch.float32, torch.float32]
    assert pooled[0][0].tolist() != list(golden.vectors["dnabert_s"])


def test_an_unknown_precision_is_refused():
    with pytest.raises(SettingsError, match="int8"):
        open_bundle("mini").load_encoder("esm2", CPU, "int8")


def test_a_folder_opens_by_its_path(copy):
    assert open_bundle(str(copy)).spec == open_bundle("mini").spec


@pytest.mark.parametrize("name", ["huge", "../mini", "", "no/such/folder", "a\0b"])
def test_an_unknown_bundle_lists_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BundleError, match="no bundle") as caught:
        open_bundle(name)

    assert "mini" in caught.value.hint


@pytest.mark.parametrize("file", ["../esm2.safetensors", "/etc/passwd", "a/../../b", "", "a\\b", ".hidden"])
def test_a_file_name_cannot_leave_the_folder(copy, file):
    with pytest.raises(BundleError, match=r"esm2\.weights\.file"):
        open_bundle(str(edit(copy, lambda s: s["esm2"]["weights"].update(file=file))))


def test_a_link_cannot_leave_the_folder(copy, tmp_path):
    (copy / "esm2.safetensors").rename(tmp_path / "outside")
    (copy / "esm2.safetensors").symlink_to(tmp_path / "outside")

    with pytest.raises(BundleError, match=r"esm2\.safetensors leads out"):
        open_bundle(str(copy))


def test_verify_names_every_damaged_or_missing_file(copy):
    with (copy / "head.safetensors").open("ab") as file:
        file.write(b"\0")
    (copy / "tokenizer.json").unlink()

    with pytest.raises(BundleError) as caught:
        open_bundle(str(copy)).verify()

    assert caught.value.fields["files"] == ["head.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("file", [*WEIGHTS, "tokenizer.json"])
def test_one_flipped_bit_prevents_loading(copy, file):
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)

    with pytest.raises(BundleError, match=f"{file} has (sha256|xxh3)"):
        load_all(open_bundle(str(copy)))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("dnabert_s", "encoder.layer.0.mlp.wo.weight"),
        ("esm2", "encoder.layer.0.attention.self.key.bias"),
        ("head", "bn1.running_var"),
    ],
)
def test_missing_foreign_and_misshapen_weights_are_named(copy, part, name):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["stranger"] = tensors.pop(name)

    with pytest.raises(BundleError, match=name) as caught:
        load_all(edit_weights(copy, part, rename))

    assert "stranger" in caught.value.message


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("dnabert_s", "encoder.layer.0.mlp.wo.weight"),
        ("esm2", "encoder.layer.0.attention.self.query.weight"),
        ("head", "output_layer.weight"),
    ],
)
def test_silently_wrong_weights_fail_the_golden_check(copy, part, name):
    bundle = edit_weights(copy, part, lambda tensors: tensors.update({name: tensors[name].flip(0).contiguous()}))

    with pytest.raises(BundleError, match="golden frame is off"):
        load_all(bundle)


@pytest.mark.parametrize("part", ["dnabert_s", "esm2"])
def test_a_wrong_configuration_fails_the_golden_check(copy, part):
    edit(copy, lambda s: s[part]["config"].update(num_attention_heads=2))

    with pytest.raises(BundleError, match="golden frame is off"):
        load_all(open_bundle(str(copy)))


@pytest.mark.parametrize("part", ["dnabert_s", "esm2"])
def test_a_configuration_of_another_architecture_is_refused(copy, part):
    edit(copy, lambda s: s[part]["config"].update(hidden_act="relu"))

    with pytest.raises(BundleError, match="hidden_act"):
        load_all(open_bundle(str(copy)))


def test_weights_that_are_no_safetensors_are_refused(copy):
    content = save({"a": torch.zeros(3)})[:20]
    (copy / "head.safetensors").write_bytes(content)
    edit(copy, lambda s: s["head"]["weights"].update(sha256=hashlib.sha256(content).hexdigest()))

    with pytest.raises(BundleError, match=r"head\.safetensors"):
        open_bundle(str(copy)).load_head(CPU)


def test_provenance_names_what_decides_the_numbers():
    bundle = open_bundle("mini")
    spec = bundle.spec

    dna, protein, head = (bundle.provenance(stage, "bfloat16") for stage in ("dnabert_s", "esm2", "head"))

    assert dna["tokenizer_sha256"] == spec.encoder("dnabert_s").files["tokenizer"].sha256
    assert (protein["weights_sha256"], protein["precision"]) == (spec.encoder("esm2").weights.sha256, "bfloat16")
    assert head == {"head_sha256": spec.head.weights.sha256}


@pytest.mark.parametrize("stage", ["dnabert_s", "esm2"])
def test_provenance_changes_with_the_configuration(copy, stage):
    before = open_bundle(str(copy)).provenance(stage)

    edit(copy, lambda s: s[stage]["config"].update(layer_norm_eps=1e-3))

    assert open_bundle(str(copy)).provenance(stage) != before


@pytest.mark.parametrize("part", ["dnabert_s", "esm2"])
def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(copy, part, monkeypatch):
    path = copy / f"{part}.safetensors"
    bundle = open_bundle(str(copy))
    check = Bundle._check_digest

    def replaced_meanwhile(self, ref, file, **how):
        check(self, ref, file, **how)
        if ref.file == path.name:
            shutil.copy(path, copy / "other")
            (copy / "other").replace(path)

    monkeypatch.setattr(Bundle, "_check_digest", replaced_meanwhile)

    with pytest.raises(BundleError, match="changed while it was loaded"):
        bundle.load_encoder(part, CPU)


def test_a_load_goes_by_the_quick_digest_and_verify_by_the_strong_one(copy):
    path = copy / "esm2.safetensors"
    quick = xxh3_128(path.read_bytes()).hexdigest()
    bundle = open_bundle(str(edit(copy, lambda s: s["esm2"]["weights"].update(sha256="0" * 64, xxh3=quick))))

    bundle.load_encoder("esm2", CPU)
    with pytest.raises(BundleError, match="has sha256"):
        bundle.verify()

    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="has xxh3"):
        bundle.load_encoder("esm2", CPU)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("part", ["dnabert_s", "esm2"])
def test_a_loaded_model_no_longer_depends_on_its_file(copy, part, packed, monkeypatch):
    """Weights are mapped while they are laid out; what is used afterwards is a copy."""
    if not packed:
        monkeypatch.setattr("virnuc_dagster.embedding.packed.packing_works", lambda dtype: False)
    bundle = open_bundle(str(copy))
    golden = bundle.spec.golden
    text = golden.nucleotide if part == "dnabert_s" else golden.protein
    encoder = bundle.load_encoder(part, CPU)
    before = embed(encoder, ["f"], [text], token_budget=99)

    with (copy / f"{part}.safetensors").open("r+b") as file:
        file.write(bytes((copy / f"{part}.safetensors").stat().st_size))

    assert torch.equal(embed(encoder, ["f"], [text], token_budget=99), before)


def test_a_network_that_waits_for_its_weights_costs_no_initialisation():
    """Torch imports its compiler for a second to fill a table on the meta device; a bundle must not."""
    code = (
        "import sys, torch; from virnuc_dagster.models.bundle import open_bundle; cpu = torch.device('cpu');"
        "bundle = open_bundle('mini'); bundle.load_encoder('dnabert_s', cpu); bundle.load_encoder('esm2', cpu);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def add_fallback(folder: Path, golden: float | None = None) -> Path:
    """Give a bundle a fallback that calls windows rich in A and T viral."""
    kmers = [f"{a}{b}" for a in "ACGT" for b in "ACGT"]
    weights = np.zeros(feature_count(2))
    weights[kmer_feature(2)[[5 * "ACGT".index(a) + "ACGT".index(b) for a, b in kmers if {a, b} <= set("AT")]]] = 3.0
    content = FallbackModel(2, weights, -1.0).to_bytes()
    (folder / "fallback.safetensors").write_bytes(content)
    ref = {"file": "fallback.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda s: s.update(version="1.1", fallback={"kmer": 2, "weights": ref}, roll_up="mean_logit"))
    return edit(folder, lambda s: s["golden"].update(fallback=golden))


def test_a_bundle_without_a_fallback_has_none(copy):
    bundle = open_bundle(str(edit(copy, lambda s: [s.pop(name, None) for name in ("fallback", "roll_up")])))

    assert (bundle.load_fallback(), bundle.provenance("fallback"), bundle.spec.roll_up) == (None, {}, "mean")


def test_a_fallback_is_loaded_verified_and_part_of_the_provenance(copy):
    bundle = open_bundle(str(add_fallback(copy)))

    at_rich, gc_rich, nothing = bundle.load_fallback().score(["ATTATAATTA", "GCCGCGGCGC", "N"])

    assert (at_rich > 0.8, gc_rich < 0.3, np.isnan(nothing)) == (True, True, True)
    assert bundle.provenance("fallback") == {"fallback_sha256": bundle.spec.fallback.weights.sha256}
    assert "fallback.safetensors" in [ref.file for ref in bundle.spec.files()]


def test_a_damaged_fallback_is_refused(copy):
    path = add_fallback(copy) / "fallback.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    with pytest.raises(BundleError, match=r"fallback\.safetensors has sha256"):
        open_bundle(str(copy)).load_fallback()
    with pytest.raises(BundleError, match=r"fallback\.safetensors"):
        open_bundle(str(copy)).verify()


def test_a_fallback_of_another_shape_is_refused(copy):
    add_fallback(copy)
    edit(copy, lambda s: s["fallback"].update(kmer=3))

    with pytest.raises(BundleError, match="a model on 3-mers is"):
        open_bundle(str(copy)).load_fallback()


def test_a_silently_wrong_fallback_fails_the_golden_check(copy):
    bundle = open_bundle(str(add_fallback(copy, golden=0.123)))

    with pytest.raises(BundleError, match="scores the golden frame"):
        bundle.load_fallback()
