"""`virnuc checkpoints`: look at stored results, and clean up. Nothing here computes."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from virnuc_dagster.cli.options import PathType, home_option, refuse_empty
from virnuc_dagster.cli.tables import output_console, print_table, size_text
from virnuc_dagster.errors import InputError, VirnucError
from virnuc_dagster.home.settings import Settings

if TYPE_CHECKING:
    from virnuc_dagster.orchestration.losses import Losses

_LISTED_MAX = 40
_STYLES = {"ok": "green", "damaged": "bold red", "incompatible": "bold red", "superseded": "dim", "leftover": "yellow"}
_STYLES["missing"] = _STYLES["damaged"]


@click.group()
def checkpoints() -> None:
    """Validate, inspect and clean up stored results."""


@checkpoints.command(
    epilog="""\b
Examples:
  virnuc checkpoints validate                        # everything in this home, every byte
  virnuc checkpoints validate --level quick          # records and sizes only
  virnuc checkpoints validate old_run/ --json | jq '.files[] | select(.status != "ok")'

Exit code 0: all whole; 3: something is damaged, incompatible or missing; 1: nothing there to validate."""
)
@click.argument("folder", required=False, callback=refuse_empty)
@click.option("--level", type=click.Choice(["quick", "full"]), default="full", show_default=True,
              help="quick: records and sizes; full: every check on every byte.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def validate(folder: str | None, level: str, as_json: bool, **flags: Any) -> int:
    """Check every checkpoint below FOLDER [default: this home's store], of any kind and version.

    FOLDER may be s3://bucket/prefix, the root of a store. Of this home's store it is also said what was stored once
    and is missing; a folder cannot tell.
    """
    settings = None if folder else Settings.read(**flags)
    losses, untold = _losses(settings) if settings else ({}, None)
    place = folder or str(settings and settings.store)
    findings = [*_findings(place, full=level == "full"), *(_missing(losses, settings) if settings else ())]
    if not findings:
        raise InputError(f"no checkpoint below {place}", hint="name a folder that holds .pt files", path=place)
    counts = Counter(finding.status for finding in findings)
    if as_json:
        files = [{**vars(finding), "path": str(finding.path)} for finding in findings]
        click.echo(json.dumps({"folder": place, "level": level, "counts": counts, "files": files}, indent=2))
    else:
        _print_findings(findings, place)
        _print_losses(losses)
        there, size = len(findings) - counts["missing"], sum(finding.bytes for finding in findings)
        click.echo(f"{there:,} files, {size_text(size)}: " + ", ".join(f"{n:,} {s}" for s, n in counts.items()))
    bad = any(finding.bad for finding in findings)
    if untold and not bad:
        raise untold
    return 3 if bad else 0


def _losses(settings: Settings) -> tuple["Losses", VirnucError | None]:
    """Find what was stored once in this home's store and is missing, or why that cannot be told.

    Raises:
        StoreGoneError: All of it, or another store is there.
    """
    from virnuc_dagster.home.binding import check_store
    from virnuc_dagster.orchestration.losses import losses_of_home

    store = check_store(settings)
    try:
        return losses_of_home(settings, store), None
    except VirnucError as error:  # the bytes that are there can be looked at all the same
        return {}, error


def _print_losses(losses: "Losses") -> None:
    if losses:
        from virnuc_dagster.orchestration.losses import describe, remedy

        for batch, lost in losses.items():
            click.echo(f"{batch}: missing {describe(lost)}\n  -> {remedy(batch, lost)}")


def _missing(losses: "Losses", settings: Settings) -> list[Any]:
    from virnuc_dagster.checkpoints import open_store
    from virnuc_dagster.checkpoints.audit import Finding

    root = open_store(settings.store).root
    return [
        Finding(root / stage / batch / f"{name}.pt.done", "missing", "it was stored once", kind=stage)
        for batch, stages in losses.items()
        for stage, names in stages.items()
        for name in names
    ]


def _findings(place: str, *, full: bool) -> list[Any]:
    """Find what is known of every checkpoint at a place."""
    from virnuc_dagster.checkpoints import open_store
    from virnuc_dagster.checkpoints.audit import audit, audit_store

    if "://" in place:
        return list(audit_store(open_store(place), full=full))
    if not Path(place).exists():
        raise InputError(f"{place} does not exist", hint="name a folder of checkpoints", path=place)
    return list(audit(Path(place), full=full))


def _print_findings(findings: Iterable[Any], place: str) -> None:
    """Print a table of what is not well; whole files are counted by kind and version."""
    console = output_console()
    groups = Counter((f.kind or "unread", f.version or "-", f.status) for f in findings)
    rows = ((kind, version, Text(status, _STYLES[status]), n) for (kind, version, status), n in sorted(groups.items()))
    print_table(("kind", "version", "status", "files"), rows, numbers=("files",))
    odd = [finding for finding in findings if finding.status not in ("ok", "superseded", "missing")]
    for finding in odd[:_LISTED_MAX]:
        path = str(finding.path).removeprefix(place.rstrip("/") + "/")
        console.print(Text(f"{finding.status}: {path}: {finding.reason}", _STYLES[finding.status]), soft_wrap=True)
    if len(odd) > _LISTED_MAX:
        console.print(f"... and {len(odd) - _LISTED_MAX:,} more (--json lists all)")


@checkpoints.command(
    epilog="""\b
Example:
  virnuc checkpoints info .virnuc/store/predictions/<batch>/<shard>.pt.done"""
)
@click.argument("file", type=PathType(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info(file: Path, as_json: bool) -> int:
    """Say what FILE holds (a data file or a commit record), without loading its tensors."""
    from virnuc_dagster.checkpoints.audit import examine

    try:
        finding = examine(file)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist", hint="name a .pt file or its .pt.done", path=str(file)) from error
    facts = {**vars(finding), "path": str(finding.path)}
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            if name == "provenance":
                for line in json.dumps(value, indent=2).splitlines() if value else ["not recorded"]:
                    click.echo(f"{'provenance' if line in ('{', 'not recorded') else '':<12}{line}")
            elif value not in ("", None):
                click.echo(f"{name:<12}{value:,}" if isinstance(value, int) else f"{name:<12}{value}")
    return 3 if finding.bad else 0


@checkpoints.command(
    epilog="""\b
Examples:
  virnuc checkpoints sweep                           # say what could go; removes nothing
  virnuc checkpoints sweep --yes                     # remove leftovers of dead writers
  virnuc checkpoints sweep --superseded --quarantine-days 30 --yes"""
)
@click.option("--yes", is_flag=True, help="Remove; without it, only say what would be removed.")
@click.option("--grace-minutes", type=click.FloatRange(0), default=60.0, show_default=True,
              help="Leave younger files alone: their writer may be about to commit.")  # fmt: skip
@click.option("--superseded", is_flag=True, help="Also remove the older generation kept beside each result.")
@click.option("--quarantine-days", type=click.FloatRange(0), help="Also remove quarantined files older than this.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def sweep(
    yes: bool, grace_minutes: float, superseded: bool, quarantine_days: float | None, as_json: bool, **flags: Any
) -> int:
    """Remove what dead writers left in this home's store, and what you say you no longer need."""
    from virnuc_dagster.home.binding import check_store

    store = check_store(Settings.read(**flags))
    swept = store.sweep(
        timedelta(minutes=grace_minutes).total_seconds(),
        superseded=superseded,
        quarantine_seconds=None if quarantine_days is None else timedelta(days=quarantine_days).total_seconds(),
        dry_run=not yes,
    )
    size = sum(file.bytes for file in swept)
    if as_json:
        files = [vars(file) for file in swept]
        click.echo(json.dumps({"removed": yes, "bytes": size, "files": files}, indent=2))
        return 0
    for file in swept[:_LISTED_MAX]:
        click.echo(f"{file.why:<12}{file.bytes:>14,}  {file.path}")
    if len(swept) > _LISTED_MAX:
        click.echo(f"... and {len(swept) - _LISTED_MAX:,} more (--json lists all)")
    verb = "removed" if yes else "would be removed; run again with --yes"
    click.echo(f"{len(swept):,} files, {size_text(size)} {verb}" if swept else "nothing to remove")
    return 0


@checkpoints.command(
    epilog="""\b
Examples:
  virnuc checkpoints accept --home /data/virnuc                 # say what is there
  virnuc checkpoints accept --home /data/virnuc --yes"""
)
@click.option("--yes", is_flag=True, help="Accept; without it, only say what is there.")
@home_option
def accept(yes: bool, **flags: Any) -> int:
    """Take what lies at the store's place, be it nothing, as this home's store: the one before is lost for good.

    What is missing then is named by `virnuc batches list` and by the audit until it is computed again or removed.
    """
    from virnuc_dagster.home.binding import StoreGoneError, accept_store, check_store

    settings = Settings.read(**flags)
    try:
        check_store(settings)
    except StoreGoneError as error:
        if not yes:
            click.echo(f"{error.message}; to accept that, run again with --yes")
            return 0
        accept_store(settings)
        click.echo(f"{settings.store} is the store of {settings.home} from now on")
    else:
        click.echo(f"{settings.store} is the store that {settings.home} works with")
    return 0


@checkpoints.command(
    epilog="""\b
Examples:
  virnuc checkpoints migrate old_run/
  virnuc checkpoints migrate old_run/output_1_ESM.pt --json"""
)
@click.argument("folder", type=PathType(exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def migrate(folder: Path, as_json: bool) -> int:
    """Write current checkpoints beside the files of older programs in FOLDER (or for one file); those stay."""
    from virnuc_dagster.checkpoints.legacy import find_legacy, migrate_file

    done = [migrate_file(path) for path in find_legacy(folder)]
    if not done:
        raise InputError(
            f"no older file below {folder}", hint="name the folder of an older program's output_*.pt files"
        )
    failed = [file for file in done if file.record is None]
    if as_json:
        files = [{"path": str(f.path), "written": f.record and f.record.file, "reason": f.reason} for f in done]
        click.echo(json.dumps({"files": files}, indent=2))
        return 3 if failed else 0
    for file in done:
        outcome = f"not migrated: {file.reason}" if file.record is None else file.record.file
        click.echo(f"{file.path} -> {outcome}{' (done before)' if file.done_before else ''}")
    return 3 if failed else 0


@checkpoints.command(
    "import",
    epilog="""\b
Example:
  virnuc batches add contigs.fasta
  virnuc checkpoints import old_run/ --batch contigs
  virnuc predict contigs.fasta --output results     # computes only what was not imported""",
)
@click.argument("folder", type=PathType(exists=True))
@click.option("--batch", required=True, help="The batch that the vectors belong to: its key or the beginning of it.")
@click.option("--bundle", help="The bundle whose encoders computed them [default: mini].")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def import_(folder: Path, batch: str, as_json: bool, **flags: Any) -> int:
    """Adopt embeddings of the original program or its refactoring, so that they are not computed again.

    Vectors are joined to the batch's frames by id. FOLDER is searched for files such as output_1_DNABERT_S.pt,
    output_1_ESM.pt and output_1_merged.pt; they stay as they are.
    """
    from virnuc_dagster.api.session import open_session
    from virnuc_dagster.cli.batches import Notes, resolve_batch
    from virnuc_dagster.home.written_by import writer
    from virnuc_dagster.upkeep.imported_embeddings import import_embeddings

    settings = Settings.read(**flags)
    with open_session(settings, progress=Notes()) as session:
        key = resolve_batch(settings, session.store, batch)
        session.cut(key)
        done = import_embeddings(session.store, key, folder, session.stage.inputs, writer("import"))
    if as_json:
        refused = {str(path): reason for path, reason in done.refused.items()}
        facts = {"batch": key, "used": list(map(str, done.used)), "refused": refused}
        click.echo(json.dumps(facts | {"stages": [vars(stage) for stage in done.stages]}, indent=2))
    else:
        _print_import(done)
    return 3 if done.refused else 0


def _print_import(done: Any) -> None:
    for path in done.used:
        click.echo(f"read     {path}")
    for path, reason in done.refused.items():
        click.echo(f"refused  {path}: {reason}")
    for stage in done.stages:
        lacking = sum(stage.missing.values())
        click.echo(
            f"{stage.stage}: {len(stage.adopted):,} shards adopted, {len(stage.present):,} already there, "
            f"{len(stage.missing):,} to be computed" + (f" ({lacking:,} frames are in no file)" if lacking else "")
        )
