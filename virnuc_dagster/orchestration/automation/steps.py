"""The steps of a batch on its way to a report, and the runs that do them.

    take_in -> shards -> report            the ordinary way of a file
    cut -> shards -> report                frames are missing, damaged or stale
    shards -> predictions -> report        some shards failed: go on with the others, the report says what is missing

Shards whose embeddings a blocking check has stopped get no predictions either way.

Every run carries tags with its batch, step and round, so that what became of a step is read from the runs themselves.
A run that small batches share (`sharing`) carries its own name instead of the round, and the batches' entries in the
ledger name it.
"""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from virnuc_dagster.errors import BundleError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import BatchEntry, Range
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    NOT_FINISHED_STATUSES,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
    DagsterAssetCheckFailedError,
)
from virnuc_dagster.orchestration.resources import GPU_TAG
from virnuc_dagster.stages.pipeline import PREDICTIONS, SHARD_STAGES, embeddings_of

CUT, SHARDS, REST, REPORT = "cut", "shards", "predictions", "report"
BATCH_TAG, STEP_TAG, ROUND_TAG, FILES_TAG = "virnuc/batch", "virnuc/step", "virnuc/round", "virnuc/files"
#: Of runs over small batches: how many there are in it; and what a run over several of them is called.
BATCHES_TAG, SHARED_TAG = "virnuc/batches", "virnuc/shared"
BATCH_JOB, SHARDS_JOB = "cut_or_report_batch", "embed_and_score_shards"
#: How the text of an error of this package begins in Dagster's events.
_OURS = "virnuc_dagster."
#: What each step materializes.
ASSETS = {
    CUT: ("sequence_batch",),
    SHARDS: SHARD_STAGES,
    REST: (PREDICTIONS,),
    REPORT: ("batch_report",),
}
#: The job that does it: a job's assets have one partition dimension.
JOBS = {CUT: BATCH_JOB, SHARDS: SHARDS_JOB, REST: SHARDS_JOB, REPORT: BATCH_JOB}


def requests(entry: BatchEntry, settings: Settings, tags: Mapping[str, str]) -> list[dg.RunRequest]:
    """The runs of a batch's step: one a range of shards, or one for the whole batch."""
    common = {BATCH_TAG: entry.batch, ROUND_TAG: str(entry.round), **tags}
    key = f"{entry.batch}:{entry.round}:{entry.step}:{entry.requested_at:.0f}"
    if entry.step not in (SHARDS, REST):
        return [_request(key, entry.step, common | {PARTITION_NAME_TAG: entry.batch}, settings)]
    return [_request(f"{key}:{ends[0]}", entry.step, common | _range(*ends), settings) for ends in entry.ranges]


def shared_request(entries: Sequence[BatchEntry], settings: Settings) -> dg.RunRequest:
    """The run of a step that batches share, which follow each other among the partitions."""
    first, last = entries[0], entries[-1]
    ends = (first.ranges[0][0], last.ranges[-1][1]) if first.step == SHARDS else (first.batch, last.batch)
    tags = {
        BATCH_TAG: shown([entry.batch for entry in entries]), BATCHES_TAG: str(len(entries)), SHARED_TAG: first.shared,
    }  # fmt: skip
    return _request(first.shared, first.step, tags | _range(*ends), settings)


def _request(key: str, step: str, tags: dict[str, str], settings: Settings) -> dg.RunRequest:
    tags = {**tags, STEP_TAG: step}
    if settings.device.startswith("cuda:"):
        tags[GPU_TAG] = settings.device.partition(":")[2]
    selection = [dg.AssetKey(name) for name in _assets(step, settings)]
    return dg.RunRequest(run_key=key, job_name=JOBS[step], asset_selection=selection, tags=tags)


def _range(first: str, last: str) -> dict[str, str]:
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def shown(names: Sequence[str]) -> str:
    """The first names, and how many more there are, for a tag."""
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))[:200]


def _assets(step: str, settings: Settings) -> Sequence[str]:
    """Select what a step materializes: of the embeddings, those whose encoders the bundle has."""
    if step != SHARDS:
        return ASSETS[step]
    try:
        return (*embeddings_of(open_bundle(settings.bundle).spec), PREDICTIONS)
    except BundleError:
        return ASSETS[step]  # the run says what is wrong with the bundle


def whole(shards_of_batch: list[str], longest: int) -> list[Range]:
    """All shards of a batch as few ranges of at most `longest`."""
    starts = range(0, len(shards_of_batch), longest)
    return [(shards_of_batch[i], shards_of_batch[min(i + longest, len(shards_of_batch)) - 1]) for i in starts]


def runs_of(instance: dg.DagsterInstance, entry: BatchEntry) -> list[dg.DagsterRun]:
    """The newest run of each range (or of the whole batch) of the entry's step, or of the run that it shares."""
    tags = {BATCH_TAG: entry.batch, STEP_TAG: entry.step, ROUND_TAG: str(entry.round)}
    if entry.shared:
        tags = {SHARED_TAG: entry.shared}
    newest: dict[str, dg.DagsterRun] = {}
    for run in instance.get_runs(filters=dg.RunsFilter(tags=tags)):  # the newest first
        newest.setdefault(run.tags.get(ASSET_PARTITION_RANGE_START_TAG, ""), run)
    return list(newest.values())


def unfinished(runs: Iterable[dg.DagsterRun]) -> list[str]:
    """Ids of runs that are queued, at work, or about to be tried again by the daemon."""
    return [
        run.run_id
        for run in runs
        if run.status in NOT_FINISHED_STATUSES
        or (run.status is dg.DagsterRunStatus.FAILURE and run.tags.get(WILL_RETRY_TAG) == "true")
    ]


def _of_check(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """What the first check that failed in a run found."""
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        assert event.dagster_event is not None
        found = event.dagster_event.asset_check_evaluation_data
        if not found.passed and found.partition:
            what = f"check {found.check_name} of {found.asset_key.path[-1]}, {found.partition}"
            return f"{what}: {found.description}"[:1_000]
    return ""


def failure_reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Why a run failed, in the words of the first error that a step met: ours if there is one, else its cause."""
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        assert event.dagster_event is not None
        error = getattr(event.dagster_event.event_specific_data, "error", None)
        if error is not None and error.cls_name == DagsterAssetCheckFailedError.__name__:
            return _of_check(instance, run) or str(error.message).strip()
        while error is not None and error.cause is not None and not error.message.startswith(_OURS):
            error = error.cause
        if error is not None:
            return str(error.message).strip()[:1_000]
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        assert event.dagster_event is not None
        return (event.dagster_event.message or "").strip()[:1_000]
    return f"run {run.run_id[:8]} ended as {run.status.value}"
