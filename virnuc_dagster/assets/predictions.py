"""`predictions`: both embeddings of a frame -> P(others), P(virus)."""

from collections.abc import Iterator

import dagster as dg

from virnuc_dagster.assets.embeddings import GPU_POOL, dnabert_s_embeddings, esm2_embeddings
from virnuc_dagster.assets.ranged import run_shards
from virnuc_dagster.io_manager import CheckpointIOManager
from virnuc_dagster.partitions import shards
from virnuc_dagster.progress import Progress
from virnuc_dagster.resources import Compute
from virnuc_dagster.stages.shards import PredictionStage


@dg.asset(
    partitions_def=shards,
    deps=[dnabert_s_embeddings, esm2_embeddings],
    backfill_policy=dg.BackfillPolicy.multi_run(1_000),
    io_manager_key="checkpoints",
    group_name="virnucpro",
    kinds={"pytorch"},
    pool=GPU_POOL,
)
def predictions(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    compute: Compute,
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """P(others) and P(virus) of each frame, from its two embeddings joined by frame id.

    Embeddings made from other frames, with another bundle or precision are refused, never mixed.
    """
    bundle = compute.open_bundle()
    stage = PredictionStage(checkpoints.store, bundle, compute.options(checkpoints.level))
    facts = {"bundle": bundle.name, "precision": compute.precision}
    yield from run_shards(context, stage, checkpoints.store, progress, facts)
