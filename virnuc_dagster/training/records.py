"""Labelled records: a sequence file joined with the table that says what each record is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.labels import check_labels, read_labels
from virnuc_dagster.sequences.reader import read_sequences

SPLITS = ("train", "val")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled sequence.

    Attributes:
        id: As in the sequence file.
        is_virus: Its class.
        category: What kind of virus or other, for balance and for metrics.
        group: What must not be on both sides of a split: a family, species, genome.
        split: `train`, or `val` for records that are scored once, at the end.
        sequence: Upper-case letters.
    """

    id: str
    is_virus: bool
    category: str
    group: str
    split: str
    sequence: bytes

    @property
    def kind(self) -> str:
        """Label and category, as figures are reported: `virus/phage`."""
        return f"{'virus' if self.is_virus else 'other'}/{self.category}"


def read_records(fasta: Path, table: Path, *, name: str = "", allow_missing_end_mark: bool = False) -> list[Record]:
    """Read and join both files.

    Args:
        fasta: Sequences, any format that `predict` reads.
        table: Labels (see `sequences.labels`); a record without a split is of `train`.
        name: What errors call the sequence file, if not by its path.
        allow_missing_end_mark: Read a BGZF file without its end mark, which is probably truncated.

    Returns:
        Records in the order of the sequence file.

    Raises:
        InputError: A file cannot be used, ids do not match one to one, or a group is in both splits (field `ids` or
            `groups`).
    """
    labels = {label.id: label for label in read_labels(table)}
    read = read_sequences(fasta, name=name or str(fasta), allow_missing_end_mark=allow_missing_end_mark)
    sequences = {record.id: record.sequence for record in read}
    check_labels(table, list(labels.values()), sequences)
    if unlabelled := [name for name in sequences if name not in labels]:
        raise _error(table, "ids", unlabelled, "have no label", "label every record, or take it out of the file")
    if odd := [label.id for label in labels.values() if label.split not in ("", *SPLITS)]:
        raise _error(table, "ids", odd, "are of an unknown split", f"a split is {' or '.join(SPLITS)}, or empty")
    records = [
        Record(name, label.is_virus, label.category, label.group, label.split or "train", sequences[name])
        for name in sequences
        for label in (labels[name],)
    ]
    _check_sides(table, records)
    return records


def _check_sides(table: Path, records: Sequence[Record]) -> None:
    train, val = ({record.group for record in records if record.split == split} for split in SPLITS)
    if shared := sorted(train & val):
        hint = "put each group (family, species, genome) on one side, or the figures say nothing about new genomes"
        raise _error(table, "groups", shared, "are on both sides of the split", hint)


def _error(table: Path, what: str, names: Sequence[str], problem: str, hint: str) -> InputError:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return InputError(
        f"{table}: {len(names):,} {what} {problem}: {shown}", hint=hint, path=str(table), **{what: list(names)}
    )
