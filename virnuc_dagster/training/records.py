"""Labelled records: a sequence file and the table that says what each record is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.reader import read_sequences

COLUMNS = ("id", "label", "category", "group")
LABELS = ("virus", "other")
SPLITS = ("train", "val")


class LabelsError(InputError):
    """The table of labels cannot be used (fields: `path`, `ids` or `line`)."""


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


def read_records(fasta: Path, labels: Path) -> list[Record]:
    """Read and join both files.

    Args:
        fasta: Sequences, any format that `predict` reads.
        labels: Tab-separated: `id`, `label` (virus|other), `category`, `group`, and optionally `split` (train|val).
            Other columns are ignored.

    Returns:
        Records in the order of the sequence file.

    Raises:
        InputError: A file cannot be read.
        LabelsError: Ids do not match one to one, a value is unknown, or a group is in both splits.
    """
    rows = _read_table(labels)
    sequences = {record.id: record.sequence for record in read_sequences(fasta, name=fasta.name)}
    _check_ids(labels, rows, sequences)
    records = [
        Record(name, row["label"] == "virus", row["category"], row["group"], row.get("split") or "train", sequence)
        for name, sequence in sequences.items()
        for row in (rows[name],)
    ]
    _check_split(labels, records)
    return records


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows by id, values checked."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t", restval="")
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise LabelsError(
                    f"{path.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
                    hint=f"the first line names tab-separated columns: {', '.join(COLUMNS)}, optionally split",
                    path=str(path),
                )
            rows: dict[str, dict[str, str]] = {}
            for row in table:
                _check_row(path, table.line_num, row, rows)
                rows[row["id"]] = row
    except OSError as error:
        raise LabelsError(f"cannot read {path}: {error.strerror}", hint="check the path", path=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path} is no table of text: {error}", hint="give a TSV file", path=str(path)) from error
    return rows


def _check_row(path: Path, line: int, row: dict[str, str], rows: dict[str, dict[str, str]]) -> None:
    problem = None
    if row["id"] in rows:
        problem = f"the id {row['id']!r} a second time"
    elif empty := [name for name in COLUMNS if not row[name]]:
        problem = f"nothing under {', '.join(empty)}"
    elif row["label"] not in LABELS:
        problem = f"the label {row['label']!r}"
    elif row.get("split") and row["split"] not in SPLITS:
        problem = f"the split {row['split']!r}"
    if problem:
        raise LabelsError(
            f"{path.name}, line {line}: {problem}",
            hint="one line a record; label is virus or other, split is train or val, category and group are free text",
            path=str(path),
            line=line,
        )


def _check_ids(path: Path, rows: dict[str, dict[str, str]], sequences: dict[str, bytes]) -> None:
    for problem, ids in (
        (f"not in {path.name}", [name for name in sequences if name not in rows]),
        ("not in the sequence file", [name for name in rows if name not in sequences]),
    ):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise LabelsError(
                f"{len(ids):,} id{'s' * (len(ids) > 1)} {problem}: {shown}",
                hint="each record needs exactly one line; an id is the header up to the first white space",
                path=str(path),
                ids=ids,
            )


def _check_split(path: Path, records: Sequence[Record]) -> None:
    sides = {split: {record.group for record in records if record.split == split} for split in SPLITS}
    if shared := sorted(sides["train"] & sides["val"]):
        raise LabelsError(
            f"{len(shared):,} group{'s' * (len(shared) > 1)} on both sides of the split: {', '.join(shared[:5])}",
            hint="a group (family, species, genome) belongs to one side, or the figures say nothing about new genomes",
            path=str(path),
            groups=shared,
        )
