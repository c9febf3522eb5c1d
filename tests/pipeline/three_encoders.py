"""The whole pipeline with a third encoder; `test_third_encoder.py` runs this file, with a row more in the table."""

import csv
import json
from pathlib import Path

import dagster as dg
import pytest
from kits.automation import Platform, sequences
from kits.toy_encoder import WIDTH, bundle_of_three
from kits.training import records, write
from safetensors import safe_open

from virnuc_dagster.checkpoints import open_store
from virnuc_dagster.cli import main
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.report import paths
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.upkeep.audit import audit_store

FIRST, TOY, SCORES = ("dnabert_s_embeddings", "esm2_embeddings"), "toy_embeddings", "predictions"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for seed in (1, 2):
        bundle_of_three(folder / f"three-{seed}", seed)
    (folder / "in.fa").write_text(sequences(5, number=6))
    return folder


def predict(root: Path, bundle: str, name: str) -> tuple[dict, list[str]]:
    """What `run.json` says, and the score of each frame."""
    places = ["--home", str(root / "home"), "--output", str(root / name), "--shard-size", "4", "--threads", "1"]
    assert main(["predict", str(root / "in.fa"), *places, "--bundle", bundle, "--quiet"]) == 0
    with (root / name / paths.FRAMES).open() as file:
        scores = [row["score_virus"] for row in csv.DictReader(file, delimiter="\t")]
    return json.loads((root / name / paths.RUN).read_text()), scores


@pytest.fixture(scope="module")
def first(root) -> tuple[dict, list[str]]:
    return predict(root, str(root / "three-1"), "first")


def test_the_bundle_is_of_format_2_and_lists_its_encoders(root):
    described = json.loads((root / "three-1" / "bundle.json").read_text())

    assert described["version"] == "2.0"
    assert [encoder["part"] for encoder in described["encoders"]] == ["dnabert_s", "esm2", "toy"]
    assert open_bundle(str(root / "three-1")).spec.encoder("toy").dim == WIDTH


def test_every_stage_holds_every_frame_once(root, first):
    run, scores = first
    store = open_store(root / "home" / "store")
    shards = sorted({key.shard for key in store.list("frames")})

    assert len(shards) > 1
    assert run["computed_shards"] == dict.fromkeys((*FIRST, TOY, SCORES), len(shards))
    for shard in shards:
        frames = store.load(shard_checkpoint("frames", shard))["ids"]
        for stage, width in zip((*FIRST, TOY, SCORES), (128, 64, WIDTH, 2), strict=True):
            found = store.load(shard_checkpoint(stage, shard))
            assert (found["ids"], found["data"].shape) == (frames, (len(frames), width))
        inputs = store.record(shard_checkpoint(SCORES, shard)).provenance["inputs"]
        assert [*inputs] == [*FIRST, TOY]
    assert len(scores) == sum(store.record(shard_checkpoint("frames", shard)).rows for shard in shards)


def test_another_third_encoder_is_the_only_one_computed_again_and_changes_every_score(root, first):
    run, scores = predict(root, str(root / "three-2"), "second")

    shards = run["computed_shards"][TOY]
    assert shards > 1
    assert run["computed_shards"] == dict.fromkeys(FIRST, 0) | {TOY: shards, SCORES: shards}
    assert len(scores) == len(first[1])
    assert not [one for one, other in zip(first[1], scores, strict=True) if one == other]
    assert predict(root, str(root / "three-1"), "again")[1] == first[1]


def test_a_bundle_of_two_encoders_leaves_the_third_out(root, first):
    run, scores = predict(root, "mini", "two")

    assert run["computed_shards"][FIRST[0]] == run["computed_shards"][FIRST[1]] == 0
    assert run["computed_shards"][SCORES] > 1
    assert TOY not in run["computed_shards"]
    assert scores != first[1]
    assert "Toy" not in (root / "two" / paths.PROVENANCE).read_text()


def test_the_report_names_the_encoder_and_its_checkpoints(root, first):
    made = json.loads((root / "first" / paths.PROVENANCE).read_text())

    toys = [facts for key, facts in made["checkpoints"].items() if key.startswith(f"{TOY}/")]
    assert toys
    assert {facts["model_id"] for facts in toys} == {"toy"}
    assert "Toy" in (root / "first" / paths.HTML).read_text()


def test_it_is_exported_audited_planned_and_shown(root, first, capsys):
    store = open_store(root / "home" / "store")
    frames = sum(store.record(key).rows for key in store.list("frames"))
    home = ["--home", str(root / "home")]
    target = root / "toy.safetensors"
    (batch,) = {key.batch for key in store.list("frames")}

    assert main(["export", batch, "--stage", TOY, "--format", "safetensors", "--output", str(target), *home]) == 0
    with safe_open(target, "np") as file:
        assert {file.get_tensor(name).shape for name in file.keys()} >= {(frames, WIDTH)}  # noqa: SIM118 - no mapping
    audit = audit_store(store)
    assert audit.passed
    assert audit.stages[TOY].shards == audit.stages[TOY].ok == len(store.list("frames"))
    capsys.readouterr()
    bundle = ["--bundle", str(root / "three-1")]
    assert main(["plan", str(root / "in.fa"), "--calibrate", "--json", *bundle, *home]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["bytes"][TOY] > frames * WIDTH * 4
    assert plan["time"]["encoder_seconds"].keys() == {"dnabert_s", "esm2", "toy"}
    assert main(["batches", "show", batch, "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["toy_shards"] == len(store.list("frames"))


@pytest.fixture(scope="module")
def platforms(root, tmp_path_factory) -> dict[str, Platform]:
    """Bundle -> a platform with it, on which a dropped file has become a report."""
    found = {}
    for name, bundle in (("three", str(root / "three-1")), ("two", "mini")):
        found[name] = Platform(tmp_path_factory.mktemp(name), {"bundle": bundle})
        found[name].drop("in.fa", sequences(3, number=2))
        found[name].settle()
    return found


def run(platform: Platform, shard: str, assets: set[str], checks: set[str]) -> dg.ExecuteInProcessResult:
    """Materialize assets of a shard, or run checks of its predictions, as by hand."""
    selection = {dg.AssetCheckKey(dg.AssetKey(SCORES), name) for name in checks}
    job = platform.definitions.resolve_job_def("embed_and_score_shards").get_subset(
        asset_selection=set(map(dg.AssetKey, assets)), asset_check_selection=selection
    )
    return job.execute_in_process(instance=platform.instance, partition_key=shard, raise_on_error=False)


@pytest.mark.parametrize(("name", "used"), [("three", [*FIRST, TOY]), ("two", [*FIRST])])
def test_a_dropped_file_becomes_a_report_with_all_checks_green(platforms, name, used):
    platform = platforms[name]

    (batch,) = {key.batch for key in platform.store.list("frames")}
    shards = {key.shard for key in platform.store.list("frames")}
    for stage in used:
        assert platform.statuses(stage, "health") == dict.fromkeys(shards, "SUCCEEDED")
    assert platform.statuses(SCORES, "alignment") == dict.fromkeys(shards, "SUCCEEDED")
    assert platform.instance.get_materialized_partitions(dg.AssetKey(TOY)) == (shards if TOY in used else set())
    assert json.loads((platform.settings.reports / batch / paths.SUMMARY).read_text())["complete"]
    assert platform.audit().success


def test_an_embedding_of_another_frame_turns_the_check_of_the_third_red(platforms):
    platform = platforms["three"]
    key = platform.store.list(TOY)[0]
    payload = platform.store.load(key)
    platform.store.save(key, payload | {"ids": ["of-no-frame", *payload["ids"][1:]]}, {})

    run(platform, key.shard, set(), {"alignment"})

    assert platform.statuses(SCORES, "alignment")[key.shard] == "FAILED"


def test_an_encoder_that_the_bundle_lacks_says_so_when_materialized_by_hand(platforms):
    platform = platforms["two"]

    done = run(platform, platform.store.list("frames")[0].shard, {TOY}, set())

    (failure,) = done.filter_events(lambda event: event.is_step_failure)
    assert "bundle mini has no encoder toy" in str(failure.step_failure_data.error)


def test_a_head_is_trained_on_all_three(root, tmp_path):
    fasta, labels = write(tmp_path, records(groups=3))
    more = ["--encoders", str(root / "three-1"), "--home", str(tmp_path / "home"), "--steps", "5", "--quiet"]

    assert main(["train", str(fasta), str(labels), "--output", str(tmp_path / "made"), *more]) == 0

    made, of = open_bundle(str(tmp_path / "made")).spec, open_bundle(str(root / "three-1")).spec
    assert (made.encoders, made.head.features, made.version) == (of.encoders, 192 + WIDTH, "2.0")
