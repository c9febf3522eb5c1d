"""What a report says of its own origin: facts on the page, and digests of every checkpoint behind it."""

import hashlib
from collections.abc import Sequence
from typing import Any

from virnuc_dagster import __version__
from virnuc_dagster.checkpoints import CheckpointKey, Payload
from virnuc_dagster.embedding.registry import encoder_of
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, PREDICTIONS, SEQUENCES
from virnuc_dagster.stages.records import Records
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.staleness import IMPORTED


def report_facts(
    records: Records,
    batch: str,
    stage: PredictionStage,
    manifest: Payload,
    shards: dict[str, bool],
    imported: list[str],
) -> dict[str, str]:
    """Name -> text of what decided the numbers; the same for every call with equal input."""
    source = records.record(batch_checkpoint(SEQUENCES, batch))
    spec = stage.bundle.spec
    limits = spec.thresholds
    facts = {
        "bundle": spec.name,
        "about the bundle": spec.description,
        **{encoder_of(encoder.part).title: _part(encoder) for encoder in spec.encoders},
        "head (sha256)": spec.head.weights.sha256,
        **({"fallback (sha256)": spec.fallback.weights.sha256} if spec.fallback else {}),
        "verdicts": f"viral from {limits.viral}, non-viral up to {limits.non_viral}; uncertain under "
        f"{limits.scored_share:.0%} scored windows or {limits.known_bases:,} known bases; a window counts from "
        f"{limits.known_share:.0%} known codons (by the fallback: six-letter words) on",
        "roll-up of window scores": spec.roll_up,
        "precision": stage.options.precision,
        "window length": f"{manifest['window_length']} bases",
        "shard size": f"{manifest['shard_size']:,} frames (shards of this batch: {len(shards):,})",
        "content of the input (sha256)": source.provenance["inputs"]["content"] if source else "",
        "content of the predictions (sha256)": _predictions_digest(records, shards),
        "virnuc-dagster": __version__,
    }
    if imported:
        facts["imported"] = f"{len(imported):,} of {len(shards):,} shards hold embeddings computed by another program"
    return facts


def _part(encoder: Any) -> str:
    return f"{encoder.id} @ {encoder.revision}, {encoder.dim} wide, sha256 {encoder.weights.sha256}"


def _predictions_digest(records: Records, shards: dict[str, bool]) -> str:
    """One digest over the content of all current predictions, in the order of the shards."""
    digest = hashlib.sha256()
    for shard, current in shards.items():
        record = records.record(shard_checkpoint(PREDICTIONS, shard)) if current else None
        digest.update((record.content["data"] if record else "missing").encode())
    return digest.hexdigest()


def imported_shards(records: Records, stage: PredictionStage, shards: dict[str, bool]) -> list[str]:
    """Shards of the report whose embeddings were imported."""
    keys = (shard_checkpoint(part.name, shard) for shard, current in shards.items() if current for part in stage.inputs)
    found = ((key.shard, records.record(key)) for key in keys)
    return sorted({shard for shard, record in found if record and IMPORTED in record.provenance})


def report_keys(batch: str, stage: PredictionStage, shards: Sequence[str]) -> list[CheckpointKey]:
    """The checkpoints that a report of these shards is made from."""
    keys = [batch_checkpoint(SEQUENCES, batch), batch_checkpoint(BATCH, batch)]
    return keys + [key for shard in shards for key in (*stage.reads(shard), shard_checkpoint(PREDICTIONS, shard))]


def report_provenance(records: Records, batch: str, stage: PredictionStage, shards: dict[str, bool]) -> dict[str, Any]:
    """Digests and provenance of every checkpoint behind the report."""
    checkpoints = {}
    for key in report_keys(batch, stage, [shard for shard, current in shards.items() if current]):
        record = records.record(key)
        if record is not None:
            checkpoints[str(key)] = {"sha256": record.sha256, "created_at": record.created_at} | record.provenance
    return {
        "batch": batch,
        **stage.bundle.verdict_provenance(),
        "precision": stage.options.precision,
        "missing_shards": [shard for shard, current in shards.items() if not current],
        "checkpoints": checkpoints,
    }
