"""What a person must hear of: runs that failed for good, and batches that wait too long for their report.

Each is a line in the journal, and a message to a webhook if one is set. Dagster's freshness policies are not used: they
look at an asset as a whole, so that one new report would hide a batch that is stuck.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any

import dagster as dg

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.binding import StoreGoneError, check_store
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger, Waiting
from virnuc_dagster.orchestration.automation.steps import BATCH_TAG, FILES_TAG, SHARED_TAG, STEP_TAG, failure_reason
from virnuc_dagster.orchestration.automation.trials import is_trial
from virnuc_dagster.orchestration.losses import Losses, describe, remedy
from virnuc_dagster.orchestration.private import WILL_RETRY_TAG

_TIMEOUT_SECONDS = 10
_NAMED_MAX = 10


def failure_alert(settings: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """The sensor `failure_alert`."""

    @dg.run_failure_sensor(
        name="failure_alert",
        default_status=status,
        minimum_interval_seconds=30,
        description="Tells of every run that failed and will not be retried: in the journal (logs/<day>.jsonl), and by "
        "an HTTP POST to the address in VIRNUC_WEBHOOK if there is one.",
    )
    def alert(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if run.tags.get(WILL_RETRY_TAG) == "true" or SHARED_TAG in run.tags:
            return  # batches that shared a run are tried again at once, in the end alone: that run names the batch
        facts = {
            "run": run.run_id, "job": run.job_name, "batch": run.tags.get(BATCH_TAG, ""),
            "files": run.tags.get(FILES_TAG, ""), "step": run.tags.get(STEP_TAG, ""),
            "reason": failure_reason(context.instance, run),
        }  # fmt: skip
        Journal(folder=str(settings.logs)).write("run_failed", **facts)
        text = f"virnuc: {facts['job']} {facts['batch'] or facts['files']} failed: {facts['reason']}"
        if problem := post(settings.webhook.get_secret_value(), {"text": text, **facts}):
            context.log.warning(problem)

    return alert


def late_alert(settings: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """The sensor `late_alert`."""

    @dg.sensor(
        name="late_alert",
        default_status=status,
        minimum_interval_seconds=60,
        description="Tells once of every file or batch that has waited too long for its report "
        f"({settings.late_after_hours:g} hours, VIRNUC_LATE_AFTER_HOURS): stuck, failed or parked. In the journal "
        "(logs/<day>.jsonl), and by an HTTP POST to the address in VIRNUC_WEBHOOK if there is one. It also "
        "tells when the store that this home knows is gone.",
        tags={"virnuc/dataflow": "5-operations"},
    )
    def alert(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now, trial = time.time(), is_trial(context)
        late = Ledger(settings.home).waiting(now - settings.late_after_hours * 3_600)
        told = set(json.loads(context.cursor or "[]"))
        marks = {f"{item.name} {item.since:.0f}": ("late", _late_facts(item, now)) for item in late}
        gone = _gone(settings)
        marks |= {f"store {gone['reason']}": ("store_gone", gone)} if gone else {}
        for mark in marks.keys() - told:
            event, facts = marks[mark]
            if trial:
                context.log.info(facts["text"])
                continue
            Journal(folder=str(settings.logs)).write(event, **facts)
            if problem := post(settings.webhook.get_secret_value(), facts):
                context.log.warning(problem)
        context.update_cursor(json.dumps(sorted(marks)))  # what is no longer late is forgotten
        if gone:
            return dg.SkipReason(gone["text"])
        return dg.SkipReason(
            f"{len(late):,} late: {', '.join(item.name for item in late[:5])}" if late else "none late"
        )

    return alert


def _gone(settings: Settings) -> dict[str, Any] | None:
    """What to tell if the store that this home knows is gone."""
    try:
        check_store(settings)
    except StoreGoneError as error:
        return {"text": f"virnuc: {error}", "reason": error.message}
    except VirnucError:
        return None  # a service that is away for a while: the runs that need it tell
    return None


def tell_losses(settings: Settings, losses: Losses) -> None:
    """A line in the journal and a message to the webhook for each batch of which something was lost."""
    for batch, lost in losses.items():
        missing = {stage: len(keys) for stage, keys in lost.items()}
        Journal(folder=str(settings.logs)).write("lost", batch=batch, missing=missing)
    named = [f"{batch}: missing {describe(lost)}; {remedy(batch, lost)}" for batch, lost in losses.items()]
    if named:
        text = "\n".join([f"virnuc: something was lost of {len(named):,} batches", *named[:_NAMED_MAX]])
        post(settings.webhook.get_secret_value(), {"text": text, "batches": list(losses)[:1_000]})


def _late_facts(item: Waiting, now: float) -> dict[str, Any]:
    hours = round((now - item.since) / 3_600, 1)
    why = f": {item.reason}" if item.reason else ""
    return {
        "text": f"virnuc: {item.name} has waited {hours:g} hours for its report ({item.state}){why}",
        "name": item.name, "state": item.state, "hours": hours, "reason": item.reason,
    }  # fmt: skip


def post(webhook: str, facts: dict[str, Any]) -> str:
    """Send a message; returns what went wrong, without the address, which may hold a secret.

    Args:
        webhook: An http or https address; empty sends nothing.
        facts: What to tell; chat programs show `text`.
    """
    if not webhook:
        return ""
    if not webhook.startswith(("https://", "http://")):
        return "the webhook is not an http or https address"
    body = json.dumps(facts).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            return ""
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        return f"the webhook did not take the message: {getattr(error, 'reason', type(error).__name__)}"
