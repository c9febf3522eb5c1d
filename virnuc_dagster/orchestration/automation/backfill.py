"""The scheduled backfill: compares every batch with what is wanted and requests what is due, bounded per tick."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.binding import open_bound_store
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import AT_REST, Ledger
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.automation.alerts import tell_losses
from virnuc_dagster.orchestration.automation.steps import CUT, REPORT, SHARDS, SHARDS_JOB, requests
from virnuc_dagster.orchestration.losses import find_losses
from virnuc_dagster.orchestration.partitions import Registered, batches
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.survey import Due, ranges, stored_batches, survey_batch, wanted_digest

#: A tick of a schedule may take 60 seconds; whatever it has not looked at by then is first in the next one.
SURVEY_SECONDS = 40.0


def scheduled_backfill(settings: Settings, status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """The schedule `scheduled_backfill`."""

    @dg.schedule(
        name="scheduled_backfill",
        cron_schedule=settings.backfill_cron,
        execution_timezone="UTC",
        job_name=SHARDS_JOB,
        default_status=status,
        description="Computes whatever is missing, failed, set aside as damaged, or made with another model than the "
        "wanted one, the batch that was not looked at for the longest time first. A batch that fails again and again "
        "is parked with its reason (`virnuc batches list`) and does not hold up the others.",
    )
    def backfill(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        with tempfile.TemporaryDirectory() as folder:
            test = _is_test(context)
            survey = Survey(context.instance, settings, Path(folder) if test else None)
            if not test:
                tell_losses(settings, find_losses(context.instance, survey.store, settings.home))
            wanted = survey.requests(context.log.info)
            return wanted or dg.SkipReason(survey.summary())

    return backfill


def _is_test(context: dg.ScheduleEvaluationContext) -> bool:
    """Whether someone tests the schedule in the UI: a tick of the daemon logs by its number, a test by the time."""
    key = context._log_key
    return not key or not key[-1].isdigit()


class Survey:
    """One tick: looks at batches until enough runs are requested or its time is up.

    Args:
        instance: Registers partitions.
        settings: What is wanted, and bounds.
        dry: A folder for a copy of the ledger, if nothing shall change: no entry, no partition.
    """

    def __init__(self, instance: dg.DagsterInstance, settings: Settings, dry: Path | None = None) -> None:
        self.instance, self.settings = instance, settings
        self.store = open_bound_store(settings)
        self.predictions = PredictionStage(self.store, open_bundle(settings.bundle), settings.options())
        self.dry = dry is not None
        self.ledger = Ledger(settings.home).copied_to(dry) if dry else Ledger(settings.home)
        self.looked_at: list[str] = []
        self.parked: list[str] = []
        self.handed_on = 0

    def requests(self, note: Callable[[str], object]) -> list[dg.RunRequest]:
        """Runs for what is due."""
        self.ledger.retry_files()
        last = self.ledger.last_surveyed()
        wanted = wanted_digest(self.predictions.bundle, self.predictions.options.precision)
        registered = Registered(self.instance)
        known = set(self.instance.get_dynamic_partitions(str(batches.name)))
        found: list[dg.RunRequest] = []
        began = time.monotonic()
        parked = {entry.batch for entry in self.ledger.parked() if entry.wanted == wanted}
        # sorted() is stable: among batches never looked at, the oldest is first
        order = sorted((b for b, _ in stored_batches(self.store)), key=lambda b: (b in parked, last.get(b, 0.0)))
        for batch in order:
            if len(found) + self.handed_on >= self.settings.runs_per_tick or time.monotonic() - began > SURVEY_SECONDS:
                break
            self.looked_at.append(batch)
            entry = self.ledger.batch(batch)
            if entry and entry.step not in AT_REST:
                continue  # on its way already
            if registered.of(batch) and batch not in known and not self.dry:  # someone deleted it in the UI
                self.instance.add_dynamic_partitions(str(batches.name), [batch])
            if registered.is_torn(batch):
                due = Due(batch, cut="its shards are not one range of partitions")
            else:
                due = self._survey(batch, registered.of(batch))
            if due and batch in parked:
                self.parked.append(batch)
            elif due:
                note(f"{batch}: {due.describe()}")
                found += self._begin(due, wanted)
            elif entry and entry.reason:
                self.ledger.finish(batch, "", self.settings.attempts_max)  # someone has repaired it
        self.ledger.surveyed(self.looked_at, time.time())
        return found

    def _survey(self, batch: str, shards: list[str]) -> Due:
        try:
            return survey_batch(self.store, self.predictions, batch, shards, Path(self.settings.reports))
        except VirnucError as error:
            return Due(batch, cut=error.message)

    def _begin(self, due: Due, wanted: str) -> list[dg.RunRequest]:
        """Send a batch on its way and return the runs for its shards; all else the sensor batch_progress requests."""
        if not self.dry:
            self.instance.add_dynamic_partitions(str(batches.name), [due.batch])
        step = CUT if due.cut else SHARDS if due.due_shards else REPORT
        places = ranges(due.shards, due.due_shards, self.settings.shards_per_run)[: self.settings.runs_per_tick]
        self.handed_on += step != SHARDS
        if step != SHARDS:  # runs of another job than the schedule's
            self.ledger.begin(due.batch, step, wanted=wanted)
            return []
        return requests(self.ledger.begin(due.batch, step, places, wanted=wanted, requested=True), self.settings)

    def summary(self) -> str:
        """What was found, for a tick without runs."""
        parked = f"; {len(self.parked):,} parked: {', '.join(self.parked[:5])}" if self.parked else ""
        if self.handed_on:
            return f"{self.handed_on:,} batches are to be cut or reported: batch_progress does it{parked}"
        return f"nothing is due in {len(self.looked_at):,} batches{parked}"
