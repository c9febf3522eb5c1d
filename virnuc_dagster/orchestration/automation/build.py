"""All jobs, sensors and schedules, from the settings."""

from dataclasses import dataclass

import dagster as dg

from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.automation.alerts import failure_alert, late_alert
from virnuc_dagster.orchestration.automation.auditing import audit_job, audit_schedule, store_audit
from virnuc_dagster.orchestration.automation.backfill import scheduled_backfill
from virnuc_dagster.orchestration.automation.sensors import arrivals, progress
from virnuc_dagster.orchestration.automation.steps import ASSETS, BATCH_JOB, CUT, REPORT, SHARDS, SHARDS_JOB
from virnuc_dagster.orchestration.automation.take_in import take_in_job
from virnuc_dagster.orchestration.kubernetes import run_tags
from virnuc_dagster.orchestration.private import UnresolvedAssetJobDefinition


@dataclass(frozen=True)
class Automation:
    """What `build_definitions` adds to the assets."""

    assets: list[dg.AssetsDefinition]
    jobs: list[dg.JobDefinition | UnresolvedAssetJobDefinition]
    sensors: list[dg.SensorDefinition]
    schedules: list[dg.ScheduleDefinition]


def build_automation(settings: Settings) -> Automation:
    """Everything that runs without a click; off at first if `automation` is off in the settings."""
    sensor_status = dg.DefaultSensorStatus.RUNNING if settings.automation else dg.DefaultSensorStatus.STOPPED
    schedule_status = dg.DefaultScheduleStatus.RUNNING if settings.automation else dg.DefaultScheduleStatus.STOPPED
    shards = dg.define_asset_job(
        SHARDS_JOB,
        selection=dg.AssetSelection.assets(*ASSETS[SHARDS]),
        description="The embeddings and the predictions of a range of shards, the models loaded once. Requested by "
        "batch_progress and scheduled_backfill.",
        tags=run_tags(settings.device) if settings.kubernetes else None,
    )
    batch = dg.define_asset_job(
        BATCH_JOB,
        selection=dg.AssetSelection.assets(*ASSETS[CUT], *ASSETS[REPORT]),
        description="The first or the last step of a batch: cutting it into frames and shards, or its report. "
        "Requested by batch_progress.",
    )
    return Automation(
        assets=[store_audit],
        jobs=[take_in_job(settings), shards, batch, audit_job()],
        sensors=[
            arrivals(settings, sensor_status),
            progress(settings, sensor_status, [shards, batch]),
            failure_alert(settings, sensor_status),
            late_alert(settings, sensor_status),
        ],
        schedules=[scheduled_backfill(settings, schedule_status), audit_schedule(settings, schedule_status)],
    )
