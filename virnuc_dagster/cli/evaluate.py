"""`virnuc evaluate`: how good a bundle is on labelled records, by the same assets and tables as `predict`."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from virnuc_dagster.api.destination import Destination, Inputs, refuse_own_folders, refuse_unwritable
from virnuc_dagster.api.inputs import Source
from virnuc_dagster.api.session import open_session
from virnuc_dagster.cli.console import ConsoleProgress
from virnuc_dagster.cli.options import PathType, compute_options, home_option, overwrite_option, reading_option
from virnuc_dagster.cli.predict import predict_shown
from virnuc_dagster.cli.signals import interruptible
from virnuc_dagster.files import write_atomic
from virnuc_dagster.home.settings import Settings

if TYPE_CHECKING:
    from virnuc_dagster.sequences.reader import SequenceRecord

REPLICATES = 200
_FIGURES = "evaluation.json"
_SECTIONS = ("open_windows", "no_frame_windows", "all_windows", "sequences")
_SHOWN = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "average_precision", "ece")


@click.command(
    epilog="""\b
Examples:
  virnuc evaluate genomes.fasta.gz labels.tsv --split val --floor-train train
  virnuc evaluate genomes.fasta labels.tsv --bundle my-bundle --output evaluation --json

LABELS is tab-separated with the columns id, label (virus or other), category, group, and maybe split. Metrics of
windows and sequences are of those that have a score; coverage says how many do."""
)
@click.argument("fasta", type=PathType(exists=True, dir_okay=False))
@click.argument("labels", type=PathType(exists=True, dir_okay=False))
@click.option("--split", help="Evaluate only the records of this split.")
@click.option("--floor-train", metavar="SPLIT", help="Train a plain 6-mer model on this split, to compare with.")
@click.option("--output", type=PathType(file_okay=False), help="Folder for figures and tables.")
@overwrite_option
@compute_options
@click.option("--shard-size", type=int, help="Frames a shard [default: 10000].")
@reading_option
@click.option("--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
@home_option
def evaluate(
    fasta: Path,
    labels: Path,
    split: str | None,
    floor_train: str | None,
    output: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Measure a bundle on labelled records: accuracy, areas, calibration, by category, with 95 % intervals."""
    # Imported late, as in the helpers: `--help` and usage errors need neither numpy nor scikit-learn.
    from virnuc_dagster.evaluation.results import figures, floor_figures, read_results
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.sequences.labels import LabelTable, check_labels

    settings = Settings.read(**flags)
    source, name, destination = Source.of(str(fasta)), _batch_name(fasta, split), None
    if output is not None:
        destination = _destination(output, settings, Inputs.of([fasta, labels]), overwrite=overwrite)
        destination.check([name])
    table = LabelTable.read(labels)
    chosen = {label.id: label for label in table.of(split)}
    training = {label.id: label for label in table.of(floor_train)} if floor_train else {}
    records = _records(source, settings)
    check_labels(labels, [*chosen.values(), *training.values()], records)
    found: dict[str, Any] = {
        "input": source.as_json(),
        "labels": asdict(table.facts),
        "bundle": settings.bundle,
        "split": split,
        "floor_train": floor_train,
        "records": len(chosen), "records_left_out": len(records) - len(chosen),
    }  # fmt: skip
    wanted = [record for id_, record in records.items() if id_ in chosen]
    with interruptible():
        with _results(settings, replace(source, name=name), wanted, destination, quiet=quiet) as folder:
            windows, sequences = read_results(folder)
        spec = open_bundle(settings.bundle).spec
        found |= figures(windows, sequences, chosen, roll_up=spec.roll_up, replicates=REPLICATES)
        if training:
            train, test = (
                [(record.sequence, part[id_]) for id_, record in records.items() if id_ in part]
                for part in (training, chosen)
            )
            floor = floor_figures(train, test, spec.window_length)
            for section in _SECTIONS:
                found[section]["floor"] = floor[section]
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if output is not None:
        _write(output, text, found)
    if as_json:
        click.echo(text, nl=False)
    elif not quiet:
        _print(found)
        if output is not None:
            click.echo(f"\nfigures: {output}")
    return 0


def _write(output: Path, text: str, found: dict[str, Any]) -> None:
    """Write the figures as JSON and as pictures."""
    from virnuc_dagster.evaluation.figures import evaluation_files

    for file, content in {_FIGURES: text.encode(), **evaluation_files(found)}.items():
        write_atomic(output / file, content)


def _destination(output: Path, settings: Settings, inputs: Inputs, *, overwrite: bool) -> Destination:
    """Decide where figures and predictions go, after a look at what can be refused at once."""
    from virnuc_dagster.evaluation.figures import FILES

    refuse_unwritable(output)
    refuse_own_folders(output, settings)
    beside = tuple(output / file for file in (_FIGURES, *FILES))
    return Destination(output / "predictions", inputs, overwrite, beside=beside)


def _records(source: Source, settings: Settings) -> dict[str, "SequenceRecord"]:
    """Read the records of the sequence file by id."""
    from virnuc_dagster.sequences.reader import read_sequences

    with source.opened() as stream:
        read = read_sequences(stream, name=source.name, allow_missing_end_mark=settings.allow_missing_end_mark)
        return {record.id: record for record in read}


def _batch_name(fasta: Path, split: str | None) -> str:
    """Name the batch of the chosen records."""
    from virnuc_dagster.stages.keys import slug

    return slug(fasta.name) + (f"-{slug(split)}" if split else "")


@contextmanager
def _results(
    settings: Settings, source: Source, records: list["SequenceRecord"], destination: Destination | None, *, quiet: bool
) -> Iterator[Path]:
    """Run the pipeline on the chosen records of an input and yield the folder of its result files."""
    with tempfile.TemporaryDirectory(prefix="virnuc-evaluate-") as scratch:
        chosen = Path(scratch) / "chosen.fasta"
        with chosen.open("wb") as file:
            for record in records:
                file.write(b">" + record.description.encode() + b"\n" + record.sequence + b"\n")
        destination = destination or Destination(Path(scratch) / "predictions", Inputs.of(()))
        progress = ConsoleProgress(Console(stderr=True), quiet=quiet)
        with open_session(settings, progress=progress) as session:
            result = predict_shown(session, replace(source, file=chosen), destination, progress)
        if result.error:
            raise result.error
        yield destination.output


def _print(found: dict[str, Any]) -> None:
    """Print the figures as tables: sections, then categories of windows and of sequences."""
    rows = [("", "n", "coverage", *(name.replace("_", " ") for name in _SHOWN))]
    for name in _SECTIONS:
        entry = found[name]
        rows.append((name.replace("_", " "), *_cells(entry)))
        if entry["n"]:
            rows.append(("  95 % interval", "", "", *(_interval(entry["intervals"][key]) for key in _SHOWN)))
            rows.append(("  mean of categories", "", "", *(_number(entry["macro"].get(key)) for key in _SHOWN)))
        if floor := entry.get("floor"):
            rows.append(("  6-mer floor", *_cells(floor)))
    rows.append(("  without fallback", *_cells(found["sequences_without_fallback"])))
    _print_table(rows)
    for section in ("all_windows", "sequences"):
        rows = [(section.replace("_", " "), "n", "coverage", "accuracy", "95 % interval")]
        for category, entry in found[section]["by_category"].items():
            share = _interval(entry["intervals"]["accuracy"])
            rows.append((category, f"{entry['n']:,}", _number(entry["coverage"]), _number(entry["accuracy"]), share))
        click.echo()
        _print_table(rows)
    calls = found["sequences"]["verdicts"]
    click.echo(
        f"\nverdicts: {_number(calls['called'])} of the sequences are called viral or non-viral, "
        f"{_number(calls['right'])} of these calls are right"
    )


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    return (f"{entry['n']:,}", _number(entry["coverage"]), *(_number(entry[name]) for name in _SHOWN))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(value: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{value[0]:.2f}-{value[1]:.2f}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        click.echo("  ".join(cells).rstrip())
