"""`virnuc checkpoints`: look at stored results, and clean up. Nothing here computes."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from virnuc_dagster.cli.options import home_option
from virnuc_dagster.errors import InputError
from virnuc_dagster.settings import Settings

_LISTED_MAX = 40
_STYLES = {"ok": "green", "damaged": "bold red", "incompatible": "bold red", "superseded": "dim", "leftover": "yellow"}


@click.group()
def checkpoints() -> None:
    """Validate, inspect and clean up stored results."""


@checkpoints.command(
    epilog="""\b
Examples:
  virnuc checkpoints validate                        # everything in this home, every byte
  virnuc checkpoints validate --level quick          # records and sizes only
  virnuc checkpoints validate old_run/ --json | jq '.files[] | select(.status != "ok")'

Exit code 0: all whole; 3: something is damaged or incompatible; 1: nothing to validate."""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=True))
@click.option("--level", type=click.Choice(["quick", "full"]), default="full", show_default=True,
              help="quick: records and sizes; full: every check on every byte.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def validate(folder: Path | None, level: str, as_json: bool, **flags: Any) -> int:
    """Check every checkpoint below FOLDER [default: this home's store], of any kind and version."""
    from virnuc_dagster.checkpoints.audit import audit

    folder = folder or Settings.read(**flags).store
    if not folder.exists():
        raise InputError(f"{folder} does not exist", hint="name a folder of checkpoints", path=str(folder))
    findings = list(audit(folder, full=level == "full"))
    if not findings:
        raise InputError(f"no checkpoint below {folder}", hint="name a folder that holds .pt files", path=str(folder))
    counts = Counter(finding.status for finding in findings)
    if as_json:
        files = [{**vars(finding), "path": str(finding.path)} for finding in findings]
        click.echo(json.dumps({"folder": str(folder), "level": level, "counts": counts, "files": files}, indent=2))
    else:
        _print_findings(findings, folder)
        size = sum(finding.bytes for finding in findings)
        click.echo(f"{len(findings):,} files, {_bytes(size)}: " + ", ".join(f"{n:,} {s}" for s, n in counts.items()))
    return 3 if any(finding.bad for finding in findings) else 0


def _print_findings(findings: Iterable[Any], folder: Path) -> None:
    """A table of what is not well; whole files are counted by kind and version."""
    console = Console()
    groups = Counter((f.kind or "unread", f.version or "-", f.status) for f in findings)
    table = Table("kind", "version", "status", "files", box=None, pad_edge=False)
    for (kind, version, status), number in sorted(groups.items()):
        table.add_row(kind, version, Text(status, _STYLES[status]), f"{number:,}")
    console.print(table)
    odd = [finding for finding in findings if finding.status not in ("ok", "superseded")]
    for finding in odd[:_LISTED_MAX]:
        path = finding.path.relative_to(folder) if finding.path.is_relative_to(folder) else finding.path
        console.print(Text(f"{finding.status}: {path}: {finding.reason}", _STYLES[finding.status]), soft_wrap=True)
    if len(odd) > _LISTED_MAX:
        console.print(f"... and {len(odd) - _LISTED_MAX:,} more (--json lists all)")


@checkpoints.command(
    epilog="""\b
Example:
  virnuc checkpoints info .virnuc/store/predictions/<batch>/<shard>.pt.done"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
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
    from virnuc_dagster.checkpoints import open_store

    store = open_store(Settings.read(**flags).store)
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
    click.echo(f"{len(swept):,} files, {_bytes(size)} {verb}" if swept else "nothing to remove")
    return 0


def _bytes(size: float) -> str:
    """A size for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
