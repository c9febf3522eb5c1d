"""One run over many shards: the models are loaded once, every shard is committed and announced as it is finished.

A shard that fails does not stop the others; at the end one error names the failed keys. After a kill, the shards
announced so far are in the event log and in the store, and the next run skips them by their records.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from virnuc_dagster.backends import Backend
from virnuc_dagster.checkpoints import CheckpointDamagedError, CheckpointStore, CommitRecord, Payload
from virnuc_dagster.errors import ShardsFailedError, VirnucError
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.written_by import writer
from virnuc_dagster.orchestration.instance import begin_run
from virnuc_dagster.orchestration.io_manager import record_metadata
from virnuc_dagster.orchestration.partitions import shards
from virnuc_dagster.orchestration.private import AssetMetadataHandle, OutputMetadataAccumulator
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import ShardResult
from virnuc_dagster.stages.keys import ForeignKeyError, batch_of, is_shard_key, shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES, SEQUENCES
from virnuc_dagster.stages.shards import ShardStage
from virnuc_dagster.stages.space import check_space


def run_shards(
    context: dg.AssetExecutionContext,
    stage: ShardStage,
    store: CheckpointStore,
    progress: Progress,
    journal: Journal,
    facts: dict[str, Any],
    backend: Backend,
    describe: Callable[[Payload], dict[str, Any]] | None = None,
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """Make the results of all shards of the run current.

    Args:
        context: The step; its partition keys are the shards.
        stage: What to compute.
        store: Where results are kept.
        progress: Told of every frame and shard.
        journal: Told of every shard and of the end.
        facts: Metadata for every shard, such as the model.
        backend: Computes the shards, here or elsewhere.
        describe: More metadata of a computed shard, from its payload.

    Yields:
        An `AssetMaterialization` for each computed shard once it is committed (while the next one is computed, at the
        latest before the one after it), and at the end one `Output`.

    Raises:
        ShardsFailedError: Some shards failed; all others are committed.
        NoSpaceError: The results would not fit; nothing was computed.
    """
    begin_run(context.instance, context.run.run_id)
    asked = list(context.partition_keys)
    failed: dict[str, Exception] = dict(_foreign(store, asked))
    keys = [key for key in asked if key not in failed]
    for error in failed.values():
        context.log.error(str(error))
    check_space(store, [stage], keys, context.log.warning)
    progress.start(stage.name, len(keys), _count_frames(store, keys))
    shown_at_end: dict[str, dict[str, Any]] = {}
    tally = Tally(stage.name, context.run.run_id, journal)
    for key, outcome in backend(stage, keys, store, progress, writer(context.run.run_id)):
        tally.add(key, outcome)
        if isinstance(outcome, Exception):
            failed[key] = outcome
            trace = None if isinstance(outcome, VirnucError) else outcome
            context.log.error(f"{stage.name} of {key} failed: {outcome}", exc_info=trace)
            continue
        if outcome.reasons:
            context.log.info(f"{key} was computed again: {'; '.join(map(str, outcome.reasons))}")
        shown = describe(store.load(shard_checkpoint(stage.name, key))) if describe and not outcome.reused else {}
        metadata = {**shown, **facts, **_facts(outcome)}
        if len(asked) > 1 and not outcome.reused:
            yield dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata)
        shown_at_end[key] = metadata
    context.log.info(tally.end())
    if failed := still_wanted(context, shards, failed):
        raise shards_failed(stage.name, len(asked), {key: failed[key] for key in asked if key in failed})
    show_at_end(context, shown_at_end)
    yield dg.Output(None)


def still_wanted(
    context: dg.AssetExecutionContext, dimension: dg.DynamicPartitionsDefinition, failed: dict[str, Exception]
) -> dict[str, Exception]:
    """Failures without those of partitions that were removed meanwhile, which are no matter of the others."""
    if not failed:
        return failed
    registered = set(context.instance.get_dynamic_partitions(str(dimension.name)))
    for key in failed.keys() - registered:
        context.log.warning(f"{key} was removed meanwhile")
    return {key: error for key, error in failed.items() if key in registered}


def show_at_end(context: dg.AssetExecutionContext, metadata: dict[str, dict[str, Any]]) -> None:
    """Metadata, by partition, for the materializations that the closing output logs.

    What `context.add_asset_metadata` does, which reads every registered partition at each call and copies what was
    added before: its cost for a run grows with shards of the run x shards of the home.
    """
    step = context.get_step_execution_context()
    added: dict[Any, Any] = {
        AssetMetadataHandle(asset_key=context.asset_key, partition_key=key): shown for key, shown in metadata.items()
    }
    before = step._metadata_accumulator.per_output_metadata
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata={**before, **added})


@dataclass
class Tally:
    """Counts what a run did, for the log and the journal."""

    stage: str
    run_id: str
    journal: Journal
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, shard: str, outcome: ShardResult | Exception) -> None:
        """One shard is done."""
        facts: dict[str, Any] = {"stage": self.stage, "batch": batch_of(shard), "shard": shard, "run": self.run_id}
        if isinstance(outcome, Exception):
            state = "damaged" if isinstance(outcome, CheckpointDamagedError) else "failed"
            facts["reason"] = getattr(outcome, "message", repr(outcome))
        else:
            state = "skipped" if outcome.reused else "done"
            facts |= {"frames": outcome.record.rows, "bytes": outcome.record.bytes, **_rates(outcome)}
            if not outcome.reused:
                self.counts["frames"] += outcome.record.rows
                self.counts["tokens"] += outcome.tokens
                self.seconds += outcome.seconds
        self.counts[state] += 1
        self.journal.write("shard", state=state, **facts)

    def end(self) -> str:
        """The run's step is over; returns a line for its log."""
        counts = {name: self.counts[name] for name in ("done", "skipped", "failed", "damaged", "frames", "tokens")}
        wall = time.monotonic() - self.began
        self.journal.write("step", stage=self.stage, run=self.run_id, seconds=round(wall, 3), **counts)
        rate = f", {self.counts['frames'] / self.seconds:,.1f} frames/s" if self.seconds else ""
        rate += f", {self.counts['tokens'] / self.seconds:,.0f} tokens/s" if self.counts["tokens"] else ""
        return (
            f"{self.stage}: {counts['done']:,} shards computed, {counts['skipped']:,} skipped, "
            f"{counts['failed']:,} failed, {counts['damaged']:,} damaged in {wall:.1f} s{rate}"
        )


def _foreign(store: CheckpointStore, keys: list[str]) -> Iterator[tuple[str, ForeignKeyError]]:
    """Partitions that someone added by hand and that are of no batch: they must not keep the others from their turn."""
    known: dict[str, bool] = {}
    for key in keys:
        batch = batch_of(key)
        if batch not in known:
            known[batch] = is_shard_key(key) and bool(store.list(SEQUENCES, batch) or store.list(FRAMES, batch))
        if not known[batch] or not is_shard_key(key):
            yield key, ForeignKeyError.of(key)


def _count_frames(store: CheckpointStore, keys: list[str]) -> int:
    """Frames of all shards; what cannot be read is reported when the shard's turn comes."""
    try:
        found = store.records([shard_checkpoint(FRAMES, key) for key in keys])
    except VirnucError:
        return 0
    return sum(record.rows for record in found if isinstance(record, CommitRecord))


def _facts(result: ShardResult) -> dict[str, Any]:
    return {
        **result.facts,
        **_rates(result),
        "reused": result.reused,
        **record_metadata(result.record),
    }


def _rates(result: ShardResult) -> dict[str, Any]:
    if not result.seconds:
        return {}
    rates = {
        "seconds": round(result.seconds, 3),
        "frames_per_second": round(result.record.rows / result.seconds, 1),
    }
    if result.tokens:
        rates |= {"tokens": result.tokens, "tokens_per_second": round(result.tokens / result.seconds, 1)}
    return rates


def shards_failed(stage: str, total: int, failed: dict[str, Exception], what: str = "shards") -> ShardsFailedError:
    """One error for all failed shards, or batches, of a stage; its exit code is that of the gravest cause."""
    first = next(iter(failed.values()))
    remedy = getattr(first, "hint", "") or f"the other {what} are committed; the same command tries these again"
    error = ShardsFailedError(
        f"{stage}: {len(failed)} of {total} {what} failed: {', '.join(list(failed)[:10])}"
        f"{', …' if len(failed) > 10 else ''}\n  {next(iter(failed))}: {getattr(first, 'message', first)}",
        hint=remedy,
        failed={key: str(reason) for key, reason in failed.items()},
    )
    error.exit_code = max(getattr(reason, "exit_code", 1) for reason in failed.values())  # type: ignore[misc]
    return error
