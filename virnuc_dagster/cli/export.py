"""`virnuc export`: stored results of a batch as a file for another tool."""

import json
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.api.destination import Inputs, refuse_existing_file, refuse_own_folders
from virnuc_dagster.cli.options import PathType, batch_argument, home_option, overwrite_option
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.stages.pipeline import EMBEDDINGS, PIPELINE

_STAGES = {stage.name: stage.export_formats for stage in reversed(PIPELINE) if stage.export_formats}
_FORMATS = tuple(dict.fromkeys(name for formats in _STAGES.values() for name in formats))
_EMBEDDINGS = next(iter(EMBEDDINGS))


@click.command(
    epilog=f"""\b
Examples:
  virnuc export demo --stage predictions --format tsv --output frames.tsv
  virnuc export demo --stage {_EMBEDDINGS} --format h5ad --output vectors.h5ad
  virnuc export demo --stage frames --format fasta --output proteins.faa

BATCH is a batch's key or the beginning of it. fasta is for sequences (the whole input) and frames (the proteins),
the other formats are for the rest. parquet needs the package pyarrow, h5ad the package anndata."""
)
@batch_argument
@click.option("--stage", required=True, type=click.Choice(tuple(_STAGES)), help="Which results.")
@click.option("--format", "kind", required=True, type=click.Choice(_FORMATS), help="Which kind of file.")
@click.option("--output", required=True, type=PathType(dir_okay=False), help="The file to write.")
@overwrite_option
@click.option("--bundle", help="Of a batch without frames: whose embeddings, for their width [default: mini].")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def export(batch: str, stage: str, kind: str, output: Path, overwrite: bool, as_json: bool, **flags: Any) -> int:
    """Write a stage of BATCH as one file, which appears when it is complete."""
    from virnuc_dagster.cli.batches import resolve_batch
    from virnuc_dagster.files import make_folder
    from virnuc_dagster.home.binding import check_store
    from virnuc_dagster.home.origins import origins
    from virnuc_dagster.report.exports import Matrix
    from virnuc_dagster.report.exports import export as write
    from virnuc_dagster.upkeep.export import read_for_export

    if kind not in _STAGES[stage]:
        raise SettingsError(f"{stage} cannot be written as {kind}", hint=f"formats of it: {', '.join(_STAGES[stage])}")
    settings = Settings.read(**flags)
    store = check_store(settings)
    key = resolve_batch(settings, store, batch)
    refuse_own_folders(output, settings)
    read_from = [entry["absolute"] for entry in origins(settings.home, key) if entry["absolute"]]
    refuse_existing_file(output, Inputs.of(read_from), overwrite=overwrite)
    content = read_for_export(store, key, stage, settings.bundle)
    make_folder(output.absolute().parent)
    write(content, kind, output)
    shape = list(content.shape) if isinstance(content, Matrix) else None
    size = output.stat().st_size
    facts = {"batch": key, "stage": stage, "format": kind, "output": str(output), "shape": shape, "bytes": size}
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        rows = f"{shape[0]:,} rows of {shape[1]:,} columns, " if shape else ""
        click.echo(f"{output}: {stage} of {key}, {rows}{size:,} bytes")
    return 0
