"""`virnuc evaluate`, from labelled records to figures, and what it says of labels that cannot be used."""

import hashlib
import json
import os
import random
import threading
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from virnuc_dagster.cli import main

OPEN = "GCTGCCGAAGCC"  # a repeat without stops
SECTIONS = ("open_windows", "no_frame_windows", "all_windows", "sequences")


def record(number: int) -> tuple[str, str]:
    bases = random.Random(number)
    return f"r{number}", OPEN * (40 * (number % 3)) + "".join(bases.choices("ACGT", k=900))


RECORDS = dict(record(number) for number in range(10))
LABELS = {
    name: ("virus" if i % 2 else "other", ("phage", "plant")[i % 2], f"g{i // 2}", ("train", "val")[i >= 4])
    for i, name in enumerate(RECORDS)
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "genomes.fasta").write_text("".join(f">{name} of it\n{text}\n" for name, text in RECORDS.items()))
    return write_labels(folder)


def write_labels(folder, labels=LABELS):
    lines = ["\t".join(("id", "label", "category", "group", "split"))]
    lines += ["\t".join((name, *values)) for name, values in labels.items()]
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    return folder


def evaluate(data, capsys, *arguments, home="home", code=0):
    capsys.readouterr()
    call = ["evaluate", data / "genomes.fasta", data / "labels.tsv", "--home", data / home, "--threads", "1"]
    assert main([*map(str, call), *map(str, arguments)]) == code
    return capsys.readouterr()


def columns(path):
    header, *lines = path.read_text().split("\n")[:-1]
    return {
        name: list(column)
        for name, column in zip(header.split("\t"), zip(*(x.split("\t") for x in lines), strict=True), strict=True)
    }


def test_figures_are_those_of_the_result_files_and_nothing_is_computed_twice(data, capsys):
    out = evaluate(data, capsys, "--split", "val", "--floor-train", "train", "--output", data / "out", "--json").out
    found = json.loads(out, parse_constant=pytest.fail)  # strict: no NaN

    windows = columns(data / "out" / "predictions" / "windows.tsv")
    truth = np.array([LABELS[name][0] == "virus" for name in windows["sequence_id"]])
    open_ = np.array(windows["source"]) == "frame"
    virus, others = (
        np.array([np.nan if v == "NA" else float(v) for v in windows[f"score_{side}"]]) for side in ("virus", "others")
    )
    score = (virus / (virus + others))[open_]
    assert found["open_windows"]["n"] == open_.sum() > 0
    assert found["open_windows"]["coverage"] == pytest.approx(open_.mean())
    assert found["open_windows"]["auroc"] == pytest.approx(roc_auc_score(truth[open_], score))
    assert found["open_windows"]["accuracy"] == pytest.approx(((score >= 0.5) == truth[open_]).mean())
    assert (found["records"], found["records_left_out"]) == (6, 4)
    for name in SECTIONS:
        assert {"n", "accuracy", "balanced_accuracy", "auroc", "by_category", "floor"} <= found[name].keys()
        assert sum(entry["n"] for entry in found[name]["by_category"].values()) == found[name]["n"]
    assert found["sequences_without_fallback"]["coverage"] == len(set(np.array(windows["sequence_id"])[open_])) / 6
    assert found["all_windows"]["floor"]["n"] == len(truth)  # the floor scores every window
    assert sum(sum(c.values()) for c in found["sequences"]["verdicts"]["by_category"].values()) == 6
    assert json.loads((data / "out" / "evaluation.json").read_text()) == found

    again = evaluate(data, capsys, "--split", "val", "--floor-train", "train", "--json")

    assert json.loads(again.out) == found
    assert [line.split()[-4:] for line in again.err.splitlines() if "computed" in line] == [
        ["0", "computed,", "1", "reused"]
    ] * 3


def test_people_get_tables_and_drawings(data, capsys):
    out = evaluate(data, capsys, "--split", "val", "--output", data / "drawn").out

    assert all(text in out for text in ("open windows", "95 % interval", "plant", "are called viral or non-viral"))
    for name in ("roc", "reliability", "categories"):
        root = ElementTree.parse(data / "drawn" / f"{name}.svg").getroot()
        assert "phage" in "".join(root.itertext()) or name != "categories"
        assert len(root.findall(".//{*}text")) > 5


def test_labels_and_records_may_be_pipes_and_the_figures_say_what_they_are_of(data, tmp_path, capsys):
    given = {"genomes.fasta": (data / "genomes.fasta").read_bytes(), "labels.tsv": (data / "labels.tsv").read_bytes()}
    for name in given:
        os.mkfifo(tmp_path / name)
    for name, text in given.items():
        threading.Thread(target=(tmp_path / name).write_bytes, args=(text,), daemon=True).start()

    out = evaluate(tmp_path, capsys, "--split", "val", "--floor-train", "train", "--json", home=data / "home").out

    found = json.loads(out)
    assert found["all_windows"]["n"] > 0
    for key, name in {"input": "genomes.fasta", "labels": "labels.tsv"}.items():
        sha256 = hashlib.sha256(given[name]).hexdigest()
        assert found[key] == {"path": str(tmp_path / name), "bytes": len(given[name]), "sha256": sha256}


@pytest.mark.parametrize("name", ["labels.tsv", "genomes.fasta"])
def test_neither_labels_nor_records_are_replaced(data, tmp_path, capsys, name):
    write_labels(tmp_path)
    (tmp_path / "genomes.fasta").write_text((data / "genomes.fasta").read_text())
    taken = {"labels.tsv": "evaluation.json", "genomes.fasta": "predictions/viral.fasta"}[name]
    (tmp_path / "out" / "predictions").mkdir(parents=True)
    (tmp_path / "out" / taken).hardlink_to(tmp_path / name)

    err = evaluate(tmp_path, capsys, "--output", tmp_path / "out", "--overwrite", code=2).err

    assert f"it is the input {tmp_path / name}" in err
    assert not (tmp_path / "home").exists()


def test_a_foreign_figure_is_not_replaced_before_it_is_asked_for(data, tmp_path, capsys):
    (tmp_path / "roc.svg").write_text("mine")

    err = evaluate(data, capsys, "--output", tmp_path, code=2).err

    assert "--overwrite" in err
    assert (tmp_path / "roc.svg").read_text() == "mine"


def test_one_class_alone_leaves_areas_undefined_and_the_json_strict(data, tmp_path, capsys):
    only = write_labels(tmp_path, {name: values for name, values in LABELS.items() if values[0] == "other"})
    (only / "genomes.fasta").write_text((data / "genomes.fasta").read_text())

    found = json.loads(evaluate(only, capsys, "--json").out, parse_constant=pytest.fail)

    assert found["all_windows"]["auroc"] is None
    assert found["all_windows"]["sensitivity"] is None
    assert 0 <= found["all_windows"]["specificity"] <= 1
    assert found["all_windows"]["roc"] == []


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (LABELS | {"zz": LABELS["r0"]}, (), "1 ids are not in the sequence file: zz"),
        (LABELS | {"r3": ("phage", *LABELS["r3"][1:])}, (), "id 'r3': the label is 'phage'"),
        (LABELS, ("--split", "test"), "no rows of split 'test'"),
        (LABELS, ("--floor-train", "dev"), "no rows of split 'dev'"),
    ],
)
def test_labels_that_cannot_be_used_are_named_before_anything_is_computed(
    data, tmp_path, capsys, labels, arguments, message
):
    (tmp_path / "genomes.fasta").write_text((data / "genomes.fasta").read_text())

    err = evaluate(write_labels(tmp_path, labels), capsys, *arguments, code=1).err

    assert message in err
    assert "->" in err
    assert not (tmp_path / "home").exists()
