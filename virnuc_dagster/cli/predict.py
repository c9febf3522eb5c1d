"""`virnuc predict`: from sequence files to verdicts, through the same assets that the web UI shows."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from virnuc_dagster.api.destination import Destination, Inputs, refuse_own_folders
from virnuc_dagster.api.inputs import Source
from virnuc_dagster.api.result import BatchResult
from virnuc_dagster.api.session import Session, failed, open_session
from virnuc_dagster.checkpoints import Level
from virnuc_dagster.cli.console import ConsoleProgress, summary_lines
from virnuc_dagster.cli.options import (
    PathType,
    compute_options,
    home_option,
    overwrite_option,
    reading_option,
    refuse_empty,
)
from virnuc_dagster.cli.signals import interruptible
from virnuc_dagster.cli.tables import printable
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.report import paths

LISTED_MAX = 40


@click.command(
    epilog="""\b
Examples:
  virnuc predict contigs.fasta.gz --output results
  zcat reads.fq.gz | virnuc predict - --name reads --output results
  virnuc predict a.fasta b.fasta --output results      # results/<batch>/ for each
  virnuc predict contigs.fasta --output results --json | jq .batches[0].summary

Run the same command again after a crash: finished shards are not computed again."""
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", callback=refuse_empty)
@click.option("--output", required=True, type=PathType(file_okay=False), help="Folder for the results.")
@overwrite_option
@click.option("--name", default="stdin", show_default=True, help="What to call the batch read from standard input (-).")
@compute_options
@click.option("--shard-size", type=int, help="Frames a shard [default: 10000].")
@reading_option
@click.option("--skip-checkpoint-validation", is_flag=True, help="Check only size and safe loading.")
@click.option("--force-resume", is_flag=True, help="Set damaged checkpoints aside and compute them again.")
@click.option("--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
@home_option
def predict(
    inputs: tuple[str, ...],
    output: Path,
    overwrite: bool,
    name: str,
    skip_checkpoint_validation: bool,
    force_resume: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say which sequences of FASTA or FASTQ files are viral (plain, gz, bz2, xz or zst; - is standard input)."""
    settings = Settings.read(**flags)
    sources = [Source.of(given, name) for given in inputs]
    refuse_own_folders(output, settings)
    destination = Destination(output, Inputs.of(inputs), overwrite, nested=len(inputs) > 1)
    destination.check([source.name for source in sources])
    progress = ConsoleProgress(Console(stderr=True), quiet=quiet)
    level = Level.SKIP if skip_checkpoint_validation else Level.LOAD
    results: list[BatchResult] = []
    with interruptible(), open_session(settings, progress=progress, level=level) as session:
        for source in sources:
            try:
                result = predict_shown(session, source, destination, progress, force_resume=force_resume)
            except VirnucError as error:
                result = failed(source, error)
                if len(sources) == 1:
                    if as_json:
                        _print_json([result], error)
                    raise
                print(f"error: {error}", file=sys.stderr)
            results.append(result)
    if as_json:
        _print_json(results)
    elif not quiet:
        for result in results:
            _print_result(result, with_input=len(results) > 1)
    return next((result.error.exit_code for result in results if result.error), 0)


def predict_shown(
    session: Session,
    source: Source,
    destination: Destination,
    progress: ConsoleProgress,
    *,
    force_resume: bool = False,
) -> BatchResult:
    """Bring one input to its report, with bars and notes; errors of shards are printed."""
    with progress:
        result = session.predict(source, destination, force_resume=force_resume)
    if len(result.run["inputs"]) == 1:  # else an earlier input had this batch, and all was said of it
        for line in summary_lines(result.run):
            progress.note(line)
        for error in result.errors:
            print(f"error: {error}", file=sys.stderr)
    return result


def _entry(result: BatchResult) -> dict[str, Any]:
    """Make an input's entry in the JSON document: each input has one, in the order given, with the same names."""
    return {
        "input": asdict(result.input),
        "batch": result.batch,
        "output": None if result.folder is None else str(result.folder),
        "summary": result.summary or None,
        "run": result.run or None,
        "error": result.error and _error_facts(result.error),
    }


def _error_facts(error: VirnucError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _print_json(results: list[BatchResult], error: VirnucError | None = None) -> None:
    document: dict[str, Any] = {"batches": [_entry(result) for result in results]}
    document |= {"error": _error_facts(error)} if error else {}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(text.encode(errors="backslashreplace").decode())  # a path may hold bytes that are no UTF-8


def _print_result(result: BatchResult, *, with_input: bool = False) -> None:
    """Print the table of one input; with several, which one it is of."""
    if with_input:
        facts = result.input
        known = f" ({facts.bytes:,} bytes, sha256 {facts.sha256[:12]}...)" if facts.sha256 else ""
        click.echo(f"\n{printable(facts.path)}{known}: {result.batch or 'NO RESULT'}")
    if result.folder is None:
        click.echo(f"error: {result.error and result.error.message}")
        return
    summary = result.summary
    if summary["sequences"] <= LISTED_MAX:
        shown = [("sequence", "bases", "scored/windows", "score", "verdict"), *map(_cells, result.rows())]
        widths = [max(len(row[column]) for row in shown) for column in range(5)]
        for row in shown:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in result.verdicts.items())
    click.echo(f"\n{summary['sequences']:,} sequences: {counts}")
    if imported := summary.get("imported_shards"):
        click.echo(f"{imported:,} shards hold embeddings computed by another program")
    if result.state != "complete":
        click.echo("INCOMPLETE: some shards have no result; run the same command again")
    click.echo(f"report: {result.folder / paths.HTML}")


def _cells(row: Mapping[str, str]) -> tuple[str, ...]:
    by_composition = "" if row["fallback_windows"] == "0" else f"+{row['fallback_windows']}"
    scored = f"{row['scored_windows']}{by_composition}/{row['windows']}"
    return printable(row["sequence_id"]), row["length"], scored, row["score"], row["verdict"]
