"""What `bundle.json` may say, in both formats, and what is refused with which reason."""

import json

import pytest
from kits.bundles import edit, load_all

from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.models.making import write_spec
from virnuc_dagster.models.spec import FIRST_VERSION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version="3.0"), "newer than this program reads"),
        (lambda s: s.update(format="other"), "format"),
        (lambda s: s.pop("thresholds"), "thresholds: Field required"),
        (lambda s: s["thresholds"].update(viral=0.1, non_viral=0.9), "non_viral must be below viral"),
        (lambda s: s["head"].update(features=7), "the head takes 7 features"),
        (lambda s: s["esm2"]["weights"].update(sha256="abc"), "esm2.weights.sha256"),
        (lambda s: s["golden"]["esm2"].pop(), "golden vectors"),
        (lambda s: s.pop("esm2"), "lacks esm2"),
        (lambda s: s["dnabert_s"].pop("tokenizer"), "dnabert_s lacks tokenizer"),
        (lambda s: s.update(roll_up="median"), "knows no roll-up 'median'.*upgrade"),
        (lambda s: s.update(fallback={"kmer": 6}), r"fallback\.weights: Field required"),
        (lambda s: s.update(fallback={"kmer": 60, "weights": s["head"]["weights"]}), r"fallback\.kmer"),
    ],
)
def test_a_wrong_description_is_refused_with_the_reason(copy, change, message):
    with pytest.raises(BundleError, match=message):
        open_bundle(str(edit(copy, change)))


def listed(spec: dict) -> None:
    """Say the same in the words of format 2."""
    entries = {part: spec.pop(part) for part in ("dnabert_s", "esm2")}
    spec["encoders"] = [{"part": part, **entry} for part, entry in entries.items()]
    spec["encoders"][0]["files"] = {"tokenizer": spec["encoders"][0].pop("tokenizer")}
    spec["golden"]["vectors"] = {part: spec["golden"].pop(part) for part in entries}
    spec["version"] = "2.0"


def test_both_formats_are_one_bundle_and_the_first_pair_is_written_in_the_older(copy):
    text = (copy / "bundle.json").read_text()
    old = open_bundle("mini")
    new = open_bundle(str(edit(copy, listed)))

    assert new.spec.model_dump(exclude={"version"}) == old.spec.model_dump(exclude={"version"})
    assert [new.provenance(part) for part in ("dnabert_s", "esm2")] == [
        old.provenance(p) for p in ("dnabert_s", "esm2")
    ]
    load_all(new)
    write_spec(copy, json.loads((copy / "bundle.json").read_text()))
    assert json.loads((copy / "bundle.json").read_text()) == json.loads(text) | {"version": FIRST_VERSION}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["encoders"].append(s["encoders"][0]), "each once"),
        (lambda s: s["encoders"].clear(), "one or more encoders"),
        (lambda s: s["encoders"][1].update(part="esm3"), "knows no encoder 'esm3', only .*upgrade it"),
        (lambda s: s["encoders"][0]["files"].clear(), "dnabert_s lacks tokenizer"),
        (lambda s: s["encoders"][1].update(weights=1), r"encoders\.1\.weights"),
        (lambda s: s["golden"]["vectors"].pop("esm2"), "golden vectors"),
    ],
)
def test_a_list_of_encoders_that_cannot_work_is_refused(copy, change, message):
    edit(copy, listed)

    with pytest.raises(BundleError, match=message):
        open_bundle(str(edit(copy, change)))


def test_a_description_in_words_to_come_is_said_to_be_newer(copy):
    (copy / "bundle.json").write_text('{"format": "virnuc-bundle", "version": "3.1", "parts": []}')

    with pytest.raises(BundleError, match=r"version 3\.1 is newer than this program reads \(2\.x\); upgrade it"):
        open_bundle(str(copy))


def test_a_newer_minor_version_may_say_more(copy):
    edit(copy, lambda s: s.update(version="1.9", second_opinion={"kind": "kmer"}))

    assert open_bundle(str(copy)).spec.version == "1.9"


def test_a_description_that_is_no_json_is_refused(copy):
    (copy / "bundle.json").write_bytes(b"{\xff")

    with pytest.raises(BundleError, match="not a usable bundle description"):
        open_bundle(str(copy))


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [("known_share", None, 0.5), ("known_share", 0.7, 0.7), ("known_bases", None, 100), ("known_bases", 60, 60)],
)
def test_a_bundle_may_say_how_much_must_be_known(copy, name, given, wanted):
    edit(copy, lambda s: s["thresholds"].pop(name, None))
    edit(copy, lambda s: s["thresholds"].update({name: given} if given else {}))

    opened = open_bundle(str(copy))

    assert getattr(opened.spec.thresholds, name) == wanted
    assert opened.verdict_provenance()["thresholds"][name] == wanted
