"""`sequence_batch`: stored sequences -> frames in shards -> manifest; registers the shards as partitions."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointStore
from virnuc_dagster.home.written_by import writer
from virnuc_dagster.orchestration.assets.over_batches import BATCHES_PER_RUN, run_batches
from virnuc_dagster.orchestration.assets.plots import bars
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager, record_metadata
from virnuc_dagster.orchestration.partitions import batches, register_shards
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.batch import batch_provenance, build_batch, current_manifest
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.pipeline import BATCH

OWNERS = ["team:sequence-analysis"]


@dg.asset(
    partitions_def=batches,
    backfill_policy=dg.BackfillPolicy.multi_run(BATCHES_PER_RUN),
    io_manager_key="checkpoints",
    group_name="sequences",
    kinds={"python"},
    owners=OWNERS,
    tags={"virnuc/dataflow": "1-sequences"},
)
def sequence_batch(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    progress: dg.ResourceParam[Progress],
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """One input file, cut into windows, six reading frames and shards, with every input sequence accounted for.

    A **partition is a batch**, that is one file. Each sequence is cut into windows of the length that the model was
    trained for, and each window is translated in six frames. Frames with a stop codon are dropped; sequences that are
    too short or hold no open frame stay in the manifest with the reason.

    New batches come from the inbox folder by themselves, or from `virnuc predict FILE` and `virnuc batches add FILE`.
    A batch's shards never change.

    In the metadata, `open_windows` are windows in which at least one frame has no stop codon, and
    `open_frame_coverage` is their share of all windows: how much of the input can be scored at all. `ambiguous` counts
    frames from which codons with a letter other than A, C, G, T were left out. `reused` means that the batch was cut
    before and nothing was done.
    """
    yield from run_batches(
        context, lambda batch: cut_batch(context.instance, checkpoints.store, batch, progress, context.run.run_id)
    )


def cut_batch(
    instance: dg.DagsterInstance, store: CheckpointStore, batch: str, progress: Progress, run_id: str
) -> dict[str, Any]:
    """Cut a batch into frames unless that is done already, store its manifest, register its shards.

    Returns:
        What to show of it; `reused` says that it was done already.
    """
    key = batch_checkpoint(BATCH, batch)
    stored = current_manifest(store, batch)
    manifest = stored or build_batch(store, batch, progress, writer(run_id))
    register_shards(instance, batch, manifest["shards"])
    if stored is None:
        store.save(key, manifest, batch_provenance(store, batch), writer(run_id))
    record = store.record(key)
    counts = {name: int(manifest[name].sum()) for name in ("length", "windows", "open_windows", "frames", "ambiguous")}
    with_frame = int((manifest["frames"] > 0).sum())
    return {
        "sequences": len(manifest["ids"]),
        "bases": counts["length"],
        "windows": counts["windows"],
        "open_windows": counts["open_windows"],
        "open_frame_coverage": round(counts["open_windows"] / max(counts["windows"], 1), 4),
        "frames": counts["frames"],
        "ambiguous": counts["ambiguous"],
        "shards": len(manifest["shards"]),
        "reused": stored is not None,
        "sequences_without_open_frame": len(manifest["ids"]) - with_frame,
        "what can be scored": bars(
            {
                "windows with an open frame": counts["open_windows"],
                "windows without": counts["windows"] - counts["open_windows"],
            },
            "open-frame coverage",
            "windows",
        ),
        **(record_metadata(record) if record else {}),
    }
