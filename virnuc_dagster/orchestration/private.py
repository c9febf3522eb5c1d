"""Every name of Dagster's insides that this package uses, each with the reason; no other module imports `dagster._*`.

Dagster may change these in any release: a test asks for each. They are imported when they are first asked for, because
some take as long as Dagster itself, and a call with nothing to do needs few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

#: Name -> its module, and why the public surface does not do.
NAMES = {
    "ASSET_PARTITION_RANGE_END_TAG": ("dagster._core.storage.tags", "a run over a range has no public request"),
    "ASSET_PARTITION_RANGE_START_TAG": ("dagster._core.storage.tags", "as its end"),
    "AssetCheckEvaluationTargetMaterializationData": (
        "dagster._core.definitions.asset_checks.asset_check_evaluation",
        "the status of a partition's check needs it, and dagster.AssetCheckEvaluation takes it",
    ),
    "AssetMetadataHandle": (
        "dagster._core.execution.context.metadata_logging",
        "add_asset_metadata costs shards of the run x shards of the home",
    ),
    "BulkActionStatus": ("dagster._core.execution.backfill", "which backfills are at work"),
    "BulkActionsFilter": ("dagster._core.execution.backfill", "the public get_backfills takes it"),
    "ConfigurableClassData": ("dagster._serdes", "a storage class is made from it"),
    "DagsterAssetCheckFailedError": ("dagster._core.errors", "how a failed blocking check is told from another error"),
    "DagsterSqliteStorage": ("dagster._core.storage.sqlite_storage", "the storage that ours is, but for its events"),
    "INDEX_SHARD_NAME": ("dagster._core.storage.event_log.sqlite.sqlite_event_log", "the file that is no run's"),
    "InstanceRef": ("dagster._core.instance.ref", "no public way to open an instance of a folder"),
    "NOT_FINISHED_STATUSES": ("dagster._core.storage.dagster_run", "so that a status of a later release counts"),
    "NoOpComputeLogManager": ("dagster._core.storage.noop_compute_log_manager", "no setting says: capture nothing"),
    "OutputMetadataAccumulator": ("dagster._core.execution.context.metadata_logging", "as AssetMetadataHandle"),
    "PARTITION_NAME_TAG": ("dagster._core.storage.tags", "the partition of a run of several assets"),
    "SQLITE_BUSY_TIMEOUT_SECONDS": ("dagster._core.storage.sqlite", "waits as long as Dagster's own connections"),
    "ScheduleInstigatorData": ("dagster._core.scheduler.instigation", "when a schedule last looked"),
    "SqliteEventLogStorage": (
        "dagster._core.storage.event_log.sqlite.sqlite_event_log",
        "the event log that ours is, but for its connections",
    ),
    "UnresolvedAssetJobDefinition": (
        "dagster._core.definitions.unresolved_asset_job_definition",
        "the type of what dagster.define_asset_job returns",
    ),
    "WILL_RETRY_TAG": ("dagster._core.storage.tags", "whether the daemon tries a failed run again"),
    "is_valid_cron_string": ("dagster._utils.schedules", "a cron expression is checked as the scheduler will"),
    "make_new_run_id": ("dagster._core.utils", "the id of a run must be in its tags before it is launched"),
}

if TYPE_CHECKING:
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationTargetMaterializationData as AssetCheckEvaluationTargetMaterializationData,
    )
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as UnresolvedAssetJobDefinition,
    )
    from dagster._core.errors import DagsterAssetCheckFailedError as DagsterAssetCheckFailedError
    from dagster._core.execution.backfill import BulkActionsFilter as BulkActionsFilter
    from dagster._core.execution.backfill import BulkActionStatus as BulkActionStatus
    from dagster._core.execution.context.metadata_logging import AssetMetadataHandle as AssetMetadataHandle
    from dagster._core.execution.context.metadata_logging import OutputMetadataAccumulator as OutputMetadataAccumulator
    from dagster._core.instance.ref import InstanceRef as InstanceRef
    from dagster._core.scheduler.instigation import ScheduleInstigatorData as ScheduleInstigatorData
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES as NOT_FINISHED_STATUSES
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME as INDEX_SHARD_NAME
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage as SqliteEventLogStorage
    from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager as NoOpComputeLogManager
    from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS as SQLITE_BUSY_TIMEOUT_SECONDS
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage as DagsterSqliteStorage
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as ASSET_PARTITION_RANGE_END_TAG
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as ASSET_PARTITION_RANGE_START_TAG
    from dagster._core.storage.tags import PARTITION_NAME_TAG as PARTITION_NAME_TAG
    from dagster._core.storage.tags import WILL_RETRY_TAG as WILL_RETRY_TAG
    from dagster._core.utils import make_new_run_id as make_new_run_id
    from dagster._serdes import ConfigurableClassData as ConfigurableClassData
    from dagster._utils.schedules import is_valid_cron_string as is_valid_cron_string
else:

    def __getattr__(name: str) -> object:
        """Import a name of the table when it is first asked for."""
        if name not in NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(NAMES[name][0]), name)
