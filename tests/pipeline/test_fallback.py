"""Windows without an open frame, from the command to the result files, with a fallback and without."""

import json
import random
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from virnuc_dagster.classify.composition import feature_count
from virnuc_dagster.classify.fallback import FallbackModel
from virnuc_dagster.cli import main
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.report import paths

OPEN, CLOSED = "GCTGCCGAAGCC" * 60, "TAGCTAACTAATTAGTTAGC" * 40  # every frame of the second meets a stop
BASES = random.Random(4)
RANDOM = "".join(BASES.choices("ACGT", k=3_000))
RECORDS = {"open": OPEN, "closed": CLOSED, "mixed": OPEN + CLOSED + RANDOM, "short": "AC", "unknown": "N" * 700}
RECORDS |= {"masked": "GCTNNNNNN" * 80}  # its only open frame is known by a third
ORIGINAL = (paths.FRAMES_ORIGINAL, paths.WINDOWS_ORIGINAL)


def edited(folder: Path, fallback: FallbackModel | None) -> Path:
    """A copy of the packaged bundle with this fallback, or without any."""
    shutil.copytree(open_bundle("mini").folder, folder)
    spec = json.loads((folder / "bundle.json").read_text()) | {"version": "1.1", "fallback": None, "roll_up": "mean"}
    spec["golden"].pop("fallback", None)
    if fallback:
        content = fallback.to_bytes()
        (folder / "extra.safetensors").write_bytes(content)
        ref = {"file": "extra.safetensors", "sha256": sha256(content).hexdigest()}
        spec["fallback"] = {"kmer": fallback.kmer, "weights": ref}
    (folder / "bundle.json").write_text(json.dumps(spec))
    return folder


def predict(tmp_path: Path, bundle: Path, *arguments: str, home: str = "home", code: int = 0) -> Path:
    source = tmp_path / "input.fasta"
    source.write_text("".join(f">{name}\n{text}\n" for name, text in RECORDS.items()))
    output = tmp_path / f"{bundle.name}-{home}"
    call = ["predict", source, "--output", output, "--home", tmp_path / home, "--bundle", bundle, "--shard-size", "20"]
    assert main([*map(str, call), "--threads", "1", "--quiet", *arguments]) == code
    return output


def rows(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().split("\n")[:-1]
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Path]:
    """Output folders by bundle, one home for both; `again` is the same in a home of its own."""
    tmp_path = tmp_path_factory.mktemp("fallback")
    model = FallbackModel(4, np.random.default_rng(0).normal(0, 0.5, feature_count(4)), 0.2)
    without, with_one = edited(tmp_path / "without", None), edited(tmp_path / "with", model)
    return {
        "without": predict(tmp_path, without),
        "with": predict(tmp_path, with_one),
        "again": predict(tmp_path, with_one, home="another"),
    }


def test_windows_without_a_frame_take_the_fallback_score(results):
    windows = rows(results["with"] / paths.WINDOWS)
    model = open_bundle(str(results["with"].parent / "with")).load_fallback()

    fallback = [w for w in windows if w["source"] == "fallback"]
    texts = [RECORDS[w["sequence_id"]][int(w["start"]) : int(w["end"])] for w in fallback]
    assert len(fallback) > 5
    assert {(w["sequence_id"], w["source"]) for w in windows if w["source"] not in ("frame", "fallback")} == {
        ("unknown", "none")
    }
    assert [float(w["score_virus"]) for w in fallback] == pytest.approx(model.score(texts).tolist(), abs=1e-6)
    assert all(w["frames"] == "0" and (w["is_virus"] == "True") == (float(w["score_virus"]) >= 0.5) for w in fallback)


def test_sequences_count_what_was_scored_and_how(results):
    found = {row["sequence_id"]: row for row in rows(results["with"] / paths.SEQUENCES)}
    summary = json.loads((results["with"] / paths.SUMMARY).read_text())

    assert (found["closed"]["scored_windows"], found["closed"]["fallback_windows"]) == ("0", found["closed"]["windows"])
    assert found["closed"]["verdict"] in ("viral", "uncertain", "non-viral")
    assert (found["unknown"]["verdict"], found["unknown"]["score"]) == ("no open frame", "NA")
    assert found["short"]["verdict"] == "too short"
    assert summary["fallback_windows"] == sum(int(row["fallback_windows"]) for row in found.values()) > 0
    assert summary["scored_windows"] == sum(int(row["scored_windows"]) for row in found.values())


def test_a_sequence_of_which_too_little_is_known_is_uncertain_and_the_originals_files_have_it(results):
    found = {row["sequence_id"]: row for row in rows(results["with"] / paths.SEQUENCES)}
    masked = found["masked"]
    summary = json.loads((results["with"] / paths.SUMMARY).read_text())
    windows = [w for w in rows(results["with"] / paths.WINDOWS) if w["sequence_id"] == "masked"]
    original = (results["with"] / paths.FRAMES_ORIGINAL).read_text()

    assert (masked["verdict"], masked["reason"], masked["score"]) == ("uncertain", "too_little_known", "NA")
    assert (masked["scored_windows"], masked["fallback_windows"], masked["windows"]) == ("0", "0", "2")
    assert float(masked["unknown_bases"]) == pytest.approx(2 / 3)
    assert [(w["source"], w["counted"]) for w in windows] == [("frame", "False")] * 2
    assert {float(w["known"]) for w in windows} <= {0.3313, 0.3333, 0.3373}
    assert (original.count("\nmasked_chunk_1"), original.count("\nmasked_chunk_2")) == (2, 2)
    assert (summary["uncertain_reasons"]["too_little_known"], summary["uncounted_windows"]) == (1, 2)
    assert summary["unknown_bases"] == 480 + 700
    unknown = {name for name, row in found.items() if row["unknown_bases"] == "1.0"}
    assert {row["verdict"] for name, row in found.items() if name in unknown} == {"no open frame"}
    uncalled = unknown | {name for name, row in found.items() if row["verdict"] == "uncertain"}
    assert {name for name, row in found.items() if row["reason"] != "NA"} == uncalled


def test_a_sequence_score_is_the_mean_of_both_kinds_of_windows(results):
    windows = [w for w in rows(results["with"] / paths.WINDOWS) if w["sequence_id"] == "mixed"]
    (mixed,) = [row for row in rows(results["with"] / paths.SEQUENCES) if row["sequence_id"] == "mixed"]

    scores = [float(w["score_virus"]) / (float(w["score_virus"]) + float(w["score_others"])) for w in windows]

    assert {w["source"] for w in windows} == {"frame", "fallback"}
    assert float(mixed["score"]) == pytest.approx(np.mean(scores), abs=1e-5)


def test_the_files_of_the_original_are_the_same_with_and_without_a_fallback(results):
    for name in ORIGINAL:
        assert (results["with"] / name).read_bytes() == (results["without"] / name).read_bytes()
    without = rows(results["without"] / paths.WINDOWS)
    assert {w["source"] for w in without} == {"frame", "none"}
    assert {row["fallback_windows"] for row in rows(results["without"] / paths.SEQUENCES)} == {"0"}


def test_another_fallback_computes_nothing_again_and_is_named(results):
    run = json.loads((results["with"] / paths.RUN).read_text())
    provenance = json.loads((results["with"] / paths.PROVENANCE).read_text())
    digest = open_bundle(str(results["with"].parent / "with")).spec.fallback.weights.sha256

    assert set(run["computed_shards"].values()) == {0}
    assert provenance["fallback_sha256"] == digest
    assert "fallback_sha256" not in json.loads((results["without"] / paths.PROVENANCE).read_text())
    assert "fallback" in (results["with"] / paths.HTML).read_text()


def test_every_call_gives_the_same_bytes(results):
    for name in paths.REPRODUCIBLE:
        assert (results["with"] / name).read_bytes() == (results["again"] / name).read_bytes(), name


def test_a_damaged_fallback_stops_the_call_before_anything_is_computed(tmp_path, capsys):
    bundle = edited(tmp_path / "damaged", FallbackModel(2, np.zeros(feature_count(2)), 0.0))
    with (bundle / "extra.safetensors").open("ab") as file:
        file.write(b"\0")

    predict(tmp_path, bundle, code=1)

    assert "extra.safetensors has sha256" in capsys.readouterr().err
    assert not list((tmp_path / "home").rglob("*.done"))
