"""`virnuc predict`: from sequence files to verdicts, through the same assets that the web UI shows."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from virnuc_dagster.checkpoints import open_store
from virnuc_dagster.checkpoints.files import make_folder, rename, temporary_file, write_atomic
from virnuc_dagster.cli.console import ConsoleProgress
from virnuc_dagster.cli.options import compute_options, home_option, refuse_unwritable
from virnuc_dagster.cli.signals import interruptible
from virnuc_dagster.errors import InputError, VirnucError
from virnuc_dagster.report import paths
from virnuc_dagster.settings import Settings
from virnuc_dagster.stages.arrivals import spool, sweep_spools

if TYPE_CHECKING:
    from virnuc_dagster.backends.ray_pool import Pools

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
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results."
)
@click.option("--name", default="stdin", show_default=True, help="What to call the batch read from standard input (-).")
@compute_options
@click.option("--shard-size", type=int, help="Frames a shard [default: 10000].")
@click.option("--skip-checkpoint-validation", is_flag=True, help="Check only size and safe loading.")
@click.option("--force-resume", is_flag=True, help="Set damaged checkpoints aside and compute them again.")
@click.option("--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
@home_option
def predict(
    inputs: tuple[str, ...],
    output: Path,
    name: str,
    skip_checkpoint_validation: bool,
    force_resume: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say which sequences of FASTA or FASTQ files are viral (plain, gz, bz2, xz or zst; - is standard input)."""
    settings = Settings.read(**flags)
    refuse_unwritable(output)
    console = Console(stderr=True)
    level = "skip" if skip_checkpoint_validation else "load"
    results, first_error = [], None
    with interruptible(), closing(PredictCall(settings, console, quiet=quiet, level=level, force=force_resume)) as call:
        for source in inputs:
            try:
                results.append(call.predict(source, name, output, nested=len(inputs) > 1))
                first_error = first_error or results[-1].pop("error")
            except VirnucError as error:
                if len(inputs) == 1:
                    if as_json:
                        facts = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
                        click.echo(json.dumps({"batches": [], "error": facts}, indent=2, ensure_ascii=False))
                    raise
                print(f"error: {error}", file=sys.stderr)
                first_error = first_error or error
    if as_json:
        click.echo(json.dumps({"batches": results}, indent=2, ensure_ascii=False))
    elif not quiet:
        for result in results:
            _print_result(result)
    return first_error.exit_code if first_error else 0


class PredictCall:
    """One call of `predict` (or of `evaluate`): what is the same for all of its inputs."""

    def __init__(self, settings: Settings, console: Console, *, quiet: bool, level: str, force: bool) -> None:
        self.settings, self.console, self.quiet, self.level, self.force = settings, console, quiet, level, force
        self.store = open_store(settings.store)
        self._pools: Pools | None = None

    def close(self) -> None:
        """End the workers of backend `ray`, which served all runs of the call."""
        if self._pools is not None:
            self._pools.close()

    def predict(self, source: str, name: str, output: Path, *, nested: bool) -> dict[str, Any]:
        """One input, to its files in `output`.

        Returns:
            Batch, output folder, summary and shard counts; `error` is the first failure of a shard, or None.
        """
        # Imported late: `--help` and usage errors need neither Dagster nor numpy.
        from virnuc_dagster.backends import require_backend
        from virnuc_dagster.embedding.device import resolve_device
        from virnuc_dagster.home import open_home
        from virnuc_dagster.models.bundle import open_bundle
        from virnuc_dagster.runs import set_aside_damaged
        from virnuc_dagster.stages.batch import add_sequences

        began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        require_backend(self.settings.backend)
        bundle = open_bundle(self.settings.bundle)
        bundle.load_fallback()  # used last: if it is damaged, say so before hours of work
        open_home(self.settings.home)
        local = self.settings.backend == "local"  # with Ray the devices are those of the workers
        device = str(resolve_device(self.settings.device)) if local else self.settings.device
        with ConsoleProgress(self.console, quiet=self.quiet) as progress:
            with self._readable(source, name) as (path, shown):
                batch, record = add_sequences(
                    self.store,
                    path,
                    shown,
                    window_length=bundle.spec.window_length,
                    shard_size=self.settings.shard_size,
                    replace_damaged=self.force,
                )
            progress.note(f"{shown}: {record.rows:,} sequences, batch {batch}")
            if self.force:
                for key in set_aside_damaged(self.store, batch):
                    progress.note(f"{key} is damaged: set aside in {self.settings.store}/.quarantine")
            done = self._run(batch, bundle, progress)
        folder = output / batch if nested else output
        self._copy_results(batch, folder)
        run = {
            "batch": batch,
            "started_at": started_at,
            "seconds": round(time.monotonic() - began, 3),
            "backend": self.settings.backend,
            "device": device,
            "precision": self.settings.precision,
            "bundle": bundle.name,
            "run_ids": done.run_ids,
            **_shard_counts(progress),
        }
        write_atomic(folder / paths.RUN, (json.dumps(run, indent=2) + "\n").encode())
        if not self.quiet:
            for line in progress.summary_lines():
                progress.note(line)
        for error in done.errors:
            print(f"error: {error}", file=sys.stderr)
        summary = json.loads((folder / paths.SUMMARY).read_text())
        return {
            "batch": batch, "output": str(folder), "summary": summary, "run": run,
            "error": done.errors[0] if done.errors else None,
        }  # fmt: skip

    def _run(self, batch: str, bundle: Any, progress: ConsoleProgress) -> Any:
        from virnuc_dagster.backends.ray_pool import Pools
        from virnuc_dagster.definitions import build_definitions
        from virnuc_dagster.instance import open_instance
        from virnuc_dagster.io_manager import CheckpointIOManager
        from virnuc_dagster.resources import Backends
        from virnuc_dagster.runs import Runner
        from virnuc_dagster.stages.shards import ComputeOptions, PredictionStage

        self._pools = self._pools or Pools(kept=True)
        resources = {
            "progress": progress,
            "checkpoints": CheckpointIOManager(root=str(self.settings.store), validation=self.level),
            "backends": Backends(pools=self._pools, ray_address=self.settings.ray_address),
        }
        definitions = build_definitions(settings=self.settings, resources=resources)
        with open_instance(self.settings) as instance:
            predictions = PredictionStage(self.store, bundle, ComputeOptions(precision=self.settings.precision))
            runner = Runner(definitions, instance, self.store, (*predictions.inputs, predictions), progress.note)
            return runner.run_batch(batch)

    @contextmanager
    def _readable(self, source: str, name: str) -> Iterator[tuple[Path, str]]:
        """The input as a file that can be read twice, and the name to show; standard input is spooled."""
        if source != "-":
            yield Path(source), Path(source).name
            return
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input is a terminal", hint="pipe a sequence file in, or name a file", path="-")
        make_folder(self.settings.inbox)
        sweep_spools(self.settings.inbox)
        with spool(self.settings.inbox) as path:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            yield path, name

    def _copy_results(self, batch: str, folder: Path) -> None:
        make_folder(folder.absolute())
        for name in (*paths.REPRODUCIBLE, paths.PROVENANCE):
            with (self.settings.reports / batch / name).open("rb") as file:
                copy = partial(shutil.copyfileobj, file)
                with temporary_file(folder / name, copy) as path:
                    rename(path, folder / name)


def _shard_counts(progress: ConsoleProgress) -> dict[str, dict[str, Any]]:
    """Shards by what became of them, then by stage; stages without shards are left out."""
    kinds = ("computed_shards", "reused_shards", "failed_shards")
    stages = {stage: count.as_counts() for stage, count in progress.stages.items()}
    stages = {stage: counts for stage, counts in stages.items() if any(counts[kind] for kind in kinds)}
    found = {kind: {stage: counts[kind] for stage, counts in stages.items()} for kind in kinds}
    return found | {"failed_shards": {stage: failed for stage, failed in found["failed_shards"].items() if failed}}


def _printable(text: str) -> str:
    """Text that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _print_result(result: dict[str, Any]) -> None:
    folder, summary = Path(result["output"]), result["summary"]
    if summary["sequences"] <= LISTED_MAX:
        # Not splitlines: an id may hold any of the odd characters that Python takes for a line's end.
        rows = [line.split("\t") for line in (folder / paths.SEQUENCES).read_text().split("\n")[1:-1]]
        shown = [("sequence", "bases", "scored/windows", "score", "verdict")]
        shown += [
            (_printable(r[0]), r[1], f"{r[3]}{'+' + r[4] if r[4] != '0' else ''}/{r[2]}", r[5], r[6]) for r in rows
        ]
        widths = [max(len(row[column]) for row in shown) for column in range(5)]
        for row in shown:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in summary["verdicts"].items())
    click.echo(f"\n{summary['sequences']:,} sequences: {counts}")
    if imported := summary.get("imported_shards"):
        click.echo(f"{imported:,} shards hold embeddings computed by another program")
    if not summary["complete"]:
        click.echo("INCOMPLETE: some shards have no result; run the same command again")
    click.echo(f"report: {folder / paths.HTML}")
