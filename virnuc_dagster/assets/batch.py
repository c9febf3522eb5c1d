"""`sequence_batch`: stored sequences -> frames in shards -> manifest; registers the shards as partitions."""

import dagster as dg

from virnuc_dagster.checkpoints import Payload
from virnuc_dagster.io_manager import CheckpointIOManager
from virnuc_dagster.partitions import batches, shards
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.batch import batch_provenance, build_batch, current_manifest
from virnuc_dagster.writer import writer


@dg.asset(partitions_def=batches, io_manager_key="checkpoints", group_name="virnucpro", kinds={"python"})
def sequence_batch(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    progress: dg.ResourceParam[Progress],
) -> dg.Output[Payload | None]:
    """One input file, cut into windows, six reading frames and shards, with every input sequence accounted for.

    Frames with a stop codon are dropped; sequences that are too short or hold no open frame stay in the manifest with
    the reason. Add files with `virnuc predict FILE`; a batch's shards never change.
    """
    batch = context.partition_key
    store = checkpoints.store
    stored = current_manifest(store, batch)
    manifest = stored or build_batch(store, batch, progress, writer(context.run.run_id))
    # One call, in order: a batch's shards must be one contiguous range of partitions.
    context.instance.add_dynamic_partitions(str(shards.name), manifest["shards"])
    counts = {name: int(manifest[name].sum()) for name in ("length", "windows", "open_windows", "frames", "ambiguous")}
    return dg.Output(
        None if stored else manifest,
        metadata={
            "provenance": dg.MetadataValue.json(batch_provenance(store, batch)),
            "sequences": len(manifest["ids"]),
            "bases": counts.pop("length"),
            **counts,
            "shards": len(manifest["shards"]),
            "reused": stored is not None,
            "sequences_without_open_frame": int((manifest["frames"] == 0).sum()),
        },
    )
