"""Whether a report that was made earlier may be handed out again, instead of being made anew from the predictions.

It may if the checkpoints behind it are the ones that it names, with the bytes that they had then; if this program with
this bundle made it; and if its own files are those that were written. The last two are what the seal is for: a small
file beside the report, written after all others. A report without one is made again, which gives it one.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnuc_dagster import __version__
from virnuc_dagster.checkpoints import CheckpointStore, Level
from virnuc_dagster.files import write_atomic
from virnuc_dagster.report import paths
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, PREDICTIONS, SEQUENCES
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.report_facts import report_keys, report_provenance
from virnuc_dagster.stages.shards import PredictionStage


def seal_report(folder: Path, stage: PredictionStage) -> None:
    """Write down what the files of a report are, once all of them are written.

    Raises:
        NoSpaceError, StorageError: The folder cannot be written.
    """
    write_atomic(folder / paths.SEAL, (json.dumps(_seal(folder, stage), indent=2) + "\n").encode())


def report_stands(
    store: CheckpointStore, batch: str, stage: PredictionStage, shards: Sequence[str], folder: Path
) -> bool:
    """Whether making the report of a batch that lacks no result would give what lies in its folder.

    Args:
        store: Where the checkpoints are.
        batch: Key of the batch.
        stage: The predictions with the wanted bundle and precision; its level decides whether bytes are checked.
        shards: All shards of the batch, in order; the predictions of each are current.
        folder: Of the report.

    Raises:
        CheckpointError: A checkpoint that the report's numbers are from is damaged, as making it would find.
    """
    records = RecordCache(store, report_keys(batch, stage, shards))
    wanted = provenance_text(report_provenance(records, batch, stage, dict.fromkeys(shards, True)))
    try:
        if (folder / paths.PROVENANCE).read_bytes() != wanted:
            return False
        if json.loads((folder / paths.SEAL).read_bytes()) != _seal(folder, stage):
            return False
    except (OSError, ValueError):
        return False
    if stage.options.level is not Level.SKIP:
        for name in (SEQUENCES, BATCH):
            store.check_bytes(batch_checkpoint(name, batch))
        for shard in shards:
            store.check_bytes(shard_checkpoint(PREDICTIONS, shard))
    return True


def provenance_text(provenance: dict[str, Any]) -> bytes:
    """The content of `provenance.json`."""
    return (json.dumps(provenance, indent=2, ensure_ascii=False) + "\n").encode()


def _seal(folder: Path, stage: PredictionStage) -> dict[str, Any]:
    """What decides a report besides the checkpoints, and the digests of the files as they lie there."""
    spec = stage.bundle.spec.model_dump_json().encode()
    return {
        "virnuc_dagster": __version__,
        "bundle_json_sha256": hashlib.sha256(spec).hexdigest(),
        paths.DIGESTS: {name: _digest(folder / name) for name in (*paths.REPRODUCIBLE, paths.PROVENANCE)},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
