"""Two sensors: files from the inbox become batches, and batches are brought to their reports step by step."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import dagster as dg

from virnuc_dagster.home.binding import StoreGoneError, check_store
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import scan_inbox
from virnuc_dagster.inbox.ledger import BatchEntry, KnownFile, Ledger, Range
from virnuc_dagster.orchestration.automation.steps import (
    CUT,
    REPORT,
    REST,
    SHARDS,
    failure_reason,
    requests,
    runs_of,
    unfinished,
    whole,
)
from virnuc_dagster.orchestration.automation.take_in import TAKE_IN_JOB, take_in_request
from virnuc_dagster.orchestration.checks import keys_of_embedding_checks, red_partitions
from virnuc_dagster.orchestration.partitions import Registered
from virnuc_dagster.orchestration.private import UnresolvedAssetJobDefinition

#: A step whose run does not show up this long after it was requested is requested again.
LOST_AFTER_SECONDS = 120.0


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
        ledger, inbox = Ledger(settings.home), settings.inbox
        scan = scan_inbox(
            inbox, ledger, time.time(), settle_seconds=settings.inbox_settle_seconds, limit=settings.files_per_tick
        )
        for arrival in scan.rejected:
            Journal(folder=str(settings.logs)).write(
                "file", run="", file=arrival.path, state=arrival.state, batch="", reason=arrival.note
            )
        left = ledger.files("requested")
        if left and (at_work := unfinished(context.instance.get_runs(dg.RunsFilter(job_name=TAKE_IN_JOB), limit=20))):
            return dg.SkipReason(f"run {at_work[0][:8]} is taking in {len(left):,} files")
        again = list(_again(left.values(), ledger, settings.attempts_max))
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

    The first of them is what the run was at when it ended, so each is tried alone: one that ends every run does not
    take the others with it.
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
        "once), then one for the report. If shards fail, it goes on with the others; the report says what is missing. "
        f"A file or batch that failed is tried again after {settings.retry_minutes:g} minutes (VIRNUC_RETRY_MINUTES), "
        "and for the last time by the scheduled backfill.",
        tags={"virnuc/dataflow": "0-arrivals"},
    )
    def batch_progress(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ledger = Ledger(settings.home)
        mover = Mover(context.instance, ledger, settings)
        ledger.retry_failed(time.time() - 60 * settings.retry_minutes, settings.attempts_max, CUT)
        active = ledger.active(limit=10 * settings.runs_per_tick)
        wanted: list[dg.RunRequest] = []
        for entry in active:
            if len(wanted) >= settings.runs_per_tick:
                break
            wanted += mover.advance(entry)
        if wanted:
            return dg.SensorResult(run_requests=wanted)
        return dg.SkipReason(f"{len(active):,} batches on their way" if active else "no batch on its way")

    return batch_progress


class Mover:
    """Moves batches on, by what became of the runs of their steps.

    Args:
        instance: Has the runs.
        ledger: Has the batches.
        settings: How often a failure is tried again.
    """

    def __init__(self, instance: dg.DagsterInstance, ledger: Ledger, settings: Settings) -> None:
        self.instance, self.ledger, self.settings = instance, ledger, settings
        self._registered: Registered | None = None

    def advance(self, entry: BatchEntry) -> list[dg.RunRequest]:
        """The runs to request for a batch now; none while its runs are at work, or once it is done."""
        runs = runs_of(self.instance, entry)
        if unfinished(runs):
            return []
        if len(runs) < max(len(entry.ranges), 1):
            if abs(time.time() - entry.requested_at) < LOST_AFTER_SECONDS:  # the clock may have been set back
                return []  # about to be launched
            return requests(self.ledger.move_on(entry, entry.step, entry.ranges, ""), self.settings)
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        failure = failure_reason(self.instance, failed[0]) if failed else ""
        following = self._following(entry, failure)
        if following is None:
            self.ledger.finish(entry.batch, entry.reason or failure, self.settings.attempts_max)
            return []
        return requests(self.ledger.move_on(entry, *following, failure), self.settings)

    def _following(self, entry: BatchEntry, failure: str) -> tuple[str, list[Range]] | None:
        """The step after this one with its ranges; None at the end."""
        if entry.step == REPORT or (entry.step == CUT and failure):
            return None
        if entry.step == CUT:
            self._registered = self._registered or Registered(self.instance)
            ranges = whole(self._registered.of(entry.batch), self.settings.shards_per_run)
            return (SHARDS, ranges) if ranges else (REPORT, [])
        if entry.step == SHARDS and failure and (sound := self._sound(entry)):
            return REST, sound[: self.settings.runs_per_tick]  # so many bad shards are no matter of single ones
        return REPORT, []

    def _sound(self, entry: BatchEntry) -> list[Range]:
        """The ranges of a step without the shards whose embeddings a check has stopped."""
        red = red_partitions(self.instance, keys_of_embedding_checks())
        if not red:
            return list(entry.ranges)
        self._registered = self._registered or Registered(self.instance)
        shards = self._registered.of(entry.batch)
        found: list[Range] = []
        for first, last in entry.ranges:
            if first not in shards or last not in shards:
                continue  # taken out of the partitions meanwhile: the next round registers them again
            of_range = shards[shards.index(first) : shards.index(last) + 1]
            for stopped, group in groupby(of_range, lambda shard: shard in red):
                if not stopped:
                    sound = list(group)
                    found.append((sound[0], sound[-1]))
        return found
