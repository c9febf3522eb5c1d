"""Labels: the table that says what each record of a sequence file is. Read by `train` and `evaluate` alike."""

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.measured import InputFacts, Measured

COLUMNS = ("id", "label", "category", "group")
_LABELS = {"virus": True, "other": False}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one record.

    Attributes:
        id: Id of its sequence.
        is_virus: Its label.
        category: What kind of thing it is (`phage`, `bacteria`, ...); metrics are told by category.
        group: What may not be on both sides of a split (family, genus, chromosome, ...).
        split: The part of the data it belongs to; empty if the table has no such column.
    """

    id: str
    is_virus: bool
    category: str
    group: str
    split: str = ""


@dataclass(frozen=True)
class LabelTable:
    """A table of labels, read once: it may be a pipe.

    Attributes:
        path: Where it was read from, as given.
        columns: Names of its columns.
        labels: Its rows, in order.
        facts: Its size and digest.
    """

    path: Path
    columns: tuple[str, ...]
    labels: list[Label]
    facts: InputFacts

    @classmethod
    def read(cls, path: Path) -> "LabelTable":
        """Read a tab-separated table: columns `id`, `label` (virus or other), `category`, `group`, maybe `split`.

        Args:
            path: The table; other columns are ignored.

        Raises:
            InputError: The table cannot be used (fields `path`; `ids` or `line` of what is wrong).
        """
        try:
            with path.open("rb") as source:
                measured = Measured(source)
                text = TextIOWrapper(BufferedReader(measured), encoding="utf-8-sig", newline="")
                table = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
                columns = tuple(table.fieldnames or ())
                _check_columns(path, columns, COLUMNS)
                labels = [_label(path, table.line_num, row) for row in table if any(row.values())]
                facts = measured.facts(str(path))
        except csv.Error as error:
            raise InputError(
                f"{path} is no table: {error}", hint="give a tab-separated table", path=str(path)
            ) from error
        except OSError as error:
            raise InputError(f"cannot read the labels {path}: {error.strerror}", path=str(path)) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text", hint="give a tab-separated table", path=str(path)) from error
        _check_unique(path, labels)
        return cls(path, columns, labels, facts)

    def of(self, split: str | None) -> list[Label]:
        """Select the labels of a split, or all; at least one.

        Raises:
            InputError: There is none, or the table has no column `split`.
        """
        if split is not None:
            _check_columns(self.path, self.columns, (*COLUMNS, "split"))
        chosen = self.labels if split is None else [label for label in self.labels if label.split == split]
        if chosen:
            return chosen
        problem = f"{self.path} has no rows" + ("" if split is None else f" of split {split!r}")
        hint = "below the names of the columns, give a row for each record"
        if split is not None:
            splits = sorted({label.split for label in self.labels} - {""})
            hint = f"splits in it: {', '.join(splits) or 'none'}"
        raise InputError(problem, hint=hint, path=str(self.path))


def read_labels(path: Path, split: str | None = None) -> list[Label]:
    """Read the labels of a table, or of one split of it: see `LabelTable`."""
    return LabelTable.read(path).of(split)


def check_labels(path: Path, labels: Sequence[Label], ids: Collection[str]) -> None:
    """Make sure that every labelled record is in the sequence file.

    Args:
        path: The table, for the message.
        labels: Its rows.
        ids: Ids of the sequence file.

    Raises:
        InputError: Records are missing (field `ids`).
    """
    known = set(ids)
    if missing := [label.id for label in labels if label.id not in known]:
        raise _ids_error(
            path,
            missing,
            "are not in the sequence file",
            "ids are headers up to the first white space; remove these rows, or give the file that holds the records",
        )


def _check_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}",
            hint=f"the first line names tab-separated columns, among them {', '.join(wanted)}",
            path=str(path),
            columns=missing,
        )
    if twice := [name for name in (*COLUMNS, "split") if found.count(name) > 1]:
        raise InputError(
            f"{path} has more than one column {', '.join(twice)}",
            hint="keep one column of each name",
            path=str(path),
            columns=twice,
        )


def _label(path: Path, line: int, row: dict[str, str | None]) -> Label:
    values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, "split")}
    problem = hint = ""
    if empty := [name for name in COLUMNS if not values[name]]:
        problem = f"no {' and no '.join(empty)}"
        hint = "fill every cell; a record that is alone in its group can have its id as group"
    elif values["label"] not in _LABELS:
        problem, hint = f"the label is {values['label']!r}", "a label is virus or other"
    if problem:
        place = f"{path}, line {line}, id {values['id']!r}"
        raise InputError(f"{place}: {problem}", hint=hint, path=str(path), line=line, ids=[values["id"]])
    return Label(values["id"], _LABELS[values["label"]], values["category"], values["group"], values["split"])


def _check_unique(path: Path, labels: Sequence[Label]) -> None:
    seen: set[str] = set()
    twice = [label.id for label in labels if label.id in seen or seen.add(label.id)]  # type: ignore[func-returns-value]
    if twice:
        raise _ids_error(path, sorted(set(twice)), "have more than one row", "keep one row for each id")


def _ids_error(path: Path, ids: Sequence[str], problem: str, hint: str) -> InputError:
    shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
    return InputError(f"{path}: {len(ids):,} ids {problem}: {shown}", hint=hint, path=str(path), ids=list(ids))
