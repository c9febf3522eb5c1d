"""Asset checks: is what is stored whole, plausible, aligned and complete? One result a partition, also in ranged runs.

What is checked is in `upkeep.health`; here it is tied to assets. The checks of a stage share one step, so that a shard
is read once. A blocking check keeps what is downstream from running on a bad result.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg

from virnuc_dagster.orchestration.private import AssetCheckEvaluationTargetMaterializationData

warnings.filterwarnings("ignore", category=dg.PreviewWarning, message=".*partitions_def.*")

from virnuc_dagster.orchestration.assets.report import ReportFolder  # noqa: E402
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager  # noqa: E402
from virnuc_dagster.orchestration.partitions import batches, shards  # noqa: E402
from virnuc_dagster.stages.keys import shard_checkpoint  # noqa: E402
from virnuc_dagster.stages.pipeline import BATCH, EMBEDDINGS, FRAMES, PREDICTIONS  # noqa: E402
from virnuc_dagster.upkeep.health import (  # noqa: E402
    Verdict,
    check_alignment,
    check_batch_integrity,
    check_embeddings,
    check_integrity,
    check_probabilities,
    check_report,
)

INTEGRITY, HEALTH, ALIGNMENT, PROBABILITIES, CONSERVATION = (
    "integrity", "health", "alignment", "probabilities", "conservation",
)  # fmt: skip
REPORT = "batch_report"
_LEVELS = "size, ZIP and CRC-32, tensor-only load, keys, sha256, schema and finite values"
_DESCRIPTIONS = {
    INTEGRITY: f"Are the stored bytes the committed ones? Every validation level: {_LEVELS}. "
    "If not: the audit sets the shard aside, and the next scheduled backfill computes it again.",
    HEALTH: "Are the vectors plausible? All finite, of similar length (within a factor of 10 of the shard's median), "
    "and no two different frames with the very same vector. A failure points at the model or the device, not the disk. "
    "`norm_min`, `norm_median` and `norm_max` are the lengths of the shortest, the middle and the longest vector.",
    ALIGNMENT: "Do all stages hold the same frames? Ids of frames = "
    f"{' = '.join(encoder.title for encoder in EMBEDDINGS.values())} = predictions, none missing, "
    "none twice, so that no score can belong to another frame.",
    PROBABILITIES: "Do P(others) and P(virus) of each frame lie in 0..1 and sum to 1?",
    CONSERVATION: "Is nothing lost between input and report? Every input sequence once, in order, every frame counted, "
    "every frame scored.",
}
Outcome = tuple[str, Verdict]
Result = dg.AssetCheckResult | dg.AssetCheckEvaluation | dg.Output[None]
#: SQLite takes up to 999 values in one query.
_IDS_A_QUERY = 500


def _specs(
    asset: str, names: tuple[str, ...], partitions: dg.PartitionsDefinition, blocking: tuple[str, ...]
) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            name, asset=asset, description=_DESCRIPTIONS[name], blocking=name in blocking, partitions_def=partitions
        )
        for name in names
    ]


def _embedding_checks(asset: str) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{asset}_checks", specs=_specs(asset, (INTEGRITY, HEALTH), shards, (INTEGRITY, HEALTH)), can_subset=True
    )
    def checks(
        context: dg.AssetCheckExecutionContext, checkpoints: dg.ResourceParam[CheckpointIOManager]
    ) -> Iterator[Result]:
        def examine(shard: str) -> Iterator[Outcome]:
            whole, payload = check_integrity(checkpoints.store, asset, shard)
            yield INTEGRITY, whole
            if payload is None:
                yield HEALTH, Verdict(False, f"not examined: {whole.reason}")
                return
            frames = checkpoints.store.load(shard_checkpoint(FRAMES, shard))
            text = dict(zip(frames["ids"], frames[EMBEDDINGS[asset].reads], strict=True))
            yield HEALTH, check_embeddings(payload, [text.get(frame, "") for frame in payload["ids"]])

        yield from _evaluate(context, examine)

    return checks


@dg.multi_asset_check(
    specs=_specs(
        PREDICTIONS,
        (INTEGRITY, ALIGNMENT, PROBABILITIES),
        shards,
        (INTEGRITY, ALIGNMENT, PROBABILITIES),
    ),
    can_subset=True,
)
def predictions_checks(
    context: dg.AssetCheckExecutionContext, checkpoints: dg.ResourceParam[CheckpointIOManager]
) -> Iterator[Result]:
    """Integrity, alignment and sanity of the predictions."""

    def examine(shard: str) -> Iterator[Outcome]:
        whole, payload = check_integrity(checkpoints.store, PREDICTIONS, shard)
        yield INTEGRITY, whole
        yield ALIGNMENT, check_alignment(checkpoints.store, shard)
        if payload is None:
            yield PROBABILITIES, Verdict(False, f"not examined: {whole.reason}")
        else:
            yield PROBABILITIES, check_probabilities(payload)

    yield from _evaluate(context, examine)


@dg.multi_asset_check(specs=_specs(BATCH, (INTEGRITY,), batches, (INTEGRITY,)), can_subset=True)
def sequence_batch_checks(
    context: dg.AssetCheckExecutionContext, checkpoints: dg.ResourceParam[CheckpointIOManager]
) -> Iterator[Result]:
    """Integrity of sequences, manifest and frames."""
    yield from _evaluate(context, lambda batch: [(INTEGRITY, check_batch_integrity(checkpoints.store, batch))])


@dg.multi_asset_check(specs=_specs(REPORT, (CONSERVATION,), batches, ()), can_subset=True)
def batch_report_checks(
    context: dg.AssetCheckExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    reports: dg.ResourceParam[ReportFolder],
) -> Iterator[Result]:
    """Conservation from input to report."""

    def examine(batch: str) -> Iterator[Outcome]:
        yield CONSERVATION, check_report(checkpoints.store, batch, Path(reports.root) / batch)

    yield from _evaluate(context, examine)


ALL = [
    sequence_batch_checks, *map(_embedding_checks, EMBEDDINGS), predictions_checks, batch_report_checks,
]  # fmt: skip


def _evaluate(
    context: dg.AssetCheckExecutionContext, examine: Callable[[str], "Iterator[Outcome] | list[Outcome]"]
) -> Iterator[Result]:
    """Examine each partition of the run, log a result for each, and yield one for the run.

    In a ranged run Dagster would leave the partitions' rows at `planned`: each needs an evaluation of its own. A run
    without a partition ("Execute all" on the page of the checks) examines everything that was ever materialized.
    """
    run = context.op_execution_context
    asset = next(iter(context.selected_asset_check_keys)).asset_key
    partitioned = run.has_partition_key or run.has_partition_key_range
    keys = list(run.partition_keys) if partitioned else sorted(context.instance.get_materialized_partitions(asset))
    targets = Targets(context.instance, asset, keys)
    names = {key.name: key for key in context.selected_asset_check_keys}
    failed: dict[str, dict[str, str]] = {name: {} for name in names}
    for partition in keys:
        for name, verdict in examine(partition):
            if name not in names:
                continue
            if not verdict.passed:
                failed[name][partition] = verdict.reason
            run.log_event(evaluation(names[name], partition, verdict, targets))  # type: ignore[arg-type]  # it takes any event
    for name, key in names.items():
        bad = failed[name]
        result = dg.AssetCheckResult(
            asset_key=key.asset_key,
            check_name=name,
            passed=not bad,
            description=next(iter(bad.values()), "all is well")
            if len(keys) == 1
            else f"{len(bad)} of {len(keys)} failed",
            # A number that is always 0 would be drawn as a flat line by the UI.
            metadata={"partitions": f"{len(keys):,} examined, {len(bad):,} failed"}
            | ({"which": dg.MetadataValue.json(dict(list(bad.items())[:100]))} if bad else {}),
        )
        if partitioned:
            yield result
        else:
            yield from _without_partition(context, result, key)


def _without_partition(
    context: dg.AssetCheckExecutionContext, result: dg.AssetCheckResult, key: dg.AssetCheckKey
) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
    """What Dagster makes of a result, in a run without a partition.

    There it would look for the materialization that the result is about, which ends in an error if the asset has
    partitions: `Cannot access partition_key for a non-partitioned run`.
    """
    definition = context.op_execution_context.assets_def
    yield dg.Output(None, output_name=definition.get_output_name_for_asset_check_key(key))
    yield dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=result.passed,
        description=result.description,
        metadata=result.metadata,
        blocking=definition.get_spec_for_check_key(key).blocking,
    )


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    yield from (ids[start : start + _IDS_A_QUERY] for start in range(0, len(ids), _IDS_A_QUERY))


class Targets:
    """The newest materialization of each partition: Dagster counts a check result only if it names that.

    Args:
        instance: Has the events.
        asset: Whose.
        partitions: Those that are asked for.
    """

    def __init__(self, instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Sequence[str]) -> None:
        newest = instance.event_log_storage.get_latest_storage_id_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)
        )
        self._of: dict[str, AssetCheckEvaluationTargetMaterializationData] = {}
        for ids in _chunks(list(newest.values())):
            for record in instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids), limit=len(ids)
            ).records:
                self._of[str(record.partition_key)] = AssetCheckEvaluationTargetMaterializationData(
                    storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
                )

    def of(self, partition: str) -> AssetCheckEvaluationTargetMaterializationData | None:
        """What a result for this partition is about; None if it was never materialized."""
        return self._of.get(partition)


def evaluation(key: dg.AssetCheckKey, partition: str, verdict: Verdict, targets: Targets) -> dg.AssetCheckEvaluation:
    """The event that gives one partition of a check its status."""
    metadata = {**verdict.facts, **({"reason": verdict.reason} if verdict.reason else {})}
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=verdict.passed,
        partition=partition,
        metadata={name: dg.MetadataValue.text(v) if isinstance(v, str) else v for name, v in metadata.items()},
        target_materialization_data=targets.of(partition),
        description=verdict.reason or "all is well",
    )


def red_partitions(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> set[str]:
    """Partitions whose last result of one of these checks is a failure."""
    found = instance.event_log_storage.get_asset_check_partition_info(list(checks))
    return {
        info.partition_key for info in found if info.partition_key and info.latest_execution_status.value == "FAILED"
    }


def keys_of_embedding_checks() -> list[dg.AssetCheckKey]:
    """The checks without which no prediction is made of an embedding."""
    return [dg.AssetCheckKey(dg.AssetKey(stage), name) for stage in EMBEDDINGS for name in (INTEGRITY, HEALTH)]


def keys_of_shard_checks() -> list[dg.AssetCheckKey]:
    """The checks that stop a shard: those of its embeddings, and of its predictions."""
    asset = dg.AssetKey(PREDICTIONS)
    names = (INTEGRITY, ALIGNMENT, PROBABILITIES)
    return [*keys_of_embedding_checks(), *(dg.AssetCheckKey(asset, name) for name in names)]


def integrity_key(stage: str) -> dg.AssetCheckKey:
    """The integrity check of a stage."""
    return dg.AssetCheckKey(dg.AssetKey(stage), INTEGRITY)
