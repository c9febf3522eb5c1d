"""`virnuc models`: which bundles there are, what is in one, whether it is intact, and making one."""

import json
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.cli.options import PathType, refuse_empty
from virnuc_dagster.embedding.registry import ENCODERS, FIRST_PARTS


@click.group()
def models() -> None:
    """List, show, verify and import model bundles."""


@models.command(
    "list",
    epilog="""\b
Example:
  virnuc models list""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List packaged bundles; any bundle folder can be given by its path too."""
    from virnuc_dagster.models.bundle import list_bundles, open_bundle

    rows = [
        {"name": name, "window_length": spec.window_length, "description": spec.description}
        for name in list_bundles()
        for spec in [open_bundle(name).spec]
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<12} {row['window_length']:>5} bases  {row['description']}")


@models.command(
    epilog="""\b
Examples:
  virnuc models show mini
  virnuc models show ./my-bundle --json"""
)
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def show(bundle: str, as_json: bool) -> None:
    """Show what a bundle holds: parts, revisions, digests, thresholds."""
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.models.spec import as_written

    opened = open_bundle(bundle)
    facts: dict[str, Any] = opened.spec.model_dump(mode="json", exclude={"golden", "training"})
    facts["golden"] = opened.spec.golden is not None
    if as_json:
        facts = as_written(facts) | {"version": opened.spec.version}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{opened.name}: {opened.spec.description}\nfolder      {opened.folder}")
    click.echo(f"window      {opened.spec.window_length} bases\nthresholds  {facts['thresholds']}")
    for entry in facts["encoders"]:
        digest = entry["weights"]["sha256"]
        click.echo(f"{entry['part']:<11} {entry['id']} @ {entry['revision']}, {entry['dim']} wide, {digest}")
    click.echo(f"{'head':<11} {facts['head']['features']} features, {facts['head']['weights']['sha256']}")
    fallback = facts["fallback"]
    of_fallback = f"{fallback['kmer']}-mers, {fallback['weights']['sha256']}" if fallback else "none"
    click.echo(f"{'fallback':<11} {of_fallback}\n{'roll-up':<11} {facts['roll_up']}")


@models.command(
    epilog="""\b
Example:
  virnuc models verify mini"""
)
@click.argument("bundle")
def verify(bundle: str) -> None:
    """Check every digest, load every part, and reproduce the stored golden frame."""
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.models.importing import check_loads

    opened = open_bundle(bundle)
    check_loads(opened)
    golden = "golden frame reproduced" if opened.spec.golden else "it stores NO golden frame to reproduce"
    click.echo(f"{opened.name}: {len(opened.spec.files())} files as recorded, all parts load, {golden}")


def _encoder_options(command: Any) -> Any:
    """Add two options an encoder; the encoders of every bundle of format 1 must be given."""
    for encoder in reversed([encoder for encoder in ENCODERS if encoder.publisher]):
        option, needed = f"--{encoder.part.replace('_', '-')}", encoder.part in FIRST_PARTS
        commit = "Commit on the hub [default: main, recorded as the commit it is]."
        command = click.option(f"{option}-revision", help=commit)(command)
        command = click.option(option, required=needed, callback=refuse_empty, help=encoder.publishes)(command)
    return command


@models.command(
    "import",
    epilog="""\b
Example:
  virnuc models import --dnabert-s zhihan1996/DNABERT-S --esm2 facebook/esm2_t36_3B_UR50D \\
      --head 500_model.pth --window-length 500 --output virnucpro-500""",
)
@_encoder_options
@click.option("--head", required=True, type=PathType(exists=True, dir_okay=False))
@click.option("--window-length", required=True, type=click.IntRange(3), help="What the head was trained for.")
@click.option("--output", required=True, type=PathType(), help="Folder of the new bundle.")
def import_(window_length: int, output: Path, head: Path, **given: Any) -> None:
    """Make a bundle from published weights; nothing in them is executed."""
    from virnuc_dagster.models.importing import Sources, import_bundle

    encoders = {
        encoder.part: (given[encoder.part], given[f"{encoder.part}_revision"])
        for encoder in ENCODERS
        if given.get(encoder.part)
    }
    bundle, warnings = import_bundle(Sources(encoders, head), window_length=window_length, output=output)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{bundle.folder}: imported and verified; use it with --bundle {output}")
