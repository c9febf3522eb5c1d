"""`virnuc batches`: what is in this home, and taking something out of it."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from virnuc_dagster.api.inputs import Source
from virnuc_dagster.cli.options import PathType, batch_argument, home_option, reading_option
from virnuc_dagster.cli.tables import print_table, printable
from virnuc_dagster.embedding.registry import ENCODERS
from virnuc_dagster.errors import InputError, VirnucError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.progress import Progress

if TYPE_CHECKING:
    from virnuc_dagster.orchestration.losses import Losses


@click.group()
def batches() -> None:
    """Add, list, show, retry and remove batches of sequences."""


@batches.command(
    epilog="""\b
Examples:
  virnuc batches add contigs.fasta.gz
  virnuc batches add *.fasta          # then materialize their shards in the web UI"""
)
@click.argument("inputs", nargs=-1, required=True, type=PathType(), metavar="INPUT...")
@click.option("--bundle", help="Model bundle, which says the window length [default: mini].")
@click.option("--shard-size", type=int, help="Frames a shard [default: 10000].")
@reading_option
@home_option
def add(inputs: tuple[Path, ...], **flags: Any) -> int:
    """Read files, cut them into frames and shards, and register those; nothing is embedded yet."""
    from virnuc_dagster.api.session import open_session

    code = 0
    with open_session(Settings.read(**flags), progress=Notes()) as session:
        for source in map(Source.of, map(str, inputs)):
            try:
                batch, record = session.add(source)
            except InputError as error:
                note(f"error: {error}")
                code = code or error.exit_code
                continue
            shards = session.cut(batch)
            click.echo(f"{batch}\t{record.rows:,} sequences\t{len(shards):,} shards\t{printable(source.given)}")
    return code


@batches.command(
    "list",
    epilog="""\b
Examples:
  virnuc batches list
  virnuc batches list --json | jq -r '.batches[] | select(.report == null) | .batch'""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def list_batches(as_json: bool, **flags: Any) -> int:
    """List every batch of this home: sequences, frames, shards, and how many shards have predictions.

    Exit code 1 if the store is gone, or another one: what this home knows is listed all the same.
    """
    from virnuc_dagster.checkpoints import open_store
    from virnuc_dagster.inbox.ledger import Ledger
    from virnuc_dagster.orchestration.losses import describe, remedy
    from virnuc_dagster.stages.pipeline import SEQUENCES

    settings = Settings.read(**flags)
    store = open_store(settings.store)
    problem, losses = _what_is_lost(settings, store)
    keys = sorted({key.batch for key in store.list(SEQUENCES)} | losses.keys())
    rows = [_facts(settings, store, batch) | {"missing": _counts(losses.get(batch, {}))} for batch in keys]
    code = 1 if problem else 0
    if as_json:
        click.echo(json.dumps({"batches": rows, "problem": problem}, indent=2))
        return code
    if problem:
        note(f"error: {problem}")
    for batch, lost in losses.items():
        note(f"{batch}: missing {describe(lost)}" + ("" if problem else f"\n  -> {remedy(batch, lost)}"))
    ledger = Ledger(settings.home)
    for entry in ledger.parked() if ledger.path.exists() else []:
        note(f"{entry.batch} is parked after {entry.failures} failures: {entry.reason}\n  -> virnuc batches retry")
    for item in ledger.waiting(time.time()) if ledger.path.exists() else []:
        if item.state == "failed":
            when = "tried again by itself, at the latest by the scheduled backfill"
            note(f"{item.name} failed: {item.reason}\n  -> {when}")
    if not rows:
        if not problem:
            click.echo(f"no batch in {settings.home}; add one with `virnuc predict FILE --output DIR`")
        return code
    numbers = ("sequences", "viral", "frames", "shards", "predicted")
    print_table(
        ("batch", *numbers, "report", "file"),
        (
            (
                row["batch"], row["sequences"], (row["verdicts"] or {}).get("viral"), row["frames"], row["shards"],
                row["predicted_shards"], _report_word(row), _file_words(row),
            )
            for row in rows
        ),
        numbers=numbers,
    )  # fmt: skip
    return code


@batches.command(
    epilog="""\b
Examples:
  virnuc batches show lambda          # the beginning of a key is enough
  virnuc batches show lambda --json"""
)
@batch_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def show(batch: str, as_json: bool, **flags: Any) -> int:
    """Show what is stored of one BATCH (its key, or a beginning of it that fits no other)."""
    from virnuc_dagster.home.binding import check_store

    settings = Settings.read(**flags)
    store = check_store(settings)
    facts = _facts(settings, store, resolve_batch(settings, store, batch))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        print_table(("what", "value"), _lines(facts))
    return 0


@batches.command(
    epilog="""\b
Examples:
  virnuc batches remove lambda-3f9a1c07           # say what would go
  virnuc batches remove lambda-3f9a1c07 --yes"""
)
@batch_argument
@click.option("--yes", is_flag=True, help="Remove; without it, only say what would be removed.")
@home_option
def remove(batch: str, yes: bool, **flags: Any) -> int:
    """Remove one BATCH (its whole key): stored results, partitions, report. A line in removed_batches.jsonl stays."""
    from virnuc_dagster.home.binding import check_store
    from virnuc_dagster.inbox.ledger import Ledger
    from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance
    from virnuc_dagster.orchestration.partitions import forget_batch, runs_at_work
    from virnuc_dagster.upkeep.removal import batch_files, remove_batch

    settings = Settings.read(**flags)
    store = check_store(settings)
    found = batch_files(store, settings.reports, resolve_batch(settings, store, batch, whole=True))
    what = f"{found.batch}: {len(found.checkpoints):,} checkpoints, {found.bytes:,} bytes, {len(found.shards):,} shards"
    if not yes:
        click.echo(f"{what}{', its report' if found.report else ''} would be removed; run again with --yes")
        return 0
    with open_instance(settings) as instance:
        clear_dead_runs(instance, note)
        if run_ids := runs_at_work(instance, found.batch):
            raise InputError(
                f"run or backfill {', '.join(run_id[:8] for run_id in run_ids)} is at work on {found.batch}",
                hint="wait for it or terminate it in the web UI, then remove the batch",
            )
        Ledger(settings.home).forget_batch(found.batch)  # first: no sensor shall request runs of what is going
        forget_batch(instance, found.batch)
        remove_batch(store, settings.home, found)
    click.echo(f"{what} removed")
    return 0


@batches.command(
    epilog="""\b
Example:
  virnuc batches retry lambda-3f9a1c07"""
)
@click.argument("batch")
@home_option
def retry(batch: str, **flags: Any) -> int:
    """Let the scheduled backfill try a parked BATCH again, once the cause of its failures is removed.

    Partitions of its shards that were deleted in the web UI, or added there, are put right at once.
    """
    from virnuc_dagster.home.binding import check_store
    from virnuc_dagster.inbox.ledger import Ledger

    settings = Settings.read(**flags)
    store = check_store(settings)
    key = resolve_batch(settings, store, batch)
    mended = _register_again(settings, store, key)
    if mended:
        click.echo(f"the shards of {key} are registered again")
    if not Ledger(settings.home).unpark(key) and not mended:
        raise InputError(f"{key} is not parked", hint="`virnuc predict` computes whatever it lacks now")
    click.echo(f"{key} is tried again by the next scheduled backfill")
    return 0


def _register_again(settings: Settings, store: Any, batch: str) -> bool:
    """Put a batch's partitions right; False if they were, or if it is not cut yet."""
    from virnuc_dagster.orchestration.instance import open_instance
    from virnuc_dagster.orchestration.partitions import batches as batch_partitions
    from virnuc_dagster.orchestration.partitions import register_shards
    from virnuc_dagster.stages.keys import batch_checkpoint
    from virnuc_dagster.stages.pipeline import BATCH

    if store.record(batch_checkpoint(BATCH, batch)) is None:
        return False
    shards = store.load(batch_checkpoint(BATCH, batch))["shards"]
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions(str(batch_partitions.name), [batch])
        return register_shards(instance, batch, shards)


def _what_is_lost(settings: Settings, store: Any) -> tuple[str | None, "Losses"]:
    """Find what is wrong with the store as a whole, and what was stored once and is missing."""
    from virnuc_dagster.home.binding import check_store
    from virnuc_dagster.orchestration.losses import losses_of_home

    try:
        check_store(settings)
        problem = None
    except VirnucError as error:
        problem = str(error)
    return problem, losses_of_home(settings, store)


def _counts(lost: Mapping[str, list[str]]) -> dict[str, int]:
    return {stage: len(keys) for stage, keys in lost.items()}


class Notes(Progress):
    """Tells the user what is worth knowing, and draws nothing."""

    def note(self, text: str) -> None:
        """Print it."""
        note(text)


def note(text: str) -> None:
    """Tell the user something that is not the command's output."""
    click.echo(text, err=True)


def resolve_batch(settings: Settings, store: Any, name: str, *, whole: bool = False) -> str:
    """Find the batch key that a name means: the key, its beginning, or the name of the file it was made from.

    Args:
        settings: Of the home.
        store: Its store.
        name: What the user gave.
        whole: Accept the whole key only.

    Raises:
        InputError: None, or more than one.
    """
    from virnuc_dagster.orchestration.losses import known_batches
    from virnuc_dagster.stages.keys import slug
    from virnuc_dagster.stages.pipeline import SEQUENCES

    known = [key.batch for key in store.list(SEQUENCES)]
    if name in known:
        return name
    begins = {name, slug(name)} if name.strip() else set()
    fitting = [batch for batch in known if any(batch.startswith(begin) for begin in begins)]
    if name.strip() and (whole or not fitting) and name in known_batches(settings):
        return name  # its sequences are gone, or someone added a partition by hand
    if len(fitting) == 1 and whole:
        raise InputError(f"{name!r} is not a whole batch key", hint=f"did you mean {fitting[0]}?")
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"{name!r} fits {len(fitting)} batches: {', '.join(fitting[:5])}", hint="give more of the key")
    raise InputError(f"no batch {name!r} in {settings.home}", hint="`virnuc batches list` shows what is there")


def _file_words(row: dict[str, Any]) -> str | None:
    """Name the file that a batch was last read from, and how many others there were."""
    if not row["files"]:
        return None
    *others, last = row["files"]
    return printable(last["path"]) + (f" (and {len(others):,} more)" if others else "")


def _report_word(row: dict[str, Any]) -> str | None:
    if row["report"] is None:
        return None
    return "yes" if row["complete"] else "incomplete"


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Put what is known of a batch into words."""
    shards = facts["shards"]
    for name in ("batch", "added_at", "sequences", "frames", "shards"):
        yield name.replace("_", " "), facts[name]
    for name in (*(encoder.part for encoder in ENCODERS), "predicted"):
        yield (
            f"{name} shards",
            facts[f"{name}_shards"] if shards is None else f"{facts[f'{name}_shards']:,} of {shards:,}",
        )
    for verdict, count in (facts["verdicts"] or {}).items():
        yield f"verdict: {verdict}", count
    for entry in facts["files"]:
        size = f", {entry['bytes']:,} bytes" if entry["bytes"] is not None else ""
        yield "file", f"{printable(entry['absolute'] or entry['path'])}{size}, sha256 {entry['sha256']}"
    yield "report", facts["report"] and facts["report"] + ("" if facts["complete"] else " (incomplete)")


def _summary(settings: Settings, batch: str) -> dict[str, Any]:
    """Read what the last report says; empty without a readable one."""
    from virnuc_dagster.report import paths

    try:
        found = json.loads((settings.reports / batch / paths.SUMMARY).read_bytes())
        return {
            "verdicts": dict(found["verdicts"]), "frames": int(found["frames"]), "complete": bool(found["complete"]),
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _rows(store: Any, keys: Iterable[Any]) -> int:
    """Count the rows of some checkpoints, from their records: a small read each."""
    return sum(record.rows for record in map(store.record, keys) if record)


def _facts(settings: Settings, store: Any, batch: str) -> dict[str, Any]:
    """Count one batch, from records alone; None where it is not cut yet."""
    from virnuc_dagster.home.origins import origins
    from virnuc_dagster.report import paths
    from virnuc_dagster.stages.keys import batch_checkpoint
    from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS, SEQUENCES

    summary, frames = _summary(settings, batch), store.list(FRAMES, batch)
    cut = store.record(batch_checkpoint(BATCH, batch)) is not None
    source = store.record(batch_checkpoint(SEQUENCES, batch))
    report = settings.reports / batch / paths.HTML
    return {
        "batch": batch,
        "verdicts": summary.get("verdicts"),
        "sequences": source.rows if source else None,
        "added_at": source.created_at if source else None,
        "frames": (summary.get("frames") or _rows(store, frames)) if cut else None,
        "shards": len(frames) if cut else None,
        **{f"{encoder.part}_shards": len(store.list(encoder.stage, batch)) for encoder in ENCODERS},
        "predicted_shards": len(store.list(PREDICTIONS, batch)),
        "report": str(report) if report.exists() else None,
        "complete": summary.get("complete"),
        "files": origins(settings.home, batch),
    }
