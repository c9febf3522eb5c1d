"""What a batch lacks of what this home wants: asked by the scheduled backfill, and after runs that batches shared."""

from pathlib import Path

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.binding import open_bound_store
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.partitions import Registered
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.survey import Due, survey_batch


def wanted_stage(settings: Settings) -> PredictionStage:
    """The last shard stage, on this home's store, with the wanted bundle and precision.

    Raises:
        VirnucError: The store or the bundle is not there.
    """
    return PredictionStage(open_bound_store(settings), open_bundle(settings.bundle), settings.options())


def due_of(stage: PredictionStage, registered: Registered, batch: str, reports: Path) -> Due:
    """What a batch lacks; what cannot be looked at is to be cut anew.

    Args:
        stage: See `wanted_stage`.
        registered: The shards that are partitions.
        batch: Its key.
        reports: Folder of the reports.
    """
    if registered.is_torn(batch):
        return Due(batch, cut="its shards are not one range of partitions")
    try:
        return survey_batch(stage.store, stage, batch, registered.of(batch), reports)
    except VirnucError as error:
        return Due(batch, cut=error.message)
