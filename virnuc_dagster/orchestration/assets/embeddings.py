"""An asset an encoder: one row a frame, from the frame's bases or from its protein."""

from collections.abc import Iterator

import dagster as dg

from virnuc_dagster.home.journal import Journal
from virnuc_dagster.orchestration.assets.batch import OWNERS, sequence_batch
from virnuc_dagster.orchestration.assets.ranged import run_shards
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.partitions import shards
from virnuc_dagster.orchestration.resources import Backends, Compute, hold_device
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.pipeline import EMBEDDINGS
from virnuc_dagster.stages.shards import EmbeddingStage

GPU_POOL = "gpu"
_COMMON = """

A **partition is a shard**, a fixed part of a batch. A shard whose stored inputs, model and precision are the wanted
ones is not computed again; a run over many shards loads the model once, and after a crash it goes on where it stopped.

Device, precision, token budget, threads and backend: resource `compute` in the launchpad, or run tags such as
`virnuc/device=cuda:1`, `virnuc/gpu=1`, `virnuc/token_budget=4096`.

In the metadata, `reused` means that the stored result was the wanted one and nothing was computed; `dim` is the number
of columns. `Unsynced` appears at every shard when another batch arrives: Dagster cannot know to which batch a shard
belongs. It is no reason to compute anything, and materializing such a shard costs next to nothing.
"""


def _embedding_asset(name: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        description=EMBEDDINGS[name].what + _COMMON,
        partitions_def=shards,
        # The batch of a shard is in its key; no built-in mapping says so, and custom ones do not reach the daemon.
        deps=[dg.AssetDep(sequence_batch, partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.multi_run(1_000),
        io_manager_key="checkpoints",
        group_name="embeddings",
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        tags={"virnuc/dataflow": "2-embeddings"},
        pool=GPU_POOL,
        output_required=True,
    )
    def embeddings(
        context: dg.AssetExecutionContext,
        checkpoints: dg.ResourceParam[CheckpointIOManager],
        compute: Compute,
        backends: Backends,
        progress: dg.ResourceParam[Progress],
        journal: dg.ResourceParam[Journal],
    ) -> Iterator[dg.AssetMaterialization | dg.Output]:
        compute = compute.for_run(context.run.tags)
        options = compute.options(checkpoints.level)
        stage = EmbeddingStage(name, checkpoints.store, compute.open_bundle(), options)
        with hold_device(compute.held_device, context.log.info):
            yield from run_shards(
                context, stage, checkpoints.store, progress, journal, compute.facts(), backends.choose(options)
            )

    return embeddings


EMBEDDING_ASSETS = {name: _embedding_asset(name) for name in EMBEDDINGS}
