"""`dnabert_s_embeddings` and `esm2_embeddings`: one row a frame, from the frame's bases and from its protein."""

from collections.abc import Iterator

import dagster as dg

from virnuc_dagster.assets.batch import sequence_batch
from virnuc_dagster.assets.ranged import run_shards
from virnuc_dagster.io_manager import CheckpointIOManager
from virnuc_dagster.partitions import shards
from virnuc_dagster.progress import Progress
from virnuc_dagster.resources import Compute
from virnuc_dagster.stages.shards import DNABERT_S, ESM2, EmbeddingStage

GPU_POOL = "gpu"
_DESCRIPTIONS = {
    DNABERT_S: "DNABERT-S embedding of each frame's bases: the mean over all tokens, one row a frame.",
    ESM2: "ESM-2 embedding of each frame's protein: the mean over its residues, one row a frame.",
}


def _embedding_asset(name: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        description=_DESCRIPTIONS[name]
        + " A shard whose stored inputs, model and precision are the wanted ones is not computed again.",
        partitions_def=shards,
        # The batch of a shard is in its key; no built-in mapping says so, and custom ones do not reach the daemon.
        deps=[dg.AssetDep(sequence_batch, partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.multi_run(1_000),
        io_manager_key="checkpoints",
        group_name="virnucpro",
        kinds={"pytorch"},
        pool=GPU_POOL,
        output_required=True,
    )
    def embeddings(
        context: dg.AssetExecutionContext,
        checkpoints: dg.ResourceParam[CheckpointIOManager],
        compute: Compute,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[dg.AssetMaterialization | dg.Output]:
        bundle = compute.open_bundle()
        stage = EmbeddingStage(name, checkpoints.store, bundle, compute.options(checkpoints.level))
        facts = {"bundle": bundle.name, "precision": compute.precision, "device": compute.device}
        yield from run_shards(context, stage, checkpoints.store, progress, facts)

    return embeddings


dnabert_s_embeddings = _embedding_asset(DNABERT_S)
esm2_embeddings = _embedding_asset(ESM2)
