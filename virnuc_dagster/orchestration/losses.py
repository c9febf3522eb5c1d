"""What was stored once and is there no more. The store cannot tell: this home's other memories are asked.

Evidence, not intention: a batch counts as stored once by its report, by the ledger, or by a materialization of a
registered partition. What was never computed is not lost, and `virnuc batches remove` removes the evidence too.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointKey, CheckpointStore
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.orchestration.instance import CONFIG_NAME, open_instance
from virnuc_dagster.orchestration.partitions import batches, shards
from virnuc_dagster.report import paths
from virnuc_dagster.stages.keys import batch_of, is_batch_key, is_shard_key
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, SEQUENCES, SHARD_STAGES, STAGES

#: Batch -> stage -> shards (or the batch itself) that were stored once and are missing.
Losses = Mapping[str, Mapping[str, list[str]]]


def find_losses(instance: dg.DagsterInstance, store: CheckpointStore, home: Path) -> Losses:
    """Compare what this home has evidence of with what its store holds.

    Args:
        instance: Has partitions and materializations.
        store: The store.
        home: Has the ledger and the reports.
    """
    wanted = {*_of_instance(instance), *_of_ledger(home), *_of_reports(home / "reports")}
    found: dict[str, dict[str, list[str]]] = {}
    for stage in STAGES:
        lacking = {key for key in wanted if key.stage == stage}
        if lacking:
            lacking -= set(store.list(stage))
        for key in sorted(lacking, key=str):
            found.setdefault(key.batch, {}).setdefault(stage, []).append(key.shard)
    return found


def losses_of_home(settings: Settings, store: CheckpointStore) -> Losses:
    """Like `find_losses`, for a command; a folder that never was a home stays as it is."""
    if not (settings.dagster_home / CONFIG_NAME).exists():
        return {}
    with open_instance(settings) as instance:
        return find_losses(instance, store, settings.home)


def known_batches(settings: Settings) -> list[str]:
    """Every batch that this home knows, stored or not; also what someone added by hand and is no batch's key."""
    if not (settings.dagster_home / CONFIG_NAME).exists():
        return []
    with open_instance(settings) as instance:
        found = set(instance.get_dynamic_partitions(str(batches.name)))
        found |= set(map(batch_of, instance.get_dynamic_partitions(str(shards.name))))
    found |= {key.batch for key in (*_of_ledger(settings.home), *_of_reports(settings.reports))}
    return sorted(found)


def describe(lost: Mapping[str, list[str]]) -> str:
    """What a batch lacks, in a few words."""
    return ", ".join(f"{len(keys):,} of {stage}" for stage, keys in lost.items())


def remedy(batch: str, lost: Mapping[str, list[str]]) -> str:
    """What to do about it."""
    if SEQUENCES in lost:
        again = "put its file into the inbox again, or predict it again"
        return f"{again}; or forget it: `virnuc batches remove {batch} --yes`"
    return "computed again by `virnuc predict` on its file, or by the next scheduled backfill"


def _of_instance(instance: dg.DagsterInstance) -> Iterator[CheckpointKey]:
    known = set(filter(is_batch_key, instance.get_dynamic_partitions(str(batches.name))))
    of_batch = [shard for shard in instance.get_dynamic_partitions(str(shards.name)) if is_shard_key(shard)]
    cut = known & instance.get_materialized_partitions(dg.AssetKey(BATCH))
    for batch in cut:
        yield from (CheckpointKey(stage, batch, batch) for stage in (SEQUENCES, BATCH))
    for stage in SHARD_STAGES:
        made = instance.get_materialized_partitions(dg.AssetKey(stage))
        yield from (CheckpointKey(stage, batch_of(shard), shard) for shard in of_batch if shard in made)
    yield from (CheckpointKey(FRAMES, batch_of(shard), shard) for shard in of_batch if batch_of(shard) in cut)


def _of_ledger(home: Path) -> Iterator[CheckpointKey]:
    ledger = Ledger(home)
    names = ledger.last_surveyed() if ledger.path.exists() else ()
    yield from (CheckpointKey(SEQUENCES, batch, batch) for batch in names if is_batch_key(batch))


def _of_reports(folder: Path) -> Iterator[CheckpointKey]:
    """The checkpoints that reports were made from."""
    for path in folder.glob(f"*/{paths.PROVENANCE}"):
        batch = path.parent.name
        if not is_batch_key(batch):
            continue
        yield CheckpointKey(SEQUENCES, batch, batch)
        try:
            for name in json.loads(path.read_bytes())["checkpoints"]:
                stage, of, shard = str(name).split("/")
                yield CheckpointKey(stage, of, shard)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # cut off by a crash: the next report replaces it
