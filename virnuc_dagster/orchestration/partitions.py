"""The two partition dimensions: input files and their shards. Both grow as batches arrive."""

from collections.abc import Mapping, Sequence

import dagster as dg

from virnuc_dagster.orchestration.private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    NOT_FINISHED_STATUSES,
    PARTITION_NAME_TAG,
    BulkActionsFilter,
    BulkActionStatus,
)
from virnuc_dagster.stages.keys import batch_of, is_shard_key

batches = dg.DynamicPartitionsDefinition(name="batches")
shards = dg.DynamicPartitionsDefinition(name="shards")
_BACKFILLS_AT_WORK = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


class Registered:
    """The shards of each batch as Dagster knows them, in order; read once.

    Keys that someone added by hand and that can be no shard's are left out.

    Args:
        instance: The Dagster instance.

    Attributes:
        in_order: Batches in the order of their shards; torn ones come repeatedly, and what is of no batch comes too.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.in_order: list[str] = []
        self._of: dict[str, list[str]] = {}
        self._torn: set[str] = set()
        previous = None
        for shard in instance.get_dynamic_partitions(str(shards.name)):
            batch = batch_of(shard)
            if batch != previous:
                self.in_order.append(batch)
            if batch != previous and batch in self._of:
                self._torn.add(batch)
            if is_shard_key(shard):
                self._of.setdefault(batch, []).append(shard)
            else:
                self._torn.add(batch)  # no matter unless there is a batch of this name
            previous = batch

    def of(self, batch: str) -> list[str]:
        """Its shards."""
        return self._of.get(batch, [])

    def is_torn(self, batch: str) -> bool:
        """Whether its shards are not one range of partitions; cutting the batch mends that (`register_shards`)."""
        return batch in self._torn


def register_shards(instance: dg.DagsterInstance, batch: str, wanted: Sequence[str]) -> bool:
    """Make sure that exactly these shards of a batch are partitions, in order and one range; False if they were.

    Someone may have deleted one in the UI, or added one: then all of the batch are registered anew. What Dagster knows
    of their materializations stays.
    """
    registered = Registered(instance)
    if registered.of(batch) == list(wanted) and not registered.is_torn(batch):
        return False
    for name in instance.get_dynamic_partitions(str(shards.name)):
        if batch_of(name) == batch:
            instance.delete_dynamic_partition(str(shards.name), name)
    # One call, in order: a batch's shards must be one contiguous range of partitions.
    instance.add_dynamic_partitions(str(shards.name), list(wanted))
    return True


def forget_batch(instance: dg.DagsterInstance, batch: str) -> None:
    """Remove a batch and its shards from the partitions of an instance; its runs stay in the history."""
    for name in instance.get_dynamic_partitions(str(shards.name)):
        if batch_of(name) == batch:
            instance.delete_dynamic_partition(str(shards.name), name)
    if instance.has_dynamic_partition(str(batches.name), batch):
        instance.delete_dynamic_partition(str(batches.name), batch)


def runs_at_work(instance: dg.DagsterInstance, batch: str) -> list[str]:
    """Ids of unfinished runs and backfills that concern a batch or its shards, also in the middle of a range."""
    keys = {str(name): list(instance.get_dynamic_partitions(str(name))) for name in (shards.name, batches.name)}
    mine = {batch} | {shard for shard in keys[str(shards.name)] if batch_of(shard) == batch}
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    found = [run.run_id for run in runs if _concerns(run.tags, batch, mine, list(keys.values()))]
    at_work = BulkActionsFilter(statuses=_BACKFILLS_AT_WORK)
    for backfill in instance.get_backfills(filters=at_work):
        wanted = backfill.asset_backfill_data and backfill.asset_backfill_data.target_subset
        subsets = wanted.partitions_subsets_by_asset_key.values() if wanted else ()
        if any(not mine.isdisjoint(subset.get_partition_keys()) for subset in subsets):
            found.append(backfill.backfill_id)
    return found


def _concerns(tags: Mapping[str, str], batch: str, mine: set[str], dimensions: list[list[str]]) -> bool:
    """Whether a run's partition is one of `mine`, or its range covers one; ranges go by the order of registration."""
    ends = [tags[tag] for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG) if tag in tags]
    if batch in {batch_of(name) for name in [*ends, tags.get(PARTITION_NAME_TAG, "")]}:
        return True
    for keys in dimensions:
        if len(ends) == 2 and set(ends) <= set(keys):
            first, last = map(keys.index, ends)
            return not mine.isdisjoint(keys[first : last + 1])
    return False
