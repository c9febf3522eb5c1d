"""What to do when a run fails for good: a line in the journal, and a message to a webhook if one is set."""

import json
import urllib.error
import urllib.request
from typing import Any

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from virnuc_dagster.automation.steps import BATCH_TAG, STEP_TAG, failure_reason
from virnuc_dagster.journal import Journal
from virnuc_dagster.settings import Settings

_TIMEOUT_SECONDS = 10


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
        if run.tags.get(WILL_RETRY_TAG) == "true":
            return
        facts = {
            "run": run.run_id, "job": run.job_name, "batch": run.tags.get(BATCH_TAG, ""),
            "step": run.tags.get(STEP_TAG, ""), "reason": failure_reason(context.instance, run),
        }  # fmt: skip
        Journal(folder=str(settings.logs)).write("run_failed", **facts)
        if problem := post(settings.webhook.get_secret_value(), facts):
            context.log.warning(problem)

    return alert


def post(webhook: str, facts: dict[str, Any]) -> str:
    """Send a message; returns what went wrong, without the address, which may hold a secret.

    Args:
        webhook: An http or https address; empty sends nothing.
        facts: What to tell. `text` is added, which chat programs show.
    """
    if not webhook:
        return ""
    if not webhook.startswith(("https://", "http://")):
        return "the webhook is not an http or https address"
    text = f"virnuc: {facts['job']} {facts['batch']} failed: {facts['reason']}"
    body = json.dumps({"text": text, **facts}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            return ""
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        return f"the webhook did not take the message: {getattr(error, 'reason', type(error).__name__)}"
