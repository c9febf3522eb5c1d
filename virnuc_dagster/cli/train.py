"""`virnuc train`: from labelled genomes to a bundle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from virnuc_dagster.api.destination import refuse_unwritable
from virnuc_dagster.api.inputs import Source, readable_twice
from virnuc_dagster.api.session import open_session
from virnuc_dagster.cli.console import ConsoleProgress
from virnuc_dagster.cli.options import PathType, home_option, reading_option
from virnuc_dagster.cli.signals import interruptible
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.models.bundle import open_bundle

if TYPE_CHECKING:
    from virnuc_dagster.models.bundle import Bundle

_SHOWN = ("accuracy", "balanced_accuracy", "auroc")
_DESCRIPTION = "Trained by `virnuc train`; `training` says on what and how good it is."


@click.command(
    epilog="""\b
Examples:
  virnuc train genomes.fasta.gz labels.tsv --output my-bundle                      # small encoders and their head
  virnuc train genomes.fasta.gz labels.tsv --output my-bundle --encoders published # a head on a bundle's encoders
  virnuc predict contigs.fasta --output results --bundle ./my-bundle

LABELS.tsv has the columns id, label (virus or other), category, group, and optionally split (train or val; val is
scored once, at the end). A group (family, species, genome) is never on two sides. Run the same command again after a
crash: it goes on where it was, to the same bundle."""
)
@click.argument("fasta", type=PathType(exists=True, dir_okay=False), metavar="TRAIN.fasta")
@click.argument("labels", type=PathType(exists=True, dir_okay=False), metavar="LABELS.tsv")
@click.option("--output", required=True, type=PathType(file_okay=False), help="Folder of the bundle.")
@click.option("--encoders", help="Train only a head, on the embeddings of this bundle (a packaged name or a folder).")
@click.option("--seed", type=int, default=1, show_default=True, help="Of weights, order, crops and masks.")
@click.option("--steps", type=click.IntRange(1), help="Most steps of each encoder, or epochs of the head.")
@click.option("--description", help="What the bundle says of itself.")
@click.option(
    "--notes",
    type=PathType(exists=True, dir_okay=False),
    help="Markdown to begin the model card with.",
)
@click.option("--device", help="For --encoders: auto, cpu, cuda or cuda:N [default: auto].")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), help="For --encoders.")
@reading_option
@click.option("--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
@home_option
def train(
    fasta: Path,
    labels: Path,
    output: Path,
    encoders: str | None,
    seed: int,
    steps: int | None,
    description: str | None,
    notes: Path | None,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Make a bundle from labelled genomes: small encoders with their head, or a head for existing encoders."""
    from virnuc_dagster.models.making import refuse_existing
    from virnuc_dagster.training.encoders import EncoderOptions
    from virnuc_dagster.training.records import read_records
    from virnuc_dagster.training.run import EPOCHS, Wanted, train_all, train_head_only

    if not encoders and (given := [name for name in ("device", "precision") if flags[name]]):
        raise click.UsageError(f"--{given[0]} is for --encoders; small encoders are trained on the CPU in float32")
    settings = Settings.read(**flags)
    refuse_existing(output)
    refuse_unwritable(output)
    wanted = Wanted(output.absolute(), description or _DESCRIPTION, notes.read_text(encoding="utf-8") if notes else "")
    reporting = ConsoleProgress(Console(stderr=True), quiet=quiet)
    with interruptible(), reporting as progress, readable_twice(fasta) as file:
        records = read_records(file, labels, name=str(fasta), allow_missing_end_mark=settings.allow_missing_end_mark)
        if encoders:
            source = open_bundle(encoders)
            with open_session(settings.model_copy(update={"bundle": encoders}), progress=progress) as session:
                vectors = session.embed(Source(str(fasta), str(fasta), file))
            bundle = train_head_only(records, source, vectors, seed, steps or EPOCHS, wanted, progress)
        else:
            bundle = train_all(records, EncoderOptions.of(seed, steps), wanted, progress)
    if as_json:
        facts = json.loads((bundle.folder / "training.json").read_text(encoding="utf-8"))
        click.echo(json.dumps({"bundle": str(output), **facts}, indent=2))
    elif not quiet:
        _print_figures(bundle)
        click.echo(f"bundle: {output}")
    return 0


def _print_figures(bundle: "Bundle") -> None:
    facts = bundle.spec.training
    for part in ("dev", "val"):
        for name, figures in facts.get(part, {}).items():
            shown = ", ".join(f"{key} {figures[key]:.3f}" for key in _SHOWN if figures.get(key) is not None)
            click.echo(f"{part} {name.replace('_', ' '):<17} {figures['n']:>7,}  {shown}")
