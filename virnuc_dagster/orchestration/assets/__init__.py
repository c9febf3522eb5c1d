"""The Dagster assets, thin: one file a step from sequence file to report. What they compute is in `stages`."""

import warnings

import dagster as dg

# Backfill policies are marked beta; the version range in pyproject.toml is the protection that this warning asks for.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")

from virnuc_dagster.orchestration.assets.batch import sequence_batch  # noqa: E402
from virnuc_dagster.orchestration.assets.embeddings import dnabert_s_embeddings, esm2_embeddings  # noqa: E402
from virnuc_dagster.orchestration.assets.predictions import predictions  # noqa: E402
from virnuc_dagster.orchestration.assets.report import batch_report  # noqa: E402

ALL = [sequence_batch, dnabert_s_embeddings, esm2_embeddings, predictions, batch_report]

__all__ = ["ALL", "batch_report", "dnabert_s_embeddings", "esm2_embeddings", "predictions", "sequence_batch"]
