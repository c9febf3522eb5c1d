"""`virnuc predict`: from sequence files to verdicts, through the same assets that the web UI shows."""

import json
import sys
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from virnuc_dagster.cli.console import ConsoleProgress
from virnuc_dagster.cli.destination import Destination, Inputs, digests_in, refuse_own_folders, run_text, write_results
from virnuc_dagster.cli.inputs import Source
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
from virnuc_dagster.files import write_atomic
from virnuc_dagster.home.origins import note_origin
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.report import paths

if TYPE_CHECKING:
    from virnuc_dagster.checkpoints import Store
    from virnuc_dagster.models.bundle import Bundle
    from virnuc_dagster.orchestration.runs import BatchRun, Runner
    from virnuc_dagster.stages.shards import PredictionStage, ShardStage

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
    console = Console(stderr=True)
    level = "skip" if skip_checkpoint_validation else "load"
    results, first_error = [], None
    with interruptible(), closing(PredictCall(settings, console, quiet=quiet, level=level, force=force_resume)) as call:
        for source in sources:
            try:
                result = call.predict(source, destination)
                first_error = first_error or result["error"]
            except VirnucError as error:
                result = {"batch": None, "output": None, "summary": None, "run": None, "error": error}
                if len(sources) == 1:
                    if as_json:
                        _print_json([_entry(source, result)], _error_facts(error))
                    raise
                print(f"error: {error}", file=sys.stderr)
                first_error = first_error or error
            results.append(_entry(source, result))
    if as_json:
        _print_json(results)
    elif not quiet:
        for result in results:
            _print_result(result, of=result["input"] if len(results) > 1 else None)
    return first_error.exit_code if first_error else 0


def _entry(source: Source, result: dict[str, Any]) -> dict[str, Any]:
    """Make an input's entry in the JSON document: each input has one, in the order given, with the same names."""
    error = result["error"]
    return {"input": source.as_json(), **result, "error": error and _error_facts(error)}


def _error_facts(error: VirnucError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _print_json(entries: list[dict[str, Any]], error: dict[str, Any] | None = None) -> None:
    document = {"batches": entries} | ({"error": error} if error else {})
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(text.encode(errors="backslashreplace").decode())  # a path may hold bytes that are no UTF-8


class PredictCall:
    """One call of `predict` (or of `evaluate`): what is the same for all of its inputs."""

    def __init__(self, settings: Settings, console: Console, *, quiet: bool, level: str, force: bool) -> None:
        self.settings, self.console, self.quiet, self.level, self.force = settings, console, quiet, level, force
        self.progress = ConsoleProgress(console, quiet=quiet)
        self._opened = ExitStack()
        self._done: dict[str, dict[str, Any]] = {}

    @cached_property
    def store(self) -> "Store":
        """The home's store."""
        from virnuc_dagster.home.binding import open_bound_store

        return open_bound_store(self.settings)

    def close(self) -> None:
        """Close the Dagster instance and end the workers of backend `ray`, which served all runs of the call."""
        self._opened.close()

    def predict(self, source: Source, destination: Destination) -> dict[str, Any]:
        """Take one input to its files.

        Returns:
            Batch, output folder, summary and shard counts; `error` is the first failure of a shard, or None.
        """
        # Imported late: `--help` and usage errors need neither Dagster nor numpy.
        from virnuc_dagster.backends import require_backend

        began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        require_backend(self.settings.backend)
        bundle = self._bundle
        bundle.check_fallback()
        store = self.store  # before the work: one that is gone is said now
        device = self.settings.device
        if device.startswith("cuda"):
            device = self._device  # one that is not there is named before the file is read
        with self.progress as progress:
            batch = self._add(source, bundle, progress)
            seal = self.settings.reports / batch / paths.SEAL
            sealed = digests_in(seal)
            folder = destination.folder_of(batch, [sealed])
            note_origin(self.settings.home, batch, source.facts)
            if batch in self._done:
                return self._same(batch, source, folder, progress)
            if self.force:
                from virnuc_dagster.orchestration.runs import set_aside_damaged

                for key in set_aside_damaged(store, batch):
                    progress.note(f"{key} is damaged: set aside in {self.settings.store}/.quarantine")
            done = self._run(batch)
        run = {
            "batch": batch,
            "inputs": [source.as_json()],
            "started_at": started_at,
            "seconds": round(time.monotonic() - began, 3),
            "backend": self.settings.backend,
            "device": self._device if done else device,
            "precision": self.settings.precision,
            "bundle": bundle.name,
            "run_ids": done.run_ids if done else {},
            **_shard_counts(progress),
        }
        destination.folder_of(batch, [sealed, digests_in(seal)])  # once more: hours may have passed
        write_results(self.settings.reports / batch, folder, run)
        if not self.quiet:
            for line in progress.summary_lines():
                progress.note(line)
        errors = done.errors if done else []
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
        self._done[batch] = {
            "batch": batch, "output": str(folder), "summary": json.loads((folder / paths.SUMMARY).read_text()),
            "run": run, "error": errors[0] if errors else None,
        }  # fmt: skip
        return self._done[batch]

    def _add(self, source: Source, bundle: Any, progress: ConsoleProgress) -> str:
        """Store the sequences of an input; returns the batch's key."""
        from virnuc_dagster.stages.batch import add_sequences

        with source.opened() as stream:
            batch, record = add_sequences(
                self.store,
                stream,
                source.name,
                window_length=bundle.spec.window_length,
                shard_size=self.settings.shard_size,
                replace_damaged=self.force,
                allow_missing_end_mark=self.settings.allow_missing_end_mark,
            )
        progress.note(f"{source.name}: {record.rows:,} sequences, batch {batch}")
        return batch

    def _same(self, batch: str, source: Source, folder: Path, progress: ConsoleProgress) -> dict[str, Any]:
        """Return the result of a batch that an earlier input of the call had: one folder, which names both inputs."""
        result = self._done[batch]
        run = result["run"]
        first = run["inputs"][0]["path"]
        progress.note(f"{source.name} holds the sequences of {first}: one batch, with its results in {folder}")
        run["inputs"].append(source.as_json())
        write_atomic(folder / paths.RUN, run_text(run).encode())
        return result

    def _run(self, batch: str) -> "BatchRun | None":
        """Bring a batch to its report; None if it is there already, and no run was needed."""
        from virnuc_dagster.orchestration.standing import batch_stands

        if batch_stands(self._instance, self.store, self._stage, batch, self.settings.reports, self.progress):
            return None
        return self._runner.run_batch(batch)

    @cached_property
    def _bundle(self) -> "Bundle":
        from virnuc_dagster.models.bundle import open_bundle

        return open_bundle(self.settings.bundle)

    @cached_property
    def _device(self) -> str:
        """The device that is computed on; with Ray that of the workers. Takes the import of torch."""
        from virnuc_dagster.embedding.device import resolve_device

        local = self.settings.backend == "local"
        return str(resolve_device(self.settings.device)) if local else self.settings.device

    @cached_property
    def _stage(self) -> "PredictionStage":
        from virnuc_dagster.checkpoints import Level
        from virnuc_dagster.stages.shards import PredictionStage

        return PredictionStage(self.store, self._bundle, self.settings.options(Level(self.level)))

    @cached_property
    def _instance(self) -> Any:
        from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance

        instance = self._opened.enter_context(open_instance(self.settings, capture=False))
        clear_dead_runs(instance, self.progress.note)
        return instance

    @cached_property
    def _runner(self) -> "Runner":
        """The runner of the assets of every batch of the call."""
        from virnuc_dagster.backends.ray_pool import Pools
        from virnuc_dagster.definitions import build_definitions
        from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
        from virnuc_dagster.orchestration.resources import Backends
        from virnuc_dagster.orchestration.runs import Runner

        self._bundle.load_fallback()  # used last: if it cannot be used, say so before hours of work
        pools = self._opened.enter_context(closing(Pools(kept=True)))
        resources = {
            "progress": self.progress,
            "checkpoints": CheckpointIOManager(root=str(self.settings.store), validation=self.level),
            "backends": Backends(pools=pools, ray_address=self.settings.ray_address),
        }
        definitions = build_definitions(settings=self.settings, resources=resources)
        stages: list[ShardStage] = [*self._stage.inputs, self._stage]
        return Runner(definitions, self._instance, self.store, stages, self.progress.note)


def _shard_counts(progress: ConsoleProgress) -> dict[str, dict[str, Any]]:
    """Count shards by what became of them, then by stage; stages without shards are left out."""
    kinds = ("computed_shards", "reused_shards", "failed_shards")
    stages = {stage: count.as_counts() for stage, count in progress.stages.items()}
    stages = {stage: counts for stage, counts in stages.items() if any(counts[kind] for kind in kinds)}
    found = {kind: {stage: counts[kind] for stage, counts in stages.items()} for kind in kinds}
    return found | {"failed_shards": {stage: failed for stage, failed in found["failed_shards"].items() if failed}}


def _print_result(result: dict[str, Any], of: dict[str, Any] | None = None) -> None:
    """Print the table of one input; with several, `of` says which one it is of."""
    if of is not None:
        known = f" ({of['bytes']:,} bytes, sha256 {of['sha256'][:12]}...)" if of["sha256"] else ""
        click.echo(f"\n{printable(of['path'])}{known}: {result['batch'] or 'NO RESULT'}")
    if result["summary"] is None:
        click.echo(f"error: {result['error']['message']}")
        return
    folder, summary = Path(result["output"]), result["summary"]
    if summary["sequences"] <= LISTED_MAX:
        # Not splitlines: an id may hold any of the odd characters that Python takes for a line's end.
        rows = [line.split("\t") for line in (folder / paths.SEQUENCES).read_text().split("\n")[1:-1]]
        shown = [("sequence", "bases", "scored/windows", "score", "verdict")]
        shown += [
            (printable(r[0]), r[1], f"{r[3]}{'+' + r[4] if r[4] != '0' else ''}/{r[2]}", r[5], r[6]) for r in rows
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
