"""The scheduled backfill: compares every batch with what is wanted and requests what is due, bounded per tick."""

import time
from collections.abc import Callable

import dagster as dg

from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import AT_REST, Ledger, NextStep
from virnuc_dagster.orchestration.automation.alerts import tell_losses
from virnuc_dagster.orchestration.automation.due import due_of, wanted_stage
from virnuc_dagster.orchestration.automation.sharing import Sharing
from virnuc_dagster.orchestration.automation.steps import CUT, REPORT, SHARDS, SHARDS_JOB
from virnuc_dagster.orchestration.automation.trials import is_trial, ledger_of
from virnuc_dagster.orchestration.losses import find_losses
from virnuc_dagster.orchestration.partitions import Registered, batches
from virnuc_dagster.stages.survey import Due, ranges, stored_batches, wanted_digest

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
        trial = is_trial(context)
        with ledger_of(context, settings) as ledger:
            survey = Survey(context.instance, settings, ledger, dry=trial)
            if not trial:
                tell_losses(settings, find_losses(context.instance, survey.stage.store, settings.home))
            wanted = survey.requests(context.log.info)
            return wanted or dg.SkipReason(survey.summary())

    return backfill


class Survey:
    """One tick: looks at batches until enough runs are requested or its time is up.

    Args:
        instance: Registers partitions.
        settings: What is wanted, and bounds.
        ledger: Of the home; a copy if nothing shall change.
        dry: Whether partitions that are lacking are left as they are.
    """

    def __init__(self, instance: dg.DagsterInstance, settings: Settings, ledger: Ledger, *, dry: bool = False) -> None:
        self.instance, self.settings, self.ledger, self.dry = instance, settings, ledger, dry
        self.stage = wanted_stage(settings)
        self.looked_at: list[str] = []
        self.parked: list[str] = []
        self.begun = 0

    def requests(self, note: Callable[[str], object]) -> list[dg.RunRequest]:
        """Runs for what is due."""
        self.ledger.retry_files()
        last = self.ledger.last_surveyed()
        wanted = wanted_digest(self.stage.bundle, self.stage.options.precision)
        registered = Registered(self.instance)
        sharing = Sharing(self.instance, self.ledger, self.settings, registered)
        known = set(self.instance.get_dynamic_partitions(str(batches.name)))
        steps: list[NextStep] = []
        runs, began = 0.0, time.monotonic()
        parked = {entry.batch for entry in self.ledger.parked() if entry.wanted == wanted}
        # sorted() is stable: among batches never looked at, the oldest is first
        order = sorted((b for b, _ in stored_batches(self.stage.store)), key=lambda b: (b in parked, last.get(b, 0.0)))
        for batch in order:
            if runs >= self.settings.runs_per_tick or time.monotonic() - began > SURVEY_SECONDS:
                break
            self.looked_at.append(batch)
            entry = self.ledger.batch(batch)
            if entry and entry.step not in AT_REST:
                continue  # on its way already
            if registered.of(batch) and batch not in known and not self.dry:  # someone deleted it in the UI
                self.instance.add_dynamic_partitions(str(batches.name), [batch])
            due = due_of(self.stage, registered, batch, self.settings.reports)
            if due and batch in parked:
                self.parked.append(batch)
            elif due:
                note(f"{batch}: {due.describe()}")
                steps.append(self._begin(due, wanted))
                runs += sharing.cost(steps[-1])
            elif entry and entry.reason:
                self.ledger.finish(batch, "", self.settings.attempts_max)  # someone has repaired it
        self.ledger.surveyed(self.looked_at, time.time())
        self.begun = len(steps)
        # the other steps are runs of another job than the schedule's
        return sharing.requests([step for step in steps if step.step == SHARDS], self.settings.runs_per_tick)

    def _begin(self, due: Due, wanted: str) -> NextStep:
        """Send a batch on its way; what is not requested in this tick the sensor batch_progress requests."""
        if not self.dry:
            self.instance.add_dynamic_partitions(str(batches.name), [due.batch])
        step = CUT if due.cut else SHARDS if due.due_shards else REPORT
        places = ranges(due.shards, due.due_shards, self.settings.shards_per_run) if step == SHARDS else []
        places = places[: self.settings.runs_per_tick]
        entry = self.ledger.begin(due.batch, step, places, wanted=wanted, requested=step == SHARDS)
        return NextStep(entry, step, entry.ranges)

    def summary(self) -> str:
        """What was found, for a tick without runs."""
        parked = f"; {len(self.parked):,} parked: {', '.join(self.parked[:5])}" if self.parked else ""
        if self.begun:
            return f"{self.begun:,} batches are on their way: batch_progress requests their runs{parked}"
        return f"nothing is due in {len(self.looked_at):,} batches{parked}"
