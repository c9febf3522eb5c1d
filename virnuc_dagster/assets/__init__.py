"""The Dagster assets, thin: one file a step from sequence file to report. What they compute is in `stages`."""

from virnuc_dagster.assets.batch import sequence_batch
from virnuc_dagster.assets.embeddings import dnabert_s_embeddings, esm2_embeddings
from virnuc_dagster.assets.predictions import predictions
from virnuc_dagster.assets.report import batch_report

ALL = [sequence_batch, dnabert_s_embeddings, esm2_embeddings, predictions, batch_report]

__all__ = ["ALL", "batch_report", "dnabert_s_embeddings", "esm2_embeddings", "predictions", "sequence_batch"]
