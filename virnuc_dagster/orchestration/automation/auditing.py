"""The audit: an asset whose value is one page about the whole store, and whose run sets damaged shards aside.

The store is not its own witness: what Dagster, the ledger and the reports know to have been stored must be there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointKey
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.assets.batch import OWNERS
from virnuc_dagster.orchestration.assets.report import ReportFolder
from virnuc_dagster.orchestration.checks import Targets, evaluation, integrity_key, red_partitions
from virnuc_dagster.orchestration.instance import begin_run
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.losses import Losses, describe, find_losses, remedy
from virnuc_dagster.orchestration.partitions import Registered
from virnuc_dagster.orchestration.private import UnresolvedAssetJobDefinition
from virnuc_dagster.orchestration.resources import Compute
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, SEQUENCES, SHARD_STAGES
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.staleness import State
from virnuc_dagster.stages.survey import stored_batches, survey_batch
from virnuc_dagster.upkeep.audit import StoreAudit, audit_store, set_aside
from virnuc_dagster.upkeep.health import Verdict

AUDIT_JOB = "audit_store"
CHECK = "every_byte_is_right"
_CHECK_DESCRIPTION = (
    "All that was stored is still there, by what Dagster, the ledger and the reports know; every checkpoint was read, "
    "every byte compared with its digest, every value checked. The table says what was found, by stage."
)
_NAMED_MAX = 10
_COLUMNS = ("stage", "shards", "bytes", "ok", "damaged", "stale", "missing", "oldest_version")


@dg.asset(
    group_name="operations",
    kinds={"python"},
    owners=OWNERS,
    tags={"virnuc/dataflow": "5-operations"},
    check_specs=[dg.AssetCheckSpec(CHECK, asset="store_audit", description=_CHECK_DESCRIPTION)],
)
def store_audit(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    compute: Compute,
    reports: dg.ResourceParam[ReportFolder],
    journal: dg.ResourceParam[Journal],
) -> dg.MaterializeResult:
    """Is everything that is stored still right? Reads the whole store, byte by byte, once a week.

    A **damaged** shard is set aside (in `store/.quarantine`, with its reason in `failed_checkpoints.txt`), its
    integrity check turns red, and the next scheduled backfill computes it again. **Missing** and **stale** shards are
    counted, and computed by the same backfill.

    Before the first audit, the graph shows this asset in orange: not run yet. "Materialize" runs it now.
    """
    begin_run(context.instance, context.run.run_id)
    store = checkpoints.store
    found = audit_store(store)
    losses = find_losses(context.instance, store, reports.home)
    found.lost = [
        CheckpointKey(stage, batch, shard)
        for batch, of_batch in losses.items() for stage, shards in of_batch.items() for shard in shards
    ]  # fmt: skip
    aside = set_aside(store, found.damaged)
    for key, reason in found.damaged.items():
        context.log.error(f"{key}: {reason}")
        journal.write(
            "damaged", stage=key.stage, batch=key.batch, shard=key.shard, reason=reason, run=context.run.run_id
        )
    for batch, lost in losses.items():
        told = f"{batch}: missing {describe(lost)}"
        context.log.error(f"{told}; {remedy(batch, lost)}")
        journal.write("lost", batch=batch, run=context.run.run_id, missing={name: len(lost[name]) for name in lost})
    for event in _evaluations(context.instance, found):
        context.log_event(event)
    stage = PredictionStage(store, compute.open_bundle(), compute.options(checkpoints.level))
    _count_due(found, stage, Registered(context.instance), Path(reports.root))
    metadata: dict[str, Any] = {
        "store": dg.MetadataValue.table(
            [dg.TableRecord(row) for row in found.rows()],
            dg.TableSchema(
                [dg.TableColumn(name, "string" if name in ("stage", "oldest_version") else "int") for name in _COLUMNS]
            ),
        ),
        **{
            name: sum(int(row[name]) for row in found.rows())
            for name in ("shards", "bytes", "damaged", "stale", "missing")
        },
        **({"set aside": dg.MetadataValue.json([str(key) for key in aside])} if aside else {}),
    }
    journal.write("audit", run=context.run.run_id, stages=found.rows())
    result = dg.AssetCheckResult(
        check_name=CHECK, passed=found.passed, description=_text(found, losses), metadata=metadata
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[result])


def _text(found: StoreAudit, losses: Losses) -> str:
    """What the audit found, in a sentence or two."""
    parts = []
    if found.damaged:
        few = list(found.damaged.items())[:_NAMED_MAX]
        parts.append(f"{len(found.damaged)} damaged: " + "; ".join(f"{key}: {reason}" for key, reason in few))
    if losses:
        named = "; ".join(f"{batch}: {describe(lost)}" for batch, lost in list(losses.items())[:_NAMED_MAX])
        parts.append(f"missing in {len(losses)} batches: {named}")
    return ". ".join(parts) or "all bytes are right"


def _evaluations(instance: dg.DagsterInstance, found: StoreAudit) -> Iterator[dg.AssetCheckEvaluation]:
    """Red for each damaged or lost checkpoint; green for those that were red and are whole again."""
    bad: dict[str, dict[str, str]] = {stage: {} for stage in (BATCH, *SHARD_STAGES)}
    for key, reason in (found.damaged | dict.fromkeys(found.lost, "missing: it was stored once")).items():
        stage, partition = _shown_at(key)
        bad[stage][partition] = f"{key}: {reason}"
    for stage, partitions in bad.items():
        healed = red_partitions(instance, [integrity_key(stage)]) - partitions.keys()
        targets = Targets(instance, dg.AssetKey(stage), [*partitions, *healed])
        for partition, reason in partitions.items():
            yield evaluation(integrity_key(stage), partition, Verdict(False, reason), targets)
        for partition in healed:
            yield evaluation(integrity_key(stage), partition, Verdict(True, facts={"found by": "audit"}), targets)


def _shown_at(key: CheckpointKey) -> tuple[str, str]:
    """The asset and partition at which the UI shows a checkpoint: sequences and frames belong to their batch."""
    return (BATCH, key.batch) if key.stage in (SEQUENCES, FRAMES, BATCH) else (key.stage, key.shard)


def _count_due(found: StoreAudit, stage: PredictionStage, registered: Registered, reports: Path) -> None:
    """Fill in the columns `stale` and `missing`; what was just set aside counts as damaged, not as missing."""
    aside: Mapping[str, set[str]] = {
        name: {key.shard for key in found.damaged if key.stage == name} for name in found.stages
    }
    stored = {batch for batch, _ in stored_batches(stage.store)}
    for key in found.lost:
        found.stages[key.stage].missing += key.batch not in stored  # what a survey cannot see
    for batch in stored:
        due = survey_batch(stage.store, stage, batch, registered.of(batch), reports)
        if due.cut and batch not in aside[BATCH]:
            found.stages[BATCH].missing += 1
        for name, states in due.states.items():
            for shard, state in states.items():
                if shard not in aside[name]:
                    found.stages[name].missing += state is State.MISSING
                    found.stages[name].stale += state is State.STALE


def audit_job() -> UnresolvedAssetJobDefinition:
    """The job `audit_store`."""
    return dg.define_asset_job(
        AUDIT_JOB,
        selection=dg.AssetSelection.assets("store_audit"),
        description="Reads the whole store and checks every byte; what is damaged is set aside and computed again by "
        "the next scheduled backfill.",
    )


def audit_schedule(settings: Settings, status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Define the schedule `scheduled_audit`."""
    return dg.ScheduleDefinition(
        name="scheduled_audit",
        job_name=AUDIT_JOB,
        cron_schedule=settings.audit_cron,
        execution_timezone="UTC",
        default_status=status,
        description="Reads and checks the whole store, by default on Sundays at 04:00 UTC.",
    )
