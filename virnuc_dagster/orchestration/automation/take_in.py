"""The job that makes batches of inbox files: read, check, store, cut into frames, register the shards."""

import sys
import time

import dagster as dg
from pydantic import Field

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.binding import open_bound_store
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import Arrival, scan_inbox, sweep_spools, take_in
from virnuc_dagster.inbox.ledger import Fingerprint, Ledger
from virnuc_dagster.orchestration.assets.batch import cut_batch, sequence_batch
from virnuc_dagster.orchestration.automation.steps import FILES_TAG, REPORT, SHARDS, shown, whole
from virnuc_dagster.orchestration.checks import Targets, evaluation, integrity_key
from virnuc_dagster.orchestration.instance import begin_run
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.partitions import Registered, batches
from virnuc_dagster.orchestration.resources import Compute
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.pipeline import BATCH
from virnuc_dagster.stages.survey import wanted_digest
from virnuc_dagster.upkeep.health import check_batch_integrity

TAKE_IN_JOB = "take_in_files"
_OP = "read_and_cut"


class TakeIn(dg.Config):
    """Names of files in the inbox."""

    files: list[str] = Field(
        default=[], description="Names of files in the inbox; none takes in all that are new and have stopped growing."
    )


def take_in_request(files: list[str]) -> dg.RunRequest:
    """A run that takes in these files."""
    return dg.RunRequest(
        job_name=TAKE_IN_JOB,
        run_config={"ops": {_OP: {"config": {"files": files}}}},
        tags={FILES_TAG: shown(files)},
    )


def _ready(settings: Settings, ledger: Ledger) -> list[str]:
    """What the sensor would take in now, however many files these are; marked, so that it leaves them alone."""
    settle = settings.inbox_settle_seconds
    ready = scan_inbox(settings.inbox, ledger, time.time(), settle_seconds=settle, limit=sys.maxsize).ready
    ledger.request_files(ready)
    return ready


def take_in_job(settings: Settings) -> dg.JobDefinition:
    """The job `take_in_files`."""

    @dg.op(
        name=_OP,
        out=dg.Out(dg.Nothing),
        description="Reads each file once, refuses what is no sequence file, and cuts the rest into frames and shards.",
    )
    def read_and_cut(
        context: dg.OpExecutionContext,
        config: TakeIn,
        checkpoints: dg.ResourceParam[CheckpointIOManager],
        compute: Compute,
        progress: dg.ResourceParam[Progress],
        journal: dg.ResourceParam[Journal],
    ) -> None:
        begin_run(context.instance, context.run.run_id)
        open_bound_store(settings)  # no new store where the home knows one: the files wait, at no fault of theirs
        sweep_spools(settings.inbox)
        errors: list[VirnucError] = []
        ledger = Ledger(settings.home)
        bundle = compute.open_bundle()
        wanted = wanted_digest(bundle, settings.precision)
        for name in config.files or _ready(settings, ledger):
            try:
                arrival = take_in(
                    checkpoints.store, settings.inbox, name, ledger,
                    window_length=bundle.spec.window_length, shard_size=settings.shard_size,
                    allow_missing_end_mark=settings.allow_missing_end_mark,
                )  # fmt: skip
                if arrival.batch:
                    _register(context, checkpoints, progress, arrival, ledger, settings, wanted)
            except VirnucError as error:  # the home's trouble, not the file's: the scheduled backfill tries it again
                errors.append(error)
                ledger.set_file(name, Fingerprint.of(settings.inbox / name), "failed", note=error.message)
                context.log.error(f"{name}: {error}")
                journal.write("file", run=context.run.run_id, file=name, state="failed", batch="", reason=error.message)
                continue
            context.log.info(f"{name}: {arrival.state} {arrival.batch} {arrival.note}")
            journal.write(
                "file", run=context.run.run_id, file=name, state=arrival.state, batch=arrival.batch, reason=arrival.note
            )
        if errors:
            raise errors[0]

    @dg.job(
        name=TAKE_IN_JOB,
        description="Makes a batch of each new file of the inbox. Requested by the sensor inbox_arrivals; can also be "
        "launched by hand: as it stands it takes in every new file; or name some under `files`.",
        executor_def=dg.in_process_executor,
    )
    def take_in_files() -> None:
        read_and_cut()

    return take_in_files


def _register(
    context: dg.OpExecutionContext,
    checkpoints: CheckpointIOManager,
    progress: Progress,
    arrival: Arrival,
    ledger: Ledger,
    settings: Settings,
    wanted: str,
) -> None:
    """Cut a batch, announce it as `sequence_batch`, and send it on its way unless it has been there already."""
    store, batch, run_id = checkpoints.store, arrival.batch, context.run.run_id
    context.instance.add_dynamic_partitions(str(batches.name), [batch])
    metadata = cut_batch(context.instance, store, batch, progress, run_id)
    if not metadata["reused"]:
        context.log_event(
            dg.AssetMaterialization(
                sequence_batch.key, partition=batch, metadata=metadata | {"file": arrival.path},
                description=f"from {arrival.path} in the inbox",
            )
        )  # fmt: skip
        targets = Targets(context.instance, sequence_batch.key, [batch])
        verdict = check_batch_integrity(store, batch)
        context.log_event(evaluation(integrity_key(BATCH), batch, verdict, targets))  # type: ignore[arg-type]  # it takes any event
    known = ledger.batch(batch)
    if arrival.state == "taken" or (known is None and not (settings.reports / batch).exists()):
        shards = Registered(context.instance).of(batch)
        ledger.begin(batch, SHARDS if shards else REPORT, whole(shards, settings.shards_per_run), wanted=wanted)
