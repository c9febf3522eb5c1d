"""The two partition dimensions: input files and their shards. Both grow as batches arrive."""

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from virnuc_dagster.stages.keys import batch_of

batches = dg.DynamicPartitionsDefinition(name="batches")
shards = dg.DynamicPartitionsDefinition(name="shards")


def forget_batch(instance: dg.DagsterInstance, batch: str) -> None:
    """Remove a batch and its shards from the partitions of an instance; its runs stay in the history."""
    for name in instance.get_dynamic_partitions(str(shards.name)):
        if batch_of(name) == batch:
            instance.delete_dynamic_partition(str(shards.name), name)
    if instance.has_dynamic_partition(str(batches.name), batch):
        instance.delete_dynamic_partition(str(batches.name), batch)


def runs_at_work(instance: dg.DagsterInstance, batch: str) -> list[str]:
    """Ids of unfinished runs that concern a batch or its shards."""
    filters = dg.RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, dg.DagsterRunStatus.QUEUED])
    names = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    return [
        run.run_id
        for run in instance.get_runs(filters=filters)
        if batch in {batch_of(run.tags[name]) for name in names if name in run.tags}
    ]
