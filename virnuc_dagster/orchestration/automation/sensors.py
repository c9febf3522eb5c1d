"""Two sensors: files from the inbox become batches, and batches are brought to their reports step by step."""

import time
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from virnuc_dagster.home.binding import StoreGoneError, check_store
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import scan_inbox
from virnuc_dagster.inbox.ledger import KnownFile, Ledger
from virnuc_dagster.orchestration.automation.mover import Mover
from virnuc_dagster.orchestration.automation.sharing import Sharing
from virnuc_dagster.orchestration.automation.steps import CUT, unfinished
from virnuc_dagster.orchestration.automation.take_in import TAKE_IN_JOB, take_in_request
from virnuc_dagster.orchestration.automation.trials import is_trial, ledger_of
from virnuc_dagster.orchestration.private import UnresolvedAssetJobDefinition


def arrivals(settings: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """The sensor `inbox_arrivals`."""

    @dg.sensor(
        name="inbox_arrivals",
        job_name=TAKE_IN_JOB,
        minimum_interval_seconds=settings.inbox_poll_seconds,
        default_status=status,
        description="Watches the inbox folder. A sequence file that has stopped growing is taken in as a batch, the "
        "oldest first; the rest follows by itself (see batch_progress). A file that cannot be used is moved to "
        "inbox/rejected with a reason file beside it.",
        tags={"virnuc/dataflow": "0-arrivals"},
    )
    def inbox_arrivals(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        with ledger_of(context, settings) as ledger:
            return look(context, ledger)

    def look(context: dg.SensorEvaluationContext, ledger: Ledger) -> dg.SensorResult | dg.SkipReason:
        inbox = settings.inbox
        scan = scan_inbox(
            inbox, ledger, time.time(), settle_seconds=settings.inbox_settle_seconds, limit=settings.files_per_tick,
            set_aside=not is_trial(context),
        )  # fmt: skip
        for arrival in scan.rejected:
            Journal(folder=str(settings.logs)).write(
                "file", run="", file=arrival.path, state=arrival.state, batch="", reason=arrival.note
            )
        left = ledger.files("requested")
        if left and (at_work := unfinished(context.instance.get_runs(dg.RunsFilter(job_name=TAKE_IN_JOB), limit=20))):
            return dg.SkipReason(f"run {at_work[0][:8]} is taking in {len(left):,} files")
        again = list(_again(left.values(), ledger, settings.attempts_max))
        ledger.release_files(again[1:])
        names = again[:1] or scan.ready[: settings.files_per_tick]
        if not names:
            return dg.SkipReason(f"nothing new: {scan.known:,} files in {inbox}, {scan.waiting:,} still being written")
        try:
            check_store(settings)
        except StoreGoneError as error:
            return dg.SkipReason(str(error))  # the files wait; a run would count as an attempt of theirs
        ledger.request_files(names)
        return dg.SensorResult(run_requests=[take_in_request(names)])

    return inbox_arrivals


def _again(files: Iterable[KnownFile], ledger: Ledger, attempts_max: int) -> Iterator[str]:
    """Files whose run ended without a word about them, unless that has happened too often.

    The first of them is what the run was at when it ended, so it is tried alone: one that ends every run does not take
    the others with it.
    """
    for file in files:
        if file.attempts < attempts_max:
            yield file.path
        else:
            ledger.set_file(
                file.path, file.fingerprint, "failed", note=f"{file.attempts} runs ended without taking it in"
            )


def progress(
    settings: Settings, status: dg.DefaultSensorStatus, jobs: Sequence[UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """The sensor `batch_progress`."""

    @dg.sensor(
        name="batch_progress",
        jobs=jobs,
        minimum_interval_seconds=settings.inbox_poll_seconds,
        default_status=status,
        description="Brings each new or repaired batch to its report: one run for all of its shards (models loaded "
        f"once), then one for the report; up to {settings.batches_per_run:,} small batches share each "
        "(VIRNUC_BATCHES_PER_RUN). If shards fail, it goes on with the others; the report says what is missing. "
        f"A file or batch that failed is tried again after {settings.retry_minutes:g} minutes (VIRNUC_RETRY_MINUTES), "
        "and for the last time by the scheduled backfill.",
        tags={"virnuc/dataflow": "0-arrivals"},
    )
    def batch_progress(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        with ledger_of(context, settings) as ledger:
            ledger.retry_failed(time.time() - 60 * settings.retry_minutes, settings.attempts_max, CUT)
            active = ledger.active(limit=10 * settings.runs_per_tick)
            mover = Mover(context.instance, ledger, settings)
            sharing = Sharing(context.instance, ledger, settings, mover.registered)
            wanted = sharing.requests(mover.next_steps(active), settings.runs_per_tick)
        if wanted:
            return dg.SensorResult(run_requests=wanted)
        return dg.SkipReason(f"{len(active):,} batches on their way" if active else "no batch on its way")

    return batch_progress
