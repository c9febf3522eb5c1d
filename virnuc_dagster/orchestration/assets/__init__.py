"""The Dagster assets, thin: one file a step from sequence file to report. What they compute is in `stages`."""

import warnings

import dagster as dg

# Backfill policies are marked beta; the version range in pyproject.toml is the protection that this warning asks for.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")

from virnuc_dagster.orchestration.assets.batch import sequence_batch  # noqa: E402
from virnuc_dagster.orchestration.assets.embeddings import EMBEDDING_ASSETS  # noqa: E402
from virnuc_dagster.orchestration.assets.predictions import predictions  # noqa: E402
from virnuc_dagster.orchestration.assets.report import batch_report  # noqa: E402

#: Stage -> the asset that has a partition a shard.
SHARD_ASSETS = {**EMBEDDING_ASSETS, "predictions": predictions}
ALL = [sequence_batch, *SHARD_ASSETS.values(), batch_report]

__all__ = ["ALL", "SHARD_ASSETS", "batch_report", "sequence_batch"]
