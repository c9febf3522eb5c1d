"""`predictions`: the embeddings of a frame -> P(others), P(virus)."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from virnuc_dagster.checkpoints import Payload
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.orchestration.assets.batch import OWNERS
from virnuc_dagster.orchestration.assets.embeddings import EMBEDDING_ASSETS, GPU_POOL
from virnuc_dagster.orchestration.assets.plots import histogram
from virnuc_dagster.orchestration.assets.ranged import run_shards
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.partitions import shards
from virnuc_dagster.orchestration.resources import Backends, Compute, hold_device
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.shards import PredictionStage


@dg.asset(
    partitions_def=shards,
    deps=[*EMBEDDING_ASSETS.values()],
    backfill_policy=dg.BackfillPolicy.multi_run(1_000),
    io_manager_key="checkpoints",
    group_name="verdicts",
    kinds={"pytorch"},
    owners=OWNERS,
    tags={"virnuc/dataflow": "3-predictions"},
    pool=GPU_POOL,
)
def predictions(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    compute: Compute,
    backends: Backends,
    progress: dg.ResourceParam[Progress],
    journal: dg.ResourceParam[Journal],
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """How viral each frame looks: P(others) and P(virus), from its embeddings joined by frame id.

    A **partition is a shard**.
    Embeddings made from other frames, with another bundle or precision are refused, never mixed.

    In the metadata, `mean_P_virus` is the mean P(virus) of the shard's frames, `frames_called_virus` counts those above
    0.5, and `reused` means that the stored result was the wanted one and nothing was computed.
    """
    compute = compute.for_run(context.run.tags)
    options = compute.options(checkpoints.level)
    stage = PredictionStage(checkpoints.store, compute.open_bundle(), options)
    backend = backends.choose(options)
    with hold_device(compute.held_device, context.log.info):
        yield from run_shards(context, stage, checkpoints.store, progress, journal, compute.facts(), backend, _scores)


def _scores(payload: Payload) -> dict[str, Any]:
    """How the scores of a shard are spread."""
    scores = payload["data"][:, 1].tolist()
    return {
        "mean_P_virus": round(sum(scores) / max(len(scores), 1), 4),
        "frames_called_virus": sum(score > 0.5 for score in scores),
        "score histogram": histogram(scores, "P(virus)", "frames"),
    }
