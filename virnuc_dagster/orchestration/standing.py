"""Whether a batch stands: every result stored, announced to Dagster, and in its report. Then no run is launched.

A run needs torch and the definitions, whose import alone takes seconds, so a call that may have nothing to do asks this
first. Nothing here imports either of them.
"""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointStore
from virnuc_dagster.orchestration.partitions import Registered, batches
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.shards import PredictionStage, ShardStage
from virnuc_dagster.stages.standing_report import report_stands
from virnuc_dagster.stages.survey import survey_batch

REPORT = "batch_report"


def batch_stands(
    instance: dg.DagsterInstance,
    store: CheckpointStore,
    predictions: PredictionStage,
    batch: str,
    reports: Path,
    progress: Progress,
) -> bool:
    """Whether running a batch would compute nothing and make the report that is there; its shards then count as reused.

    Args:
        instance: The Dagster instance of the home.
        store: The store.
        predictions: The last shard stage with the wanted bundle and precision.
        batch: Key of a batch whose sequences are stored.
        reports: Folder of the reports.
        progress: Told of each stage and shard, as by a run that finds them all current.

    Raises:
        CheckpointError: A checkpoint behind the report's numbers is damaged.
    """
    stages: list[ShardStage] = [*predictions.inputs, predictions]
    if not instance.has_dynamic_partition(str(batches.name), batch):
        return False
    registered = Registered(instance)
    if registered.is_torn(batch):
        return False
    mine = registered.of(batch)
    if survey_batch(store, predictions, batch, mine, reports) or not _announced(instance, stages, batch, mine):
        return False
    if not report_stands(store, batch, predictions, mine, reports / batch):
        return False
    if mine:
        _tell_reused(store, stages, mine, progress)
    return True


def _announced(instance: dg.DagsterInstance, stages: Sequence[ShardStage], batch: str, mine: Sequence[str]) -> bool:
    """Whether Dagster's event log knows of the last partition of each asset; a power cut can take its newest events."""
    last = {BATCH: batch, **({stage.name: mine[-1] for stage in stages} if mine else {}), REPORT: batch}
    return all(
        instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(name), asset_partitions=[partition]), limit=1
        ).records
        for name, partition in last.items()
    )


def _tell_reused(store: CheckpointStore, stages: Sequence[ShardStage], mine: Sequence[str], progress: Progress) -> None:
    for stage in stages:
        keys = [shard_checkpoint(stage.name, shard) for shard in mine]
        records = RecordCache(store, keys)
        rows = [record.rows if (record := records.record(key)) else 0 for key in keys]
        progress.start(stage.name, len(keys), sum(rows))
        for key, count in zip(keys, rows, strict=True):
            progress.shard_done(stage.name, key.shard, count, reused=True)
