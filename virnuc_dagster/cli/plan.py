"""`virnuc plan`: what an input will come to, before anything is computed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.cli.options import PathType, compute_options, home_option, reading_option
from virnuc_dagster.cli.tables import print_table, size_text
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import Settings


@click.command(
    epilog="""\b
Examples:
  virnuc plan contigs.fasta
  virnuc plan contigs.fasta --calibrate              # measures this machine for some ten seconds
  virnuc plan contigs.fasta --json | jq .shard_size_advice

Up to 32 MB of text are counted; of more, evenly spread pieces are. For these a compressed file is decompressed up to
2 GB of text (bgzip's is not: it can be entered anywhere); of a longer one no interval is stated."""
)
@click.argument("input", type=PathType(), metavar="INPUT")
@compute_options
@click.option("--shard-size", type=int, help="Frames a shard [default: 10000].")
@reading_option
@click.option("--calibrate", is_flag=True, help="Measure tokens a second on frames of INPUT; kept in the home.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def plan(input: Path, calibrate: bool, as_json: bool, **flags: Any) -> int:
    """Say what INPUT comes to: frames, shards, bytes, events, time, and a good shard size. Nothing is stored of it."""
    facts = plan_facts(Settings.read(**flags), input, calibrate=calibrate)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print(facts)
    return 0


def plan_facts(settings: Settings, path: Path, *, calibrate: bool) -> dict[str, Any]:
    """Make the JSON document of `virnuc plan`.

    Args:
        settings: Home, bundle, device, shard size.
        path: The input.
        calibrate: Measure the machine, even if that was done before.
    """
    from virnuc_dagster.checkpoints import open_store
    from virnuc_dagster.embedding.registry import encoder_of
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.planning import sizing
    from virnuc_dagster.sequences.sampling import estimate_file
    from virnuc_dagster.stages.pipeline import FRAMES

    bundle = open_bundle(settings.bundle)
    found = estimate_file(path, bundle.spec.window_length, allow_missing_end_mark=settings.allow_missing_end_mark)
    widths = {encoder_of(encoder.part).stage: encoder.dim for encoder in bundle.spec.encoders}
    shards = sizing.shards_of(found.counts.frames, settings.shard_size)
    store = open_store(settings.store)
    registered = len(store.list(FRAMES))
    stages = sizing.bytes_of_stages(found.counts, shards, widths)
    advice = sizing.advise(found.counts.frames, widths, registered=registered)
    return {
        "input": {
            "path": str(path), "exact": found.exact, "how": found.how,
            "frames_error": None if found.error is None else round(found.error, 4),
            "read_bytes": found.read_bytes, "text_bytes": found.text_bytes, **asdict(found.counts),
        },
        "bundle": bundle.name,
        "window_length": bundle.spec.window_length,
        "shard_size": settings.shard_size,
        "shards": shards,
        "bytes": stages | {"total": sum(stages.values())},
        "bytes_free": store.free_bytes(),
        "dagster": {
            "events": sizing.events_of(shards),
            "database_bytes": sizing.database_bytes(shards),
            "shards_registered": registered,
            "shards_after": registered + shards,
            "shards_recommended_max": sizing.PARTITIONS_MAX,
        },
        "shard_size_advice": asdict(advice),
        "time": _time(settings, bundle, found, shards, calibrate=calibrate),
    }  # fmt: skip


def _time(settings: Settings, bundle: Any, found: Any, shards: int, *, calibrate: bool) -> dict[str, Any]:
    """Estimate seconds from what was measured on this machine; None where nothing was."""
    from virnuc_dagster.home.versions import open_home
    from virnuc_dagster.planning import calibration, sizing

    device = _device(settings, measured_here=calibrate)
    key = calibration.key_of(bundle, device, settings.precision, settings.threads)
    if calibrate:
        options = settings.options().model_copy(update={"device": device})
        measured = calibration.measure(bundle, options, found.texts)
        open_home(settings.home)
        calibration.keep(settings.home, key, measured)
    known = calibration.stored(settings.home, key)
    overhead = sizing.OVERHEAD_SECONDS_A_SHARD * shards
    if known is None:
        return {"seconds": None, "overhead_seconds": round(overhead, 1), "device": device, "calibration": None}
    encoders = known.seconds(found.counts)
    rates = {part: round(rate.tokens_per_second, 1) for part, rate in known.rates.items()}
    return {
        "seconds": round(sizing.seconds_of_run(list(encoders.values()), shards), 1),
        "encoder_seconds": {name: round(value, 1) for name, value in encoders.items()},
        "overhead_seconds": round(overhead, 1),
        "device": device,
        "calibration": {"measured_at": known.measured_at, "frames": known.frames, "tokens_per_second": rates},
    }


def _device(settings: Settings, *, measured_here: bool) -> str:
    """Tell where the run would compute; with Ray that is for the workers to have, not for this machine."""
    from virnuc_dagster.embedding.device import resolve_device

    try:
        return str(resolve_device(settings.device))
    except SettingsError:
        if measured_here or settings.backend == "local":
            raise
        return settings.device


def _print(facts: dict[str, Any]) -> None:
    """Print the plan in words."""
    found, dagster, advice = facts["input"], facts["dagster"], facts["shard_size_advice"]
    click.echo(f"{found['path']}: {found['how']}")
    if not found["exact"]:
        error = found["frames_error"]
        within = "no interval can be stated" if error is None else f"frames within about {error:.1%}"
        click.echo(f"figures are estimates; {within}")
    print_table(
        ("what", "value"),
        [
            *((name, found[name]) for name in ("sequences", "bases", "windows", "frames")),
            ("shards", f"{facts['shards']:,} of {facts['shard_size']:,} frames"),
            *((f"bytes: {stage}", size_text(size)) for stage, size in facts["bytes"].items()),
            ("free", "not known" if facts["bytes_free"] is None else size_text(facts["bytes_free"])),
            ("events", dagster["events"]),
            ("database growth", size_text(dagster["database_bytes"])),
            ("time", _time_text(facts)),
        ],
    )
    free = facts["bytes_free"]
    if free is not None and facts["bytes"]["total"] > free:
        click.echo("NO SPACE: the results do not fit; choose another --home")
    after, limit = dagster["shards_after"], dagster["shards_recommended_max"]
    now = dagster["shards_registered"]
    click.echo(f"shards of this home: {now:,} now, {after:,} after; Dagster recommends at most {limit:,}")
    if advice["shard_size"] > facts["shard_size"]:
        click.echo(f"advice: --shard-size {advice['shard_size']} ({advice['shards']:,} shards)")
    if not advice["fits"]:
        click.echo("advice: use a new --home; this one would get more shards than Dagster's UI shows quickly")


def _time_text(facts: dict[str, Any]) -> str:
    time = facts["time"]
    if time["seconds"] is None:
        return f"unknown on {time['device']} until measured: add --calibrate"
    made = time["calibration"]
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in made["tokens_per_second"].items())
    where = f"one worker on {time['device']}"
    return f"{_duration(time['seconds'])} with {where} (tokens/s: {rates}; measured {made['measured_at']})"


def _duration(seconds: float) -> str:
    """Write a time for people."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
