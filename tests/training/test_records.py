from pathlib import Path

import pytest
from kits.training import records, write

from virnuc_dagster.errors import InputError
from virnuc_dagster.training.data import Data
from virnuc_dagster.training.records import read_records


def changed(labels: Path, old: str, new: str) -> Path:
    text = labels.read_text()
    assert old in text
    labels.write_text(text.replace(old, new, 1))
    return labels


def test_records_are_joined_in_the_order_of_the_sequences(tmp_path):
    made = records()
    fasta, labels = write(tmp_path, made)
    lines = labels.read_text().splitlines(keepends=True)
    labels.write_text(lines[0] + "".join(reversed(lines[1:])))

    assert read_records(fasta, labels) == made


def test_without_a_split_everything_is_for_training(tmp_path):
    fasta, labels = write(tmp_path, records())
    labels.write_text("\n".join(line.rsplit("\t", 1)[0] for line in labels.read_text().splitlines()))

    assert {record.split for record in read_records(fasta, labels)} == {"train"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v000\tvirus", "v00x\tvirus", r"1 ids are not in the sequence file: v00x"),
        ("v000\tvirus", "v001\tvirus", r"1 ids have more than one row: v001"),
        ("v000\tvirus\tc0\tv00\ttrain\n", "", r"1 ids have no label: v000"),
        ("v000\tvirus", "v000\tviral", r"line 2, id 'v000': the label is 'viral'"),
        ("v000\tvirus\tc0\tv00\ttrain", "v000\tvirus\tc0\tv00\ttest", r"1 ids are of an unknown split: v000"),
        ("v000\tvirus\tc0\tv00\ttrain", "v000\tvirus\tc0\tv03\ttrain", r"1 groups are on both sides of the split: v03"),
        ("v000\tvirus\tc0\tv00", "v000\tvirus\tc0\t", r"no group"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name(tmp_path, old, new, message):
    fasta, labels = write(tmp_path, records())

    with pytest.raises(InputError, match=message) as caught:
        read_records(fasta, changed(labels, old, new))

    assert caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda r: r.is_virus, "no training record is labelled other"),
        (lambda r: not r.is_virus, "no training record is labelled virus"),
        (lambda r: r.is_virus or r.group == "o00", "label other: 1 group, none of which can be kept aside"),
        (lambda r: r.split == "val", "no training record is labelled virus"),
    ],
)
def test_too_few_classes_and_groups_are_refused(keep, message):
    with pytest.raises(InputError, match=message) as caught:
        Data.of([record for record in records() if keep(record)], 1, 500)

    assert "at least two groups" in caught.value.hint


def test_records_shorter_than_a_window_are_refused():
    with pytest.raises(InputError, match="as long as a window of 5000 bases"):
        Data.of(records(), 1, 5000)
